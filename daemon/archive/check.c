#include "daemon/archive/check.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/archive/history.h"
#include "daemon/archive/rescore.h"
#include "daemon/archive/source.h"
#include "proto/json_text.h"

struct check {
    sqlite3 *db;
    const char *path;
    const struct model *const *models;
    const struct check_ops *ops;
    void *arg;
    struct check_report *report;
    const char *run; /* the one that is being checked, or NULL */
    bool no_memory;  /* so that what looked like a problem may be none */
};

__attribute__((format(printf, 2, 3))) static void problem(struct check *c, const char *format, ...)
{
    char text[512];
    va_list ap;
    if (source_no_memory(c->db)) {
        c->no_memory = true;
        return;
    }
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    c->report->problems++;
    c->ops->problem(c->arg, c->run, text);
}

static void on_rescore_problem(void *arg, const char *text)
{
    problem(arg, "%s", text);
}

/* A statement that cannot be read: damage is a problem like any other, the rest ends the check. */
static int unreadable(struct check *c, char errmsg[SEISMO_ERRMSG])
{
    int err = source_failed(c->db, c->path, errmsg);
    if (err == SEISMO_ECORRUPT) {
        problem(c, "cannot be read: %s", sqlite3_errmsg(c->db));
        return 0;
    }
    return err;
}

static sqlite3_stmt *prepare(struct check *c, const char *sql, int64_t run_id)
{
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v2(c->db, sql, -1, &stmt, NULL) == SQLITE_OK &&
        sqlite3_bind_parameter_count(stmt) > 0) {
        sqlite3_bind_int64(stmt, 1, run_id);
    }
    return stmt;
}

/* Ends a statement whose last step returned `rc`; a NULL one could not be prepared. */
static int finish(struct check *c, sqlite3_stmt *stmt, int rc, char errmsg[SEISMO_ERRMSG])
{
    bool good = stmt && (rc == SQLITE_ROW || rc == SQLITE_DONE) && !source_no_memory(c->db);
    int err = good ? 0 : unreadable(c, errmsg);
    sqlite3_finalize(stmt);
    if (!err && c->no_memory) {
        snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
        err = SEISMO_ENOMEM;
    }
    return err;
}

/* SQLite calls JSON invalid for which it found no memory. Whether one of the columns from the third
 * on is surely none. */
static bool surely_no_json(struct check *c, sqlite3_stmt *stmt)
{
    for (int i = 2; i < sqlite3_column_count(stmt); i++) {
        const char *text = (const char *)sqlite3_column_text(stmt, i);
        bool no_memory = false;
        json_t *json =
            text ? json_text(text, strlen(text), JSON_DECODE_ANY, NULL, &no_memory) : NULL;
        json_decref(json);
        if (!json && !no_memory) {
            return true;
        }
    }
    c->no_memory = true;
    return false;
}

/* Every row of the answer is a problem; `format` takes its first two columns as text, and others
 * are what was found to be no JSON. */
static int each_is_wrong(struct check *c, const char *sql, const char *format,
                         char errmsg[SEISMO_ERRMSG])
{
    sqlite3_stmt *stmt = prepare(c, sql, 0);
    int rc = SQLITE_DONE;
    while (stmt && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *a = (const char *)sqlite3_column_text(stmt, 0);
        const char *b = (const char *)sqlite3_column_text(stmt, 1);
        if (sqlite3_column_count(stmt) == 2 || surely_no_json(c, stmt)) {
            problem(c, format, a ? a : "", b ? b : "");
        }
    }
    return finish(c, stmt, rc, errmsg);
}

/* ---- the whole ---- */

static int check_pages(struct check *c, char errmsg[SEISMO_ERRMSG])
{
    sqlite3_stmt *stmt = prepare(c, "PRAGMA integrity_check(20)", 0);
    int rc = SQLITE_DONE;
    while (stmt && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        if (!text || strcmp(text, "ok") != 0) {
            problem(c, "SQLite: %s", text ? text : "no answer");
        }
    }
    return finish(c, stmt, rc, errmsg);
}

