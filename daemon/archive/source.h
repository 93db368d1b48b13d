/* Reading a database from outside the daemon: while it runs, after it, or a backup of it. */
#ifndef SEISMO_DAEMON_ARCHIVE_SOURCE_H
#define SEISMO_DAEMON_ARCHIVE_SOURCE_H

#include <sqlite3.h>
#include <stdbool.h>

#include "proto/err.h"

#define DATABASE_VERSION 1              /* of schema.sql: PRAGMA user_version */
#define DATABASE_APPLICATION 0x73656973 /* "seis": PRAGMA application_id */

/* Opens the file read-only and makes sure that it is a database of seismod that this program knows.
 * A database that nobody has open is read as it lies there, so that no file has to be made beside
 * it. SEISMO_ENOTFOUND: there is no such file. SEISMO_EVERSION: newer, or of another program.
 * SEISMO_ECORRUPT: no database, or too damaged to be opened. */
int source_open(const char *path, sqlite3 **ret_db, char errmsg[SEISMO_ERRMSG]);

/* Whether somebody has opened it for writing since: what was read may then be a mixture. */
bool source_is_stale(const char *path, sqlite3 *db);

/* Whether SQLite's last call lacked memory, such as a column's value that came out as NULL. */
bool source_no_memory(sqlite3 *db);

/* What SQLite said last, with the code that fits it. */
int source_failed(sqlite3 *db, const char *path, char errmsg[SEISMO_ERRMSG]);

#endif
