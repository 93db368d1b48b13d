/* A worker in a temporary directory with a virtual clock, and a client's view of it. */
#ifndef SEISMO_TESTS_WORKER_RIG_H
#define SEISMO_TESTS_WORKER_RIG_H

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <sqlite3.h>

#include "daemon/archive/history.h"
#include "daemon/config.h"
#include "daemon/worker.h"

static struct {
    char dir[64];
    struct config config;
    struct model *model;
    struct worker *worker;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool woken;
    struct job *strays; /* done jobs that nobody waited for */
    char errmsg[SEISMO_ERRMSG];
} rig = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static _Atomic double rig_now;

static inline double rig_clock(void)
{
    return rig_now;
}

static inline void rig_wake(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&rig.lock);
    rig.woken = true;
    pthread_cond_signal(&rig.cond);
    pthread_mutex_unlock(&rig.lock);
}

static inline void rig_start(void)
{
    int err =
        worker_new(&rig.config, rig.model, rig_clock, rig_wake, NULL, &rig.worker, rig.errmsg);
    if (err) {
        fail_msg("%s", rig.errmsg);
    }
}

static inline void rig_free_list(struct job *list)
{
    for (struct job *next; list; list = next) {
        next = list->next;
        job_free(&list);
    }
}

/* Forgets what came back without being asked for. */
static inline void rig_forget(void)
{
    rig_free_list(rig.strays);
    rig.strays = NULL;
}

static inline void rig_stop(void)
{
    worker_free(&rig.worker);
    assert_null(rig.worker);
    rig_forget();
}

static inline void rig_sh(const char *format, ...)
{
    char command[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    if (system(command) != 0) {
        fail_msg("%s", command);
    }
}

/* SQL, past the daemon. */
static inline void rig_execute(const char *sql)
{
    char path[128];
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        fail_msg("%s", sqlite3_errmsg(db));
    }
    sqlite3_close(db);
}

/* The database as it would be found after kill -9 now: moves over to a copy of its files. */
static inline void rig_crash(void)
{
    rig_sh("rm -rf %s.copy && cp -r %s %s.copy", rig.dir, rig.dir, rig.dir);
    rig_stop();
    rig_sh("rm -rf %s && mv %s.copy %s", rig.dir, rig.dir, rig.dir);
}

static inline void rig_begin(void)
{
    snprintf(rig.dir, sizeof rig.dir, "/tmp/seismo-worker-XXXXXX");
    assert_non_null(mkdtemp(rig.dir));
    rig.config = (struct config){
        .data = rig.dir,
        .commit_interval = 0.002,
        .commit_rows = 8192,
        .lost_after = 60,
        .silent_factor = 10,
        .silent_min = 5,
        .limits = LIMITS_DEFAULT,
    };
    rig_now = 1.7e9;
}

static inline int rig_setup(void **state)
{
    (void)state;
    rig_begin();
    rig_start();
    return 0;
}

static inline int rig_teardown(void **state)
{
    (void)state;
    rig_stop();
    rig_sh("rm -rf %s", rig.dir);
    return 0;
}

/* Collects done jobs into the strays, sleeping up to 50 ms for new ones. */
static inline void rig_collect(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 50000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&rig.lock);
    if (!rig.woken) {
        pthread_cond_timedwait(&rig.cond, &rig.lock, &until);
    }
    rig.woken = false;
    pthread_mutex_unlock(&rig.lock);
    struct job **end = &rig.strays;
    while (*end) {
        end = &(*end)->next;
    }
    *end = worker_drain(rig.worker);
}

/* Waits for a job that was submitted, up to 30 s; the caller frees it. */
static inline void rig_wait(struct job *job)
{
    for (int i = 0; i < 600; i++) {
        for (struct job **at = &rig.strays; *at; at = &(*at)->next) {
            if (*at == job) {
                *at = job->next;
                job->next = NULL;
                return;
            }
        }
        rig_collect();
    }
    fail_msg("a job did not come back");
}

