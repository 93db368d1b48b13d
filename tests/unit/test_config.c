/* Configuration: values, errors with their place, what --print-config prints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/argv.h"
#include "daemon/config.h"
#include "daemon/endpoint.h"
#include "daemon/log.h"
#include "daemon/nearest.h"
#include "models/verdict.h"
#include "proto/defaults.h"

static char path[] = "/tmp/seismo-test-config-XXXXXX";

static int set_up(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

static void put(const char *text, size_t n)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static struct config *parse(const char *text)
{
    struct config *c = NULL;
    char errmsg[SEISMO_ERRMSG] = "";
    put(text, strlen(text));
    if (config_new(path, &c, errmsg) != 0 || config_finish(c, errmsg) != 0 ||
        config_look_up(c, errmsg) != 0)
        fail_msg("%s", errmsg);
    return c;
}

/* The text is refused, and the error holds `expected`, in which %s stands for the file's name. */
static void refused(const char *text, const char *expected)
{
    struct config *c = NULL;
    char errmsg[SEISMO_ERRMSG] = "", wanted[SEISMO_ERRMSG];
    put(text, strlen(text));
    int rc = config_new(path, &c, errmsg);
    if (rc == 0)
        rc = config_finish(c, errmsg);
    if (rc == 0)
        rc = config_look_up(c, errmsg);
    config_free(&c);
    assert_int_equal(rc, SEISMO_ECONFIG);
    snprintf(wanted, sizeof(wanted), "%s%s", strncmp(expected, ":", 1) == 0 ? path : "", expected);
    if (!strstr(errmsg, wanted))
        fail_msg("\"%s\" does not contain \"%s\"", errmsg, wanted);
}

static void test_defaults(void **state)
{
    (void)state;
    struct config *c = NULL;
    char errmsg[SEISMO_ERRMSG];
    unsetenv("STATE_DIRECTORY");
    setenv("XDG_STATE_HOME", "/x", 1);
    assert_int_equal(config_new(NULL, &c, errmsg), 0);
    assert_int_equal(config_finish(c, errmsg), 0);
    assert_string_equal(c->data, "/x/seismo");
    assert_string_equal(c->query, "ipc:///x/seismo/query.sock");
    assert_string_equal(c->events, "ipc:///x/seismo/events.sock");
    assert_string_equal(c->ingest[0], SEISMO_DEFAULT_INGEST);
    assert_null(c->ingest[1]);
    assert_null(c->model);
    assert_int_equal(c->log_level, LOG_INFO);
    assert_int_equal(c->probe_every, 10);
    assert_true(c->commit_interval == 0.01);
    assert_int_equal(c->commit_rows, 8192);
    assert_false(c->synchronous_full);
    assert_true(c->retain == 0 && c->retain_size == 0);
    assert_true(c->lost_after == 60);
    assert_int_equal(c->n_hooks, 0);
    config_free(&c);
    assert_null(c);
}

static void test_data_directory(void **state)
{
    (void)state;
    struct config *c;
    char errmsg[SEISMO_ERRMSG];
    setenv("STATE_DIRECTORY", "/var/lib/seismo:/var/lib/other", 1);
    c = parse("");
    assert_string_equal(c->data, "/var/lib/seismo");
    config_free(&c);
    unsetenv("STATE_DIRECTORY");
    unsetenv("XDG_STATE_HOME");
    setenv("HOME", "/home/u", 1);
    c = parse("");
    assert_string_equal(c->data, "/home/u/.local/state/seismo");
    config_free(&c);
    unsetenv("HOME");
    assert_int_equal(config_new(NULL, &c, errmsg), 0);
    assert_int_equal(config_finish(c, errmsg), SEISMO_ECONFIG);
    assert_non_null(strstr(errmsg, "--data"));
    config_free(&c);
    setenv("XDG_STATE_HOME", "/x", 1);
}

