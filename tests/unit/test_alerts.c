/* Alert hooks with real scripts and processes. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/alerts.h"

#define MAX_RESULTS 128
#define PATIENCE 30000 /* ms */
#define BACKOFF 0.05   /* s */

struct fixture {
    char dir[64];
    uv_loop_t loop;
    uv_timer_t watchdog;
    struct config config;
    struct alerts *a;
    int n, wanted;
    bool closed;
    struct {
        int64_t id;
        bool delivered;
        char text[64];
    } result[MAX_RESULTS];
};

static void on_result(void *arg, int64_t id, bool delivered, const char *text)
{
    struct fixture *f = arg;
    assert_true(f->n < MAX_RESULTS);
    f->result[f->n].id = id;
    f->result[f->n].delivered = delivered;
    snprintf(f->result[f->n].text, sizeof f->result[f->n].text, "%s", text);
    f->n++;
    if (f->n >= f->wanted) {
        uv_stop(&f->loop);
    }
}

static void on_watchdog(uv_timer_t *timer)
{
    (void)timer;
    fail_msg("the hooks did not come to an end");
}

/* Runs the loop until there are `n` results in all. */
static void wait_results(struct fixture *f, int n)
{
    f->wanted = n;
    uv_timer_start(&f->watchdog, on_watchdog, PATIENCE, 0);
    while (f->n < n) {
        uv_run(&f->loop, UV_RUN_DEFAULT);
    }
    uv_timer_stop(&f->watchdog);
}