static int check_references(struct check *c, char errmsg[SEISMO_ERRMSG])
{
    static const struct {
        const char *sql, *format;
    } rules[] = {
        {"SELECT \"table\", rowid FROM pragma_foreign_key_check",
         "table %s: row %s belongs to nothing"},
        {"SELECT id, run_id FROM tail WHERE id >> 16 <> run_id",
         "tail row %s does not lie with the others of run number %s"},
        {"SELECT id, run, reasons, fault_distribution FROM verdicts WHERE NOT json_valid(reasons) "
         "OR NOT json_valid(fault_distribution)",
         "verdict %s of run %s: its JSON is damaged"},
        {"SELECT id, run, document FROM alerts WHERE NOT json_valid(document)",
         "alert %s of run %s: its JSON is damaged"},
        {"SELECT run, id, meta FROM runs WHERE NOT json_valid(meta)",
         "run %s, number %s: its metadata are damaged"},
    };
    static_assert(TAIL_SHIFT == 16, "the shift stands in the query above");
    int err = 0;
    for (size_t i = 0; !err && i < sizeof rules / sizeof *rules; i++) {
        err = each_is_wrong(c, rules[i].sql, rules[i].format, errmsg);
    }
    return err;
}

/* ---- a run ---- */

struct run {
    int64_t id, steps, first_step, step, alarm_step; /* -1: NULL */
    char name[256], state[32], worst[32], model[256];
    float loss, score, max_score;
};

static float column_float(sqlite3_stmt *stmt, int i)
{
    return sqlite3_column_type(stmt, i) == SQLITE_NULL ? NAN
                                                       : (float)sqlite3_column_double(stmt, i);
}

static int64_t column_step(sqlite3_stmt *stmt, int i)
{
    return sqlite3_column_type(stmt, i) == SQLITE_NULL ? -1 : sqlite3_column_int64(stmt, i);
}

static void column_word(sqlite3_stmt *stmt, int i, char *ret, size_t size)
{
    const char *text = (const char *)sqlite3_column_text(stmt, i);
    snprintf(ret, size, "%s", text ? text : "");
}

static int load(struct check *c, int64_t id, struct run *ret, bool *ret_there,
                char errmsg[SEISMO_ERRMSG])
{
    sqlite3_stmt *stmt = prepare(c,
                                 "SELECT run, state, worst, steps, first_step, step, alarm_step, "
                                 "loss, score, max_score, model FROM runs WHERE id = ?",
                                 id);
    int rc = stmt ? sqlite3_step(stmt) : SQLITE_ERROR;
    *ret_there = rc == SQLITE_ROW;
    if (rc == SQLITE_ROW) {
        ret->id = id;
        column_word(stmt, 0, ret->name, sizeof ret->name);
        column_word(stmt, 1, ret->state, sizeof ret->state);
        column_word(stmt, 2, ret->worst, sizeof ret->worst);
        ret->steps = sqlite3_column_int64(stmt, 3);
        ret->first_step = column_step(stmt, 4);
        ret->step = column_step(stmt, 5);
        ret->alarm_step = column_step(stmt, 6);
        ret->loss = column_float(stmt, 7);
        ret->score = column_float(stmt, 8);
        ret->max_score = column_float(stmt, 9);
        column_word(stmt, 10, ret->model, sizeof ret->model);
    }
    return finish(c, stmt, rc, errmsg);
}

/* A stretch of rows as it lies in a chunk or in a row of the tail. */
struct piece {
    const char *what; /* "chunk", "tail row" */
    int64_t id, first_step, last_step, n;
};

/* What has been seen of a run so far. */
struct seen {
    uint64_t rows;
    int64_t first_step, last_step; /* -1: none */
    bool whole;                    /* every row could be read */
};

/* Decodes the piece and hands its rows on. */
static void check_piece(struct check *c, const struct piece *p, const void *rows, size_t bytes,
                        struct seen *s, struct rescore *rescore)
{
    struct pack_cursor cursor;
    struct pack_row row = {0};
    char why[SEISMO_ERRMSG];
    int64_t first = -1, last = s->last_step;
    int err;
    if (p->first_step <= s->last_step) {
        problem(c,
                "%s %" PRId64 ": begins at step %" PRId64 ", where %" PRId64
                " was the last one before it",
                p->what, p->id, p->first_step, s->last_step);
    }
    pack_cursor_init(&cursor, rows, bytes, (uint32_t)p->n);
    while ((err = pack_next(&cursor, &row, why)) == 0) {
        first = first < 0 ? row.row.step : first;
        last = row.row.step;
        s->rows++;
        rescore_row(rescore, &row);
    }
    if (err != SEISMO_EEOF) {
        problem(c, "%s %" PRId64 " (steps %" PRId64 " to %" PRId64 "): %s", p->what, p->id,
                p->first_step, p->last_step, why);
        rescore_lose(rescore);
        s->whole = false;
    } else if (first != p->first_step || last != p->last_step) {
        problem(c,
                "%s %" PRId64 ": holds steps %" PRId64 " to %" PRId64 " and says %" PRId64
                " to %" PRId64,
                p->what, p->id, first, last, p->first_step, p->last_step);
    }
    s->first_step = s->first_step < 0 ? p->first_step : s->first_step;
    s->last_step = p->last_step;
}

