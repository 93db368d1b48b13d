/* The queries' way from the wire to the database.
 *
 * The input is a QUERY message, or a method, a newline and its parameters as text. Whatever is
 * asked, the answer is a body that fits into one message, or an error with a text; and asked again
 * it is the same, so that no question changes anything. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/reader.h"
#include "daemon/worker.h"
#include "models/model.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/small_model.h"

#define RUNS 3
#define BATCHES 12
#define ROWS 50 /* of a batch */

static struct {
    char dir[64];
    struct model *model;
    struct reader *reader;
} t;

static double fixed_clock(void)
{
    return 1.7e9;
}

static void wake(void *arg)
{
    (void)arg;
}

/* Gives the job to the worker and waits until it is committed. */
static struct job *commit(struct worker *w, struct job *job)
{
    FUZZ_CHECK(job && worker_submit(w, job) == 0, "submit");
    struct job *done;
    while (!(done = worker_drain(w)))
        usleep(1000);
    FUZZ_CHECK(done == job && !job->next && job->err == 0, "%s", done->errmsg);
    return job;
}

static void record(struct worker *w, int run)
{
    struct job *job = job_new(JOB_OPEN, 0);
    snprintf(job->open.name, sizeof job->open.name, "run-%d", run);
    snprintf(job->open.program, sizeof job->open.program, "train.py");
    snprintf(job->open.meta, sizeof job->open.meta, "{\"seed\": %d}", run);
    job->open.session[0] = (uint8_t)run;
    job->open.session_n = job->open.world = 1;
    int64_t id = commit(w, job)->run_id;
    job_free(&job);
    for (int b = 0; b < BATCHES; b++) {
        job = job_new(JOB_STEPS, ROWS);
        job->run_id = id;
        job->batch = (uint64_t)b + 1;
        job->steps.n = ROWS;
        for (int i = 0; i < ROWS; i++) {
            struct seismo_row *row = &job->steps.rows[i];
            row->step = b * ROWS + i;
            row->time = i % 7 ? 1.7e9 + i : (double)NAN;
            row_set(row, SEISMO_LOSS, b == 8 && run == 1 ? 1e9 : 2.0 / (b + 1) + i % 3);
            row_set(row, SEISMO_GRAD_NORM, i == 5 ? (double)INFINITY : 1.0);
        }
        commit(w, job);
        job_free(&job);
    }
}

static void remove_database(void)
{
    static const char *const names[] = {"seismo.db", "seismo.db-wal", "seismo.db-shm"};
    char path[128];
    reader_free(&t.reader);
    model_free(&t.model);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", t.dir, names[i]);
        unlink(path);
    }
    rmdir(t.dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    char errmsg[SEISMO_ERRMSG], path[128];
    static const char text[] = SMALL_MODEL("small");
    snprintf(t.dir, sizeof t.dir, "/tmp/seismo-fuzz-XXXXXX");
    FUZZ_CHECK(mkdtemp(t.dir), "%s", t.dir);
    FUZZ_CHECK(model_parse(text, strlen(text), "small", &t.model, errmsg) == 0, "%s", errmsg);
    struct config *config;
    struct worker *w;
    FUZZ_CHECK(config_new(NULL, &config, errmsg) == 0 &&
                   config_set(config, "seismod", "data", t.dir, errmsg) == 0 &&
                   config_finish(config, errmsg) == 0,
               "%s", errmsg);
    FUZZ_CHECK(worker_new(config, t.model, fixed_clock, wake, NULL, &w, errmsg) == 0, "%s", errmsg);
    for (int run = 0; run < RUNS; run++)
        record(w, run);
    worker_free(&w);
    config_free(&config);
    snprintf(path, sizeof path, "%s/seismo.db", t.dir);
    FUZZ_CHECK(reader_new(path, t.model, &t.reader, errmsg) == 0, "%s", errmsg);
    atexit(remove_database);
    return 0;
}

/* The body as text, or NULL: then errmsg says why. */
static char *ask(const char *method, const char *params, size_t n, char errmsg[SEISMO_ERRMSG])
{
    char hint[READER_MAX_HINT] = "";
    json_t *body = NULL;
    errmsg[0] = '\0';
    int err = reader_query(t.reader, method, params, n, &body, errmsg, hint);
    FUZZ_CHECK(memchr(hint, 0, sizeof hint) && memchr(errmsg, 0, SEISMO_ERRMSG), "no end");
    if (err != 0) {
        FUZZ_CHECK(err == SEISMO_EMALFORMED || err == SEISMO_ETOOBIG || err == SEISMO_EINVAL ||
                       err == SEISMO_ENOTFOUND,
                   "error %d: %s", err, errmsg);
        FUZZ_CHECK(errmsg[0] != '\0', "error %d without a text", err);
        return NULL;
    }
    FUZZ_CHECK(json_integer_value(json_object_get(body, "schema")) == 1, "no schema");
    char *text = json_dumps(body, READER_DUMP);
    json_decref(body);
    FUZZ_CHECK(text && strlen(text) <= READER_MAX_BODY, "a body that does not fit");
    return text;
}

static void check_reply(const char *text)
{
    size_t n = strlen(text);
    struct wire_buf b = {.data = malloc(n + 64), .cap = n + 64};
    struct wire_msg m;
    char errmsg[SEISMO_ERRMSG];
    wire_put_reply(&b, 7, text, n);
    int err = b.overflow ? SEISMO_ETOOBIG : wire_decode(b.data, b.n, &m, errmsg);
    FUZZ_CHECK(err == 0 && m.type == WIRE_REPLY && m.reply.body.n == n, "%s", errmsg);
    free(b.data);
}

static void query(const char *method, const char *params, size_t n)
{
    char errmsg[SEISMO_ERRMSG], again[SEISMO_ERRMSG];
    char *first = ask(method, params, n, errmsg), *second = ask(method, params, n, again);
    FUZZ_CHECK(!first == !second, "%s, then %s", errmsg, again);
    if (first) {
        FUZZ_CHECK(strcmp(first, second) == 0, "%s\n%s", first, second);
        check_reply(first);
    } else {
        FUZZ_CHECK(strcmp(errmsg, again) == 0, "%s, then %s", errmsg, again);
    }
    free(first);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char method[WIRE_MAX_METHOD + 1] = "", errmsg[SEISMO_ERRMSG];
    struct wire_msg m;
    if (n > 0 && data[0] == 0x94) {
        if (wire_decode(data, n, &m, errmsg) == 0 && m.type == WIRE_QUERY) {
            memcpy(method, m.query.method.p, m.query.method.n);
            query(method, m.query.params.p, m.query.params.n);
        }
        return 0;
    }
    const uint8_t *end = n > 0 ? memchr(data, '\n', n) : NULL;
    if (!end || (size_t)(end - data) > WIRE_MAX_METHOD || memchr(data, 0, (size_t)(end - data)))
        return 0;
    memcpy(method, data, (size_t)(end - data));
    query(method, (const char *)end + 1, (size_t)(data + n - end - 1));
    return 0;
}
