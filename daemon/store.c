#include "daemon/store.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Which runs retention may delete: ?1 to ?6 are struct store_limit. */
#define MAY_EXPIRE                                                                           \
    "ended < ?1 AND NOT (ended + ?5 >= ?1 AND EXISTS (SELECT 1 FROM verdicts "               \
    "WHERE run_id = runs.id AND id > ?3 AND id <= ?4)) AND id < (SELECT max(id) FROM runs) " \
    "AND id NOT IN (SELECT run_id FROM verdicts WHERE id = (SELECT max(id) FROM verdicts)) " \
    "AND id NOT IN (SELECT run_id FROM alerts WHERE id = (SELECT max(id) FROM alerts)) "     \
    "AND NOT EXISTS (SELECT 1 FROM alerts WHERE run_id = runs.id AND delivered IS NULL "     \
    "AND attempts < ?2 AND instr(?6, char(10) || hook || char(10)) > 0) "

/*  X(constant, SQL) */
#define STATEMENT_MAP(X)                                                                           \
    X(BEGIN, "BEGIN IMMEDIATE")                                                                    \
    X(COMMIT, "COMMIT")                                                                            \
    X(LAST_IDS, "SELECT (SELECT max(id) FROM runs), (SELECT max(id) FROM verdicts), "              \
                "(SELECT max(id) FROM alerts)")                                                    \
    X(RUN_INSERT,                                                                                  \
      "INSERT INTO runs(id, run, name, program, rank, world, session, last_batch, meta, started, " \
      "updated, state, severity, worst, steps, model) "                                            \
      "VALUES(?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, 'warming_up', 'info', 'warming_up', 0, ?)")         \
    X(RUN_CONTINUE, "UPDATE runs SET world = ?, session = ?, meta = ? WHERE id = ?")               \
    X(RUN_UPDATE,                                                                                  \
      "UPDATE runs SET last_batch = ?, updated = ?, ended = ?, outcome = ?, state = ?, "           \
      "severity = ?, worst = ?, alarm_step = ?, steps = ?, first_step = ?, step = ?, loss = ?, "   \
      "score = ?, max_score = ?, model = ? WHERE id = ?")                                          \
    X(RUN_LOAD,                                                                                    \
      "SELECT run, name, program, rank, world, session, last_batch, started, updated, ended, "     \
      "outcome, worst, alarm_step, steps, first_step, step, loss, score, max_score, "              \
      "state FROM runs "                                                                           \
      "WHERE id = ?")                                                                              \
    X(RUN_IDS_OPEN, "SELECT id FROM runs WHERE ended IS NULL ORDER BY id")                         \
    X(RUN_IDS_NAME, "SELECT id FROM runs WHERE name = ? AND rank = ? ORDER BY id")                 \
    X(RUN_EXISTS, "SELECT 1 FROM runs WHERE run = ?")                                              \
    X(RUN_LABEL, "UPDATE runs SET label = ?2 WHERE run = ?1")                                      \
    X(EXPIRED, "SELECT id, ended FROM runs WHERE " MAY_EXPIRE "ORDER BY ended LIMIT ?7")           \
    X(STILL_EXPIRED, "SELECT 1 FROM runs WHERE id = ?7 AND ended = ?8 AND " MAY_EXPIRE)            \
    X(EXPIRE_CHUNKS, "DELETE FROM chunks WHERE id IN (SELECT id FROM chunks WHERE run_id = ?1 "    \
                     "ORDER BY last_step LIMIT ?2)")                                               \
    X(EXPIRE_BEGINNING,                                                                            \
      "UPDATE runs SET steps = steps - ?2, first_step = coalesce((SELECT first_step FROM chunks "  \
      "WHERE run_id = ?1 ORDER BY last_step LIMIT 1), (SELECT first_step FROM tail "               \
      "WHERE id BETWEEN ?3 AND ?4 ORDER BY id LIMIT 1)) WHERE id = ?1")                            \
    X(EXPIRE_LEFT, "SELECT steps FROM runs WHERE id = ?")                                          \
    X(EXPIRE_TAIL_STATE, "DELETE FROM tail_state WHERE run_id = ?")                                \
    X(EXPIRE_POINTS, "DELETE FROM series_points WHERE run_id = ?")                                 \
    X(EXPIRE_ALERTS, "DELETE FROM alerts WHERE run_id = ?")                                        \
    X(EXPIRE_VERDICTS, "DELETE FROM verdicts WHERE run_id = ?")                                    \
    X(EXPIRE_RUN, "DELETE FROM runs WHERE id = ?")                                                 \
    X(USED_BYTES, "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count(), "    \
                  "pragma_freelist_count(), pragma_page_size()")                                   \
    X(TAIL_INSERT, "INSERT INTO tail(id, run_id, first_step, last_step, n, rows) "                 \
                   "VALUES(?, ?, ?, ?, ?, ?)")                                                     \
    X(TAIL_READ, "SELECT rows FROM tail WHERE id BETWEEN ? AND ? ORDER BY id")                     \
    X(TAIL_DELETE, "DELETE FROM tail WHERE id BETWEEN ? AND ?")                                    \
    X(TAIL_COUNT, "SELECT coalesce(sum(n), 0), count(*), coalesce(min(first_step), -1) FROM tail " \
                  "WHERE id BETWEEN ? AND ?")                                                      \
    X(TAIL_SNAPSHOT, "INSERT INTO tail_state(run_id, snapshot) VALUES(?1, ?2) "                    \
                     "ON CONFLICT(run_id) DO UPDATE SET snapshot = ?2")                            \
    X(CHUNK_INSERT, "INSERT INTO chunks(run_id, first_step, last_step, n, snapshot, rows) "        \
                    "SELECT ?1, ?2, ?3, ?4, snapshot, ?5 FROM tail_state WHERE run_id = ?1")       \
    X(POINT_INSERT, "INSERT OR REPLACE INTO series_points(run_id, step, steps, loss, loss_max, "   \
                    "grad_norm, curvature, score) VALUES(?, ?, ?, ?, ?, ?, ?, ?)")                 \
    X(CUT_COUNT, "SELECT coalesce(sum(n), 0) FROM chunks WHERE run_id = ? AND last_step >= ?")     \
    X(CUT_CHUNKS, "DELETE FROM chunks WHERE run_id = ? AND last_step >= ?")                        \
    X(CUT_POINTS, "DELETE FROM series_points WHERE run_id = ? AND step >= ?")                      \
    X(CUT_VERDICTS, "UPDATE verdicts SET superseded = 1 WHERE run_id = ? AND step >= ? "           \
                    "AND superseded = 0")                                                          \
    X(VERDICT_STATES, "SELECT state, min(CASE severity WHEN 'critical' THEN step END) "            \
                      "FROM verdicts WHERE run_id = ? AND superseded = 0 "                         \
                      "AND state NOT IN ('silent', 'ended') GROUP BY state")                       \
    X(SERIES_SUMMARY, "SELECT coalesce(max(step), -1), max(score) FROM series_points "             \
                      "WHERE run_id = ?")                                                          \
    X(VERDICT_INSERT,                                                                              \
      "INSERT INTO verdicts(id, run_id, run, program, step, time, recorded, state, severity, "     \
      "score, threshold, fault, fault_distribution, reasons) "                                     \
      "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")                                          \
    X(ALERT_INSERT, "INSERT INTO alerts(id, verdict, run_id, run, event, state, hook, created, "   \
                    "document) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)")                                 \
    X(ALERT_RESULT, "UPDATE alerts SET attempts = attempts + 1, result = ?2, "                     \
                    "delivered = CASE WHEN ?3 THEN ?4 ELSE delivered END WHERE id = ?1")           \
    X(ALERTS_OPEN,                                                                                 \
      "SELECT id, verdict, run_id, run, event, state, hook, created, document FROM alerts "        \
      "WHERE id IN (SELECT max(id) FROM alerts WHERE run_id = ? GROUP BY hook, state) "            \
      "AND event = 'entered' ORDER BY id")                                                         \
    X(ALERTS_UNDELIVERED,                                                                          \
      "SELECT id, verdict, run_id, run, event, state, hook, created, document FROM alerts "        \
      "WHERE delivered IS NULL AND attempts < ? AND id > ? ORDER BY id LIMIT ?")

