/* The directory of clients: roles, prefixes, what is left out, what a change takes away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/keys.h"

#define A "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
#define B "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
#define C "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"

static char dir[] = "/tmp/seismo-test-keys-XXXXXX";

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir + sizeof(dir) - 7, "XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

static const char *put(const char *name, const char *key, const char *roles)
{
    static char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "public = %s\n%s%s\n", key, *roles ? "roles = " : "", roles);
    assert_int_equal(fclose(file), 0);
    return path;
}

static struct keys *load(void)
{
    struct keys *k = NULL;
    char errmsg[SEISMO_ERRMSG] = "";
    if (keys_load(dir, NULL, NULL, &k, errmsg) != 0)
        fail_msg("%s", errmsg);
    return k;
}

static void refused(const char *expected)
{
    struct keys *k = NULL;
    char errmsg[SEISMO_ERRMSG] = "";
    assert_int_not_equal(keys_load(dir, NULL, NULL, &k, errmsg), 0);
    if (!strstr(errmsg, expected))
        fail_msg("\"%s\" does not contain \"%s\"", errmsg, expected);
    assert_null(strstr(errmsg, "Yne@"));
    assert_null(k);
}

static void remember(void *arg, const char *why)
{
    char *said = arg;
    strcat(strcat(said, why), "\n");
}

static bool may_push(const struct key *key, const char *run)
{
    return key_may_push(key, run, strlen(run));
}

static void test_roles(void **state)
{
    (void)state;
    put("a.pub", A, "push team-a/ x*,query");
    put("b@host-1.pub", B, "  push * ,  push b , admin ");
    put("c.pub", C, "query");
    put("d.pub.revoked", C, "nonsense");
    put(".e.pub", C, "nonsense");
    put("a.key", C, "nonsense");
    struct keys *k = load();
    assert_int_equal(keys_count(k), 3);
    const struct key *a = keys_find(k, A), *b = keys_find(k, B), *c = keys_find(k, C);
    assert_string_equal(a->name, "a");
    assert_true(may_push(a, "team-a/1") && may_push(a, "team-a/") && may_push(a, "xyz"));
    assert_false(may_push(a, "team-a") || may_push(a, "team-b/1") || may_push(a, "") ||
                 may_push(a, "ateam-a/1"));
    assert_true(a->query && !a->admin && key_may_query(a));
    assert_string_equal(b->name, "b@host-1");
    assert_true(may_push(b, "anything") && may_push(b, ""));
    assert_true(b->admin && !b->query && key_may_query(b)); /* an admin also asks */
    assert_false(may_push(c, "c") || may_push(c, "") || c->admin);
    assert_null(keys_find(k, ""));
    assert_null(keys_find(k, "team-a/"));
    assert_null(keys_find(k, "Zne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"));
    keys_free(&k);
    assert_null(k);
    keys_free(&k);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *roles, *expected;
    } cases[] = {
        {"", "a.pub gives no roles"},
        {"push", "push needs the beginnings"},
        {"push, query", "push needs the beginnings"},
        {"query,", "some of `push PREFIX …`"},
        {"admin all", "some of `push PREFIX …`"},
        {"Query", "some of `push PREFIX …`"},
        {"querys", "some of `push PREFIX …`"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put("a.pub", A, cases[i].roles);
        refused(cases[i].expected);
    }
    put("a.pub", A, "query");
    put("b.pub", A, "admin");
    refused("\"a\" and \"b\" have the same key");
    put("b.pub", "short", "admin");
    refused("b.pub:1: this is no key");
    unlink(put("b.pub", B, "admin"));
    put("b c.pub", B, "admin");
    refused("bad name");
    unlink(put("b c.pub", B, "admin"));
    const char *path = put("b.pub", B, "admin");
    chmod(path, 0666);
    refused("everybody may write");
    chmod(path, 0644);
    chmod(dir, 0777);
    refused("can be written by everybody");
    chmod(dir, 0700);
    char roles[1024] = "push";
    for (int i = 0; i <= KEY_MAX_PREFIX; i++)
        strcat(roles, " p");
    put("b.pub", B, roles);
    refused("more than 128 prefixes");
}

