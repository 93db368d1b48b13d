#include "daemon/reader.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "daemon/archive/history.h"
#include "daemon/document.h"
#include "daemon/nearest.h"
#include "daemon/params.h"
#include "daemon/runs.h"
#include "proto/trace.h"

#define PROGRESS_OPS 2000       /* virtual machine steps between looks at the deadline */
#define NEAREST_CONSIDERED 1000 /* newest run names that are compared with an unknown one */
#define NEAREST_SHOWN 3
#define BUSY_SLEEP 5 /* ms */

struct reader {
    sqlite3 *db;
    sqlite3_stmt *rollback; /* ready, because it must not fail for want of memory */
    char *path;
    const struct model *model; /* borrowed */
    atomic_bool interrupted;
    double deadline;     /* of the request in progress, monotonic s */
    json_t *body;        /* being made */
    struct params args;  /* of the request in progress */
    char *errmsg, *hint; /* the caller's */
};

static double monotonic(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static bool expired(const void *arg)
{
    const struct reader *r = arg;
    return atomic_load(&r->interrupted) || monotonic() > r->deadline;
}

static int on_progress(void *arg)
{
    return expired(arg);
}

/* Waits out whoever has the database for itself; the writer never does for long. */
static int on_busy(void *arg, int count)
{
    if (count * BUSY_SLEEP >= (int)(READER_BUSY_TIMEOUT * 1000) || expired(arg)) {
        return 0;
    }
    sqlite3_sleep(BUSY_SLEEP);
    return 1;
}

__attribute__((format(printf, 3, 4))) static int fail(struct reader *r, int err, const char *format,
                                                      ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(r->errmsg, SEISMO_ERRMSG, format, ap);
    va_end(ap);
    return err;
}

static int fail_memory(struct reader *r)
{
    return fail(r, SEISMO_ENOMEM, "out of memory");
}

static int fail_expired(struct reader *r)
{
    if (atomic_load(&r->interrupted)) {
        return fail(r, SEISMO_EBUSY, "the daemon is stopping");
    }
    snprintf(r->hint, READER_MAX_HINT, "ask for less at once, with a limit or for one run");
    return fail(r, SEISMO_EBUSY, "the request took longer than %.0f s", READER_DEADLINE);
}

/* What SQLite says, in our codes. */
static int fail_db(struct reader *r)
{
    int code = sqlite3_errcode(r->db) & 0xff;
    int err = SEISMO_EIO;
    switch (code) {
    case SQLITE_INTERRUPT:
        return fail_expired(r);
    case SQLITE_NOMEM:
        return fail_memory(r);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        err = SEISMO_EBUSY;
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        err = SEISMO_ECORRUPT;
        break;
    case SQLITE_ERROR:
    case SQLITE_MISUSE:
    case SQLITE_RANGE:
        err = SEISMO_EINTERNAL;
        break;
    }
    return fail(r, err, "reading %.120s: %.100s", r->path, sqlite3_errmsg(r->db));
}

/* ---- the body ---- */

/* A list of the body that grows until it would not fit into one message. */
struct page {
    json_t *list;
    size_t bytes, max_items;
    bool more;
};

static int page_init(struct reader *r, struct page *p, const char *key, int64_t max_items)
{
    *p = (struct page){.list = json_array(), .max_items = (size_t)max_items};
    p->bytes = json_dumpb(r->body, NULL, 0, READER_DUMP) + strlen(key) + 64;
    return json_object_set_new(r->body, key, p->list) < 0 ? fail_memory(r) : 0;
}

/* Takes `item` (NULL: out of memory). When there is no room left, sets `more` and drops it. */
static int page_add(struct reader *r, struct page *p, json_t *item)
{
    if (!item) {
        return fail_memory(r);
    }
    size_t bytes = json_dumpb(item, NULL, 0, READER_DUMP) + 1;
    if (json_array_size(p->list) >= p->max_items || p->bytes + bytes > READER_MAX_BODY) {
        p->more = true;
        json_decref(item);
        return 0;
    }
    p->bytes += bytes;
    return json_array_append_new(p->list, item) < 0 ? fail_memory(r) : 0;
}

static int set(struct reader *r, const char *key, json_t *value)
{
    return json_object_set_new(r->body, key, value) < 0 ? fail_memory(r) : 0;
}

/* ---- statements ---- */

static sqlite3_stmt *prepare(struct reader *r, const char *sql)
{
    sqlite3_stmt *s = NULL;
    sqlite3_prepare_v2(r->db, sql, -1, &s, NULL);
    return s;
}

/* Finalizes; 0 when the last step was a row or the end, otherwise the error. */
static int finish(struct reader *r, sqlite3_stmt *s, int rc)
{
    int err = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : fail_db(r);
    sqlite3_finalize(s);
    return err;
}

static void bind_text(sqlite3_stmt *s, int i, const char *text) /* NULL binds NULL */
{
    sqlite3_bind_text(s, i, text, -1, SQLITE_STATIC);
}

/* One integer, or -1 when there is no row; *ret is written on success. */
static int scalar(struct reader *r, const char *sql, int64_t *ret)
{
    sqlite3_stmt *s = prepare(r, sql);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    int64_t value = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : -1;
    int err = finish(r, s, rc);
    if (!err) {
        *ret = value;
    }
    return err;
}

/* ---- finding a run ---- */

struct nearest {
    unsigned distance;
    char name[SEISMO_MAX_NAME + 17];
};

/* Keeps the list of the NEAREST_SHOWN nearest sorted, the newest first among equals. */
static void nearest_add(struct nearest list[NEAREST_SHOWN], const char *wanted, const char *name)
{
    struct nearest n = {.distance = nearest_distance(wanted, name)};
    snprintf(n.name, sizeof n.name, "%s", name);
    for (int i = 0; i < NEAREST_SHOWN; i++) {
        if (!list[i].name[0] || n.distance < list[i].distance) {
            struct nearest pushed = list[i];
            list[i] = n;
            n = pushed;
        }
        if (!n.name[0]) {
            break;
        }
    }
}

static int fail_no_run(struct reader *r, const char *wanted)
{
    struct nearest list[NEAREST_SHOWN] = {0};
    sqlite3_stmt *s = prepare(r, "SELECT run FROM runs ORDER BY id DESC LIMIT ?1");
    sqlite3_bind_int(s, 1, NEAREST_CONSIDERED);
    int rc = s ? SQLITE_OK : SQLITE_ERROR;
    while (s && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        nearest_add(list, wanted, (const char *)sqlite3_column_text(s, 0));
    }
    int err = finish(r, s, rc);
    if (err) {
        return err;
    }
    size_t n = 0;
    for (int i = 0; i < NEAREST_SHOWN && list[i].name[0]; i++) {
        n += (size_t)snprintf(r->hint + n, READER_MAX_HINT - n, "%s'%s'",
                              i ? ", " : "nearest names: ", list[i].name);
    }
    if (n == 0) {
        snprintf(r->hint, READER_MAX_HINT, "no runs are stored yet");
    }
    return fail(r, SEISMO_ENOTFOUND, "no run '%s'", wanted);
}

struct found_run {
    int64_t id, first_step, step; /* steps are -1 while nothing is stored */
};

/* The run that the first parameter names: its object goes into the body under "run". */
static int find_run(struct reader *r, struct found_run *ret)
{
    const char *name = r->args.text[0];
    sqlite3_stmt *s = prepare(r, "SELECT " RUN_COLUMNS " FROM runs WHERE run = ?1");
    bind_text(s, 1, name);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    json_t *object = rc == SQLITE_ROW ? document_row(s) : NULL;
    int err = finish(r, s, rc);
    if (err) {
        json_decref(object);
        return err;
    }
    if (rc != SQLITE_ROW) {
        return fail_no_run(r, name);
    }
    err = set(r, "run", object);
    if (err) {
        return err;
    }
    const json_t *first = json_object_get(object, "first_step");
    const json_t *last = json_object_get(object, "step");
    *ret = (struct found_run){
        .id = json_integer_value(json_object_get(object, "id")),
        .first_step = json_is_integer(first) ? json_integer_value(first) : -1,
        .step = json_is_integer(last) ? json_integer_value(last) : -1,
    };
    return 0;
}

/* ---- methods ---- */

static int method_status(struct reader *r)
{
    json_t *by_state = json_object();
    for (int i = 0; i < STATES_N; i++) {
        json_object_set_new(by_state, verdict_state_name((enum verdict_state)i), json_integer(0));
    }
    int64_t total = 0;
    sqlite3_stmt *s = prepare(r, "SELECT state, count(*) FROM runs GROUP BY state");
    int rc = s ? SQLITE_OK : SQLITE_ERROR;
    while (s && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        json_object_set_new(by_state, (const char *)sqlite3_column_text(s, 0),
                            json_integer(sqlite3_column_int64(s, 1)));
        total += sqlite3_column_int64(s, 1);
    }
    int err = finish(r, s, rc);
    if (err) {
        json_decref(by_state);
        return err;
    }
    err = set(r, "runs", json_pack("{s:I, s:o}", "total", (json_int_t)total, "by_state", by_state));
    int64_t version = 0;
    err = err ? err : scalar(r, "PRAGMA user_version", &version);
    if (err) {
        return err;
    }
    /* What lies on disk, the part that is not checkpointed yet included. */
    int64_t bytes = 0;
    const char *suffix[] = {"", "-wal"};
    for (int i = 0; i < 2; i++) {
        char path[4096];
        struct stat st;
        snprintf(path, sizeof path, "%s%s", r->path, suffix[i]);
        bytes += stat(path, &st) == 0 ? (int64_t)st.st_size : 0;
    }
    char whole[PATH_MAX];
    return set(r, "storage",
               json_pack("{s:s, s:I, s:I}", "path", realpath(r->path, whole) ? whole : r->path,
                         "bytes", (json_int_t)bytes, "schema", (json_int_t)version));
}

/* A state, or an outcome, which tables show in its place. */
static int check_state(struct reader *r, const char *state)
{
    char known[READER_MAX_HINT - sizeof "states: "] = "";
    size_t n = 0;
    for (int i = 0; i < STATES_N + OUTCOMES_N; i++) {
        const char *name = i < STATES_N ? verdict_state_name((enum verdict_state)i)
                                        : run_outcome_name((enum run_outcome)(i - STATES_N));
        if (strcmp(name, state) == 0) {
            return 0;
        }
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", name);
    }
    snprintf(r->hint, READER_MAX_HINT, "states: %s", known);
    return fail(r, SEISMO_EINVAL, "unknown state '%.40s'", state);
}

static int method_runs(struct reader *r)
{
    const char *state = r->args.text[0], *program = r->args.text[1];
    int err = state ? check_state(r, state) : 0;
    if (err) {
        return err;
    }
    struct page page;
    err = page_init(r, &page, "runs", r->args.has[2] ? r->args.number[2] : READER_MAX_RUNS);
    if (err) {
        return err;
    }
    sqlite3_stmt *s =
        prepare(r, "SELECT " RUN_COLUMNS " FROM runs WHERE (?1 IS NULL OR ?1 IN (state, outcome))"
                   " AND (?2 IS NULL OR program = ?2) ORDER BY id DESC");
    bind_text(s, 1, state);
    bind_text(s, 2, program);
    int rc = s ? SQLITE_OK : SQLITE_ERROR;
    while (s && !err && !page.more && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        err = page_add(r, &page, document_row(s));
    }
    int db_err = finish(r, s, page.more ? SQLITE_DONE : rc);
    err = err ? err : db_err;
    return err ? err : set(r, "more", json_boolean(page.more));
}

static int method_run(struct reader *r)
{
    struct found_run run;
    return find_run(r, &run);
}

static int method_series(struct reader *r)
{
    struct found_run run;
    int err = find_run(r, &run);
    struct page page;
    err = err ? err : page_init(r, &page, "points", READER_MAX_POINTS);
    if (err) {
        return err;
    }
    /* Very long series are thinned evenly; the newest point always stays. */
    sqlite3_stmt *s =
        prepare(r, "WITH s AS (SELECT *, row_number() OVER (ORDER BY step DESC) - 1 AS age,"
                   "  count(*) OVER () AS total FROM series_points WHERE run_id = ?1)"
                   " SELECT step, steps, loss, loss_max, grad_norm, curvature, score FROM s"
                   " WHERE age % ((total + ?2 - 1) / ?2) = 0 ORDER BY step");
    sqlite3_bind_int64(s, 1, run.id);
    sqlite3_bind_int64(s, 2, READER_MAX_POINTS);
    int rc = s ? SQLITE_OK : SQLITE_ERROR;
    while (s && !err && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        err = page_add(r, &page, document_row(s));
    }
    int db_err = finish(r, s, rc);
    return err ? err : db_err;
}

static int method_verdicts(struct reader *r)
{
    int64_t last = r->args.number[1];
    struct found_run run = {0};
    if (r->args.has[0]) {
        int err = find_run(r, &run);
        if (err) {
            return err;
        }
        json_object_del(r->body, "run"); /* every verdict names it */
    }
    struct page page;
    int err =
        page_init(r, &page, "verdicts", r->args.has[2] ? r->args.number[2] : READER_MAX_VERDICTS);
    if (err) {
        return err;
    }
    /* Two texts, because one with "?1 IS NULL OR" could not use the index by run. */
    sqlite3_stmt *s =
        prepare(r, r->args.has[0] ? "SELECT " VERDICT_COLUMNS " FROM verdicts WHERE run_id = ?1"
                                    " AND id > ?2 AND superseded <= ?3 ORDER BY id"
                                  : "SELECT " VERDICT_COLUMNS " FROM verdicts WHERE id > ?2"
                                    " AND superseded <= ?3 ORDER BY id");
    sqlite3_bind_int64(s, 1, run.id);
    sqlite3_bind_int64(s, 2, last);
    sqlite3_bind_int64(s, 3, r->args.number[3]);
    int rc = s ? SQLITE_OK : SQLITE_ERROR;
    while (s && !err && !page.more && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t id = sqlite3_column_int64(s, 0);
        err = page_add(r, &page, document_verdict(s));
        last = page.more ? last : id;
    }
    int db_err = finish(r, s, rc);
    err = err ? err : db_err;
    err = err ? err : set(r, "last", json_integer(last));
    return err ? err : set(r, "more", json_boolean(page.more));
}

/* A function of history.h failed: what it says stands in r->errmsg, unless time ran out in it. */
static int history_failed(struct reader *r, int err)
{
    return expired(r) ? fail_expired(r) : err;
}

static int method_steps(struct reader *r)
{
    int64_t after = r->args.has[1] ? r->args.number[1] : -1;
    struct found_run run;
    int err = find_run(r, &run);
    if (err) {
        return err;
    }
    json_object_del(r->body, "run");
    struct page page;
    err = page_init(r, &page, "rows", r->args.has[2] ? r->args.number[2] : READER_MAX_STEPS);
    struct history *h = NULL;
    if (!err) {
        err = history_new(r->db, run.id, after, &h, r->errmsg);
        err = err ? history_failed(r, err) : 0;
    }
    struct pack_row row;
    while (!err && !page.more) {
        err = history_next(h, &row, r->errmsg);
        if (err == SEISMO_EEOF) {
            err = 0;
            break;
        }
        if (err) {
            err = history_failed(r, err);
        } else if (row.row.step > after) {
            err = page_add(r, &page, trace_row_json(&row.row));
        }
    }
    history_free(&h);
    return err ? err : set(r, "more", json_boolean(page.more));
}

/* What the detector last said; that a run ended explains no score. */
static int explain_verdict(struct reader *r, const struct found_run *run, int64_t step)
{
    sqlite3_stmt *s =
        prepare(r, "SELECT " VERDICT_COLUMNS " FROM verdicts WHERE run_id = ?1"
                   " AND step <= ?2 AND superseded = 0 AND state NOT IN ('silent', 'ended')"
                   " ORDER BY id DESC LIMIT 1");
    sqlite3_bind_int64(s, 1, run->id);
    sqlite3_bind_int64(s, 2, step);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    json_t *verdict = rc == SQLITE_ROW ? document_verdict(s) : json_null();
    int err = finish(r, s, rc);
    if (err) {
        json_decref(verdict);
        return err;
    }
    return set(r, "verdict", verdict);
}

static int method_explain(struct reader *r)
{
    struct found_run run;
    int err = find_run(r, &run);
    if (err) {
        return err;
    }
    if (run.step < 0) {
        return fail(r, SEISMO_ENOTFOUND, "run '%s' has no steps yet", r->args.text[0]);
    }
    int64_t step = r->args.has[1] ? r->args.number[1] : run.step;
    if (step < run.first_step) {
        snprintf(r->hint, READER_MAX_HINT, "stored are the steps %" PRId64 " to %" PRId64,
                 run.first_step, run.step);
        return fail(r, SEISMO_ENOTFOUND, "run '%s' has no step %" PRId64, r->args.text[0], step);
    }
    struct detector d;
    struct detector_result result;
    struct pack_row row;
    err = history_restore(r->db, r->model, run.id, step, expired, r, &d, &result, &row, r->errmsg);
    if (err) {
        return history_failed(r, err);
    }
    step = row.row.step;
    struct verdict_reason reason[FEATURES_N];
    float bias, margin;
    int n = detector_explain(&d, r->model, reason, FEATURES_N, &bias, &margin);
    json_t *reasons = json_array();
    for (int i = 0; i < n; i++) {
        json_array_append_new(
            reasons, json_pack("{s:s, s:o, s:o, s:s}", "feature", reason[i].feature, "value",
                               verdict_number(reason[i].value), "contribution",
                               verdict_number(reason[i].contribution), "text", reason[i].text));
    }
    err = set(r, "step", json_integer(step));
    err = err ? err : set(r, "score", verdict_number(result.score));
    err = err ? err : set(r, "state", json_string(verdict_state_name(result.state)));
    err = err ? err : set(r, "bias", verdict_number(bias));
    err = err ? err : set(r, "margin", verdict_number(margin));
    err = err ? err : set(r, "verdict", json_null());
    err = err ? err : explain_verdict(r, &run, step);
    int set_err = set(r, "reasons", reasons);
    return err ? err : set_err;
}

static int method_label(struct reader *r)
{
    struct found_run run;
    int err = find_run(r, &run);
    return err ? err : set(r, "outcome", json_string(r->args.text[1]));
}

#define RUN_NAME_MAX (SEISMO_MAX_NAME + 15) /* as shown, "#2" or "@3" included */
#define P_RUN(required)                              \
    {                                                \
        "run", PARAM_TEXT, required, 1, RUN_NAME_MAX \
    }
#define P_LIMIT(max)                      \
    {                                     \
        "limit", PARAM_INT, false, 1, max \
    }
#define P_AFTER(min)                              \
    {                                             \
        "after", PARAM_INT, false, min, INT64_MAX \
    }

static const struct method {
    const char *name;
    int (*read)(struct reader *r);
    struct param params[PARAMS_MAX];
} methods[] = {
    {"status", method_status, {{0}}},
    {"runs",
     method_runs,
     {{"state", PARAM_TEXT, false, 1, 32},
      {"program", PARAM_TEXT, false, 1, SEISMO_MAX_NAME},
      P_LIMIT(READER_MAX_RUNS)}},
    {"run", method_run, {P_RUN(true)}},
    {"series", method_series, {P_RUN(true)}},
    {"verdicts",
     method_verdicts,
     {P_RUN(false),
      P_AFTER(0),
      P_LIMIT(READER_MAX_VERDICTS),
      {"superseded", PARAM_BOOL, false, 0, 1}}},
    {"explain", method_explain, {P_RUN(true), {"step", PARAM_INT, false, 0, INT64_MAX}}},
    {"steps", method_steps, {P_RUN(true), P_AFTER(-1), P_LIMIT(READER_MAX_STEPS)}},
    {"label", method_label, {P_RUN(true), {"outcome", PARAM_TEXT, true, 1, READER_MAX_LABEL}}},
};
#define METHODS_N (sizeof methods / sizeof methods[0])

static int fail_no_method(struct reader *r, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < METHODS_N; i++) {
        n += (size_t)snprintf(r->hint + n, READER_MAX_HINT - n, "%s%s",
                              i ? ", " : "methods: ", methods[i].name);
    }
    return fail(r, SEISMO_EINVAL, "unknown method '%.64s'", name);
}

