/* Memory that runs out in the commands that make files, read the database themselves, wait, or
 * send: at every allocation in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/cli_nomem.h"

#include <pty.h>
#include <sys/stat.h>

static struct {
    char keys[96], secret[128], public_key[128], copy[96];
} f;

/* ---- files ---- */

static bool there(const char *path)
{
    return access(path, F_OK) == 0;
}

static void remove_keys(void)
{
    unlink(f.secret);
    unlink(f.public_key);
    rmdir(f.keys);
}

/* A pair or nothing: half of one would be in the way of the next attempt. */
static void look_at_keys(bool well, bool failed)
{
    if (well ? !there(f.secret) || !there(f.public_key)
             : !failed || there(f.secret) != there(f.public_key))
        fail_msg("keygen %s, the secret key is %s, the public one %s",
                 well ? "succeeded" : "failed", there(f.secret) ? "there" : "missing",
                 there(f.public_key) ? "there" : "missing");
}

static void test_keygen(void **state)
{
    (void)state;
    c.prepare = remove_keys;
    c.look = look_at_keys;
    TRY(0, "keygen", f.keys);
    TRY(0, "keygen", f.keys, "--server", "--name", "client", "--json");
    remove_keys();
}

/* SQLite calls memory that is out inside of its files by other names. What must never be said is
 * that the database is damaged, or another one than it is. */
static void out_of_memory_in_sqlite(const char *what, const struct fail_result *result)
{
    static const char *const names[] = {"memory", "disk I/O error", "unable to open"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strstr(result->errmsg, names[i]))
            return;
    fail_msg("%s: memory is out, and it says: %s", what, result->errmsg);
}

static void remove_copy(void)
{
    unlink(f.copy);
}

/* A whole file or none, also where only the words about it found no memory. */
static void look_at_copy(bool well, bool failed)
{
    static off_t whole;
    char part[160];
    struct stat st = {.st_size = 0};
    bool made = stat(f.copy, &st) == 0;
    snprintf(part, sizeof part, "%s.partial-%d", f.copy, (int)getpid());
    if (!failed)
        whole = st.st_size;
    if (there(part) || (well && !made) || (made && st.st_size != whole))
        fail_msg("backup %s, the file has %ld bytes of %ld, its part is %s",
                 well ? "succeeded" : "failed", (long)st.st_size, (long)whole,
                 there(part) ? "there" : "gone");
}

static void test_backup(void **state)
{
    (void)state;
    c.prepare = remove_copy;
    c.look = look_at_copy;
    c.check = out_of_memory_in_sqlite;
    TRY(100, "backup", f.copy, "--database", t.db);
    TRY(100, "backup", f.copy, "--json", "--query", t.endpoint);
    remove_copy();
}

/* Memory that is out is no damage, and nobody may be told so. */
static void look_for_damage(bool well, bool failed)
{
    (void)failed;
    if (!well && (strstr(c.printed, "damaged") || strstr(c.printed, "false")))
        fail_msg("check: memory is out, and it says: %s", c.printed);
}

static void test_check(void **state)
{
    (void)state;
    c.look = look_for_damage;
    c.check = out_of_memory_in_sqlite;
    TRY(100, "check", t.db, "--model", t.model_path);
    TRY(100, "check", "--json", "--model", t.model_path, "--query", t.endpoint);
}

/* ---- looking ---- */

static void test_looks(void **state)
{
    (void)state;
    TRY(0, "status", "--query", t.endpoint);
    TRY(0, "status", "--json", "--query", t.endpoint);
    TRY(20, "watch", "--count", "1", "--query", t.endpoint);
    TRY(20, "watch", "--count", "1", "--json", "--query", t.endpoint);
    TRY(20, "verdicts", "a", "--json", "--query", t.endpoint);
    TRY(100, "show", "a", "--json", "--query", t.endpoint);
    TRY(20, "explain", "a", "--json", "--query", t.endpoint);
    TRY(20, "export", "a", "--format", "csv", "--query", t.endpoint);
    TRY(0, "label", "a", "good", "--json", "--query", t.endpoint);
}

/* ---- a screen ---- */

/* What has been drawn, without the first line, which holds the time. */
static void read_screen(int master, char *ret, size_t size)
{
    ssize_t n, at = 0;
    while ((n = read(master, ret + at, size - 1 - (size_t)at)) > 0)
        at += n;
    ret[at] = '\0';
    char *rest = strstr(ret, "q ends it");
    if (rest)
        memmove(ret, rest, strlen(rest) + 1);
}

