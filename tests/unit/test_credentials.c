/* The client's keys: where they are looked for, what is said when they are wrong, and that nothing
 * said holds one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/lib/credentials.h"

#define TCP "tcp://127.0.0.1:1"

static char dir[] = "/tmp/seismo-test-credentials-XXXXXX";
static char server_file[64], own_file[64];
static char server_public[KEY_TEXT], own_public[KEY_TEXT], own_secret[KEY_TEXT];

static int set_up(void **state)
{
    (void)state;
    char unused[KEY_TEXT], errmsg[SEISMO_ERRMSG];
    if (!mkdtemp(dir) || zmq_curve_keypair(server_public, unused) != 0 ||
        zmq_curve_keypair(own_public, own_secret) != 0)
        return -1;
    snprintf(server_file, sizeof(server_file), "%s/server.pub", dir);
    snprintf(own_file, sizeof(own_file), "%s/own.key", dir);
    return keyfile_write(server_file, KEYFILE_PUBLIC, "", server_public, errmsg) ||
           keyfile_write(own_file, KEYFILE_SECRET, "", own_secret, errmsg);
}

static int tear_down(void **state)
{
    (void)state;
    unlink(server_file);
    unlink(own_file);
    return rmdir(dir);
}

static int no_environment(void **state)
{
    (void)state;
    unsetenv("SEISMO_SERVER_KEY_FILE");
    unsetenv("SEISMO_KEY_FILE");
    unsetenv("SEISMO_SERVER_KEY");
    unsetenv("SEISMO_KEY");
    return 0;
}

static void found(const char *server, const char *own)
{
    struct credentials c;
    char errmsg[SEISMO_ERRMSG] = "";
    if (credentials_find(TCP, server, own, &c, errmsg) != 0)
        fail_msg("%s", errmsg);
    assert_true(c.used);
    assert_string_equal(c.server_key, server_public);
    assert_string_equal(c.secret_key, own_secret);
    assert_string_equal(c.public_key, own_public);
}

static void refused(const char *server, const char *own, const char *expected)
{
    struct credentials c;
    char errmsg[SEISMO_ERRMSG] = "";
    assert_int_not_equal(credentials_find(TCP, server, own, &c, errmsg), 0);
    assert_false(c.used);
    if (!strstr(errmsg, expected))
        fail_msg("\"%s\" does not contain \"%s\"", errmsg, expected);
    char beginning[9];
    snprintf(beginning, sizeof(beginning), "%.8s", own_secret);
    assert_null(strstr(errmsg, beginning));
}

static void test_nothing(void **state)
{
    (void)state;
    struct credentials c;
    char errmsg[SEISMO_ERRMSG];
    setenv("SEISMO_KEY_FILE", "", 1); /* set to nothing is not set */
    assert_int_equal(credentials_find(TCP, NULL, "", &c, errmsg), 0);
    assert_false(c.used);
}

static void test_places(void **state)
{
    (void)state;
    struct credentials c;
    char errmsg[SEISMO_ERRMSG];
    found(server_file, own_file);
    setenv("SEISMO_SERVER_KEY_FILE", server_file, 1);
    setenv("SEISMO_KEY_FILE", own_file, 1);
    found(NULL, NULL);
    setenv("SEISMO_KEY_FILE", "/nonexistent", 1); /* an argument goes before it */
    found(NULL, own_file);
    unsetenv("SEISMO_SERVER_KEY_FILE");
    unsetenv("SEISMO_KEY_FILE");
    setenv("SEISMO_SERVER_KEY", server_public, 1);
    setenv("SEISMO_KEY", own_secret, 1);
    found(NULL, NULL);
    assert_int_equal(credentials_find("ipc:///tmp/s", server_file, own_file, &c, errmsg), 0);
    assert_false(c.used);
}

static void test_refusals(void **state)
{
    (void)state;
    refused(server_file, NULL, "no secret one of your own: set SEISMO_KEY_FILE");
    refused(NULL, own_file, "not the daemon's public key: set SEISMO_SERVER_KEY_FILE");
    refused("/nonexistent", own_file, "/nonexistent: No such file");
    refused(server_file, "/nonexistent", "/nonexistent: No such file");
    refused(server_file, server_file, "give the file NAME.key");
    refused(own_file, own_file, "give the file NAME.pub");
    chmod(own_file, 0644);
    refused(server_file, own_file, "chmod 600");
    chmod(own_file, 0600);
    char spoiled[KEY_TEXT + 1];
    snprintf(spoiled, sizeof(spoiled), "%s~", own_secret);
    setenv("SEISMO_KEY", spoiled, 1);
    refused(server_file, NULL, "$SEISMO_KEY is no key");
}

static void test_words(void **state)
{
    (void)state;
    static const struct {
        uint16_t event;
        uint32_t value;
        bool used;
        const char *expected;
    } cases[] = {
        {ZMQ_EVENT_HANDSHAKE_FAILED_AUTH, 400, true, "does not let this client in"},
        {ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL, ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH, true,
         "does not ask for keys"},
        {ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL, ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH, false,
         "asks for keys"},
        {ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL, 32, true, "is not its own"},
        {ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL, 32, false, "asks for keys"},
    };
    char errmsg[SEISMO_ERRMSG];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_true(
            credentials_trouble(cases[i].used, TCP, cases[i].event, cases[i].value, errmsg));
        if (!strstr(errmsg, cases[i].expected) || !strstr(errmsg, TCP))
            fail_msg("\"%s\" does not contain \"%s\"", errmsg, cases[i].expected);
    }
    assert_false(credentials_trouble(true, TCP, ZMQ_EVENT_DISCONNECTED, 0, errmsg));
    assert_false(credentials_trouble(true, TCP, ZMQ_EVENT_HANDSHAKE_SUCCEEDED, 0, errmsg));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_nothing, no_environment),
        cmocka_unit_test_setup(test_places, no_environment),
        cmocka_unit_test_setup(test_refusals, no_environment),
        cmocka_unit_test_setup(test_words, no_environment),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
