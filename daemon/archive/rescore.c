#include "daemon/archive/rescore.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/archive/series.h"
#include "daemon/archive/source.h"

struct rescore {
    sqlite3 *db;
    const struct model *const *models;
    const struct model *model; /* of them: that scored these rows */
    void (*problem)(void *arg, const char *text);
    void *arg;
    struct detector detector;
    bool running;  /* the detector is in the state that it had at this row */
    bool foreign;  /* these rows were scored by none of the models */
    bool whole;    /* and has been from the first row on */
    bool started;  /* a state or a row has come */
    bool reported; /* of this stretch: a score that differs */
    struct {       /* problems of this stretch, which are none if the model changed in it */
        uint32_t n;
        char text[4][384];
    } pending;
    struct rescore_sum sum;
    uint64_t rows, unscored, verdicts, points;
    struct bucket bucket;
    sqlite3_stmt *stored_verdicts, *stored_points;
    bool verdicts_differ, points_differ;
    int rc; /* of the last statement that failed, or SQLITE_OK */
};

__attribute__((format(printf, 2, 3))) static void problem(struct rescore *r, const char *format,
                                                          ...)
{
    const uint32_t room = sizeof r->pending.text / sizeof *r->pending.text;
    if (source_no_memory(r->db)) {
        r->rc = SQLITE_NOMEM; /* what was compared has not been read */
        return;
    }
    if (r->pending.n == room) {
        return;
    }
    va_list ap;
    va_start(ap, format);
    vsnprintf(r->pending.text[r->pending.n++], sizeof *r->pending.text, format, ap);
    va_end(ap);
}

/* The stretch is over. */
static void settle(struct rescore *r, bool model_changed)
{
    for (uint32_t i = 0; i < r->pending.n && !model_changed; i++) {
        r->problem(r->arg, r->pending.text[i]);
    }
    r->pending.n = 0;
}

static sqlite3_stmt *prepare(struct rescore *r, const char *sql, int64_t run_id)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(r->db, sql, -1, &stmt, NULL);
    r->rc = rc == SQLITE_OK ? r->rc : rc;
    sqlite3_bind_int64(stmt, 1, run_id);
    return stmt;
}

int rescore_new(sqlite3 *db, const struct model *const *models, int64_t run_id,
                void (*report)(void *arg, const char *text), void *arg, struct rescore **ret,
                char errmsg[SEISMO_ERRMSG])
{
    struct rescore *r = calloc(1, sizeof *r);
    if (!r) {
        snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
        return SEISMO_ENOMEM;
    }
    r->db = db;
    r->models = models;
    r->model = models[0];
    r->problem = report;
    r->arg = arg;
    r->whole = true;
    r->sum = (struct rescore_sum){.loss = NAN,
                                  .score = NAN,
                                  .max_score = NAN,
                                  .state = STATE_WARMING_UP,
                                  .worst = STATE_WARMING_UP,
                                  .alarm = -1};
    /* What the daemon itself said, without the detector: silence, ends, and that steps come again,
     * whose reason is named by the time. */
    r->stored_verdicts = prepare(
        r,
        "SELECT id, step, state, severity, score, threshold, fault FROM verdicts "
        "WHERE run_id = ? AND superseded = 0 AND state NOT IN ('silent', 'ended') AND CASE WHEN "
        "json_valid(reasons) THEN coalesce(json_extract(reasons, '$[0].feature'), '') <> 'time' "
        "ELSE 1 END ORDER BY id",
        run_id);
    r->stored_points = prepare(r,
                               "SELECT step, steps, loss, loss_max, grad_norm, curvature, score "
                               "FROM series_points WHERE run_id = ? ORDER BY step",
                               run_id);
    *ret = r;
    return 0;
}

void rescore_free(struct rescore **rescore)
{
    struct rescore *r = *rescore;
    if (!r) {
        return;
    }
    *rescore = NULL;
    sqlite3_finalize(r->stored_verdicts);
    sqlite3_finalize(r->stored_points);
    free(r);
}

static bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static float column(sqlite3_stmt *stmt, int i)
{
    return sqlite3_column_type(stmt, i) == SQLITE_NULL ? NAN
                                                       : (float)sqlite3_column_double(stmt, i);
}

/* A column has no -0: SQLite stores it as 0. */
static bool column_same(sqlite3_stmt *stmt, int i, float value)
{
    float stored = column(stmt, i);
    return stored == value || (isnan(stored) && isnan(value));
}

static bool column_is(sqlite3_stmt *stmt, int i, const char *word)
{
    const char *text = (const char *)sqlite3_column_text(stmt, i);
    return text && strcmp(text, word) == 0;
}

/* The next stored row; false at the end and when it cannot be read. */
static bool next(struct rescore *r, sqlite3_stmt *stmt)
{
    int rc = stmt ? sqlite3_step(stmt) : SQLITE_DONE;
    r->rc = rc == SQLITE_ROW || rc == SQLITE_DONE ? r->rc : rc;
    return rc == SQLITE_ROW;
}

void rescore_lose(struct rescore *r)
{
    r->running = false;
    r->whole = false;
}

/* The state belongs to one of the models, which is the one that goes on; else SEISMO_EVERSION. */
static int restore(const struct rescore *r, const void *data, size_t n, struct detector *ret,
                   const struct model **ret_model)
{
    int err = SEISMO_EVERSION;
    for (const struct model *const *m = r->models; *m && err == SEISMO_EVERSION; m++) {
        err = detector_restore(ret, *m, data, n);
        *ret_model = *m;
    }
    return err;
}

void rescore_snapshot(struct rescore *r, int64_t step, const void *data, size_t n)
{
    struct detector stored;
    uint8_t now[DETECTOR_SNAPSHOT_MAX];
    const struct model *model;
    int err = restore(r, data, n, &stored, &model);
    bool first = !r->started, changed = !err && !first && model != r->model;
    r->started = true;
    r->reported = false;
    r->foreign = err == SEISMO_EVERSION;
    settle(r, r->foreign || changed);
    if (err) {
        if (!r->foreign) {
            problem(r, "the detector's state before step %" PRId64 " is damaged", step);
        }
        rescore_lose(r);
        return;
    }
    if (changed) {
        rescore_lose(r);
    }
    r->model = model;
    if (r->running &&
        (detector_snapshot(&r->detector, r->model, now) != n || memcmp(now, data, n) != 0)) {
        problem(r, "the detector's state before step %" PRId64 " is not what its steps give", step);
    }
    /* Retention may have deleted the beginning. */
    r->whole = r->whole && (!first || stored.step < 0);
    r->detector = stored;
    r->running = true;
}

static void compare_verdict(struct rescore *r, const struct verdict *v)
{
    sqlite3_stmt *s = r->stored_verdicts;
    r->verdicts++;
    if (r->verdicts_differ) {
        return;
    }
    r->verdicts_differ = true;
    if (!next(r, s)) {
        problem(r, "the verdict %s at step %" PRId64 " is missing", verdict_state_name(v->state),
                v->step);
    } else if (sqlite3_column_int64(s, 1) != v->step ||
               !column_is(s, 2, verdict_state_name(v->state))) {
        problem(r, "verdict %lld is not the one that its steps give, %s at step %" PRId64,
                (long long)sqlite3_column_int64(s, 0), verdict_state_name(v->state), v->step);
    } else if (!column_is(s, 3, verdict_severity_name(v->severity)) ||
               !column_same(s, 4, v->score) || !column_same(s, 5, v->threshold) ||
               !column_is(s, 6, fault_name(v->fault))) {
        problem(r,
                "verdict %lld at step %" PRId64 ": stored are score %.9g and threshold %.9g, its "
                "steps give %s, %.9g, %.9g, %s",
                (long long)sqlite3_column_int64(s, 0), v->step, (double)column(s, 4),
                (double)column(s, 5), verdict_severity_name(v->severity), (double)v->score,
                (double)v->threshold, fault_name(v->fault));
    } else {
        r->verdicts_differ = false;
    }
}