static void test_values(void **state)
{
    (void)state;
    struct config *c = parse("# comment\n"
                             "; comment\n"
                             "[seismod]\n"
                             "data = /srv/with space\n"
                             "  ingest = tcp://127.0.0.1:1, ipc:///tmp/a\n"
                             "ingest=tcp://[::1]:*\n"
                             "ingest = tcp://localhost:7\n"
                             "log_level = debug\n"
                             "[store]\n"
                             "commit_interval = 5e-3\n"
                             "synchronous_full = yes\n"
                             "retain = 90d\n"
                             "retain_size = 1.5G\n"
                             "[hook mail]\n"
                             "command = /bin/sh -c 'echo \"a ; b\" # c' x\\ y \"q\\\"\"\n"
                             "severity = warning\n"
                             "states = unstable,ended\n"
                             "timeout = 2.5\n"
                             "[hook other]\n"
                             "command = true\n");
    assert_string_equal(c->data, "/srv/with space");
    assert_string_equal(c->ingest[0], "tcp://127.0.0.1:1");
    assert_string_equal(c->ingest[1], "ipc:///tmp/a");
    assert_string_equal(c->ingest[2], "tcp://[::1]:*");
    assert_string_equal(c->ingest[3], "tcp://127.0.0.1:7");
    assert_null(c->ingest[4]);
    assert_int_equal(c->log_level, LOG_DEBUG);
    assert_true(c->commit_interval == 0.005);
    assert_true(c->synchronous_full);
    assert_true(c->retain == 90 * 86400.0 && c->retain_size == 1.5e9);
    assert_int_equal(c->n_hooks, 2);
    const struct config_hook *h = &c->hook[0];
    assert_string_equal(h->name, "mail");
    assert_string_equal(h->argv[0], "/bin/sh");
    assert_string_equal(h->argv[2], "echo \"a ; b\" # c");
    assert_string_equal(h->argv[3], "x y");
    assert_string_equal(h->argv[4], "q\"");
    assert_null(h->argv[5]);
    assert_int_equal(h->min_severity, SEVERITY_WARNING);
    assert_int_equal(h->states, 1u << STATE_UNSTABLE | 1u << STATE_ENDED);
    assert_true(h->timeout == 2.5);
    assert_int_equal(c->hook[1].min_severity, SEVERITY_CRITICAL);
    assert_int_equal(c->hook[1].states, 1u << STATE_UNSTABLE | 1u << STATE_MISMATCH |
                                            1u << STATE_SILENT | 1u << STATE_ENDED |
                                            1u << CONFIG_STORAGE);
    config_free(&c);
}

static void test_errors(void **state)
{
    (void)state;
    refused("[seismod]\n\ndatta = /x\n",
            ":3: [seismod] has no key \"datta\"; did you mean \"data\"?");
    refused("[seismod]\nbogus = 1\n", "has no key \"bogus\"; seismod --print-config lists them");
    refused("[stor]\n", ":1: no section is called [stor]; did you mean [store]?");
    refused("[hok a]\n", ":1: no section is called [hok a]; did you mean [hook NAME]?");
    refused("data = /x\n", ":1: \"data\" stands before any section");
    refused("[seismod]\nnonsense\n", ":2: expected `key = value`");
    refused("[seismod\n", ":1: expected");
    refused("[seismod]\ndata =\n", ":2: data: a value is missing");
    refused("[seismod]\ndata = /a\ndata = /b\n", ":3: data is there twice");
    refused("[store]\ncommit_rows = 1.5\n", ":2: commit_rows: \"1.5\" is not a whole number");
    refused("[store]\ncommit_rows = 0\n", ":2: commit_rows: 0 is not between 1 and 1000000");
    refused("[store]\ncommit_interval = nan\n", "is not a number");
    refused("[store]\ncommit_interval = 1s\n", "\"1s\" is not a number");
    refused("[store]\nsynchronous_full = maybe\n", "neither yes nor no");
    refused("[store]\nretain = 90x\n", "not a number with one of the units s, m, h, d");
    refused("[store]\nretain = d\n", "not a number with one of the units");
    refused("[store]\nretain = 59\n", "neither 0 nor between 60 and");
    refused("[store]\nretain_size = 20d\n", "units k, M, G, T");
    refused("[store]\nretain_size = 1k\n", "neither 0 nor between");
    refused("[seismod]\nlog_level = loud\n", "not one of error, warning, info, debug");
    refused("[hook a]\n", "[hook a] has no command");
    refused("[hook a]\ncommand = x\n[hook a]\n", ":3: [hook a] is there twice");
    refused("[hook]\n", "a hook needs a name");
    refused("[hook a/b]\n", "a hook needs a name");
    refused("[hook aaaaaaaaaabbbbbbbbbbccccccccccddd]\n", "a hook needs a name");
    refused("[hook a]\ncommand = 'x\n", "a quote is not closed");
    refused("[hook a]\nstates = unstable, dead\n", "no alert is called \"dead\"");
    refused("[hook a]\nstates = healthy\n", "no alert is called \"healthy\"");
    refused("[hook a]\nsevrity = info\n", "did you mean \"severity\"?");
}