static int check_chunks(struct check *c, const struct run *run, struct seen *s,
                        struct rescore *rescore, char errmsg[SEISMO_ERRMSG])
{
    sqlite3_stmt *stmt = prepare(c,
                                 "SELECT id, first_step, last_step, n, rows, snapshot FROM chunks "
                                 "WHERE run_id = ? ORDER BY last_step",
                                 run->id);
    int rc = SQLITE_DONE;
    while (stmt && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct piece p = {
            .what = "chunk",
            .id = sqlite3_column_int64(stmt, 0),
            .first_step = sqlite3_column_int64(stmt, 1),
            .last_step = sqlite3_column_int64(stmt, 2),
            .n = sqlite3_column_int64(stmt, 3),
        };
        if (p.n != CHUNK_ROWS) {
            problem(c, "chunk %" PRId64 ": has %" PRId64 " rows and not %d", p.id, p.n, CHUNK_ROWS);
        }
        rescore_snapshot(rescore, p.first_step, sqlite3_column_blob(stmt, 5),
                         (size_t)sqlite3_column_bytes(stmt, 5));
        check_piece(c, &p, sqlite3_column_blob(stmt, 4), (size_t)sqlite3_column_bytes(stmt, 4), s,
                    rescore);
        c->report->chunks++;
    }
    return finish(c, stmt, rc, errmsg);
}

static int check_tail_state(struct check *c, const struct run *run, const struct seen *s,
                            struct rescore *rescore, char errmsg[SEISMO_ERRMSG])
{
    sqlite3_stmt *stmt = prepare(c, "SELECT snapshot FROM tail_state WHERE run_id = ?", run->id);
    int rc = stmt ? sqlite3_step(stmt) : SQLITE_ERROR;
    if (rc == SQLITE_ROW) {
        rescore_snapshot(rescore, s->last_step + 1, sqlite3_column_blob(stmt, 0),
                         (size_t)sqlite3_column_bytes(stmt, 0));
    } else if (rc == SQLITE_DONE) {
        problem(c, "the detector's state before the tail is missing");
    }
    return finish(c, stmt, rc, errmsg);
}

static int check_tail(struct check *c, const struct run *run, struct seen *s,
                      struct rescore *rescore, char errmsg[SEISMO_ERRMSG])
{
    int err = check_tail_state(c, run, s, rescore, errmsg);
    if (err) {
        return err;
    }
    sqlite3_stmt *stmt = prepare(c,
                                 "SELECT id, first_step, last_step, n, rows FROM tail "
                                 "WHERE run_id = ? ORDER BY id",
                                 run->id);
    int64_t next = TAIL_FIRST(run->id), rows = 0;
    int rc = SQLITE_DONE;
    while (stmt && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct piece p = {
            .what = "tail row",
            .id = sqlite3_column_int64(stmt, 0),
            .first_step = sqlite3_column_int64(stmt, 1),
            .last_step = sqlite3_column_int64(stmt, 2),
            .n = sqlite3_column_int64(stmt, 3),
        };
        if (p.id != next) {
            problem(c, "tail rows %" PRId64 " to %" PRId64 " are missing", next, p.id - 1);
            rescore_lose(rescore);
        }
        next = p.id + 1;
        rows += p.n;
        check_piece(c, &p, sqlite3_column_blob(stmt, 4), (size_t)sqlite3_column_bytes(stmt, 4), s,
                    rescore);
    }
    if (rows >= CHUNK_ROWS) {
        problem(c, "the tail has %" PRId64 " rows, which is a chunk or more", rows);
    }
    return finish(c, stmt, rc, errmsg);
}

static bool same(float a, float b)
{
    return a == b || (isnan(a) && isnan(b));
}

