/* Alert hooks with real scripts and processes. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/alerts.h"

#define MAX_RESULTS 256
#define PATIENCE 30000 /* ms */
#define BACKOFF 0.05   /* s */
#define MOST 50        /* alerts in memory */

struct fixture {
    char dir[64];
    uv_loop_t loop;
    uv_timer_t watchdog;
    char conf[80]; /* the configuration, with the hooks */
    struct hookd helper;
    struct alerts *a;
    int seen[32], n_helpers; /* processes, for the end */
    int n, wanted;
    bool closed;
    int64_t after; /* of the last question for more, -1: none */
    uint32_t most;
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

static void on_wanted(void *arg, int64_t after, uint32_t most)
{
    struct fixture *f = arg;
    f->after = after;
    f->most = most;
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

/* What the helper does when it is told of a change. */
static int load(void *arg, struct config **ret_config, char errmsg[SEISMO_ERRMSG])
{
    return config_new(arg, ret_config, errmsg);
}

/* A hook's script, which runs in the fixture's directory. */
static char *write_script(struct fixture *f, const char *name, const char *script)
{
    char *path = path_of(f, name);
    FILE *file = fopen(path, "w");
    fprintf(file, "#!/bin/sh\ncd %s\n%s\n", f->dir, script);
    fclose(file);
    chmod(path, 0755);
    return path;
}

/* One more hook in the configuration, which the helper reads again. */
static void add_hook_with(struct fixture *f, const char *name, const char *script, double timeout)
{
    const char *path = write_script(f, name, script);
    FILE *file = fopen(f->conf, "a");
    fprintf(file, "[hook %s]\ncommand = %s 'an argument'\ntimeout = %g\n", name, path, timeout);
    fclose(file);
    alerts_reload(f->a);
}

static void add_hook(struct fixture *f, const char *name, const char *script)
{
    add_hook_with(f, name, script, 20);
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

static const struct alerts_terms terms = {
    .backoff = BACKOFF, .most = MOST, .done = on_result, .more = on_wanted};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char errmsg[SEISMO_ERRMSG];
    snprintf(f->dir, sizeof f->dir, "/tmp/seismo-alerts-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->conf, sizeof f->conf, "%s/conf", f->dir);
    static const struct config no_hooks;
    assert_int_equal(hookd_start(&no_hooks, load, f->conf, &f->helper, errmsg), 0);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_timer_init(&f->loop, &f->watchdog);
    f->watchdog.data = f;
    f->after = -1;
    assert_int_equal(alerts_new(&f->loop, &f->helper, &terms, f, &f->a, errmsg), 0);
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

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (!f->closed) {
        close_alerts(f);
    }
    /* The end of the socket, or what the test did, has ended the helper. */
    assert_true(gone(f->helper.keeper));
    for (int i = 0; i < f->n_helpers; i++) {
        assert_true(gone(f->seen[i]));
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
    add_hook(f, "page", "exit 0");
    unlink(path_of(f, "page"));
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

static void test_timeout_takes_the_whole_group(void **state)
{
    struct fixture *f = *state;
    add_hook_with(f, "page", "sleep 600 & echo $! > pid; wait", 0.4);
    submit(f, 1, "page", "a");
    wait_results(f, 1);
    assert_result(f, 0, 1, false, "timeout");
    assert_true(gone(read_pid(f)));
}

static void test_timeout_of_a_hook_that_ignores_sigterm(void **state)
{
    struct fixture *f = *state;
    add_hook_with(f, "page", "trap '' TERM\nwhile :; do sleep 0.1; done", 0.1);
    uint64_t start = uv_hrtime();
    submit(f, 1, "page", "a");
    wait_results(f, 1);
    assert_result(f, 0, 1, false, "timeout");
    assert_true((double)(uv_hrtime() - start) / 1e9 > HOOKD_KILL_AFTER);
}

/* More alerts than may run at once; they overlap, but never more than HOOKD_MAX_RUNNING. */
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
    assert_in_range(most, 2, HOOKD_MAX_RUNNING);
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
    assert_true(strlen(log) < 10 * HOOKD_MAX_OUTPUT);
}

static void test_reload(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "echo old >> log");
    submit(f, 1, "page", "a");
    wait_results(f, 1);
    write_script(f, "page2", "echo new >> log");
    FILE *file = fopen(f->conf, "w");
    fprintf(file, "[hook page]\ncommand = %s\n", path_of(f, "page2"));
    fclose(file);
    submit(f, 2, "page", "a"); /* nobody has said anything yet */
    wait_results(f, 2);
    alerts_reload(f->a);
    submit(f, 3, "page", "a");
    wait_results(f, 3);
    assert_string_equal(read_file(f, "log"), "old\nold\nnew\n");
    file = fopen(f->conf, "w"); /* what is wrong changes nothing */
    fprintf(file, "[hook page]\nnonsense = 1\n");
    fclose(file);
    alerts_reload(f->a);
    submit(f, 4, "page", "a");
    wait_results(f, 4);
    assert_string_equal(read_file(f, "log"), "old\nold\nnew\nnew\n");
}

/* The helper has the hooks from the configuration and from nowhere else, and takes nothing into a
 * hook's environment but words. */
static void test_only_what_is_configured(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "touch ran");
    submit(f, 1, "/bin/true", "a");
    wait_results(f, 1);
    assert_result(f, 0, 1, false, "no such hook, gave up");
    alerts_submit(f->a, alert_new(2, "page", "a", "LD_PRELOAD=x"));
    wait_results(f, 2);
    assert_result(f, 1, 2, false, "cannot start: invalid argument");
    assert_null(read_file(f, "ran"));
}

/* The process that runs the hooks now. */
static int helper_of(struct fixture *f)
{
    char path[64];
    int pid = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", f->helper.keeper, f->helper.keeper);
    for (int i = 0; i < PATIENCE / 10 && pid == 0; i++) {
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        if (fscanf(file, "%d", &pid) != 1) {
            pid = 0;
            usleep(10000);
        }
        fclose(file);
    }
    assert_true(pid > 0);
    assert_true(f->n_helpers < 32);
    f->seen[f->n_helpers++] = pid;
    return pid;
}

/* The helper is killed: what was under way runs again with the next one, and what was reloaded
 * holds there too. */
static void test_helper_is_replaced(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page",
             "echo $SEISMO_ALERT_ID >> log\n[ -e pid ] || { echo $$ > pid; exec sleep 600; }");
    submit(f, 1, "page", "a");
    submit(f, 2, "page", "a");
    while (!read_file(f, "pid") || !*read_file(f, "pid")) {
        run_for(f, 20);
    }
    assert_false(alerts_lost(f->a));
    kill(helper_of(f), SIGKILL);
    kill(read_pid(f), SIGKILL); /* not even the helper could */
    wait_results(f, 2);
    assert_result(f, 0, 1, true, "exit 0");
    assert_result(f, 1, 2, true, "exit 0");
    assert_string_equal(read_file(f, "log"), "1\n1\n2\n");
    assert_false(alerts_lost(f->a));
    helper_of(f);
}

/* Killed again and again it comes back later each time, and so does the alert. */
static void test_helper_dies_again_and_again(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "echo >> log; kill -9 $PPID; sleep 0.1");
    uint64_t start = uv_hrtime();
    submit(f, 1, "page", "a");
    const char *log;
    for (int i = 0; i < PATIENCE / 10 && (!(log = read_file(f, "log")) || strlen(log) < 5); i++) {
        run_for(f, 10);
    }
    assert_true(log && strlen(log) == 5);
    /* Four deaths, and waits of 0.1, 0.2, 0.4 and 0.8 s after them. */
    assert_true((double)(uv_hrtime() - start) / 1e9 >= 1.5);
    assert_int_equal(f->n, 0);
    assert_int_equal(alerts_pending(f->a), 1);
    write_script(f, "page", "exit 0");
    wait_results(f, 1);
    assert_result(f, 0, 1, true, "exit 0");
}

