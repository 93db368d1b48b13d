#include "daemon/archive/source.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUSY_TIMEOUT 5000 /* ms, to wait out a recovery */

int source_failed(sqlite3 *db, const char *path, char errmsg[SEISMO_ERRMSG])
{
    int code = db ? sqlite3_errcode(db) & 0xff : SQLITE_NOMEM;
    int err = code == SQLITE_NOMEM                              ? SEISMO_ENOMEM
              : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? SEISMO_ECORRUPT
              : code == SQLITE_BUSY || code == SQLITE_LOCKED    ? SEISMO_EBUSY
                                                                : SEISMO_EIO;
    snprintf(errmsg, SEISMO_ERRMSG, "%.150s: %.90s", path,
             db ? sqlite3_errmsg(db) : "out of memory");
    return err;
}

bool source_no_memory(sqlite3 *db)
{
    return (sqlite3_errcode(db) & 0xff) == SQLITE_NOMEM;
}

/* "file:" URI of the path, so that a parameter can be added to it. */
static char *uri_of(const char *path, const char *parameter)
{
    sqlite3_str *s = sqlite3_str_new(NULL);
    sqlite3_str_appendall(s, "file:");
    for (const char *p = path; *p; p++) {
        if (strchr("%?#", *p)) {
            sqlite3_str_appendf(s, "%%%02x", (unsigned char)*p);
        } else {
            sqlite3_str_appendchar(s, 1, *p);
        }
    }
    sqlite3_str_appendall(s, parameter);
    return sqlite3_str_finish(s);
}

static bool has_log(const char *path)
{
    char log[PATH_MAX + sizeof "-wal"];
    snprintf(log, sizeof log, "%s-wal", path);
    return access(log, F_OK) == 0;
}

static int pragma(sqlite3 *db, const char *sql, int64_t *ret)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
    *ret = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int identify(sqlite3 *db, const char *path, char errmsg[SEISMO_ERRMSG])
{
    int64_t version, application;
    if (pragma(db, "PRAGMA user_version", &version) != SQLITE_OK ||
        pragma(db, "PRAGMA application_id", &application) != SQLITE_OK) {
        return source_failed(db, path, errmsg);
    }
    if (application != DATABASE_APPLICATION) {
        snprintf(errmsg, SEISMO_ERRMSG, "%.180s is no database of seismod", path);
        return SEISMO_EVERSION;
    }
    if (version > DATABASE_VERSION) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "%.110s has schema version %" PRId64 " and this program knows only up to %d: "
                 "install the newer seismo",
                 path, version, DATABASE_VERSION);
        return SEISMO_EVERSION;
    }
    return 0;
}

int source_open(const char *path, sqlite3 **ret_db, char errmsg[SEISMO_ERRMSG])
{
    if (access(path, R_OK) != 0) {
        int missing = errno == ENOENT || errno == ENOTDIR;
        snprintf(errmsg, SEISMO_ERRMSG, "cannot read %.150s: %s%s", path, strerror(errno),
                 errno == EACCES ? "; be the user of seismod, or root" : "");
        return missing ? SEISMO_ENOTFOUND : SEISMO_EIO;
    }
    struct stat st;
    if (stat(path, &st) == 0 && st.st_size == 0 && has_log(path)) {
        /* SQLite would delete the log, even for a reader. */
        snprintf(
            errmsg, SEISMO_ERRMSG,
            "%.150s is empty, and there is a log beside it: start seismod, which sets it aside",
            path);
        return SEISMO_ECORRUPT;
    }
    char *uri = uri_of(path, has_log(path) ? "" : "?immutable=1");
    sqlite3 *db = NULL;
    int err = 0;
    if (!uri ||
        sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL) != SQLITE_OK) {
        err = source_failed(db, path, errmsg);
    }
    sqlite3_free(uri);
    if (!err) {
        sqlite3_busy_timeout(db, BUSY_TIMEOUT);
        err = identify(db, path, errmsg);
    }
    if (err) {
        sqlite3_close(db);
        return err;
    }
    *ret_db = db;
    return 0;
}

bool source_is_stale(const char *path, sqlite3 *db)
{
    return sqlite3_uri_boolean(sqlite3_db_filename(db, NULL), "immutable", 0) && has_log(path);
}