enum statement {
#define X(constant, sql) constant,
    STATEMENT_MAP(X)
#undef X
        STATEMENTS_N
};

static const char *const statement_sql[STATEMENTS_N] = {
#define X(constant, sql) sql,
    STATEMENT_MAP(X)
#undef X
};

struct store {
    struct database *database;
    sqlite3_stmt *stmt[STATEMENTS_N];
    char error[SEISMO_ERRMSG];
};

int store_new(const char *path, bool full, struct store **ret_store, char errmsg[SEISMO_ERRMSG])
{
    struct store *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(errmsg, SEISMO_ERRMSG, "opening %.200s: out of memory", path);
        return SEISMO_ENOMEM;
    }
    int err = database_new(path, full, &s->database, errmsg);
    for (int i = 0; !err && i < STATEMENTS_N; i++) {
        if (sqlite3_prepare_v3(store_db(s), statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &s->stmt[i], NULL) != SQLITE_OK) {
            err = database_failed(s->database, errmsg);
        }
    }
    if (err) {
        store_free(&s);
        return err;
    }
    *ret_store = s;
    return 0;
}

void store_free(struct store **store)
{
    struct store *s = *store;
    if (!s) {
        return;
    }
    *store = NULL;
    for (int i = 0; i < STATEMENTS_N; i++) {
        sqlite3_finalize(s->stmt[i]);
    }
    database_free(&s->database);
    free(s);
}

