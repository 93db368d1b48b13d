/* Damaged databases are set aside: renamed beside themselves, with their log, never deleted.
 *
 * PATH becomes PATH.damaged-20261124T175500Z and PATH-wal the same with -wal at its end, so that
 * the sqlite3 shell still opens the two together. A log that has lost its database becomes
 * PATH.damaged-… itself, because SQLite, asked to open the two, would delete it. */
#ifndef SEISMO_DAEMON_ASIDE_H
#define SEISMO_DAEMON_ASIDE_H

#include <stdbool.h>

#include "proto/err.h"

#define ASIDE_NAME 256 /* bytes of the name of a file, without its directory */

/* SEISMO_ECORRUPT: SQLite, looking at every page, calls the file damaged, or no database at all;
 * `why` has its words. SEISMO_EIO: the disk cannot be read, or could not a moment ago; `why` names
 * the file and says what to do. Otherwise 0: a lock, a missing permission or a lack of memory is no
 * damage, and neither is a file that is missing or empty, but see aside_is_orphan. */
int aside_look(const char *path, char why[SEISMO_ERRMSG]);

/* Renames the database; *ret_name is its name then. Nobody may have it open. `now`: s since the
 * epoch. */
int aside_move(const char *path, double now, char ret_name[ASIDE_NAME], char errmsg[SEISMO_ERRMSG]);

/* Whether there is a log and the database is missing or empty: what was committed is gone if SQLite
 * opens it. (A database that is being made has no log before it is a page long and synced.) */
bool aside_is_orphan(const char *path);

/* Renames the log of a database that is missing or empty, else like aside_move. */
int aside_move_log(const char *path, double now, char ret_name[ASIDE_NAME],
                   char errmsg[SEISMO_ERRMSG]);

/* The latest that was set aside and still lies there. */
bool aside_find(const char *path, char ret_name[ASIDE_NAME]);

/* A page was found damaged while the daemon ran: the next start looks at all of them, however many
 * there are (aside_is_asked), until aside_done. */
void aside_ask(const char *path);
bool aside_is_asked(const char *path);
void aside_done(const char *path);

#endif