/* ---- the reader ---- */

int reader_new(const char *path, const struct model *model, struct reader **ret_reader,
               char errmsg[SEISMO_ERRMSG])
{
    struct reader *r = calloc(1, sizeof *r);
    char *copy = strdup(path);
    if (!r || !copy) {
        free(r);
        free(copy);
        snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
        return SEISMO_ENOMEM;
    }
    r->path = copy;
    r->model = model;
    r->errmsg = errmsg;
    r->deadline = INFINITY;
    int rc = sqlite3_open_v2(path, &r->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_busy_handler(r->db, on_busy, r);
        sqlite3_progress_handler(r->db, PROGRESS_OPS, on_progress, r);
        /* A small cache: pages are shared with the writer through the kernel's anyway. */
        rc = sqlite3_exec(r->db, "PRAGMA cache_size = -512; PRAGMA query_only = 1;", NULL, NULL,
                          NULL);
        rc = rc ? rc : sqlite3_prepare_v2(r->db, "ROLLBACK", -1, &r->rollback, NULL);
    }
    if (rc != SQLITE_OK) {
        int err = r->db ? fail_db(r) : fail_memory(r);
        reader_free(&r);
        return err;
    }
    *ret_reader = r;
    return 0;
}

void reader_free(struct reader **reader)
{
    struct reader *r = *reader;
    if (!r) {
        return;
    }
    *reader = NULL;
    sqlite3_finalize(r->rollback);
    sqlite3_close(r->db);
    free(r->path);
    free(r);
}