sqlite3 *store_db(const struct store *s)
{
    return database_handle(s->database);
}

const char *store_path(const struct store *s)
{
    return database_path(s->database);
}

const char *store_error(const struct store *s)
{
    return s->error;
}

static int failed(struct store *s)
{
    return database_failed(s->database, s->error);
}

int store_history_failed(struct store *s, int err)
{
    if (err == SEISMO_EIO) {
        return failed(s);
    }
    snprintf(s->error, sizeof s->error, "%.110s: reading stored steps: out of memory",
             store_path(s));
    return err;
}

/* Binds the arguments that `types` names: i int64_t, d double (NaN: NULL), t text (NULL: NULL),
 * b const void * and size_t, o bool and int64_t (false: NULL). They are borrowed until the
 * statement is reset. */
static sqlite3_stmt *bind(struct store *s, enum statement which, const char *types, va_list ap)
{
    sqlite3_stmt *stmt = s->stmt[which];
    for (int i = 1; *types; i++, types++) {
        switch (*types) {
        case 'i':
            sqlite3_bind_int64(stmt, i, va_arg(ap, int64_t));
            break;
        case 'd':
            sqlite3_bind_double(stmt, i, va_arg(ap, double));
            break;
        case 't':
            sqlite3_bind_text(stmt, i, va_arg(ap, const char *), -1, SQLITE_STATIC);
            break;
        case 'b': {
            const void *p = va_arg(ap, const void *);
            sqlite3_bind_blob64(stmt, i, p, va_arg(ap, size_t), SQLITE_STATIC);
            break;
        }
        case 'o': {
            bool there = va_arg(ap, int);
            int64_t x = va_arg(ap, int64_t);
            if (there) {
                sqlite3_bind_int64(stmt, i, x);
            } else {
                sqlite3_bind_null(stmt, i);
            }
            break;
        }
        }
    }
    return stmt;
}

/* Runs a statement that gives no rows. */
static int run(struct store *s, enum statement which, const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *stmt = bind(s, which, types, ap);
    va_end(ap);
    int err = sqlite3_step(stmt) == SQLITE_DONE ? 0 : failed(s);
    sqlite3_reset(stmt);
    return err;
}

static sqlite3_stmt *query(struct store *s, enum statement which, const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *stmt = bind(s, which, types, ap);
    va_end(ap);
    return stmt;
}

/* Ends a query whose last step returned `rc`. */
static int finish(struct store *s, sqlite3_stmt *stmt, int rc)
{
    int err = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : failed(s);
    sqlite3_reset(stmt);
    return err;
}

int store_begin(struct store *s)
{
    return run(s, BEGIN, "");
}

bool store_is_begun(const struct store *s)
{
    return !sqlite3_get_autocommit(store_db(s));
}

int store_commit(struct store *s)
{
    int err = run(s, COMMIT, "");
    if (!err) {
        database_committed(s->database);
    }
    return err;
}

void store_rollback(struct store *s)
{
    if (store_is_begun(s)) {
        sqlite3_exec(store_db(s), "ROLLBACK", NULL, NULL, NULL);
    }
}

