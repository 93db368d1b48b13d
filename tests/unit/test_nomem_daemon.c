/* Memory that runs out in the daemon: at every allocation in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/ingest.h"
#include "daemon/log.h"
#include "daemon/reader.h"
#include "daemon/store.h"
#include "daemon/worker.h"
#include "models/model.h"
#include "proto/json_text.h"
#include "tests/unit/fail_alloc.h"
#include "tests/unit/small_model.h"

static struct {
    char dir[64], conf[128], db[128];
    struct model *model;
} t;

static void remove_database(void)
{
    static const char *const suffix[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        char path[160];
        snprintf(path, sizeof path, "%s%s", t.db, suffix[i]);
        unlink(path);
    }
}

static int set_up(void **state)
{
    static const char text[] = SMALL_MODEL("small");
    char errmsg[SEISMO_ERRMSG];
    (void)state;
    json_text_init();
    log_set_level(LOG_ERROR);
    tzset(); /* the C library reads the time zone once, with memory that it keeps */
    snprintf(t.dir, sizeof t.dir, "/tmp/seismo-nomem-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    snprintf(t.conf, sizeof t.conf, "%s/seismod.conf", t.dir);
    snprintf(t.db, sizeof t.db, "%s/seismo.db", t.dir);
    FILE *file = fopen(t.conf, "w");
    fprintf(file,
            "[seismod]\ndata = %s\ningest = tcp://127.0.0.1:*, ipc://%s/ingest.sock\n"
            "[hook mail]\ncommand = /bin/mail -s 'a run' ops\nstates = unstable, ended\n",
            t.dir, t.dir);
    fclose(file);
    assert_int_equal(model_parse(text, strlen(text), "small", &t.model, errmsg), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_database();
    unlink(t.conf);
    rmdir(t.dir);
    model_free(&t.model);
    return 0;
}

static void out_of_memory(const char *what, const struct fail_result *result)
{
    if (result->err != SEISMO_ENOMEM || strstr(result->errmsg, "memory") == NULL)
        fail_msg("%s: memory is out, and it says %d: %s", what, result->err, result->errmsg);
}

/* SQLite calls memory that is out inside of its files an I/O error. What must never come is damage:
 * the database would be set aside. */
static void out_of_memory_in_sqlite(const char *what, const struct fail_result *result)
{
    if ((result->err != SEISMO_ENOMEM && result->err != SEISMO_EIO) || result->errmsg[0] == '\0')
        fail_msg("%s: memory is out, and it says %d: %s", what, result->err, result->errmsg);
}

/* ---- configuration ---- */

static void config(struct fail_result *ret)
{
    struct config *c = NULL;
    ret->err = config_new(t.conf, &c, ret->errmsg);
    if (ret->err == 0)
        ret->err = config_set(c, "seismod", "ingest", "tcp://127.0.0.1:7000", ret->errmsg);
    if (ret->err == 0)
        ret->err = config_finish(c, ret->errmsg);
    if (ret->err == 0) {
        char *text = NULL;
        size_t n;
        fail_spared_thread = true; /* the stream is the test's */
        FILE *out = open_memstream(&text, &n);
        fail_spared_thread = false;
        config_print(c, out);
        fail_spared_thread = true;
        fclose(out);
        free(text);
        fail_spared_thread = false;
    }
    config_free(&c);
}

static void test_config(void **state)
{
    (void)state;
    assert_true(fail_each("configuration", 0, config, out_of_memory) > 5);
}

/* ---- ingest ---- */

/* The conversation's other ends, which need no memory of their own. */
struct ends {
    double now;
    struct job *job[64];
    int n_jobs;
    uint64_t acked, welcomed;
    int errors;
};

static int take_message(void *arg, const void *peer, size_t peer_n, const void *data, size_t n)
{
    struct ends *e = arg;
    struct wire_msg m;
    char errmsg[SEISMO_ERRMSG];
    (void)peer;
    (void)peer_n;
    assert_int_equal(wire_decode(data, n, &m, errmsg), 0);
    e->acked = m.type == WIRE_ACK ? m.ack.batch : e->acked;
    e->welcomed += m.type == WIRE_WELCOME;
    if (m.type == WIRE_ERROR) {
        /* Whatever is refused for lack of memory must be sent again, not given up. */
        bool again = (m.error.code.n == 4 && memcmp(m.error.code.p, "busy", 4) == 0) ||
                     (m.error.code.n == 14 && memcmp(m.error.code.p, "hello_required", 14) == 0) ||
                     (m.error.code.n == 12 && memcmp(m.error.code.p, "out_of_order", 12) == 0);
        if (!again)
            fail_msg("ERROR %.*s: %.*s", (int)m.error.code.n, m.error.code.p, (int)m.error.text.n,
                     m.error.text.p);
        e->errors++;
    }
    return 0;
}

static void take_job(void *arg, struct job *job)
{
    struct ends *e = arg;
    assert_true(e->n_jobs < 64);
    e->job[e->n_jobs++] = job;
}

static void take_opened(void *arg, const char *run, const char *program)
{
    (void)arg;
    assert_true(*run && *program);
}

static double take_now(void *arg)
{
    return ((struct ends *)arg)->now;
}

static void commit(struct ends *e, struct ingest *i)
{
    for (int k = 0; k < e->n_jobs; k++) {
        struct job *job = e->job[k];
        job->run_id = 1;
        job->last_batch = job->batch;
        if (job->type == JOB_OPEN)
            snprintf(job->open.ret_run, sizeof job->open.ret_run, "%s", job->open.name);
        ingest_done(i, job);
        job_free(&job);
    }
    e->n_jobs = 0;
    ingest_flush(i);
}

static void say(struct ingest *i, const struct wire_buf *b)
{
    struct zsock_msg msg = {.peer = "peer", .peer_n = 4, .data = b->data, .n = b->n, .frames = 1};
    ingest_receive(i, &msg);
}

/* A session as a client plays it, who says everything again until it is done. */
static void ingest(struct fail_result *ret)
{
    static const struct ingest_ops ops = {
        .send = take_message, .submit = take_job, .opened = take_opened, .now = take_now};
    struct ends e = {.now = 1000};
    uint8_t data[1024];
    struct ingest *i = ingest_new(&ops, &e, 10, NULL);
    if (!i) {
        ret->err = SEISMO_ENOMEM;
        snprintf(ret->errmsg, sizeof ret->errmsg, "memory");
        return;
    }
    struct wire_hello hello = {.version = SEISMO_PROTOCOL_VERSION,
                               .run = {"run", 3},
                               .program = {"train.py", 8},
                               .session = {"s", 1},
                               .world = 1,
                               .meta = {"{\"optimizer\": \"adam\"}", 21}};
    hello.layout = (struct wire_layout){2, {SEISMO_FIELD_STEP, SEISMO_FIELD_VALUE0}};
    struct seismo_row row = {.step = 1};
    row_set(&row, SEISMO_LOSS, 1);
    bool armed = fail_alloc.armed;
    for (int attempt = 0; attempt < 8 && e.acked < 2; attempt++) {
        /* Memory does not stay out for ever. */
        if (attempt == 4)
            fail_alloc.armed = false;
        struct wire_buf b = {.data = data, .cap = sizeof data};
        if (e.welcomed == 0) {
            wire_put_hello(&b, &hello);
            say(i, &b);
            commit(&e, i);
            b.n = 0;
        }
        wire_put_steps_head(&b, 1, 1);
        wire_put_row(&b, &hello.layout, &row);
        say(i, &b);
        commit(&e, i);
        b.n = 0;
        wire_put_bye(&b, &(struct wire_bye){2, WIRE_FINISHED, {"", 0}});
        say(i, &b);
        commit(&e, i);
        e.now += 2;
        ingest_tick(i);
    }
    fail_alloc.armed = armed;
    if (e.acked != 2)
        fail_msg("batch %d is acknowledged", (int)e.acked);
    ingest_free(&i);
}

static void test_ingest(void **state)
{
    (void)state;
    assert_true(fail_each("ingest", 0, ingest, out_of_memory) >= 6);
}

/* ---- the database ---- */

static struct run *make_run(void)
{
    struct run *run = calloc(1, sizeof *run);
    assert_non_null(run);
    run->id = 1;
    snprintf(run->run, sizeof run->run, "a");
    snprintf(run->name, sizeof run->name, "a");
    snprintf(run->program, sizeof run->program, "train.py");
    run->world = run->session_n = 1;
    detector_init(&run->detector);
    return run;
}

/* Opens the database and commits a run; what was written must be there, whole, or not at all. */
static void store(struct fail_result *ret)
{
    struct store *s = NULL;
    uint8_t snapshot[DETECTOR_SNAPSHOT_MAX];
    fail_spared_thread = true;
    remove_database();
    struct run *run = make_run();
    fail_spared_thread = false;
    size_t n = detector_snapshot(&run->detector, t.model, snapshot);
    ret->err = store_new(t.db, true, &s, ret->errmsg);
    bool opened = ret->err == 0, committed = false;
    if (opened) {
        int err = store_begin(s);
        err = err ? err : store_run_insert(s, run, "{}", "model", snapshot, n);
        err = err ? err : store_tail_insert(s, 1, 0, 1, 2, 1, snapshot, 64);
        err = err ? err : store_commit(s);
        committed = err == 0;
        ret->err = err;
        if (err) {
            snprintf(ret->errmsg, sizeof ret->errmsg, "%.255s", store_error(s));
            store_rollback(s);
        }
    }
    bool exists = false;
    fail_spared_thread = true;
    if (opened) {
        assert_int_equal(store_run_exists(s, "a", &exists), 0);
        assert_int_equal(exists, committed);
    }
    free(run);
    store_free(&s);
    fail_spared_thread = false;
}

static void test_store(void **state)
{
    (void)state;
    assert_true(fail_each("store", 100, store, out_of_memory_in_sqlite) > 200);
}

/* ---- the worker, which has a thread of its own ---- */

static void wake(void *arg)
{
    (void)arg;
}

static double wall_clock(void)
{
    return 1.7e9;
}

/* Waits for the job to be committed, however often the worker has to try. */
static void wait_for(struct worker *w, struct job *job)
{
    struct job *done, *next;
    for (bool found = false; !found;) {
        usleep(200);
        for (done = worker_drain(w); done; done = next) {
            next = done->next;
            found = found || done == job;
            if (done != job)
                job_free(&done);
        }
    }
}

static struct job *new_job(enum job_type type, uint32_t rows)
{
    struct job *job = job_new(type, rows);
    assert_non_null(job);
    return job;
}

static void worker(struct fail_result *ret)
{
    struct config c = {.limits = LIMITS_DEFAULT,
                       .data = t.dir,
                       .commit_interval = 0.0001,
                       .commit_rows = 8192,
                       .lost_after = 60,
                       .silent_factor = 10,
                       .silent_min = 5};
    struct worker *w = NULL;
    fail_spared_thread = true;
    remove_database();
    fail_spared_thread = false;
    ret->err = worker_new(&c, t.model, wall_clock, wake, NULL, &w, ret->errmsg);
    if (ret->err != 0)
        return;
    fail_spared_thread = true; /* what follows on this thread; not on the worker's */
    int64_t run_id = 0;
    for (int attempt = 0; run_id == 0; attempt++) {
        struct job *job = new_job(JOB_OPEN, 0);
        memcpy(job->open.name, "a", 2);
        memcpy(job->open.program, "train.py", 9);
        memcpy(job->open.meta, "{}", 3);
        job->open.session_n = job->open.world = 1;
        assert_int_equal(worker_submit(w, job), 0);
        if (attempt == 3)
            fail_alloc.armed = false; /* memory does not stay out for ever */
        wait_for(w, job);
        run_id = job->err == 0 ? job->run_id : 0;
        if (job->err != 0 && job->err != SEISMO_ENOMEM && job->err != SEISMO_EIO)
            fail_msg("the run is not opened: %d: %s", job->err, job->errmsg);
        job_free(&job);
    }
    for (uint64_t batch = 1; batch <= 2; batch++) {
        struct job *job = new_job(JOB_STEPS, 20);
        job->run_id = run_id;
        job->batch = batch;
        job->steps.n = 20;
        for (int i = 0; i < 20; i++) {
            job->steps.rows[i].step = (int64_t)batch * 20 + i;
            row_set(&job->steps.rows[i], SEISMO_LOSS, batch == 2 ? 1e6 : 1);
        }
        assert_int_equal(worker_submit(w, job), 0);
        if (fail_alloc.all) {
            usleep(3000);
            fail_alloc.armed = false;
        }
        wait_for(w, job);
        assert_int_equal(job->err, 0);
        assert_int_equal(job->last_batch, batch);
        job_free(&job);
    }
    struct job *job = new_job(JOB_CLOSE, 0);
    job->run_id = run_id;
    job->batch = 3;
    assert_int_equal(worker_submit(w, job), 0);
    wait_for(w, job);
    assert_int_equal(job->err, 0);
    job_free(&job);
    worker_free(&w);
    fail_spared_thread = false;
}

static void test_worker(void **state)
{
    (void)state;
    assert_true(fail_each("worker", 30, worker, out_of_memory_in_sqlite) > 200);
}

/* ---- queries ---- */

static void reader(struct fail_result *ret)
{
    struct reader *r = NULL;
    ret->err = reader_new(t.db, t.model, &r, ret->errmsg);
    reader_free(&r);
}

static void queries(struct fail_result *ret)
{
    static const char *const method[][2] = {
        {"status", "{}"},
        {"runs", "{\"state\": \"ended\", \"program\": \"train.py\"}"},
        {"run", "{\"run\": \"a\"}"},
        {"series", "{\"run\": \"a\"}"},
        {"verdicts", "{\"run\": \"a\", \"superseded\": true}"},
        {"explain", "{\"run\": \"a\", \"step\": 50}"},
        {"steps", "{\"run\": \"a\", \"after\": 10}"},
        {"label", "{\"run\": \"a\", \"outcome\": \"good enough for now\"}"},
    };
    struct reader *r = NULL;
    ret->err = reader_new(t.db, t.model, &r, ret->errmsg);
    for (size_t i = 0; i < sizeof method / sizeof *method && ret->err == 0; i++) {
        char hint[READER_MAX_HINT];
        json_t *body = NULL;
        ret->err = reader_query(r, method[i][0], method[i][1], strlen(method[i][1]), &body,
                                ret->errmsg, hint);
        json_decref(body);
    }
    reader_free(&r);
}

static void test_queries(void **state)
{
    struct fail_result made = {0};
    (void)state;
    worker(&made);
    assert_int_equal(made.err, 0);
    assert_true(fail_each("reader", 0, reader, out_of_memory_in_sqlite) > 50);
    assert_true(fail_each("queries", 100, queries, out_of_memory_in_sqlite) > 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_config), cmocka_unit_test(test_ingest),
                                       cmocka_unit_test(test_store), cmocka_unit_test(test_worker),
                                       cmocka_unit_test(test_queries)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
