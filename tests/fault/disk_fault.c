/* disk_fault [--long]: each call of the file layer fails once, for each n until a pass without a
 * hit.
 *
 * One life of a worker: start, HELLO, steps of a run that goes bad and of one that resumes from a
 * checkpoint, verdicts, alerts, a label, questions of a reader, ends, stop, and another start. In
 * each life one call fails: the n-th of its kind, alone, five in a row, or all until a moment
 * later. Clients and the service manager try again, as they do. Afterwards the database holds what
 * a life without failures leaves behind, neither more nor less, and nothing was set aside.
 * A second experiment does the same while retention deletes an old run. */
#include "tests/fault/client_rig.h"
#include "tests/fault/vfs_shim.h"

#include <dirent.h>
#include <limits.h>

#include "daemon/reader.h"

#define HEAL_AFTER 60000 /* µs from the first failure of a lasting fault to its end */
#define STRIDE 23        /* in the short form, every how many n */

static bool is_long;

/* ---- a life ---- */

static void ask(struct reader *r, const char *method, const char *params)
{
    json_t *body = NULL;
    char errmsg[SEISMO_ERRMSG] = "", hint[READER_MAX_HINT];
    int err = reader_query(r, method, params, strlen(params), &body, errmsg, hint);
    if (err) {
        refused.queries_refused++;
        if (!errmsg[0]) {
            fail_msg("%s was refused without a word", method);
        }
    }
    json_decref(body);
}

static void ask_all(void)
{
    struct reader *r;
    char path[128], errmsg[SEISMO_ERRMSG] = "";
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    if (reader_new(path, rig.model, &r, errmsg) != 0) {
        refused.queries_refused++;
        assert_true(errmsg[0]);
        return;
    }
    ask(r, "status", "{}");
    ask(r, "runs", "{}");
    ask(r, "series", "{\"run\":\"bad\"}");
    ask(r, "verdicts", "{}");
    ask(r, "steps", "{\"run\":\"bad\"}");
    ask(r, "explain", "{\"run\":\"bad\"}");
    reader_free(&r);
}

static void label(const char *run, const char *outcome)
{
    struct job *job = job_new(JOB_LABEL, 0);
    snprintf(job->label.run, sizeof job->label.run, "%s", run);
    snprintf(job->label.outcome, sizeof job->label.outcome, "%s", outcome);
    rig_call(job);
    assert_int_equal(job->err, 0);
    job_free(&job);
}

static void alert_result(int64_t id)
{
    struct job *job = job_new(JOB_ALERT, 0);
    job->alert.id = id;
    job->alert.delivered = true;
    snprintf(job->alert.result, sizeof job->alert.result, "exit 0");
    rig_call(job);
    assert_int_equal(job->err, 0);
    job_free(&job);
}

static void live(void)
{
    start_patiently();
    struct peer bad = open_patiently("bad", "s1"), back = open_patiently("back", "s2");
    give_rows(&bad, "s1", 0, 250);
    give_rows(&back, "s2", 0, 280);
    give_rows(&bad, "s1", 250, 300); /* a chunk, and the verdict */
    label("bad", "as it should be");
    ask_all();
    alert_result(1);
    give_rows(&back, "s2", 200, 70); /* superseded */
    give_rows(&back, "s2", 270, 30);
    give(&bad, "s1", make_bye, NULL);
    rig_stop();
    start_patiently();
    back = open_patiently("back", "s2");
    give_rows(&back, "s2", 300, 250);
    ask_all();
    rig_stop();
}

/* ---- what is there afterwards ---- */

/* What was said and stored, without what differs between two lives. */
static char *portrait(void)
{
    char *bad = rig_portrait(1), *back = rig_portrait(2), *all;
    char *label_and_batches = rig_sql("SELECT run, label, last_batch FROM runs ORDER BY id");
    char *alerts = rig_sql("SELECT id, verdict, event, state, hook, delivered IS NULL, result "
                           "FROM alerts ORDER BY id");
    char *verdicts = rig_sql("SELECT id, run, step, state, superseded FROM verdicts ORDER BY id");
    assert_true(asprintf(&all, "%s%s%s%s%s", label_and_batches, alerts, verdicts, bad, back) > 0);
    free(bad);
    free(back);
    free(label_and_batches);
    free(alerts);
    free(verdicts);
    return all;
}