int store_last_ids(struct store *s, int64_t *ret_run, int64_t *ret_verdict, int64_t *ret_alert)
{
    sqlite3_stmt *stmt = query(s, LAST_IDS, "");
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        *ret_run = sqlite3_column_int64(stmt, 0);
        *ret_verdict = sqlite3_column_int64(stmt, 1);
        *ret_alert = sqlite3_column_int64(stmt, 2);
    }
    return finish(s, stmt, rc);
}

/* ---- runs ---- */

int store_run_insert(struct store *s, const struct run *r, const char *meta, const char *model,
                     const uint8_t *snapshot, size_t snapshot_n)
{
    int err = run(s, RUN_INSERT, "itttiibtddt", r->id, r->run, r->name, r->program,
                  (int64_t)r->rank, (int64_t)r->world, (const void *)r->session,
                  (size_t)r->session_n, meta, r->started, r->updated, model);
    return err ? err : store_tail_snapshot(s, r->id, snapshot, snapshot_n);
}

int store_run_continue(struct store *s, const struct run *r, const char *meta)
{
    return run(s, RUN_CONTINUE, "ibti", (int64_t)r->world, (const void *)r->session,
               (size_t)r->session_n, meta, r->id);
}

int store_run_update(struct store *s, const struct run *r, const char *model)
{
    bool any = r->steps > 0;
    return run(s, RUN_UPDATE, "iddttttoioodddti", (int64_t)r->last_batch, r->updated,
               r->ended ? r->ended_at : NAN, r->ended ? run_outcome_name(r->outcome) : NULL,
               verdict_state_name(run_shown_state(r)), verdict_severity_name(run_shown_severity(r)),
               verdict_state_name(r->worst), (int)r->has_alarm, r->alarm_step, (int64_t)r->steps,
               (int)any, r->first_step, (int)any, r->step, any ? (double)r->loss : NAN,
               any ? (double)r->score : NAN, any ? (double)r->max_score : NAN, model, r->id);
}

static const char *column_text(sqlite3_stmt *stmt, int i)
{
    const char *text = (const char *)sqlite3_column_text(stmt, i);
    return text ? text : "";
}

static float column_float(sqlite3_stmt *stmt, int i)
{
    return sqlite3_column_type(stmt, i) == SQLITE_NULL ? NAN
                                                       : (float)sqlite3_column_double(stmt, i);
}

static enum verdict_state state_of(const char *name)
{
    for (int i = 0; i < STATES_N; i++) {
        if (strcmp(name, verdict_state_name((enum verdict_state)i)) == 0) {
            return (enum verdict_state)i;
        }
    }
    return STATE_WARMING_UP;
}

static enum run_outcome outcome_of(const char *name)
{
    for (int i = 0; i < OUTCOMES_N; i++) {
        if (strcmp(name, run_outcome_name((enum run_outcome)i)) == 0) {
            return (enum run_outcome)i;
        }
    }
    return OUTCOME_LOST;
}

static void take_run(sqlite3_stmt *stmt, struct run *r)
{
    snprintf(r->run, sizeof r->run, "%s", column_text(stmt, 0));
    snprintf(r->name, sizeof r->name, "%s", column_text(stmt, 1));
    snprintf(r->program, sizeof r->program, "%s", column_text(stmt, 2));
    r->rank = (uint32_t)sqlite3_column_int64(stmt, 3);
    r->world = (uint32_t)sqlite3_column_int64(stmt, 4);
    const void *session = sqlite3_column_blob(stmt, 5);
    size_t n = (size_t)sqlite3_column_bytes(stmt, 5);
    r->session_n = (uint32_t)(n < sizeof r->session ? n : sizeof r->session);
    if (session) {
        memcpy(r->session, session, r->session_n);
    }
    r->last_batch = (uint64_t)sqlite3_column_int64(stmt, 6);
    r->started = sqlite3_column_double(stmt, 7);
    r->updated = sqlite3_column_double(stmt, 8);
    r->ended = sqlite3_column_type(stmt, 9) != SQLITE_NULL;
    r->ended_at = sqlite3_column_double(stmt, 9);
    r->outcome = outcome_of(column_text(stmt, 10));
    r->worst = state_of(column_text(stmt, 11));
    r->has_alarm = sqlite3_column_type(stmt, 12) != SQLITE_NULL;
    r->alarm_step = sqlite3_column_int64(stmt, 12);
    r->steps = (uint64_t)sqlite3_column_int64(stmt, 13);
    r->first_step = sqlite3_column_int64(stmt, 14);
    r->step = sqlite3_column_int64(stmt, 15);
    r->loss = column_float(stmt, 16);
    r->score = column_float(stmt, 17);
    r->max_score = column_float(stmt, 18);
    r->silent = state_of(column_text(stmt, 19)) == STATE_SILENT;
}

