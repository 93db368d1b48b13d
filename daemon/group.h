/* A group of jobs that becomes one transaction.
 *
 * First the worker does each job in memory and notes here what must be written; then group_write
 * writes it all, again and again until it succeeds; group_done gives the jobs back. Nothing is
 * computed while writing, so a second attempt writes the same.
 *
 * Only a cut writes before group_write, because it has to know what lies in the database. Its
 * transaction stays open, so that the next cut and group_write only add to it.
 *
 * The arrays grow to what a group needs and are kept. When there is no memory for that the process
 * is aborted: rows that are half scored cannot be taken back, whereas everything acknowledged is in
 * the database and a restart comes back to exactly that. */
#ifndef SEISMO_DAEMON_GROUP_H
#define SEISMO_DAEMON_GROUP_H

#include "daemon/runs.h"
#include "daemon/store.h"
#include "daemon/worker.h"

#define GROUP_MAX_NEW 256 /* new runs of a group: their names are looked up one by one */
#define GROUP_MAX_CUTS 8  /* a job more and others would wait for it: each scores rows again */

struct group;

struct row_result {
    float score, curvature;
};

/* `last_verdict`, `last_alert`: highest ids used so far. `model` is borrowed. */
struct group *group_new(const struct model *model, int64_t last_verdict, int64_t last_alert);
void group_free(struct group **g); /* with the jobs in it */

/* Every job of the group, in the order in which they are given back. Owned from here on. */
void group_add_job(struct group *g, struct job *job);
bool group_is_empty(const struct group *g);

/* Notes that the run's columns change. */
void group_touch(struct group *g, struct run *run);
/* The run is new, or continued by another session: `open` is the JOB_OPEN that says so. */
void group_insert(struct group *g, struct run *run, const struct job *open);
void group_continue(struct group *g, struct run *run, const struct job *open);
int64_t group_last_verdict(const struct group *g); /* id */
uint32_t group_new_runs(const struct group *g);
uint32_t group_cuts(const struct group *g);
/* Whether a run that is new in this group is shown under this name. */
bool group_has_name(const struct group *g, const char *shown);

/* A job goes back to before `step`: whatever is noted of the run from here on is written after the
 * cut (restore.h), in the same transaction. `*ret_after` is the run as the cut leaves it. To find
 * that out everything so far is written, in a transaction that stays open: until group_write what
 * comes of it can be read in `s`. On failure nothing is noted, and store_error says why. */
int group_cut(struct group *g, struct store *s, struct run *run, int64_t step, double now,
              struct run *ret_after);

/* Begins a part: rows of the run that follow on one another, borrowed from a job of the group.
 * Then group_row once for each of them, in order, after the detector has seen it. */
void group_part(struct group *g, struct run *run, const struct seismo_row *rows);
void group_row(struct group *g, struct run *run, struct row_result result);
void group_point(struct group *g, struct run *run, const struct point *point);

/* A verdict: goes into the database and into the news of `job`. Returns its id; *ret_document, when
 * not NULL, is the document with "id", a new reference. */
int64_t group_verdict(struct group *g, struct run *run, struct job *job, const struct verdict *v,
                      double now, json_t **ret_document);

/* An alert for one hook: goes into the outbox and to `job`. `document` is the verdict's, borrowed.
 */
void group_alert(struct group *g, struct run *run, struct job *job, int64_t verdict_id,
                 const json_t *document, bool entered, enum verdict_state state, const char *hook,
                 double now);

/* One attempt to write everything. On failure the transaction is rolled back, and store_error says
 * why. `now`: s since the epoch. */
int group_write(struct group *g, struct store *s, double now);

/* After group_write succeeded: the group is empty, runs that have ended and have no peer leave the
 * table. Returns the jobs. */
struct job *group_done(struct group *g, struct runs *runs);

#endif
