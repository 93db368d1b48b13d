/* The command line with memory that runs out, as tests of it share it: a database of one run, a
 * daemon's query side that answers from it, and commands that are tried with every allocation
 * failing in turn. */
#ifndef SEISMO_TESTS_CLI_NOMEM_H
#define SEISMO_TESTS_CLI_NOMEM_H

#include <dlfcn.h>
#include <fcntl.h>
#include <locale.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zmq.h>

#include "client/cli/cli.h"
#include "daemon/config.h"
#include "daemon/reader.h"
#include "daemon/worker.h"
#include "models/model.h"
#include "proto/trace.h"
#include "proto/wire.h"
#include "tests/unit/fail_alloc.h"
#include "tests/unit/serving.h"
#include "tests/unit/small_model.h"

#define MAX_OUTPUT (1 << 20)

/* A daemon's query side, over a database with one run. Its memory never runs out. */
static struct {
    char dir[64], model_path[96], trace[96], endpoint[96], db[96];
    struct model *model;
    struct reader *reader;
    void *zmq;
    struct serving queries;
} t;

/* The command under test and what it printed when memory was there. */
static struct {
    void (*prepare)(void);                /* before each run of it, or NULL */
    void (*look)(bool well, bool failed); /* after each: at what it has left; or NULL */
    void (*check)(const char *what, const struct fail_result *result); /* or NULL */
    bool varies;                                                       /* its output holds times */
    const char *argv[12];
    int argc;
    int out, err, terminal_out, terminal_err; /* file descriptors */
    char expected[MAX_OUTPUT], printed[MAX_OUTPUT], said[4096];
} c;

/* libzmq's own thread loses a message that it reads while its socket is being closed, as happens
 * here to answers that a command no longer waits for. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libzmq.so\n";
}

/* In place of the C library's, which keeps what it has found out about locales, and loses some of
 * it when memory is out. */
char *setlocale(int category, const char *locale)
{
    char *(*real)(int, const char *) = (char *(*)(int, const char *))dlsym(RTLD_NEXT, "setlocale");
    fail_spared_thread = true;
    char *result = real(category, locale);
    fail_spared_thread = false;
    return result;
}

/* ---- the daemon ---- */

#define STATUS                                                                                 \
    "{\"schema\": 1, \"version\": \"1\", \"pid\": 1, \"uptime\": 3.5, \"started\": 1.7e9, "    \
    "\"model\": {\"name\": \"small\"}, \"runs\": {\"total\": 1, \"by_state\": {\"unstable\": " \
    "1}}, "                                                                                    \
    "\"peers\": 0, \"refused\": 1, \"queued\": {\"rows\": 0}, \"storage\": {\"ok\": true, "    \
    "\"bytes\": 4096, \"path\": \"%s\"}, \"alerts\": {\"ok\": true, \"waiting\": 0}, "         \
    "\"endpoints\": {\"ingest\": [\"tcp://127.0.0.1:7747\"], \"query\": \"ipc:///q\"}}"

static void answer(void *arg, const struct wire_msg *m, struct wire_buf *b)
{
    (void)arg;
    const struct wire_query *q = &m->query;
    char method[WIRE_MAX_METHOD + 1] = "", errmsg[SEISMO_ERRMSG], hint[READER_MAX_HINT];
    json_t *body = NULL;
    memcpy(method, q->method.p, q->method.n);
    if (strcmp(method, "status") == 0) { /* the loop's part */
        char status[512];
        int n = snprintf(status, sizeof status, STATUS, t.db);
        wire_put_reply(b, q->id, status, (size_t)n);
        return;
    }
    int err = reader_query(t.reader, method, q->params.p, q->params.n, &body, errmsg, hint);
    if (err != 0) {
        const char *code = seismo_errname(err);
        struct wire_error e = {.code = {code, (uint32_t)strlen(code)},
                               .text = {errmsg, (uint32_t)strlen(errmsg)},
                               .has_ref = true,
                               .ref = q->id};
        wire_put_error(b, &e);
        return;
    }
    if (strcmp(method, "label") == 0) /* the worker's part */
        json_object_del(body, "outcome");
    char *text = json_dumps(body, READER_DUMP);
    wire_put_reply(b, q->id, text, strlen(text));
    free(text);
    json_decref(body);
}

static double wall_clock(void)
{
    return 1.7e9;
}

static void wake(void *arg)
{
    (void)arg;
}

static struct job *commit(struct worker *w, struct job *job)
{
    struct job *done;
    assert_int_equal(worker_submit(w, job), 0);
    while (!(done = worker_drain(w)))
        usleep(500);
    assert_ptr_equal(done, job);
    assert_int_equal(job->err, 0);
    return job;
}

static void make_row(int i, struct seismo_row *ret)
{
    *ret = (struct seismo_row){.step = i, .time = 1.7e9 + i};
    row_set(ret, SEISMO_LOSS, i > 80 ? 1e3 * i : 2.0 / (i + 1));
    row_set(ret, SEISMO_GRAD_NORM, i > 80 ? 1e4 : 1);
}