static inline struct job *rig_call(struct job *job)
{
    assert_int_equal(worker_submit(rig.worker, job), 0);
    rig_wait(job);
    return job;
}

/* The first verdict or alert that no job asked for. */
static inline struct job *rig_stray_news(void)
{
    for (int i = 0; i < 600; i++) {
        for (struct job **at = &rig.strays; *at; at = &(*at)->next) {
            if ((*at)->type == JOB_NEWS) {
                struct job *job = *at;
                *at = job->next;
                job->next = NULL;
                return job;
            }
        }
        rig_collect();
    }
    fail_msg("no news came");
    return NULL;
}

/* ---- a client ---- */

struct peer {
    int64_t run_id;
    uint64_t batch; /* last sent */
    char run[SEISMO_MAX_NAME + 16];
    uint64_t welcome_batch;
    bool has_step;
    int64_t last_step;
};

static inline struct job *rig_open_job(const char *name, const char *program, uint32_t rank,
                                       const char *session)
{
    struct job *job = job_new(JOB_OPEN, 0);
    snprintf(job->open.name, sizeof job->open.name, "%s", name);
    snprintf(job->open.program, sizeof job->open.program, "%s", program);
    snprintf(job->open.meta, sizeof job->open.meta, "{\"seed\":1}");
    job->open.session_n = (uint32_t)strlen(session);
    memcpy(job->open.session, session, job->open.session_n);
    job->open.rank = rank;
    job->open.world = rank + 1;
    return job;
}

/* The client whom a JOB_OPEN that came back has let in. */
static inline struct peer rig_opened(const struct job *job)
{
    struct peer p = {
        .run_id = job->run_id,
        .batch = job->last_batch,
        .welcome_batch = job->last_batch,
        .has_step = job->has_step,
        .last_step = job->last_step,
    };
    snprintf(p.run, sizeof p.run, "%s", job->open.ret_run);
    return p;
}

static inline struct peer rig_open_as(const char *name, const char *program, uint32_t rank,
                                      const char *session)
{
    struct job *job = rig_open_job(name, program, rank, session);
    rig_call(job);
    if (job->err) {
        fail_msg("%s", job->errmsg);
    }
    struct peer p = rig_opened(job);
    job_free(&job);
    return p;
}

static inline struct peer rig_open(const char *name, const char *session)
{
    return rig_open_as(name, "train.py", 0, session);
}

static inline struct job *rig_steps_job(struct peer *p, const struct seismo_row *rows, uint32_t n)
{
    struct job *job = job_new(JOB_STEPS, n);
    job->run_id = p->run_id;
    job->batch = ++p->batch;
    memcpy(job->steps.rows, rows, n * sizeof *rows);
    return job;
}

/* Sends one batch and returns it done; the caller frees it. */
static inline struct job *rig_send(struct peer *p, const struct seismo_row *rows, uint32_t n)
{
    struct job *job = rig_call(rig_steps_job(p, rows, n));
    if (job->err) {
        fail_msg("%s", job->errmsg);
    }
    assert_int_equal(job->last_batch, p->batch);
    return job;
}

static inline void rig_feed(struct peer *p, const struct seismo_row *rows, uint32_t n)
{
    struct job *job = rig_send(p, rows, n);
    job_free(&job);
}

static inline struct job *rig_bye(struct peer *p, enum wire_outcome outcome, const char *text)
{
    struct job *job = job_new(JOB_CLOSE, 0);
    job->run_id = p->run_id;
    job->batch = ++p->batch;
    job->close.outcome = outcome;
    snprintf(job->close.text, sizeof job->close.text, "%s", text);
    return rig_call(job);
}

static inline void rig_detach(struct peer *p)
{
    struct job *job = job_new(JOB_DETACH, 0);
    job->run_id = p->run_id;
    rig_call(job);
    job_free(&job);
}