int store_run_load(struct store *s, int64_t id, struct run *ret)
{
    sqlite3_stmt *stmt = query(s, RUN_LOAD, "i", id);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        ret->id = id;
        take_run(stmt, ret);
    }
    int err = finish(s, stmt, rc);
    return !err && rc == SQLITE_DONE ? SEISMO_ENOTFOUND : err;
}

int store_run_ids(struct store *s, const char *name, uint32_t rank, int64_t **ret_ids,
                  size_t *ret_n)
{
    sqlite3_stmt *stmt =
        name ? query(s, RUN_IDS_NAME, "ti", name, (int64_t)rank) : query(s, RUN_IDS_OPEN, "");
    int64_t *ids = NULL;
    size_t n = 0, room = 0;
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        if (n == room) {
            room = room ? 2 * room : 16;
            int64_t *more = realloc(ids, room * sizeof *ids);
            if (!more) {
                sqlite3_reset(stmt);
                free(ids);
                snprintf(s->error, sizeof s->error, "reading the list of runs: out of memory");
                return SEISMO_ENOMEM;
            }
            ids = more;
        }
        ids[n++] = sqlite3_column_int64(stmt, 0);
    }
    int err = finish(s, stmt, rc);
    if (err) {
        free(ids);
        return err;
    }
    *ret_ids = ids;
    *ret_n = n;
    return 0;
}

int store_run_exists(struct store *s, const char *shown, bool *ret_exists)
{
    sqlite3_stmt *stmt = query(s, RUN_EXISTS, "t", shown);
    int rc = sqlite3_step(stmt);
    *ret_exists = rc == SQLITE_ROW;
    return finish(s, stmt, rc);
}

int store_run_label(struct store *s, const char *shown, const char *label)
{
    int err = run(s, RUN_LABEL, "tt", shown, label);
    return err || sqlite3_changes(store_db(s)) > 0 ? err : SEISMO_ENOTFOUND;
}

/* ---- retention ---- */

int store_expired(struct store *s, const struct store_limit *limit, struct store_expired *ret,
                  uint32_t room, uint32_t *ret_n)
{
    sqlite3_stmt *stmt =
        query(s, EXPIRED, "diiidti", limit->before, (int64_t)limit->attempts, limit->known,
              limit->doubted, limit->ahead, limit->hooks, (int64_t)room);
    uint32_t n = 0;
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && n < room) {
        ret[n++] = (struct store_expired){
            .id = sqlite3_column_int64(stmt, 0),
            .ended = sqlite3_column_double(stmt, 1),
        };
    }
    int err = finish(s, stmt, rc);
    if (!err) {
        *ret_n = n;
    }
    return err;
}

int store_still_expired(struct store *s, const struct store_limit *limit,
                        const struct store_expired *run, bool *ret)
{
    sqlite3_stmt *stmt =
        query(s, STILL_EXPIRED, "diiidtid", limit->before, (int64_t)limit->attempts, limit->known,
              limit->doubted, limit->ahead, limit->hooks, run->id, run->ended);
    int rc = sqlite3_step(stmt);
    *ret = rc == SQLITE_ROW;
    return finish(s, stmt, rc);
}

/* Steps that a run still has. */
static int steps_left(struct store *s, int64_t run_id, int64_t *ret)
{
    sqlite3_stmt *stmt = query(s, EXPIRE_LEFT, "i", run_id);
    int rc = sqlite3_step(stmt);
    *ret = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
    return finish(s, stmt, rc);
}