static void on_turn_over(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void run_for(struct fixture *f, uint64_t ms)
{
    uv_timer_start(&f->watchdog, on_turn_over, ms, 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
}

static char *path_of(const struct fixture *f, const char *name)
{
    static char path[2][128];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", f->dir, name);
    return path[turn];
}

static const char *read_file(const struct fixture *f, const char *name)
{
    static char text[65536];
    FILE *file = fopen(path_of(f, name), "r");
    if (!file) {
        return NULL;
    }
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

/* A hook whose script runs in the fixture's directory. */
static struct config_hook *add_hook(struct fixture *f, const char *name, const char *script)
{
    struct config_hook *hook = &f->config.hook[f->config.n_hooks++];
    snprintf(hook->name, sizeof hook->name, "%s", name);
    char *path = path_of(f, name);
    FILE *file = fopen(path, "w");
    fprintf(file, "#!/bin/sh\ncd %s\n%s\n", f->dir, script);
    fclose(file);
    chmod(path, 0755);
    hook->argv[0] = strdup(path);
    hook->argv[1] = strdup("an argument");
    hook->timeout = 20;
    return hook;
}

static struct alert *alert_new(int64_t id, const char *hook, const char *run, const char *event)
{
    struct alert *alert = calloc(1, sizeof *alert);
    alert->id = id;
    snprintf(alert->hook, sizeof alert->hook, "%s", hook);
    assert_true(asprintf(&alert->json,
                         "{\"run\":\"%s\",\"program\":\"p\",\"state\":\"healthy\",\"alert\":%d,"
                         "\"event\":\"%s\",\"condition\":\"unstable\"}",
                         run, (int)id, event) > 0);
    return alert;
}

static void submit(struct fixture *f, int64_t id, const char *hook, const char *run)
{
    alerts_submit(f->a, alert_new(id, hook, run, "entered"));
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char errmsg[SEISMO_ERRMSG];
    snprintf(f->dir, sizeof f->dir, "/tmp/seismo-alerts-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_timer_init(&f->loop, &f->watchdog);
    f->watchdog.data = f;
    assert_int_equal(alerts_new(&f->loop, &f->config, BACKOFF, on_result, f, &f->a, errmsg), 0);
    *state = f;
    return 0;
}

static void on_closed(void *arg)
{
    struct fixture *f = arg;
    f->closed = true;
    uv_close((uv_handle_t *)&f->watchdog, NULL);
}

static void close_alerts(struct fixture *f)
{
    uv_timer_start(&f->watchdog, on_watchdog, PATIENCE, 0);
    f->wanted = MAX_RESULTS; /* no result stops the loop any more */
    alerts_close(f->a, on_closed, f);
    f->a = NULL;
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_true(f->closed);
    assert_int_equal(uv_loop_close(&f->loop), 0);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (!f->closed) {
        close_alerts(f);
    }
    for (uint32_t i = 0; i < f->config.n_hooks; i++) {
        free(f->config.hook[i].argv[0]);
        free(f->config.hook[i].argv[1]);
    }
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", f->dir);
    int rc = system(command);
    free(f);
    return rc;
}

static void assert_result(const struct fixture *f, int i, int64_t id, bool delivered,
                          const char *text)
{
    assert_string_equal(f->result[i].text, text);
    assert_int_equal(f->result[i].id, id);
    assert_int_equal(f->result[i].delivered, delivered);
}

/* ---- the tests ---- */

static void test_input_and_environment(void **state)
{
    struct fixture *f = *state;
    setenv("SECRET", "of the daemon", 1);
    add_hook(f, "page",
             "cat > in; echo \"$1\" > arg; env | cut -d= -f1 | sort | tr '\\n' ' ' > env\n"
             "echo $SEISMO_ALERT_ID $SEISMO_EVENT $SEISMO_STATE > seismo");
    submit(f, 7, "page", "evil; $(touch owned)");
    wait_results(f, 1);
    assert_result(f, 0, 7, true, "exit 0");
    assert_string_equal(read_file(f, "in"),
                        "{\"run\":\"evil; $(touch owned)\",\"program\":\"p\",\"state\":\"healthy\","
                        "\"alert\":7,\"event\":\"entered\",\"condition\":\"unstable\"}\n");
    assert_string_equal(read_file(f, "arg"), "an argument\n");
    assert_string_equal(read_file(f, "seismo"), "7 entered unstable\n");
    /* PWD and OLDPWD are the shell's own. */
    assert_string_equal(read_file(f, "env"),
                        "LANG OLDPWD PATH PWD SEISMO_ALERT_ID SEISMO_EVENT SEISMO_STATE ");
    assert_null(read_file(f, "owned"));
    assert_int_equal(alerts_pending(f->a), 0);
}

static void test_failing_hook_is_given_up(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "exit 3");
    submit(f, 1, "page", "a");
    wait_results(f, 3);
    assert_result(f, 0, 1, false, "exit 3");
    assert_result(f, 1, 1, false, "exit 3");
    assert_result(f, 2, 1, false, "exit 3, gave up");
    assert_int_equal(alerts_pending(f->a), 0);
}

static void test_hook_killed_by_a_signal(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "kill -9 $$");
    submit(f, 1, "page", "a");
    wait_results(f, 1);
    assert_result(f, 0, 1, false, "signal 9");
}

static void test_missing_hook(void **state)
{
    struct fixture *f = *state;
    struct config_hook *hook = add_hook(f, "page", "exit 0");
    unlink(hook->argv[0]);
    submit(f, 1, "page", "a");
    submit(f, 2, "removed", "a");
    assert_int_equal(f->n, 0); /* never from within alerts_submit */
    wait_results(f, 4);
    int cannot = 0, no_such = 0;
    for (int i = 0; i < f->n; i++) {
        assert_false(f->result[i].delivered);
        cannot += strncmp(f->result[i].text, "cannot start: no such file", 26) == 0;
        no_such += strcmp(f->result[i].text, "no such hook, gave up") == 0;
    }
    assert_int_equal(cannot, 3);
    assert_int_equal(no_such, 1);
}

static int read_pid(const struct fixture *f)
{
    const char *text = read_file(f, "pid");
    assert_non_null(text);
    return atoi(text);
}

/* A killed process takes a moment to die, and is a zombie until init collects it. */
static bool gone(int pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    for (int i = 0; i < 200; i++) {
        char state = 'Z';
        FILE *file = fopen(path, "r");
        if (file) {
            int got = fscanf(file, "%*d %*s %c", &state);
            fclose(file);
            state = got == 1 ? state : 'Z';
        }
        if (state == 'Z') {
            return true;
        }
        usleep(10000);
    }
    return false;
}

static void test_timeout_takes_the_whole_group(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "sleep 600 & echo $! > pid; wait")->timeout = 0.4;
    submit(f, 1, "page", "a");
    wait_results(f, 1);
    assert_result(f, 0, 1, false, "timeout");
    assert_true(gone(read_pid(f)));
}

static void test_timeout_of_a_hook_that_ignores_sigterm(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "trap '' TERM\nwhile :; do sleep 0.1; done")->timeout = 0.1;
    uint64_t start = uv_hrtime();
    submit(f, 1, "page", "a");
    wait_results(f, 1);
    assert_result(f, 0, 1, false, "timeout");
    assert_true((double)(uv_hrtime() - start) / 1e9 > ALERTS_KILL_AFTER);
}

/* More alerts than may run at once; they overlap, but never more than ALERTS_MAX_RUNNING. */
static void test_many_at_once(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "mkdir on.$$; ls -d on.* | wc -l >> counts; sleep 0.1; rmdir on.$$");
    const int n = 40;
    struct alert *list = NULL;
    for (int i = n; i > 0; i--) {
        char run[16];
        snprintf(run, sizeof run, "run %d", i);
        struct alert *alert = alert_new(i, "page", run, "entered");
        alert->next = list;
        list = alert;
    }
    alerts_submit(f->a, list);
    assert_int_equal(alerts_pending(f->a), n);
    wait_results(f, n);
    bool seen[41] = {false};
    for (int i = 0; i < n; i++) {
        assert_true(f->result[i].delivered);
        seen[f->result[i].id] = true;
    }
    for (int i = 1; i <= n; i++) {
        assert_true(seen[i]);
    }
    int most = 0;
    char text[1024];
    snprintf(text, sizeof text, "%s", read_file(f, "counts"));
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
        most = atoi(line) > most ? atoi(line) : most;
    }
    assert_in_range(most, 2, ALERTS_MAX_RUNNING);
}