static void record(void)
{
    struct config config = {.limits = LIMITS_DEFAULT,
                            .data = t.dir,
                            .commit_interval = 0.001,
                            .commit_rows = 8192,
                            .lost_after = 60,
                            .silent_factor = 10,
                            .silent_min = 5};
    struct worker *w;
    char errmsg[SEISMO_ERRMSG];
    if (worker_new(&config, t.model, wall_clock, wake, NULL, &w, errmsg) != 0)
        fail_msg("%s", errmsg);
    struct job *job = job_new(JOB_OPEN, 0);
    snprintf(job->open.name, sizeof job->open.name, "a");
    snprintf(job->open.program, sizeof job->open.program, "train.py");
    snprintf(job->open.meta, sizeof job->open.meta, "{}");
    job->open.session_n = job->open.world = 1;
    int64_t id = commit(w, job)->run_id;
    job_free(&job);
    job = job_new(JOB_STEPS, 120);
    job->run_id = id;
    job->batch = 1;
    job->steps.n = 120;
    for (int i = 0; i < 120; i++)
        make_row(i, &job->steps.rows[i]);
    commit(w, job);
    job_free(&job);
    worker_free(&w);
}

static void write_files(void)
{
    FILE *file = fopen(t.model_path, "w");
    fputs(SMALL_MODEL("small"), file);
    fclose(file);
    file = fopen(t.trace, "w");
    fputs("{\"run\": \"a\", \"program\": \"train.py\"}\n", file);
    for (int i = 0; i < 120; i++) {
        struct seismo_row row;
        char text[TRACE_MAX_ROW];
        make_row(i, &row);
        trace_row_print(&row, text);
        fprintf(file, "%s\n", text);
    }
    fclose(file);
}

static int set_up(void **state)
{
    char errmsg[SEISMO_ERRMSG];
    (void)state;
    snprintf(t.dir, sizeof t.dir, "/tmp/seismo-nomem-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    snprintf(t.model_path, sizeof t.model_path, "%s/model.json", t.dir);
    snprintf(t.trace, sizeof t.trace, "%s/trace.jsonl", t.dir);
    snprintf(t.db, sizeof t.db, "%s/seismo.db", t.dir);
    snprintf(t.endpoint, sizeof t.endpoint, "ipc://%s/query", t.dir);
    write_files();
    assert_int_equal(model_load(t.model_path, &t.model, errmsg), 0);
    record();
    assert_int_equal(reader_new(t.db, t.model, &t.reader, errmsg), 0);
    t.zmq = zmq_ctx_new();
    t.queries.answer = answer;
    serving_start(&t.queries, t.zmq, t.endpoint, 5);
    c.out = memfd_create("stdout", 0);
    c.err = memfd_create("stderr", 0);
    c.terminal_out = dup(STDOUT_FILENO);
    c.terminal_err = dup(STDERR_FILENO);
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"model.json",    "trace.jsonl",   "seismo.db",
                                        "seismo.db-wal", "seismo.db-shm", "query"};
    (void)state;
    serving_stop(&t.queries);
    zmq_ctx_term(t.zmq);
    reader_free(&t.reader);
    model_free(&t.model);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[160];
        snprintf(path, sizeof path, "%s/%s", t.dir, names[i]);
        unlink(path);
    }
    rmdir(t.dir);
    return 0;
}

/* ---- the command ---- */

static void read_back(int fd, char *ret, size_t size)
{
    ssize_t n = pread(fd, ret, size - 1, 0);
    ret[n > 0 ? n : 0] = '\0';
    assert_int_equal(ftruncate(fd, 0), 0);
    lseek(fd, 0, SEEK_SET);
}

static void command(struct fail_result *ret)
{
    bool failing = fail_alloc.armed;
    fail_alloc.armed = false;
    if (c.prepare)
        c.prepare();
    fail_alloc.armed = failing;
    fflush(stdout);
    dup2(c.out, STDOUT_FILENO);
    dup2(c.err, STDERR_FILENO);
    enum cli_exit code = (enum cli_exit)cli_main(c.argc, (char **)(uintptr_t)c.argv);
    bool hit = failing && fail_alloc.hit;
    fail_alloc.armed = false;
    fflush(stdout);
    dup2(c.terminal_out, STDOUT_FILENO);
    dup2(c.terminal_err, STDERR_FILENO);
    read_back(c.out, c.printed, sizeof c.printed);
    read_back(c.err, c.said, sizeof c.said);
    if (!failing)
        memcpy(c.expected, c.printed, sizeof c.expected);
    ret->err = code == CLI_OK ? 0 : SEISMO_EINTERNAL;
    snprintf(ret->errmsg, sizeof ret->errmsg, "%.250s", c.said);
    if (c.look)
        c.look(code == CLI_OK, hit);
    if (code == CLI_OK && !c.varies && strcmp(c.printed, c.expected) != 0)
        fail_msg("%s: exit code 0, but not all of the output:\n%s", c.argv[1], c.printed);
    fail_alloc.armed = failing;
    fail_alloc.hit = hit;
}

static void out_of_memory(const char *what, const struct fail_result *result)
{
    if (strstr(result->errmsg, "memory") == NULL)
        fail_msg("%s: memory is out, and it says: %s", what, result->errmsg);
}

static void try_command(long thin, const char *const words[], int n)
{
    c.argc = 0;
    c.argv[c.argc++] = "seismo";
    for (int i = 0; i < n; i++)
        c.argv[c.argc++] = words[i];
    c.argv[c.argc] = NULL;
    assert_true(fail_each(words[0], thin, command, c.check ? c.check : out_of_memory) > 5);
}

#define TRY(thin, ...)                                                 \
    do {                                                               \
        const char *const words[] = {__VA_ARGS__};                     \
        try_command(thin, words, (int)(sizeof words / sizeof *words)); \
    } while (0)

#endif