static void test_security(void **state)
{
    (void)state;
    struct config *c = parse("[seismod]\n"
                             "ingest = tcp://*:7747, tcp://[::]:7747, ipc:///tmp/a\n"
                             "query = tcp://10.0.0.1:7748\n"
                             "[security]\n"
                             "server_key = /etc/seismo/server.key\n"
                             "clients = /etc/seismo/clients\n"
                             "socket_group = root\n");
    assert_string_equal(c->server_key, "/etc/seismo/server.key");
    assert_string_equal(c->clients, "/etc/seismo/clients");
    assert_int_equal(c->socket_gid, 0);
    config_free(&c);
    c = parse("");
    assert_null(c->server_key);
    assert_int_equal(c->socket_gid, -1);
    config_free(&c);
    refused("[security]\nserver_key = /k\n", "server_key is set, but clients is not");
    refused("[security]\nclients = /c\n", "clients is set, but server_key is not");
    refused("[security]\nsocket_group = nonesuch\n",
            "socket_group: there is no group \"nonesuch\"");
    refused("[securty]\n", "did you mean [security]?");
    assert_true(endpoint_is_local("tcp://127.9.9.9:1") && endpoint_is_local("tcp://[::1]:*") &&
                endpoint_is_local("ipc:///a"));
    assert_false(endpoint_is_local("tcp://*:1") || endpoint_is_local("tcp://128.0.0.1:1") ||
                 endpoint_is_local("tcp://[::]:1"));
}

static void test_endpoints(void **state)
{
    (void)state;
    refused("[seismod]\ningest = tcp://0.0.0.0:7747\n",
            "ingest: tcp://0.0.0.0:7747 is not on loopback, and without keys");
    refused("[seismod]\ningest = tcp://*:7747\n", "not on loopback");
    refused("[seismod]\ningest = tcp://[::]:7747\n", "not on loopback");
    refused("[seismod]\ningest = tcp://10.0.0.1:7747\n", "server_key and clients in [security]");
    refused("[seismod]\nquery = tcp://192.168.0.1:1\n", "query: tcp://192.168.0.1:1 is not on");
    refused("[seismod]\nevents = tcp://[fe80::1]:1\n", "events: tcp://[fe80::1]:1 is not on");
    refused("[seismod]\ningest = tcp://watcher:7747\n",
            ":2: ingest: tcp://watcher:7747 has no num");
    refused("[seismod]\ningest = tcp://[1::2::3]:7747\n", "has no numeric address");
    refused("[seismod]\ningest = tcp://127.0.0.1\n", "is not tcp://ADDRESS:PORT");
    refused("[seismod]\ningest = tcp://127.0.0.1:65536\n", "is not tcp://ADDRESS:PORT");
    refused("[seismod]\ningest = 127.0.0.1:7747\n", "neither tcp://ADDRESS:PORT nor ipc://PATH");
    refused("[seismod]\ningest = ipc://\n", "names no socket file");
    refused("[seismod]\ningest = ipc://@abstract\n", "names no socket file");
    char text[256];
    snprintf(text, sizeof(text), "[seismod]\ndata = /%0*d\n", 96, 0); /* + /query.sock > 107 */
    refused(text, "query: the path of a socket has at most 107 bytes");
    char nine[1024] = "[seismod]\n";
    for (int i = 0; i < 9; i++)
        strcat(nine, "ingest = tcp://127.0.0.1:*\n");
    refused(nine, ":10: ingest: more than 8 endpoints");
    refused("[seismod]\ningest = ipc:///a\r 4\n",
            ":2: ingest: the value holds the control character 0x0d");
    struct config *c = parse("[seismod]\ningest = ipc:///with a blank , ipc:///b \n");
    assert_string_equal(c->ingest[0], "ipc:///with a blank");
    assert_string_equal(c->ingest[1], "ipc:///b");
    config_free(&c);
}