static void expect_nothing_set_aside(void)
{
    DIR *dir = opendir(rig.dir);
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir));) {
        if (strstr(e->d_name, ".damaged-")) {
            fail_msg("%s", e->d_name);
        }
    }
    closedir(dir);
}

static void empty_rig(void)
{
    static const char *const names[] = {"", "-wal", "-shm", "-journal", "-check"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/seismo.db%s", rig.dir, names[i]);
        unlink(path);
    }
    rig_now = 1.7e9;
}

/* A lasting fault ends some time after it has begun. */
static atomic_bool healing;

static void *heal(void *arg)
{
    (void)arg;
    while (atomic_load(&healing) && shim_hits() == 0) {
        usleep(1000);
    }
    if (atomic_load(&healing)) {
        usleep(HEAL_AFTER);
        shim_heal();
    }
    return NULL;
}

/* One life with a fault; true when it was hit. */
static bool live_with(const struct shim_fault *fault, const char *undisturbed)
{
    pthread_t healer;
    char text[512], path[128];
    bool lasting = fault->count > 1000;
    empty_rig();
    shim_fail(fault);
    atomic_store(&healing, lasting);
    if (lasting) {
        assert_int_equal(pthread_create(&healer, NULL, heal, NULL), 0);
    }
    live();
    int hits = shim_hits();
    atomic_store(&healing, false);
    if (lasting) {
        pthread_join(healer, NULL);
    }
    shim_heal();
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    const char *problem = find_problem(path, text);
    if (problem) {
        fail_msg("%s %d (%d of them, code %d): %s", shim_call_name(fault->call), fault->n,
                 fault->count, fault->code, problem);
    }
    expect_nothing_set_aside();
    char *now = portrait();
    if (strcmp(now, undisturbed) != 0) {
        print_error("%s %d (%d of them, code %d):\n", shim_call_name(fault->call), fault->n,
                    fault->count, fault->code);
        rig_same(now, strdup(undisturbed));
    }
    free(now);
    return hits > 0;
}

/* ---- all faults ---- */

static const struct shim_fault kinds[] = {
    {.call = SHIM_OPEN, .code = SQLITE_CANTOPEN},
    {.call = SHIM_DELETE, .code = SQLITE_IOERR_DELETE},
    {.call = SHIM_ACCESS, .code = SQLITE_IOERR_ACCESS},
    {.call = SHIM_READ, .code = SQLITE_IOERR_READ},
    {.call = SHIM_WRITE, .code = SQLITE_IOERR_WRITE},
    {.call = SHIM_WRITE, .code = SQLITE_FULL},
    {.call = SHIM_WRITE, .code = SQLITE_FULL, .half = true},
    {.call = SHIM_SYNC, .code = SQLITE_IOERR_FSYNC},
    {.call = SHIM_TRUNCATE, .code = SQLITE_IOERR_TRUNCATE},
    {.call = SHIM_SIZE, .code = SQLITE_IOERR_FSTAT},
    {.call = SHIM_LOCK, .code = SQLITE_IOERR_LOCK},
    {.call = SHIM_LOCK, .code = SQLITE_BUSY},
    {.call = SHIM_SHM_MAP, .code = SQLITE_IOERR_SHMSIZE},
    {.call = SHIM_SHM_LOCK, .code = SQLITE_IOERR_SHMLOCK},
    {.call = SHIM_SHM_LOCK, .code = SQLITE_BUSY},
};

/* For each n until two lives in a row were not hit (how often a call is made differs a little from
 * life to life, because threads take turns). */
static unsigned each_n(struct shim_fault fault, const char *undisturbed)
{
    unsigned lives = 0;
    int stride = is_long ? 1 : STRIDE, spared = 0;
    for (fault.n = 1; spared < 2; fault.n += spared ? 1 : stride) {
        spared = live_with(&fault, undisturbed) ? 0 : spared + 1;
        lives++;
    }
    return lives;
}