/* Lets `seconds` of virtual time pass as a machine that works lets it pass: the worker looks at the
 * clock every second of it. */
static inline void rig_pass(double seconds)
{
    for (double left = seconds; left > 0; left--) {
        rig_now = rig_now + fmin(left, 1);
        struct job *job = job_new(JOB_ALERT, 0); /* of no alert: does nothing */
        rig_call(job);
        job_free(&job);
    }
}

/* ---- what is stored ---- */

/* The answer to a query as text: columns separated by |, rows by newlines; the caller frees it. */
static inline char *rig_sql(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    char *sql = sqlite3_vmprintf(format, ap);
    va_end(ap);
    char path[128];
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    sqlite3_stmt *stmt;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK) {
        fail_msg("%s: %s", sqlite3_errmsg(db), sql);
    }
    sqlite3_str *text = sqlite3_str_new(NULL);
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(stmt); i++) {
            const char *value = (const char *)sqlite3_column_text(stmt, i);
            sqlite3_str_appendf(text, "%s%s", i ? "|" : "", value ? value : "NULL");
        }
        sqlite3_str_appendall(text, "\n");
    }
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    sqlite3_free(sql);
    char *result = strdup(sqlite3_str_length(text) ? sqlite3_str_value(text) : "");
    sqlite3_free(sqlite3_str_finish(text));
    return result;
}

static inline void rig_expect(const char *expected, const char *sql)
{
    char *got = rig_sql("%s", sql);
    if (strcmp(got, expected) != 0) {
        fail_msg("%s gives\n%sand not\n%s", sql, got, expected);
    }
    free(got);
}

/* All that is stored of a run, except what differs between any two: ids, names, times of the
 * daemon, and where chunks end. The caller frees it. */
static inline char *rig_portrait(int64_t run_id)
{
    char *columns = rig_sql("SELECT ended IS NULL, outcome, state, severity, worst, alarm_step, "
                            "steps, first_step, step, loss, score, max_score FROM runs "
                            "WHERE id = %lld",
                            (long long)run_id);
    char *series = rig_sql("SELECT step, steps, loss, loss_max, grad_norm, curvature, score "
                           "FROM series WHERE run_id = %lld ORDER BY step",
                           (long long)run_id);
    char *verdicts =
        rig_sql("SELECT step, time, state, severity, score, threshold, fault, fault_distribution, "
                "reasons FROM verdicts WHERE run_id = %lld AND superseded = 0 ORDER BY id",
                (long long)run_id);
    char path[128];
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    sqlite3_str *text = sqlite3_str_new(NULL);
    sqlite3_str_appendf(text, "%s%s%s", columns, series, verdicts);
    struct history *h;
    struct pack_row row;
    int err = history_new(db, run_id, -1, &h, rig.errmsg);
    while (!err && (err = history_next(h, &row, rig.errmsg)) == 0) {
        uint8_t bytes[PACK_MAX];
        size_t n = pack_row(bytes, &row.row, row.score, row.curvature);
        sqlite3_str_appendf(text, "%lld ", (long long)row.row.step);
        for (size_t i = 0; i < n; i++) {
            sqlite3_str_appendf(text, "%02x", bytes[i]);
        }
        sqlite3_str_appendall(text, "\n");
    }
    assert_int_equal(err, SEISMO_EEOF);
    history_free(&h);
    sqlite3_close(db);
    char *result = strdup(sqlite3_str_value(text));
    sqlite3_free(sqlite3_str_finish(text));
    free(columns);
    free(series);
    free(verdicts);
    return result;
}

static inline void rig_same(char *a, char *b)
{
    if (strcmp(a, b) != 0) {
        size_t i = 0, line = 0;
        for (; a[i] == b[i]; i++) {
            line = a[i] == '\n' ? i + 1 : line;
        }
        fail_msg("stored runs differ at byte %zu:\n%.300s\n---\n%.300s", i, a + line, b + line);
    }
    free(a);
    free(b);
}

#endif
