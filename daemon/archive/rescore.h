/* Scores the stored rows of a run once more and compares: scores, detector states, verdicts,
 * series.
 *
 * Rows go in one after the other, in step order. Where some cannot be read, or were scored by
 * a model that is not at hand, comparing goes on at the next stored state of the detector; what
 * hangs on the whole run (verdicts, series, rescore_sum) is then left out. A stretch between two
 * states in which the model (or its budget) changed begins with a state of the old one and ends at
 * one of the new one. */
#ifndef SEISMO_DAEMON_ARCHIVE_RESCORE_H
#define SEISMO_DAEMON_ARCHIVE_RESCORE_H

#include <sqlite3.h>
#include <stdbool.h>

#include "daemon/archive/check.h"
#include "daemon/archive/pack.h"
#include "models/detector.h"

struct rescore;

/* `models` (one or more, then NULL; they have one name) and `db` are borrowed until rescore_free.
 * `problem` is called with what differs. */
int rescore_new(sqlite3 *db, const struct model *const *models, int64_t run_id,
                void (*problem)(void *arg, const char *text), void *arg, struct rescore **ret,
                char errmsg[SEISMO_ERRMSG]);
void rescore_free(struct rescore **rescore);

/* The detector's state that was stored before `step`, which is the next row's or later. */
void rescore_snapshot(struct rescore *r, int64_t step, const void *data, size_t n);

void rescore_row(struct rescore *r, const struct pack_row *row);

/* Rows are missing here. */
void rescore_lose(struct rescore *r);

/* After the last row: compares what is left. `model`: the name of the one that scored the last
 * row. SEISMO_ECORRUPT, SEISMO_EIO. */
int rescore_finish(struct rescore *r, const char *model, char errmsg[SEISMO_ERRMSG]);

/* What the columns of the run should say. False when not the whole run could be scored. */
struct rescore_sum {
    float loss, score, max_score;
    enum verdict_state state, worst;
    int64_t alarm; /* -1: none */
};
bool rescore_sum(const struct rescore *r, struct rescore_sum *ret);

/* Adds what was compared. */
void rescore_count(const struct rescore *r, struct check_report *report);

#endif