int store_expire(struct store *s, int64_t run_id, uint32_t chunks, bool *ret_whole)
{
    int64_t left = 0;
    int err = run(s, EXPIRE_CHUNKS, "ii", run_id, (int64_t)chunks);
    int deleted = err ? 0 : sqlite3_changes(store_db(s));
    if (!err && deleted == (int)chunks) {
        err = run(s, EXPIRE_BEGINNING, "iiii", run_id, (int64_t)deleted * CHUNK_ROWS,
                  TAIL_FIRST(run_id), TAIL_LAST(run_id));
        err = err ? err : steps_left(s, run_id, &left);
    }
    *ret_whole = false;
    if (err || left > 0) {
        return err;
    }
    err = store_tail_delete(s, run_id);
    for (enum statement e = EXPIRE_TAIL_STATE; !err && e <= EXPIRE_RUN; e++) {
        err = run(s, e, "i", run_id);
    }
    *ret_whole = !err;
    return err;
}

int store_used_bytes(struct store *s, int64_t *ret_bytes)
{
    sqlite3_stmt *stmt = query(s, USED_BYTES, "");
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        *ret_bytes = sqlite3_column_int64(stmt, 0);
    }
    return finish(s, stmt, rc);
}

/* ---- rows ---- */

int store_tail_insert(struct store *s, int64_t run_id, uint32_t part, int64_t first_step,
                      int64_t last_step, uint32_t n, const uint8_t *rows, size_t bytes)
{
    return run(s, TAIL_INSERT, "iiiiib", TAIL_FIRST(run_id) + part, run_id, first_step, last_step,
               (int64_t)n, (const void *)rows, bytes);
}

int store_tail_read(struct store *s, int64_t run_id, uint8_t *to, size_t room, size_t *ret_bytes)
{
    sqlite3_stmt *stmt = query(s, TAIL_READ, "ii", TAIL_FIRST(run_id), TAIL_LAST(run_id));
    size_t bytes = 0;
    bool fits = true;
    int rc;
    while (fits && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const void *rows = sqlite3_column_blob(stmt, 0);
        size_t n = (size_t)sqlite3_column_bytes(stmt, 0);
        fits = n >= PACK_HEAD && bytes + n <= room;
        if (fits) {
            memcpy(to + bytes, rows, n);
            bytes += n;
        }
    }
    int err = finish(s, stmt, rc);
    if (!err && (!fits || bytes == 0)) {
        snprintf(s->error, sizeof s->error, "%.110s: the tail of run number %lld is damaged",
                 database_path(s->database), (long long)run_id);
        return SEISMO_ECORRUPT;
    }
    *ret_bytes = bytes;
    return err;
}

int store_tail_delete(struct store *s, int64_t run_id)
{
    return run(s, TAIL_DELETE, "ii", TAIL_FIRST(run_id), TAIL_LAST(run_id));
}

int store_tail_count(struct store *s, int64_t run_id, uint32_t *ret_rows, uint32_t *ret_parts,
                     int64_t *ret_first_step)
{
    sqlite3_stmt *stmt = query(s, TAIL_COUNT, "ii", TAIL_FIRST(run_id), TAIL_LAST(run_id));
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        *ret_rows = (uint32_t)sqlite3_column_int64(stmt, 0);
        *ret_parts = (uint32_t)sqlite3_column_int64(stmt, 1);
        *ret_first_step = sqlite3_column_int64(stmt, 2);
    }
    return finish(s, stmt, rc);
}

int store_chunk_insert(struct store *s, int64_t run_id, int64_t first_step, int64_t last_step,
                       const uint8_t *rows, size_t bytes, const uint8_t *snapshot,
                       size_t snapshot_n)
{
    int err = run(s, CHUNK_INSERT, "iiiib", run_id, first_step, last_step, (int64_t)CHUNK_ROWS,
                  (const void *)rows, bytes);
    return err ? err : store_tail_snapshot(s, run_id, snapshot, snapshot_n);
}

int store_tail_snapshot(struct store *s, int64_t run_id, const uint8_t *snapshot, size_t snapshot_n)
{
    return run(s, TAIL_SNAPSHOT, "ib", run_id, (const void *)snapshot, snapshot_n);
}

int store_point_insert(struct store *s, int64_t run_id, const struct point *p)
{
    const struct bucket *b = &p->bucket;
    return run(s, POINT_INSERT, "iiiddddd", run_id, p->step, (int64_t)b->steps, (double)b->loss,
               (double)b->loss_max, (double)b->grad_norm, (double)b->curvature,
               (double)b->score_max);
}