void reader_interrupt(struct reader *r)
{
    atomic_store(&r->interrupted, true);
}

/* The method within one transaction, so that all its statements see the same moment. */
static int read_snapshot(struct reader *r, const struct method *m)
{
    if (sqlite3_exec(r->db, "BEGIN DEFERRED", NULL, NULL, NULL) != SQLITE_OK) {
        return fail_db(r);
    }
    int err = m->read(r);
    /* Nothing was written; ending it always works, and lets the checkpoint go on. */
    sqlite3_step(r->rollback);
    sqlite3_reset(r->rollback);
    return err;
}

int reader_query(struct reader *r, const char *method, const char *params, size_t params_n,
                 json_t **ret_body, char errmsg[SEISMO_ERRMSG], char hint[READER_MAX_HINT])
{
    r->errmsg = errmsg;
    r->hint = hint;
    hint[0] = '\0';
    const struct method *m = NULL;
    for (size_t i = 0; i < METHODS_N; i++) {
        m = strcmp(methods[i].name, method) == 0 ? &methods[i] : m;
    }
    if (!m) {
        return fail_no_method(r, method);
    }
    int err = params_init(&r->args, m->name, m->params, params, params_n, errmsg);
    if (err) {
        return err;
    }
    r->deadline = monotonic() + READER_DEADLINE;
    r->body = json_pack("{s:i}", "schema", 1);
    err = !r->body ? fail_memory(r) : expired(r) ? fail_expired(r) : read_snapshot(r, m);
    r->deadline = INFINITY;
    params_close(&r->args);
    if (err) {
        json_decref(r->body);
    } else {
        *ret_body = r->body;
    }
    r->body = NULL;
    return err;
}