/* The columns of the run against its rows. */
static void check_columns(struct check *c, const struct run *run, const struct seen *s,
                          const struct rescore *rescore)
{
    struct rescore_sum sum;
    if ((uint64_t)run->steps != s->rows) {
        problem(c, "has %" PRIu64 " steps stored and says %" PRId64, s->rows, run->steps);
    }
    if (run->steps > 0 && (run->first_step != s->first_step || run->step != s->last_step)) {
        problem(c, "holds steps %" PRId64 " to %" PRId64 " and says %" PRId64 " to %" PRId64,
                s->first_step, s->last_step, run->first_step, run->step);
    }
    if (!rescore_sum(rescore, &sum) || run->steps == 0) {
        return; /* not all of it could be scored */
    }
    if (!same(run->loss, sum.loss) || !same(run->score, sum.score) ||
        !same(run->max_score, sum.max_score)) {
        problem(c, "loss, score and highest score are %g, %g, %g and by its steps %g, %g, %g",
                (double)run->loss, (double)run->score, (double)run->max_score, (double)sum.loss,
                (double)sum.score, (double)sum.max_score);
    }
    bool own = strcmp(run->state, "silent") == 0 || strcmp(run->state, "ended") == 0;
    if ((!own && strcmp(run->state, verdict_state_name(sum.state)) != 0) ||
        strcmp(run->worst, verdict_state_name(sum.worst)) != 0 || run->alarm_step != sum.alarm) {
        problem(c,
                "state, worst state and alarm step are %s, %s, %" PRId64 " and by its steps %s, "
                "%s, %" PRId64,
                run->state, run->worst, run->alarm_step, verdict_state_name(sum.state),
                verdict_state_name(sum.worst), sum.alarm);
    }
}

static int check_run(struct check *c, int64_t id, char errmsg[SEISMO_ERRMSG])
{
    struct run run;
    bool there;
    int err = load(c, id, &run, &there, errmsg);
    if (err || !there) {
        return err; /* deleted meanwhile */
    }
    c->run = run.name;
    struct seen s = {.first_step = -1, .last_step = -1, .whole = true};
    struct rescore *rescore = NULL;
    err = rescore_new(c->db, c->models, id, on_rescore_problem, c, &rescore, errmsg);
    err = err ? err : check_chunks(c, &run, &s, rescore, errmsg);
    err = err ? err : check_tail(c, &run, &s, rescore, errmsg);
    if (!err && (!s.whole || (uint64_t)run.steps != s.rows)) {
        rescore_lose(rescore);
    }
    err = err ? err : rescore_finish(rescore, run.model, errmsg);
    if (!err) {
        check_columns(c, &run, &s, rescore);
        rescore_count(rescore, c->report);
        c->report->runs++;
        c->report->steps += s.rows;
    }
    rescore_free(&rescore);
    c->run = NULL;
    if (err == SEISMO_ECORRUPT) {
        problem(c, "run number %" PRId64 " cannot be read: %s", id, errmsg);
        err = 0;
    }
    return err;
}

/* Ids of all runs; the array is the caller's. */
static int list_runs(struct check *c, int64_t **ret_ids, size_t *ret_n, char errmsg[SEISMO_ERRMSG])
{
    sqlite3_stmt *stmt = prepare(c, "SELECT id FROM runs ORDER BY id", 0);
    size_t n = 0, room = 0;
    int64_t *ids = NULL;
    int rc = SQLITE_DONE;
    while (stmt && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        if (n == room) {
            room = room ? 2 * room : 64;
            int64_t *more = realloc(ids, room * sizeof *ids);
            if (!more) {
                sqlite3_finalize(stmt);
                free(ids);
                snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
                return SEISMO_ENOMEM;
            }
            ids = more;
        }
        ids[n++] = sqlite3_column_int64(stmt, 0);
    }
    *ret_ids = ids;
    *ret_n = n;
    return finish(c, stmt, rc, errmsg);
}

static int check_runs(struct check *c, char errmsg[SEISMO_ERRMSG])
{
    int64_t *ids = NULL;
    size_t n = 0;
    int err = list_runs(c, &ids, &n, errmsg);
    for (size_t i = 0; !err && i < n; i++) {
        if (c->ops->progress(c->arg, (double)i / (double)n)) {
            snprintf(errmsg, SEISMO_ERRMSG, "interrupted");
            err = SEISMO_EBUSY;
        } else if (sqlite3_exec(c->db, "BEGIN", NULL, NULL, NULL) != SQLITE_OK) {
            err = source_failed(c->db, c->path, errmsg);
        } else {
            err = check_run(c, ids[i], errmsg);
            sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL);
        }
    }
    free(ids);
    return err;
}

int check_database(const char *path, const struct model *const *models, const struct check_ops *ops,
                   void *arg, struct check_report *ret, char errmsg[SEISMO_ERRMSG])
{
    struct check c = {.path = path, .models = models, .ops = ops, .arg = arg, .report = ret};
    *ret = (struct check_report){0};
    int err = source_open(path, &c.db, errmsg);
    if (err) {
        return err;
    }
    err = check_pages(&c, errmsg);
    err = err ? err : check_references(&c, errmsg);
    err = err ? err : check_runs(&c, errmsg);
    if (!err && ret->problems > 0 && source_is_stale(path, c.db)) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "%.150s was opened by a daemon during the check: check it again", path);
        err = SEISMO_EBUSY;
    }
    sqlite3_close(c.db);
    return err;
}