int store_cut(struct store *s, int64_t run_id, int64_t step, uint64_t *ret_rows)
{
    sqlite3_stmt *stmt = query(s, CUT_COUNT, "ii", run_id, step);
    int rc = sqlite3_step(stmt);
    uint64_t rows = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(stmt, 0) : 0;
    int err = finish(s, stmt, rc);
    err = err ? err : run(s, CUT_CHUNKS, "ii", run_id, step);
    err = err ? err : store_tail_delete(s, run_id);
    err = err ? err : run(s, CUT_POINTS, "ii", run_id, step);
    err = err ? err : run(s, CUT_VERDICTS, "ii", run_id, step);
    if (!err) {
        *ret_rows = rows;
    }
    return err;
}

int store_verdict_summary(struct store *s, int64_t run_id, int64_t *ret_alarm,
                          enum verdict_state *ret_worst)
{
    *ret_alarm = -1;
    *ret_worst = STATE_WARMING_UP;
    sqlite3_stmt *stmt = query(s, VERDICT_STATES, "i", run_id);
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        enum verdict_state state = state_of(column_text(stmt, 0));
        if (verdict_state_worse(state, *ret_worst)) {
            *ret_worst = state;
        }
        if (sqlite3_column_type(stmt, 1) != SQLITE_NULL) {
            int64_t step = sqlite3_column_int64(stmt, 1);
            *ret_alarm = *ret_alarm < 0 || step < *ret_alarm ? step : *ret_alarm;
        }
    }
    return finish(s, stmt, rc);
}

int store_series_summary(struct store *s, int64_t run_id, int64_t *ret_step, float *ret_max_score)
{
    sqlite3_stmt *stmt = query(s, SERIES_SUMMARY, "i", run_id);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        *ret_step = sqlite3_column_int64(stmt, 0);
        *ret_max_score = column_float(stmt, 1);
    }
    return finish(s, stmt, rc);
}

/* ---- verdicts and alerts ---- */

int store_verdict_insert(struct store *s, const struct store_verdict *v)
{
    const struct verdict *x = v->verdict;
    return run(s, VERDICT_INSERT, "iittoddttddttt", v->id, v->run_id, v->run, v->program,
               (int)(x->step >= 0), x->step, x->time, v->recorded, verdict_state_name(x->state),
               verdict_severity_name(x->severity), (double)x->score, (double)x->threshold,
               fault_name(x->fault), v->distribution, v->reasons);
}

int store_alert_insert(struct store *s, const struct store_alert *a)
{
    return run(s, ALERT_INSERT, "iiittttdt", a->id, a->verdict_id, a->run_id, a->run,
               a->entered ? "entered" : "resolved", verdict_state_name(a->state), a->hook,
               a->created, a->document);
}

int store_alert_result(struct store *s, int64_t id, bool delivered, const char *result, double now)
{
    return run(s, ALERT_RESULT, "itid", id, result, (int64_t)delivered, now);
}

static int each_alert(struct store *s, sqlite3_stmt *stmt,
                      void (*each)(void *arg, const struct store_alert *a), void *arg)
{
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct store_alert a = {
            .id = sqlite3_column_int64(stmt, 0),
            .verdict_id = sqlite3_column_int64(stmt, 1),
            .run_id = sqlite3_column_int64(stmt, 2),
            .run = column_text(stmt, 3),
            .entered = strcmp(column_text(stmt, 4), "entered") == 0,
            .state = state_of(column_text(stmt, 5)),
            .hook = column_text(stmt, 6),
            .created = sqlite3_column_double(stmt, 7),
            .document = column_text(stmt, 8),
        };
        each(arg, &a);
    }
    return finish(s, stmt, rc);
}

int store_alerts_open(struct store *s, int64_t run_id,
                      void (*each)(void *arg, const struct store_alert *a), void *arg)
{
    return each_alert(s, query(s, ALERTS_OPEN, "i", run_id), each, arg);
}

int store_alerts_undelivered(struct store *s, int attempts, int64_t after, uint32_t most,
                             void (*each)(void *arg, const struct store_alert *a), void *arg)
{
    return each_alert(
        s, query(s, ALERTS_UNDELIVERED, "iii", (int64_t)attempts, after, (int64_t)most), each, arg);
}
