/* The connection that writes DIR/seismo.db: opening, schema versions, and checkpoints that never
 * stand in the way of a commit.
 *
 * The log (WAL) is written back into the database by a thread with a connection of its own. Only
 * what came in meanwhile, which is little, is written back between two commits, so that the log is
 * empty for a moment and begins anew; otherwise it would grow for as long as steps come. The same
 * thread syncs the log every DATABASE_SYNC_INTERVAL when commits do not (`full` is false), because
 * SQLite itself would do so only before a checkpoint. */
#ifndef SEISMO_DAEMON_DATABASE_H
#define SEISMO_DAEMON_DATABASE_H

#include <sqlite3.h>
#include <stdbool.h>

#include "daemon/archive/source.h"
#include "proto/err.h"

/* Up to this size the whole file is checked at the start, a larger one only when a page of it has
 * been found damaged (aside.h). */
#define DATABASE_CHECK_BYTES (32 << 20)
/* Pages of 4 kB in the log before a checkpoint begins. Few, because a commit waits for the disk
 * while the log is synced: at 5,000 single steps/s p99 was 15 ms with 1000 and 24 ms with 4096. */
#define DATABASE_LOG_PAGES 1000
#define DATABASE_SYNC_INTERVAL 1 /* s between syncs of the log when commits do not sync it */

struct database;

/* Opens or creates the file at `path`. Refused, each with a text that says what to do: a database
 * of a newer version, of another program, or damaged. That no other daemon has it is the caller's
 * care (datadir.h).
 * `full`: a commit that has returned survives a power cut. Otherwise it survives a crash of this
 * process, and a power cut takes at most what was committed since the last sync of the log, whole
 * transactions from the end, never the database. */
int database_new(const char *path, bool full, struct database **ret_database,
                 char errmsg[SEISMO_ERRMSG]);

/* Stops the checkpoints and closes; statements must have been finalized. */
void database_free(struct database **database);

sqlite3 *database_handle(const struct database *d);
const char *database_path(const struct database *d);

/* Says what went wrong last, where and what to do; returns the code that fits. */
int database_failed(const struct database *d, char errmsg[SEISMO_ERRMSG]);

/* A transaction has just been committed: begins or finishes a checkpoint when one is due. */
void database_committed(struct database *d);

#endif