/* Without the keeper nothing is reported, so that all of it stays in the outbox. */
static void test_keeper_lost(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "echo $$ > pid; exec sleep 600");
    submit(f, 1, "page", "a");
    submit(f, 2, "page", "a");
    while (!read_file(f, "pid")) {
        run_for(f, 20);
    }
    assert_false(alerts_lost(f->a));
    int pid = read_pid(f);
    helper_of(f);
    kill(f->helper.keeper, SIGKILL);
    while (!alerts_lost(f->a)) {
        run_for(f, 20);
    }
    assert_true(gone(pid));
    submit(f, 3, "page", "b");
    alerts_reload(f->a);
    run_for(f, 200);
    assert_int_equal(f->n, 0);
    assert_int_equal(alerts_pending(f->a), 3);
    close_alerts(f);
    assert_int_equal(f->n, 0);
}

/* The daemon is gone without a word: the helper ends and takes the hooks along. */
static void test_daemon_lost(void **state)
{
    struct fixture *f = *state;
    char path[128];
    snprintf(path, sizeof path, "%s", path_of(f, "pid"));
    pid_t daemon = fork();
    if (daemon == 0) { /* another pair of processes, of which the first one dies */
        struct fixture other = {.helper.fd = -1};
        char errmsg[SEISMO_ERRMSG];
        memcpy(other.dir, f->dir, sizeof other.dir);
        static struct config config;
        config.n_hooks = 1;
        config.hook[0].timeout = 100;
        strcpy(config.hook[0].name, "page");
        config.hook[0].argv[0] = write_script(f, "page", "echo $$ $PPID > pid; exec sleep 600");
        if (hookd_start(&config, load, f->conf, &other.helper, errmsg) != 0 ||
            uv_loop_init(&other.loop) != 0 ||
            alerts_new(&other.loop, &other.helper, &terms, &other, &other.a, errmsg)) {
            _exit(1);
        }
        submit(&other, 1, "page", "a");
        uv_run(&other.loop, UV_RUN_DEFAULT);
        _exit(1);
    }
    int pid[2] = {0, 0};
    for (int i = 0; i < 1000 && pid[1] == 0; i++) {
        usleep(10000);
        const char *text = read_file(f, "pid");
        if (text && sscanf(text, "%d %d", &pid[0], &pid[1]) < 2) {
            pid[1] = 0;
        }
    }
    assert_true(pid[1] > 0);
    kill(daemon, SIGKILL);
    int status;
    waitpid(daemon, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(gone(pid[0]));
    assert_true(gone(pid[1]));
}

/* A SIGTERM for all processes of a group is not the helper's: hooks have their grace time. */
static void test_helper_outlives_sigterm(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "exit 0");
    for (int i = 0; i < 2; i++) {
        submit(f, i + 1, "page", "a");
        wait_results(f, i + 1);
        assert_result(f, i, i + 1, true, "exit 0");
        int helper = helper_of(f);
        kill(f->helper.keeper, SIGTERM);
        kill(f->helper.keeper, SIGINT);
        kill(helper, SIGTERM);
        kill(helper, SIGINT);
        run_for(f, 50);
        assert_int_equal(helper_of(f), helper);
    }
}