static void every_failing_call_is_overcome(void **state)
{
    (void)state;
    static const int counts[] = {1, 5, INT_MAX};
    rig_begin();
    rig.config.n_hooks = 1;
    snprintf(rig.config.hook[0].name, sizeof rig.config.hook[0].name, "page");
    rig.config.hook[0].states = 1u << STATE_UNSTABLE;
    live();
    char *undisturbed = portrait();
    unsigned lives = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            struct shim_fault fault = kinds[k];
            fault.count = counts[c];
            /* The short form takes one of the three, in turn. */
            if (is_long || k % 3 == c) {
                lives += each_n(fault, undisturbed);
            }
        }
    }
    free(undisturbed);
    rig_sh("rm -rf %s", rig.dir);
    printf("disk_fault: %u lives of a worker, each with one failing call (%zu kinds of them); %llu "
           "starts, %llu jobs and %llu queries refused with a reason; nothing lost, nothing twice, "
           "nothing set aside, every database sound\n",
           lives, sizeof kinds / sizeof *kinds, (unsigned long long)refused.starts_refused,
           (unsigned long long)refused.jobs_refused, (unsigned long long)refused.queries_refused);
}

/* ---- retention ---- */

static int64_t count(const char *sql)
{
    char *text = rig_sql("%s", sql);
    int64_t n = atoll(text);
    free(text);
    return n;
}

/* An old run is deleted with a fault on the way; the one beside it is untouched. True when hit. */
static bool delete_with(const struct shim_fault *fault)
{
    char text[512], path[128];
    empty_rig();
    start_patiently();
    struct peer old = open_patiently("old", "s1"), other = open_patiently("new", "s2");
    give_rows(&old, "s1", 0, 550);
    give(&old, "s1", make_bye, NULL);
    give_rows(&other, "s2", 0, 550);
    char *before = rig_portrait(2);
    rig_stop(); /* a daemon that is there would doubt its clock */
    rig_now = rig_now + 1000;
    start_patiently();
    shim_fail(fault);
    for (int i = 0; i < 400 && count("SELECT count(*) FROM runs") == 2; i++) {
        rig_now = rig_now + 1;
        alert_result(0); /* of no alert: lets the worker look at its clock */
        usleep(50000);
    }
    int hits = shim_hits();
    shim_heal();
    rig_same(rig_portrait(2), before);
    rig_expect("0\n",
               "SELECT (SELECT count(*) FROM chunks WHERE run_id = 1) + (SELECT count(*) FROM "
               "tail WHERE run_id = 1) + (SELECT count(*) FROM verdicts WHERE run_id = 1)");
    rig_stop();
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    if (find_problem(path, text)) {
        fail_msg("%s %d: %s", shim_call_name(fault->call), fault->n, text);
    }
    expect_nothing_set_aside();
    return hits > 0;
}

static void retention_overcomes_every_failing_call(void **state)
{
    (void)state;
    static const struct shim_fault of_retention[] = {
        {.call = SHIM_WRITE, .code = SQLITE_FULL, .count = 1, .half = true},
        {.call = SHIM_WRITE, .code = SQLITE_IOERR_WRITE, .count = 5},
    };
    size_t n = is_long ? sizeof of_retention / sizeof *of_retention : 1;
    unsigned lives = 0;
    rig_begin();
    rig.config.retain = 100;
    rig.config.lost_after = 1e6;
    rig.config.silent_min = 1e6;
    for (size_t k = 0; k < n; k++) {
        struct shim_fault fault = of_retention[k];
        bool hit = true;
        for (fault.n = 1; hit; fault.n += is_long ? 1 : STRIDE) {
            hit = delete_with(&fault);
            lives++;
        }
    }
    rig_sh("rm -rf %s", rig.dir);
    printf("disk_fault: %u deletions of an old run, each with one failing call; all done in the "
           "end, the run beside it untouched\n",
           lives);
}

int main(int argc, char **argv)
{
    is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    shim_install();
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_failing_call_is_overcome),
                                       cmocka_unit_test(retention_overcomes_every_failing_call)};
    return cmocka_run_group_tests_name("disk_fault", tests, group_setup, group_teardown);
}
