/* Everything that the worker writes into the database, as prepared statements.
 *
 * Used by one thread. Every function that touches the database returns 0, or a negative code with
 * the cause in store_error(). What was written since store_begin counts only after store_commit
 * returned 0; after any failure call store_rollback and write the whole group again. */
#ifndef SEISMO_DAEMON_STORE_H
#define SEISMO_DAEMON_STORE_H

#include "daemon/archive/history.h"
#include "daemon/database.h"
#include "daemon/runs.h"

struct store;

/* Opens the database at `path` (database_new) and prepares the statements. */
int store_new(const char *path, bool full, struct store **ret_store, char errmsg[SEISMO_ERRMSG]);
void store_free(struct store **store);

sqlite3 *store_db(const struct store *s); /* for history.h; borrowed */
const char *store_path(const struct store *s);
const char *store_error(const struct store *s); /* of the last failure: what, where, what to do */

/* Reading with history.h over store_db failed with SEISMO_EIO or SEISMO_ENOMEM: notes that like a
 * failure here, and returns the code that fits. */
int store_history_failed(struct store *s, int err);

int store_begin(struct store *s);
bool store_is_begun(const struct store *s); /* no longer after some errors */
int store_commit(struct store *s);
void store_rollback(struct store *s);

/* Highest ids handed out so far, 0 when none. */
int store_last_ids(struct store *s, int64_t *ret_run, int64_t *ret_verdict, int64_t *ret_alert);

/* ---- runs ---- */

/* A new run with its metadata and the snapshot before its first row. */
int store_run_insert(struct store *s, const struct run *run, const char *meta, const char *model,
                     const uint8_t *snapshot, size_t snapshot_n);
/* A new session continues the run. */
int store_run_continue(struct store *s, const struct run *run, const char *meta);
/* The columns that change with every commit. */
int store_run_update(struct store *s, const struct run *run, const char *model);
/* The columns of one run into *ret; what is not a column stays. SEISMO_ENOTFOUND. */
int store_run_load(struct store *s, int64_t id, struct run *ret);
/* Ids of runs, ascending: those that go on (name NULL), or those of one name and rank. The array
 * is the caller's. */
int store_run_ids(struct store *s, const char *name, uint32_t rank, int64_t **ret_ids,
                  size_t *ret_n);
/* Whether a run is shown under this name already. */
int store_run_exists(struct store *s, const char *shown, bool *ret_exists);
/* SEISMO_ENOTFOUND when there is no such run. */
int store_run_label(struct store *s, const char *shown, const char *label);

/* What retention may delete; see retain.h for what else is never among it. */
struct store_limit {
    double before;     /* runs that ended before that, s since the epoch */
    int attempts;      /* as in store_alerts_undelivered */
    const char *hooks; /* "\nNAME\nNAME\n": alerts for others are waited for no more; borrowed */
    /* Runs with verdicts above `known` up to `doubted` ended before the clock went ahead: so much
     * later (s) than it says. */
    int64_t known, doubted;
    double ahead;
};
struct store_expired {
    int64_t id;
    double ended; /* s since the epoch */
};
/* At most `room` runs, oldest first. */
int store_expired(struct store *s, const struct store_limit *limit, struct store_expired *ret,
                  uint32_t room, uint32_t *ret_n);
/* Whether one of them still is, and has not gone on since. */
int store_still_expired(struct store *s, const struct store_limit *limit,
                        const struct store_expired *run, bool *ret);
/* Deletes the first `chunks` chunks of a run that has ended, and when that was the last of them all
 * the rest of the run; then *ret_whole is true. */
int store_expire(struct store *s, int64_t run_id, uint32_t chunks, bool *ret_whole);
/* Bytes of the pages in use. */
int store_used_bytes(struct store *s, int64_t *ret_bytes);

/* ---- rows ---- */

/* Packed rows at position `part` of the run's tail. */
int store_tail_insert(struct store *s, int64_t run_id, uint32_t part, int64_t first_step,
                      int64_t last_step, uint32_t n, const uint8_t *rows, size_t bytes);
/* Copies the run's tail, which is not empty, into `to`. SEISMO_ECORRUPT when it is empty or longer
 * than `room`. */
int store_tail_read(struct store *s, int64_t run_id, uint8_t *to, size_t room, size_t *ret_bytes);
int store_tail_delete(struct store *s, int64_t run_id);
/* Rows and parts of the tail, and its first step. */
int store_tail_count(struct store *s, int64_t run_id, uint32_t *ret_rows, uint32_t *ret_parts,
                     int64_t *ret_first_step);
/* A chunk of CHUNK_ROWS rows, whose snapshot is the tail's; then the tail gets a new one. */
int store_chunk_insert(struct store *s, int64_t run_id, int64_t first_step, int64_t last_step,
                       const uint8_t *rows, size_t bytes, const uint8_t *snapshot,
                       size_t snapshot_n);
int store_tail_snapshot(struct store *s, int64_t run_id, const uint8_t *snapshot,
                        size_t snapshot_n);
int store_point_insert(struct store *s, int64_t run_id, const struct point *point);

/* Takes back what a resumed job repeats, from `step` on: chunks that reach so far, the whole tail,
 * points; marks verdicts as superseded. *ret_rows: rows of the chunks deleted. */
int store_cut(struct store *s, int64_t run_id, int64_t step, uint64_t *ret_rows);

/* What the verdicts that still hold say: the first critical one of the detector (-1: none) and the
 * worst state it reached. */
int store_verdict_summary(struct store *s, int64_t run_id, int64_t *ret_alarm,
                          enum verdict_state *ret_worst);

/* Last step of the series (-1: none) and its highest score (NaN: none). */
int store_series_summary(struct store *s, int64_t run_id, int64_t *ret_step, float *ret_max_score);

/* ---- verdicts and alerts ---- */

struct store_verdict {
    int64_t id, run_id;
    const char *run, *program;
    const struct verdict *verdict;
    double recorded;
    const char *distribution, *reasons; /* JSON */
};
int store_verdict_insert(struct store *s, const struct store_verdict *v);

struct store_alert {
    int64_t id, verdict_id, run_id;
    const char *run;
    bool entered; /* or resolved */
    enum verdict_state state;
    const char *hook;
    double created;
    const char *document; /* JSON: what the hook reads */
};
int store_alert_insert(struct store *s, const struct store_alert *a);

/* What came of running a hook. An alert that is not known any more is no error. */
int store_alert_result(struct store *s, int64_t id, bool delivered, const char *result, double now);

/* Calls `each` for every alert of the run that was entered and not resolved. */
int store_alerts_open(struct store *s, int64_t run_id,
                      void (*each)(void *arg, const struct store_alert *a), void *arg);

/* Calls `each` for undelivered alerts that were tried less than `attempts` times and have ids above
 * `after`: at most `most` of them, oldest first. */
int store_alerts_undelivered(struct store *s, int attempts, int64_t after, uint32_t most,
                             void (*each)(void *arg, const struct store_alert *a), void *arg);

#endif