static void test_long_line(void **state)
{
    (void)state;
    static char text[10000], value[9001];
    memset(value, 'x', sizeof(value) - 1);
    snprintf(text, sizeof(text), "[seismod]\ndata = %s\n", value);
    refused(text, ":2: the line is longer than 4094 bytes");
    value[3000] = 0;
    snprintf(text, sizeof(text), "[seismod]\nmodel = %s", value);
    struct config *c = parse(text);
    assert_string_equal(c->model, value);
    config_free(&c);
}

static void test_no_file(void **state)
{
    (void)state;
    struct config *c = NULL;
    char errmsg[SEISMO_ERRMSG];
    assert_int_equal(config_new("/nonexistent/x.conf", &c, errmsg), SEISMO_ECONFIG);
    assert_non_null(strstr(errmsg, "/nonexistent/x.conf: No such file"));
    assert_int_equal(config_new("/tmp", &c, errmsg), SEISMO_ECONFIG);
    assert_non_null(strstr(errmsg, "Is a directory"));
    assert_null(c);
}

static void test_command_line(void **state)
{
    (void)state;
    const char *text = "[seismod]\ningest = tcp://127.0.0.1:1\ndata = /file\n";
    struct config *c = NULL;
    char errmsg[SEISMO_ERRMSG];
    put(text, strlen(text));
    assert_int_equal(config_new(path, &c, errmsg), 0);
    assert_int_equal(config_set(c, "seismod", "data", "/a", errmsg), 0);
    assert_int_equal(config_set(c, "seismod", "data", "/b", errmsg), 0);
    assert_int_equal(config_set(c, "seismod", "ingest", "ipc:///x", errmsg), 0);
    assert_int_equal(config_set(c, "seismod", "ingest", "ipc:///y", errmsg), 0);
    assert_int_equal(config_set(c, "seismod", "ingest", "", errmsg), SEISMO_ECONFIG);
    assert_int_equal(config_finish(c, errmsg), 0);
    assert_string_equal(c->data, "/b");
    assert_string_equal(c->ingest[0], "ipc:///x");
    assert_string_equal(c->ingest[1], "ipc:///y");
    assert_null(c->ingest[2]);
    config_free(&c);
}

static char *printed(const struct config *c)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    assert_non_null(out);
    config_print(c, out);
    fclose(out);
    return text;
}

static void test_print(void **state)
{
    (void)state;
    const char *const texts[] = {
        "", "[seismod]\ningest = ipc:///a\ningest = ipc:///b\nmodel = /m\nlog_level = error\n"
            "[runs]\nlost_after = 0.5\n"
            "[hook a]\ncommand = \"a b\" '' \"q\\\"\\\\\" c;d # e\nstates = stalled\n"
            "[hook b]\ncommand = x\n"};
    for (int i = 0; i < 2; i++) {
        struct config *first = parse(texts[i]);
        char *once = printed(first);
        struct config *second = parse(once);
        char *twice = printed(second);
        assert_string_equal(once, twice);
        for (uint32_t h = 0; h < first->n_hooks; h++)
            for (int a = 0; a == 0 || first->hook[h].argv[a - 1]; a++)
                if (first->hook[h].argv[a])
                    assert_string_equal(first->hook[h].argv[a], second->hook[h].argv[a]);
                else
                    assert_null(second->hook[h].argv[a]);
        unsigned at = 0;
        assert_null(config_fixed_change(first, second, &at));
        config_free(&first);
        config_free(&second);
        free(once);
        free(twice);
    }
    struct config *c = parse("[seismod]\nprobe_every = 10\n[security]\nsandbox = no\n");
    char *text = printed(c);
    static const char *const keys[] = {
        "#data",       "#ingest",      "#query",           "#events",         "#log_level",
        "probe_every", "#commit_rows", "#commit_interval", "sandbox = off",   "#synchronous_full",
        "#lost_after", "#retain = 0",  "#retain_size = 0", "#silent_factor",  "#silent_min",
        "#peers",      "#model",       "#command",         "#severity",       "#[hook NAME]",
        "#states",     "#timeout"};
    for (unsigned i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        char line[64];
        snprintf(line, sizeof(line), "\n%s", keys[i]);
        if (!strstr(text, line))
            fail_msg("--print-config lacks %s", keys[i]);
    }
    free(text);
    config_free(&c);
}

