#include "daemon/archive/history.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct history {
    sqlite3 *db;        /* borrowed */
    sqlite3_stmt *stmt; /* over the chunks, then over the tail */
    int64_t run_id;
    bool in_tail;
    size_t snapshot_n;
    uint8_t snapshot[DETECTOR_SNAPSHOT_MAX];
    struct pack_cursor cursor; /* into the statement's current row */
};

static int failed(struct history *h, char errmsg[SEISMO_ERRMSG])
{
    snprintf(errmsg, SEISMO_ERRMSG, "reading stored steps: %s", sqlite3_errmsg(h->db));
    return SEISMO_EIO;
}

static int prepare(struct history *h, const char *sql, char errmsg[SEISMO_ERRMSG])
{
    sqlite3_finalize(h->stmt);
    h->stmt = NULL;
    return sqlite3_prepare_v2(h->db, sql, -1, &h->stmt, NULL) == SQLITE_OK ? 0 : failed(h, errmsg);
}

/* A snapshot longer than any is as good as none: it is damaged, and restoring says so. */
static void take_snapshot(struct history *h, int column)
{
    size_t n = (size_t)sqlite3_column_bytes(h->stmt, column);
    h->snapshot_n = n <= sizeof h->snapshot ? n : 0;
    if (h->snapshot_n) {
        memcpy(h->snapshot, sqlite3_column_blob(h->stmt, column), n);
    }
}

static void take_rows(struct history *h)
{
    pack_cursor_init(&h->cursor, sqlite3_column_blob(h->stmt, 1),
                     (size_t)sqlite3_column_bytes(h->stmt, 1),
                     (uint32_t)sqlite3_column_int64(h->stmt, 0));
}

static int enter_tail(struct history *h, char errmsg[SEISMO_ERRMSG])
{
    h->in_tail = true;
    int err = prepare(h, "SELECT n, rows FROM tail WHERE id BETWEEN ?1 AND ?2 ORDER BY id", errmsg);
    if (!err) {
        sqlite3_bind_int64(h->stmt, 1, TAIL_FIRST(h->run_id));
        sqlite3_bind_int64(h->stmt, 2, TAIL_LAST(h->run_id));
    }
    return err;
}

static int start(struct history *h, int64_t step, char errmsg[SEISMO_ERRMSG])
{
    int err = prepare(h,
                      "SELECT n, rows, snapshot FROM chunks WHERE run_id = ?1 AND last_step >= ?2 "
                      "ORDER BY last_step",
                      errmsg);
    if (err) {
        return err;
    }
    sqlite3_bind_int64(h->stmt, 1, h->run_id);
    sqlite3_bind_int64(h->stmt, 2, step);
    int rc = sqlite3_step(h->stmt);
    if (rc == SQLITE_ROW) {
        take_snapshot(h, 2);
        take_rows(h);
        return 0;
    }
    if (rc != SQLITE_DONE) {
        return failed(h, errmsg);
    }
    err = prepare(h, "SELECT snapshot FROM tail_state WHERE run_id = ?1", errmsg);
    if (err) {
        return err;
    }
    sqlite3_bind_int64(h->stmt, 1, h->run_id);
    rc = sqlite3_step(h->stmt);
    if (rc == SQLITE_ROW) {
        take_snapshot(h, 0);
    } else if (rc != SQLITE_DONE) {
        return failed(h, errmsg);
    }
    return enter_tail(h, errmsg);
}

int history_new(sqlite3 *db, int64_t run_id, int64_t step, struct history **ret_history,
                char errmsg[SEISMO_ERRMSG])
{
    struct history *h = calloc(1, sizeof *h);
    if (!h) {
        snprintf(errmsg, SEISMO_ERRMSG, "reading stored steps: out of memory");
        return SEISMO_ENOMEM;
    }
    h->db = db;
    h->run_id = run_id;
    pack_cursor_init(&h->cursor, "", 0, 0);
    int err = start(h, step, errmsg);
    if (err) {
        history_free(&h);
        return err;
    }
    *ret_history = h;
    return 0;
}

void history_free(struct history **history)
{
    if (*history) {
        sqlite3_finalize((*history)->stmt);
        free(*history);
        *history = NULL;
    }
}

const uint8_t *history_snapshot(const struct history *h, size_t *ret_n)
{
    *ret_n = h->snapshot_n;
    return h->snapshot;
}

int history_next(struct history *h, struct pack_row *ret, char errmsg[SEISMO_ERRMSG])
{
    int err;
    while ((err = pack_next(&h->cursor, ret, errmsg)) == SEISMO_EEOF) {
        int rc = sqlite3_step(h->stmt);
        if (rc == SQLITE_ROW) {
            int64_t last = h->cursor.last;
            take_rows(h);
            h->cursor.last = last;
        } else if (rc != SQLITE_DONE) {
            return failed(h, errmsg);
        } else if (h->in_tail) {
            return SEISMO_EEOF;
        } else if ((err = enter_tail(h, errmsg)) != 0) {
            return err;
        }
    }
    return err;
}

/* Last step of the chunk before `step`, when no row at or after its own beginning is below it. */
static int previous_chunk(sqlite3 *db, int64_t run_id, int64_t step, int64_t *ret_last)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db,
                                "SELECT last_step FROM chunks WHERE run_id = ?1 AND last_step < ?2 "
                                "ORDER BY last_step DESC LIMIT 1",
                                -1, &stmt, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(stmt, 1, run_id);
        sqlite3_bind_int64(stmt, 2, step);
        rc = sqlite3_step(stmt);
    }
    if (rc == SQLITE_ROW) {
        *ret_last = sqlite3_column_int64(stmt, 0);
    }
    sqlite3_finalize(stmt);
    return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? SEISMO_ENOTFOUND : SEISMO_EIO;
}

int history_restore(sqlite3 *db, const struct model *model, int64_t run_id, int64_t step,
                    bool (*stop)(const void *), const void *stop_arg, struct detector *ret_d,
                    struct detector_result *ret_result, struct pack_row *ret_row,
                    char errmsg[SEISMO_ERRMSG])
{
    struct history *h = NULL;
    struct pack_row row;
    int err = history_new(db, run_id, step, &h, errmsg);
    err = err ? err : history_next(h, &row, errmsg);
    if (err == SEISMO_EEOF || (!err && row.row.step > step)) {
        history_free(&h);
        int64_t last;
        err = previous_chunk(db, run_id, step, &last);
        if (err) {
            snprintf(errmsg, SEISMO_ERRMSG, "no stored step at or before %lld", (long long)step);
            return err;
        }
        err = history_new(db, run_id, last, &h, errmsg);
        err = err ? err : history_next(h, &row, errmsg);
    }
    struct detector d;
    detector_init(&d);
    if (!err && detector_restore(&d, model, h->snapshot, h->snapshot_n) != 0) {
        detector_init(&d);
        history_free(&h);
        err = history_new(db, run_id, -1, &h, errmsg);
        err = err ? err : history_next(h, &row, errmsg);
    }
    struct pack_row last = row;
    for (uint32_t i = 1; !err && row.row.step <= step; i++) {
        detector_step(&d, model, &row.row, ret_result);
        last = row;
        if (stop && i % CHUNK_ROWS == 0 && stop(stop_arg)) {
            snprintf(errmsg, SEISMO_ERRMSG, "given up before step %lld", (long long)step);
            err = SEISMO_EBUSY;
        } else {
            err = history_next(h, &row, errmsg);
        }
    }
    history_free(&h);
    if (err && err != SEISMO_EEOF) {
        return err;
    }
    *ret_d = d;
    *ret_row = last;
    return 0;
}