/* "resolved" waits for "entered" even when that has to be tried again; another run overtakes. */
static void test_order_within_a_run(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page",
             "read -r document\n"
             "case $SEISMO_ALERT_ID in 1) [ -e once ] || { touch once; exit 1; };; esac\n"
             "echo $SEISMO_ALERT_ID $SEISMO_EVENT >> log");
    alerts_submit(f->a, alert_new(1, "page", "a", "entered"));
    alerts_submit(f->a, alert_new(2, "page", "a", "resolved"));
    wait_results(f, 1); /* the first attempt failed */
    alerts_submit(f->a, alert_new(3, "page", "b", "entered"));
    wait_results(f, 4);
    char log[128];
    snprintf(log, sizeof log, "%s", read_file(f, "log"));
    const char *entered = strstr(log, "1 entered\n"), *resolved = strstr(log, "2 resolved\n");
    assert_non_null(entered);
    assert_non_null(resolved);
    assert_true(entered < resolved);
    assert_ptr_equal(strstr(log, "3 entered\n"), log);
}

/* A hook need not read: neither SIGPIPE nor a document larger than the socket's buffer matters. */
static void test_hook_that_never_reads(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "deaf", "exec <&-; sleep 0.2");
    add_hook(f, "quick", "exit 0");
    const char *hook[] = {"deaf", "quick"};
    for (int i = 0; i < 2; i++) {
        struct alert *alert = alert_new(i + 1, hook[i], "a", "entered");
        size_t n = 1 << 20;
        free(alert->json);
        alert->json = malloc(n + 1);
        memset(alert->json, ' ', n);
        memcpy(alert->json, "{}", 2);
        alert->json[n] = '\0';
        alerts_submit(f->a, alert);
    }
    wait_results(f, 2);
    for (int i = 0; i < 2; i++) {
        assert_true(f->result[i].delivered);
    }
}

static void test_output_in_the_log(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "printf 'two\\nlines \\033[31mred' >&2; exit 1");
    add_hook(f, "loud", "yes 'a long tale' | head -c 1000000");
    int saved = dup(STDERR_FILENO);
    int fd = open(path_of(f, "log"), O_CREAT | O_WRONLY, 0600);
    dup2(fd, STDERR_FILENO);
    submit(f, 1, "page", "a");
    wait_results(f, 1);
    submit(f, 2, "loud", "b");
    wait_results(f, 2);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd);
    const char *log = read_file(f, "log");
    assert_non_null(strstr(log, "hook 'page' for alert 1 says \"two\""));
    assert_non_null(strstr(log, "says \"lines \\"));
    assert_null(strchr(log, '\033'));
    assert_non_null(strstr(log, "says more than"));
    assert_true(strlen(log) < 10 * ALERTS_MAX_OUTPUT);
}

static void test_reload(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "echo old >> log");
    submit(f, 1, "page", "a");
    wait_results(f, 1);
    struct config other = {0};
    struct config_hook *hook = add_hook(f, "page2", "echo new >> log");
    other.hook[0] = *hook;
    snprintf(other.hook[0].name, sizeof other.hook[0].name, "page");
    other.n_hooks = 1;
    alerts_reload(f->a, &other);
    submit(f, 2, "page", "a");
    wait_results(f, 2);
    assert_string_equal(read_file(f, "log"), "old\nnew\n");
    alerts_reload(f->a, &f->config);
}

/* What ends within the grace time is reported, what does not is killed and stays undelivered. */
static void test_close(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "quick", "sleep 0.5");
    add_hook(f, "slow", "sleep 600 & echo $! > pid; wait");
    submit(f, 1, "quick", "a");
    submit(f, 2, "slow", "a");
    submit(f, 3, "slow", "a");
    submit(f, 4, "quick", "a");
    run_for(f, 200);
    uint64_t start = uv_hrtime();
    close_alerts(f);
    assert_true((double)(uv_hrtime() - start) / 1e9 < ALERTS_GRACE + 1.5);
    assert_int_equal(f->n, 1);
    assert_result(f, 0, 1, true, "exit 0");
    assert_true(gone(read_pid(f)));
}

static void test_close_while_backing_off(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "exit 1");
    submit(f, 1, "page", "a");
    wait_results(f, 1);
    uint64_t start = uv_hrtime();
    close_alerts(f);
    assert_true((double)(uv_hrtime() - start) / 1e9 < 1);
    assert_int_equal(f->n, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_input_and_environment),
        TEST(test_failing_hook_is_given_up),
        TEST(test_hook_killed_by_a_signal),
        TEST(test_missing_hook),
        TEST(test_timeout_takes_the_whole_group),
        TEST(test_timeout_of_a_hook_that_ignores_sigterm),
        TEST(test_many_at_once),
        TEST(test_order_within_a_run),
        TEST(test_hook_that_never_reads),
        TEST(test_output_in_the_log),
        TEST(test_reload),
        TEST(test_close),
        TEST(test_close_while_backing_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