static void test_fixed_change(void **state)
{
    (void)state;
    struct config *a = parse("[seismod]\ndata = /a\n");
    struct config *b = parse("[seismod]\ndata = /a\nmodel = /m\nlog_level = debug\n"
                             "[store]\ncommit_rows = 7\n");
    unsigned at = 0;
    assert_string_equal(config_fixed_change(a, b, &at), "model");
    assert_string_equal(config_fixed_change(a, b, &at), "commit_rows");
    assert_null(config_fixed_change(a, b, &at));
    config_free(&a);
    config_free(&b);
}

static void test_nearest(void **state)
{
    (void)state;
    assert_int_equal(nearest_distance("", ""), 0);
    assert_int_equal(nearest_distance("abc", ""), 3);
    assert_int_equal(nearest_distance("kitten", "sitting"), 3);
    assert_int_equal(nearest_distance("flaw", "lawn"), 2);
}

static void test_log_quote(void **state)
{
    (void)state;
    char out[32];
    assert_string_equal(log_quote(out, sizeof(out), "a\"b\\c\n", 6), "\"a\\\"b\\\\c\\x0a\"");
    assert_string_equal(log_quote(out, sizeof(out), "gr\xc3\xbc\xc3\x9f\xff", 7),
                        "\"gr\xc3\xbc\xc3\x9f\\xff\"");
    /* right-to-left override, C1 control, overlong slash, a character cut short */
    assert_string_equal(log_quote(out, sizeof(out), "\xe2\x80\xae", 3), "\"\\u{202e}\"");
    assert_string_equal(log_quote(out, sizeof(out), "\xc2\x9b", 2), "\"\\xc2\\x9b\"");
    assert_string_equal(log_quote(out, sizeof(out), "\xc0\xaf", 2), "\"\\xc0\\xaf\"");
    assert_string_equal(log_quote(out, sizeof(out), "\xe6\x97", 2), "\"\\xe6\\x97\"");
    assert_string_equal(log_quote(out, 8, "abcdefgh", 8), "\"ab\"…");
    for (size_t size = 8; size < sizeof(out); size++) {
        memset(out, 'X', sizeof(out));
        log_quote(out, size, "abc\x01\xe6\x97\xa5 defghijklmnopqrstuv", 26);
        assert_true(strlen(out) < size);
        if (size < sizeof(out))
            assert_int_equal(out[size], 'X');
    }
}

static void test_log_limit(void **state)
{
    (void)state;
    struct log_limit l = {0};
    uint32_t suppressed = 99;
    for (int i = 0; i < LOG_LIMIT_BURST; i++) {
        assert_true(log_limit_pass(&l, 100 + i * 0.1, &suppressed));
        assert_int_equal(suppressed, 0);
    }
    for (int i = 0; i < 7; i++)
        assert_false(log_limit_pass(&l, 101, &suppressed));
    assert_true(log_limit_pass(&l, 100 + LOG_LIMIT_INTERVAL, &suppressed));
    assert_int_equal(suppressed, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),     cmocka_unit_test(test_data_directory),
        cmocka_unit_test(test_values),       cmocka_unit_test(test_errors),
        cmocka_unit_test(test_security),     cmocka_unit_test(test_endpoints),
        cmocka_unit_test(test_long_line),    cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_command_line), cmocka_unit_test(test_print),
        cmocka_unit_test(test_fixed_change), cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_log_quote),    cmocka_unit_test(test_log_limit),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