static void test_no_directory(void **state)
{
    (void)state;
    struct keys *k = NULL;
    char errmsg[SEISMO_ERRMSG], said[4096] = "";
    assert_int_equal(keys_load("/nonexistent", NULL, NULL, &k, errmsg), SEISMO_ENOTFOUND);
    assert_int_equal(keys_load("/nonexistent", remember, said, &k, errmsg), 0);
    assert_int_equal(keys_count(k), 0);
    assert_non_null(strstr(said, "/nonexistent"));
    keys_free(&k);
    assert_int_equal(keys_load("/dev/null", NULL, NULL, &k, errmsg), SEISMO_ECONFIG);
    assert_int_equal(keys_load("/dev/null", remember, said, &k, errmsg), 0);
    assert_int_equal(keys_count(k), 0);
    assert_non_null(strstr(said, "is not a directory"));
    keys_free(&k);
    assert_int_equal(keys_fingerprint("/nonexistent"), 0);
}

/* While the daemon runs nobody is in of a directory that somebody else may have written. */
static void test_directory_of_everybody(void **state)
{
    (void)state;
    struct keys *k = NULL;
    char errmsg[SEISMO_ERRMSG], said[4096] = "";
    put("a.pub", A, "query");
    uint64_t before = keys_fingerprint(dir);
    chmod(dir, 0777);
    assert_true(keys_fingerprint(dir) != before);
    assert_int_equal(keys_load(dir, remember, said, &k, errmsg), 0);
    chmod(dir, 0700);
    assert_int_equal(keys_count(k), 0);
    assert_non_null(strstr(said, "can be written by everybody"));
    keys_free(&k);
}

/* Want of descriptors is no reason to change anything; it is tried again. */
static void test_no_descriptors(void **state)
{
    (void)state;
    struct keys *k = NULL;
    char errmsg[SEISMO_ERRMSG], said[4096] = "";
    struct rlimit was, none;
    put("a.pub", A, "query");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = (struct rlimit){0, was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int rc = keys_load(dir, remember, said, &k, errmsg);
    setrlimit(RLIMIT_NOFILE, &was);
    assert_int_equal(rc, SEISMO_ENOMEM);
    assert_string_equal(said, "");
}

/* While the daemon runs a bad file keeps out its own key only. */
static void test_bad_files_are_left_out(void **state)
{
    (void)state;
    struct keys *k = NULL;
    char errmsg[SEISMO_ERRMSG], said[4096] = "";
    put("a.pub", A, "query");
    put("b.pub", B, "nonsense");
    put("c.pub", C, "push c");
    put("d.pub", C, "admin");
    assert_int_equal(keys_load(dir, remember, said, &k, errmsg), 0);
    assert_int_equal(keys_count(k), 1);
    assert_non_null(keys_find(k, A));
    assert_null(keys_find(k, C)); /* two clients claim it */
    assert_non_null(strstr(said, "b.pub: the roles must be"));
    assert_non_null(strstr(said, "\"c\" and \"d\""));
    keys_free(&k);
}

static void test_changes(void **state)
{
    (void)state;
    put("a.pub", A, "push a, query");
    put("b.pub", B, "push b, admin");
    uint64_t first = keys_fingerprint(dir);
    assert_true(first != 0 && first == keys_fingerprint(dir));
    struct keys *before = load();
    put("a.pub", A, "query, push c"); /* other prefixes do not matter to the events */
    assert_true(keys_fingerprint(dir) != first);
    struct keys *after = load();
    assert_false(keys_lost_query(before, after));
    keys_free(&after);
    put("b.pub", B, "push b, query"); /* an admin that may still ask */
    after = load();
    assert_false(keys_lost_query(before, after));
    keys_free(&after);
    put("b.pub", B, "push b");
    after = load();
    assert_true(keys_lost_query(before, after));
    assert_false(keys_lost_query(after, before));
    keys_free(&after);
    put("b.pub", C, "admin"); /* the same name with another key is another client */
    after = load();
    assert_true(keys_lost_query(before, after));
    keys_free(&after);
    uint64_t third = keys_fingerprint(dir);
    unlink(put("b.pub", B, "admin"));
    assert_true(keys_fingerprint(dir) != third);
    keys_free(&before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_roles, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_refusals, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_no_directory, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_directory_of_everybody, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_no_descriptors, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_bad_files_are_left_out, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_changes, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