static void compare_point(struct rescore *r, const struct point *p)
{
    sqlite3_stmt *s = r->stored_points;
    const struct bucket *b = &p->bucket;
    r->points++;
    if (r->points_differ) {
        return;
    }
    if (!next(r, s) || sqlite3_column_int64(s, 0) != p->step ||
        sqlite3_column_int64(s, 1) != b->steps || !column_same(s, 2, b->loss) ||
        !column_same(s, 3, b->loss_max) || !column_same(s, 4, b->grad_norm) ||
        !column_same(s, 5, b->curvature) || !column_same(s, 6, b->score_max)) {
        problem(r, "the series differs from its steps, first at step %" PRId64, p->step);
        r->points_differ = true;
    }
}

/* What the row's result means for the whole run. */
static void take(struct rescore *r, const struct pack_row *row,
                 const struct detector_result *result)
{
    struct rescore_sum *sum = &r->sum;
    sum->loss = row->row.value[SEISMO_LOSS];
    sum->score = result->score;
    sum->max_score = r->rows == 0 ? result->score : fmaxf(sum->max_score, result->score);
    sum->state = result->state;
    if (verdict_state_worse(result->state, sum->worst)) {
        sum->worst = result->state;
    }
    for (int i = 0; i < result->n_verdicts; i++) {
        const struct verdict *v = &result->verdict[i];
        if (v->severity == SEVERITY_CRITICAL && sum->alarm < 0) {
            sum->alarm = v->step;
        }
        compare_verdict(r, v);
    }
    struct point point;
    if (bucket_add(&r->bucket, r->rows, &row->row, result->score, result->curvature, &point)) {
        compare_point(r, &point);
    }
}

void rescore_row(struct rescore *r, const struct pack_row *row)
{
    r->started = true;
    if (!r->running) {
        r->unscored += r->foreign;
        return;
    }
    struct detector_result result;
    if (row->row.step <= r->detector.step) {
        rescore_lose(r);
        return; /* has been reported as out of order */
    }
    detector_step(&r->detector, r->model, &row->row, &result);
    if (!r->reported &&
        (!same(row->score, result.score) || !same(row->curvature, result.curvature))) {
        problem(r, "step %" PRId64 ": the score stored is %.9g, the detector gives %.9g",
                row->row.step, (double)row->score, (double)result.score);
        r->reported = true;
    }
    if (r->whole) {
        take(r, row, &result);
        r->rows++;
    }
}

int rescore_finish(struct rescore *r, const char *model, char errmsg[SEISMO_ERRMSG])
{
    if (strcmp(model, model_name(r->model)) != 0) {
        settle(r, true);
        rescore_lose(r);
    }
    if (r->whole && !r->verdicts_differ && next(r, r->stored_verdicts)) {
        problem(r, "verdict %lld at step %lld is not one that its steps give",
                (long long)sqlite3_column_int64(r->stored_verdicts, 0),
                (long long)sqlite3_column_int64(r->stored_verdicts, 1));
    }
    if (r->whole && !r->points_differ && next(r, r->stored_points)) {
        problem(r, "the series has points that its steps do not give, first at step %lld",
                (long long)sqlite3_column_int64(r->stored_points, 0));
    }
    settle(r, false);
    if (r->rc == SQLITE_OK) {
        return 0;
    }
    snprintf(errmsg, SEISMO_ERRMSG, "%s", sqlite3_errstr(r->rc));
    return (r->rc & 0xff) == SQLITE_CORRUPT ? SEISMO_ECORRUPT : SEISMO_EIO;
}

bool rescore_sum(const struct rescore *r, struct rescore_sum *ret)
{
    *ret = r->sum;
    return r->whole;
}

void rescore_count(const struct rescore *r, struct check_report *report)
{
    report->unscored += r->unscored;
    report->verdicts += r->verdicts;
    report->points += r->points;
}