static void watch_on_screen(struct fail_result *ret)
{
    const char *const argv[] = {"seismo", "watch", "--count", "1", "--query", t.endpoint, NULL};
    static char expected[8192], drawn[8192];
    const struct winsize size = {.ws_row = 24, .ws_col = 80};
    bool failing = fail_alloc.armed;
    int master, terminal;
    fail_alloc.armed = false;
    assert_int_equal(openpty(&master, &terminal, NULL, NULL, &size), 0);
    fcntl(master, F_SETFL, O_NONBLOCK);
    fflush(stdout);
    dup2(terminal, STDOUT_FILENO);
    dup2(c.err, STDERR_FILENO);
    fail_alloc.armed = failing;
    int code = cli_main(6, (char **)(uintptr_t)argv);
    bool hit = failing && fail_alloc.hit;
    fail_alloc.armed = false;
    fflush(stdout);
    dup2(c.terminal_out, STDOUT_FILENO);
    dup2(c.terminal_err, STDERR_FILENO);
    read_screen(master, drawn, sizeof drawn);
    read_back(c.err, c.said, sizeof c.said);
    close(master);
    close(terminal);
    if (!failing)
        memcpy(expected, drawn, sizeof expected);
    if (code == CLI_OK && strcmp(drawn, expected) != 0 && !strstr(drawn, "memory"))
        fail_msg("watch: exit code 0, but not all was drawn:\n%s", drawn);
    ret->err = code == CLI_OK ? 0 : SEISMO_EINTERNAL;
    snprintf(ret->errmsg, sizeof ret->errmsg, "%.250s", c.said);
    fail_alloc.armed = failing;
    fail_alloc.hit = hit;
}

static void test_screen(void **state)
{
    (void)state;
    assert_true(fail_each("watch on a screen", 20, watch_on_screen, out_of_memory) > 50);
}

/* ---- sending ---- */

/* A daemon's ingest side that acknowledges everything. Its memory never runs out. */
static struct {
    char endpoint[96];
    struct serving ingest;
    uint64_t last_batch;
} g;

static void acknowledge(void *arg, const struct wire_msg *m, struct wire_buf *b)
{
    static uint8_t session[64];
    (void)arg;
    if (m->type == WIRE_HELLO) {
        if (memcmp(session, m->hello.session.p, m->hello.session.n) != 0)
            g.last_batch = 0;
        memcpy(session, m->hello.session.p, m->hello.session.n);
    }
    serving_take(m, &g.last_batch, 0, b);
}

static void test_replay(void **state)
{
    (void)state;
    c.varies = true;
    TRY(20, "replay", t.trace, "--ingest", g.endpoint);
    TRY(20, "replay", t.trace, "--json", "--run", "again", "--ingest", g.endpoint);
}

/* ---- all of them ---- */

static int set_up_files(void **state)
{
    int err = set_up(state);
    snprintf(f.keys, sizeof f.keys, "%s/keys", t.dir);
    snprintf(f.secret, sizeof f.secret, "%s/client.key", f.keys);
    snprintf(f.public_key, sizeof f.public_key, "%s/client.pub", f.keys);
    snprintf(f.copy, sizeof f.copy, "%s/copy.db", t.dir);
    snprintf(g.endpoint, sizeof g.endpoint, "ipc://%s/ingest", t.dir);
    g.ingest.answer = acknowledge;
    serving_start(&g.ingest, t.zmq, g.endpoint, 5);
    return err;
}

static int tear_down_files(void **state)
{
    serving_stop(&g.ingest);
    unlink(g.endpoint + strlen("ipc://"));
    return tear_down(state);
}

static int forget(void **state)
{
    (void)state;
    c.prepare = NULL;
    c.look = NULL;
    c.check = NULL;
    c.varies = false;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_keygen, forget),
        cmocka_unit_test_teardown(test_backup, forget),
        cmocka_unit_test_teardown(test_check, forget),
        cmocka_unit_test_teardown(test_looks, forget),
        cmocka_unit_test_teardown(test_screen, forget),
        cmocka_unit_test_teardown(test_replay, forget),
    };
    return cmocka_run_group_tests(tests, set_up_files, tear_down_files);
}
