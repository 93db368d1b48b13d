/* The stored rows of one run, in step order, from chunks and tail, over any connection.
 *
 * The worker restores detectors with it, the query side exports and explains. The caller owns the
 * transaction that makes several reads see the same moment. Rows are those of the chunk or tail
 * that holds the wanted step, from its beginning: skip what is not above it. */
#ifndef SEISMO_DAEMON_ARCHIVE_HISTORY_H
#define SEISMO_DAEMON_ARCHIVE_HISTORY_H

#include <sqlite3.h>

#include "daemon/archive/pack.h"
#include "models/detector.h"

#define CHUNK_ROWS 256 /* rows of a chunk; the tail is always shorter */

/* tail.id of a run's first tail row; the following ones count up, below the next run's. */
#define TAIL_SHIFT 16
#define TAIL_FIRST(run_id) ((int64_t)(run_id) << TAIL_SHIFT)
#define TAIL_LAST(run_id) (TAIL_FIRST(run_id) | ((1 << TAIL_SHIFT) - 1))

struct history;

/* Starts at the first row of the chunk that holds `step`, or of the first one after it, or of the
 * tail when there is no such chunk. SEISMO_EIO: ask sqlite3_errmsg(db), errmsg has it too. */
int history_new(sqlite3 *db, int64_t run_id, int64_t step, struct history **ret_history,
                char errmsg[SEISMO_ERRMSG]);
void history_free(struct history **history);

/* The detector's snapshot before the first row, borrowed until history_free; *ret_n is 0 when there
 * is none. */
const uint8_t *history_snapshot(const struct history *h, size_t *ret_n);

/* The next row. SEISMO_EEOF at the end, SEISMO_ECORRUPT when stored rows are damaged, SEISMO_EIO.
 */
int history_next(struct history *h, struct pack_row *ret, char errmsg[SEISMO_ERRMSG]);

/* The detector exactly as it was after the last row at or before `step`, that row, and what the
 * detector said of it: nearest snapshot and replay; when the snapshot is of another model or
 * damaged, replay from the run's first row. `stop`, which may be NULL, is asked now and then and
 * makes it give up with SEISMO_EBUSY. SEISMO_ENOTFOUND when no row is at or before `step`; then *d
 * is untouched. */
int history_restore(sqlite3 *db, const struct model *model, int64_t run_id, int64_t step,
                    bool (*stop)(const void *), const void *stop_arg, struct detector *ret_d,
                    struct detector_result *ret_result, struct pack_row *ret_row,
                    char errmsg[SEISMO_ERRMSG]);

#endif