/* A helper that answers nothing does not hold up the stop. */
static void test_close_with_a_frozen_helper(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "exec sleep 600");
    submit(f, 1, "page", "a");
    run_for(f, 100);
    int helper = helper_of(f);
    kill(helper, SIGSTOP);
    close_alerts(f);
    assert_int_equal(f->n, 0);
    kill(helper, SIGCONT);
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

/* Alerts beyond what fits in memory stay in the table, with all that come after them, and are taken
 * from there in order, each once. */
static void test_those_in_the_table_come_later(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "[ -e go ] || exec sleep 600\necho $SEISMO_ALERT_ID >> log");
    const int all = MOST + 40;
    for (int i = 1; i <= all; i++) {
        submit(f, i, "page", i % 2 ? "a" : "b");
        assert_int_equal(alerts_behind(f->a), i > MOST);
    }
    assert_int_equal(alerts_pending(f->a), MOST);
    submit(f, -1, "page", "storage"); /* not of the table: taken at any time */
    assert_int_equal(alerts_pending(f->a), MOST + 1);
    alerts_look(f->a);
    assert_int_equal(f->after, -1); /* no room yet */
    fclose(fopen(path_of(f, "go"), "w"));
    run_for(f, 200);
    kill(helper_of(f), SIGKILL); /* the next one begins anew with those that sleep */
    int last = MOST, most = 0;
    while (f->n < all + 1) {
        wait_results(f, f->n + 1);
        alerts_look(f->a);
        if (f->after < 0) {
            continue;
        }
        /* What is committed meanwhile is in the table as well. */
        submit(f, all + 10, "page", "a");
        assert_int_equal(f->after, last);
        assert_true(f->most > 0);
        alerts_look(f->a);
        most = (int)f->most < all - last ? 15 : all - last; /* in two pieces */
        most = most > 15 ? 15 : most;
        struct alert *list = NULL;
        for (int i = last + most; i > last; i--) {
            struct alert *alert = alert_new(i, "page", i % 2 ? "a" : "b", "entered");
            alert->next = list;
            list = alert;
        }
        last += most;
        f->after = -1;
        alerts_more(f->a, list, last == all);
        assert_int_equal(alerts_behind(f->a), last < all);
    }
    assert_int_equal(last, all);
    assert_int_equal(alerts_pending(f->a), 0);
    int seen[MOST + 41] = {0}, before[2] = {0};
    for (int i = 0; i < f->n; i++) {
        assert_true(f->result[i].delivered);
        int id = (int)f->result[i].id;
        if (id > 0) {
            assert_int_equal(seen[id]++, 0);
            assert_true(id > before[id % 2]);
            before[id % 2] = id;
        }
    }
    submit(f, all + 1, "page", "a"); /* as ever */
    wait_results(f, all + 2);
}

static void test_the_table_cannot_be_read(void **state)
{
    struct fixture *f = *state;
    add_hook(f, "page", "exit 0");
    for (int i = 1; i <= MOST + 1; i++) {
        submit(f, i, "page", "a");
    }
    wait_results(f, MOST);
    for (int i = 0; i < 2; i++) {
        f->after = -1;
        alerts_look(f->a);
        assert_int_equal(f->after, MOST);
        alerts_more(f->a, NULL, false);
        assert_true(alerts_behind(f->a));
    }
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
        TEST(test_only_what_is_configured),
        TEST(test_helper_is_replaced),
        TEST(test_helper_dies_again_and_again),
        TEST(test_keeper_lost),
        TEST(test_those_in_the_table_come_later),
        TEST(test_the_table_cannot_be_read),
        TEST(test_daemon_lost),
        TEST(test_helper_outlives_sigterm),
        TEST(test_close_with_a_frozen_helper),
        TEST(test_close),
        TEST(test_close_while_backing_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
