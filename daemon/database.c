#include "daemon/database.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/aside.h"
#include "daemon/log.h"

/* Step i brings a database from version i to i + 1. */
static const char *const migration[] = {
#include "daemon/schema.sql.inc" /* schema.sql as a C string, see meson.build */
};
static_assert(sizeof migration / sizeof *migration == DATABASE_VERSION,
              "every version has its step");

enum checkpoint { CHECKPOINT_IDLE, CHECKPOINT_ASKED, CHECKPOINT_WRITTEN };

struct database {
    char *path;
    sqlite3 *db;

    int log_pages; /* in the log after the last commit */
    int due;       /* log_pages at which the next checkpoint begins */

    pthread_t thread;
    bool has_thread;
    sqlite3 *thread_db; /* of the checkpoint thread */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    enum checkpoint checkpoint; /* under the mutex */
    bool stopping;              /* under the mutex */
    bool unsynced;              /* under the mutex: commits since the log was synced */
    struct timespec sync_due;   /* under the mutex, monotonic, while unsynced */
    bool full;                  /* commits sync by themselves */
    bool sync_failed;           /* of the thread: the last sync */
};

int database_failed(const struct database *d, char errmsg[SEISMO_ERRMSG])
{
    int code = d->db ? sqlite3_errcode(d->db) & 0xff : SQLITE_NOMEM;
    int cause = code == SQLITE_IOERR ? sqlite3_system_errno(d->db) : 0;
    if (cause == ENOSPC || cause == EDQUOT) {
        code = SQLITE_FULL; /* of the file that the connections share, SQLite says only IOERR */
    }
    int err = SEISMO_EIO;
    const char *advice = "the daemon goes on trying";
    switch (code) {
    case SQLITE_FULL:
        advice = "free space on its disk; the daemon goes on by itself then";
        break;
    case SQLITE_IOERR:
        advice = "look into the system's log for errors of its disk";
        break;
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
        advice = "the directory must exist and be writable for the user of seismod";
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        advice = "another program holds a write lock on it: let it finish";
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        err = SEISMO_ECORRUPT;
        advice = "start the daemon again: it then checks the whole file, and sets it aside";
        break;
    case SQLITE_NOMEM:
        err = SEISMO_ENOMEM;
        break;
    }
    snprintf(errmsg, SEISMO_ERRMSG, "%.110s: %.50s: %s", d->path,
             d->db ? sqlite3_errmsg(d->db) : "out of memory", advice);
    return err;
}

static int pragma_int(sqlite3 *db, const char *sql, int64_t *ret)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
    if (rc == SQLITE_ROW) {
        *ret = sqlite3_column_int64(stmt, 0);
    }
    sqlite3_finalize(stmt);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int exec(struct database *d, const char *sql, char errmsg[SEISMO_ERRMSG])
{
    return sqlite3_exec(d->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : database_failed(d, errmsg);
}

/* Reads the whole file when that is quick, or called for. The pages of a large one are checked as
 * they are read. */
static int check_pages(struct database *d, char errmsg[SEISMO_ERRMSG])
{
    int64_t pages = 0, size = 0;
    if (pragma_int(d->db, "PRAGMA page_count", &pages) != SQLITE_OK ||
        pragma_int(d->db, "PRAGMA page_size", &size) != SQLITE_OK) {
        return database_failed(d, errmsg);
    }
    if (pages * size > DATABASE_CHECK_BYTES && !aside_is_asked(d->path)) {
        return 0;
    }
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(d->db, "PRAGMA quick_check(1)", -1, &stmt, NULL);
    rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
    const char *said = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    int err = 0;
    if (rc != SQLITE_ROW) {
        err = database_failed(d, errmsg);
    } else if (!said || strcmp(said, "ok") != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "%.200s is damaged", d->path);
        err = SEISMO_ECORRUPT;
    } else {
        aside_done(d->path);
    }
    sqlite3_finalize(stmt);
    return err;
}

/* Refuses what is not ours before anything is changed in it. */
static int identify(struct database *d, int64_t *ret_version, char errmsg[SEISMO_ERRMSG])
{
    int64_t version = 0, application = 0, tables = 0;
    if (pragma_int(d->db, "PRAGMA user_version", &version) != SQLITE_OK ||
        pragma_int(d->db, "PRAGMA application_id", &application) != SQLITE_OK ||
        pragma_int(d->db, "SELECT count(*) FROM sqlite_schema", &tables) != SQLITE_OK) {
        return database_failed(d, errmsg);
    }
    if (tables > 0 && application != DATABASE_APPLICATION) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "%.140s is a database of another program: choose another --data directory",
                 d->path);
        return SEISMO_EVERSION;
    }
    if (version > DATABASE_VERSION) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "%.110s has schema version %lld and this seismod knows only up to %d: install the "
                 "newer seismod that wrote it",
                 d->path, (long long)version, DATABASE_VERSION);
        return SEISMO_EVERSION;
    }
    *ret_version = version;
    return check_pages(d, errmsg);
}

static int migrate(struct database *d, int64_t version, char errmsg[SEISMO_ERRMSG])
{
    if (version == DATABASE_VERSION) {
        return 0;
    }
    int err = exec(d, "BEGIN IMMEDIATE", errmsg);
    for (int64_t v = version; !err && v < DATABASE_VERSION; v++) {
        err = exec(d, migration[v], errmsg);
    }
    if (!err) {
        char sql[96];
        snprintf(sql, sizeof sql, "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT",
                 DATABASE_APPLICATION, DATABASE_VERSION);
        err = exec(d, sql, errmsg);
    }
    if (err && !sqlite3_get_autocommit(d->db)) {
        sqlite3_exec(d->db, "ROLLBACK", NULL, NULL, NULL);
    }
    return err;
}

static int on_commit(void *arg, sqlite3 *db, const char *name, int pages)
{
    (void)db;
    (void)name;
    struct database *d = arg;
    if (pages < d->log_pages) {
        d->due = DATABASE_LOG_PAGES; /* the log has begun anew */
    }
    d->log_pages = pages;
    return SQLITE_OK;
}

static void checkpoint(struct database *d)
{
    int rc = sqlite3_wal_checkpoint_v2(d->thread_db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (rc != SQLITE_OK && rc != SQLITE_BUSY) {
        /* Nothing is lost: the log keeps what could not be written back. */
        log_warning("store", "%s: checkpoint failed: %s", d->path, sqlite3_errstr(rc));
    }
}

/* Syncs the log through the file that this thread's connection has open. */
static void sync_log(struct database *d)
{
    sqlite3_file *log = NULL;
    /* The log is opened by the first reading. */
    int rc = sqlite3_exec(d->thread_db, "PRAGMA user_version", NULL, NULL, NULL);
    rc = rc == SQLITE_OK
             ? sqlite3_file_control(d->thread_db, NULL, SQLITE_FCNTL_JOURNAL_POINTER, &log)
             : rc;
    if (rc == SQLITE_OK && log && log->pMethods) {
        rc = log->pMethods->xSync(log, SQLITE_SYNC_NORMAL);
    }
    if (rc != SQLITE_OK && !d->sync_failed) {
        log_warning("store", "%s: the log cannot be synced, a power cut would take its end: %s",
                    d->path, sqlite3_errstr(rc));
    }
    d->sync_failed = rc != SQLITE_OK;
}

/* Waits, under the mutex, for something to do. True: the log is due to be synced. */
static bool wait_for_work(struct database *d)
{
    while (!d->stopping && d->checkpoint != CHECKPOINT_ASKED) {
        if (!d->unsynced) {
            pthread_cond_wait(&d->wake, &d->mutex);
        } else if (pthread_cond_timedwait(&d->wake, &d->mutex, &d->sync_due) == ETIMEDOUT) {
            return d->unsynced;
        }
    }
    return false;
}

static void *checkpoint_thread(void *arg)
{
    struct database *d = arg;
    pthread_mutex_lock(&d->mutex);
    for (;;) {
        bool sync = wait_for_work(d), asked = d->checkpoint == CHECKPOINT_ASKED;
        if (d->stopping) {
            break;
        }
        d->unsynced = d->unsynced && !sync;
        pthread_mutex_unlock(&d->mutex);
        if (asked) {
            checkpoint(d);
        }
        if (sync) {
            sync_log(d);
        }
        pthread_mutex_lock(&d->mutex);
        d->checkpoint = asked ? CHECKPOINT_WRITTEN : d->checkpoint;
    }
    pthread_mutex_unlock(&d->mutex);
    return NULL;
}

void database_committed(struct database *d)
{
    pthread_mutex_lock(&d->mutex);
    enum checkpoint state = d->checkpoint;
    bool first = !d->full && !d->unsynced;
    if (first) {
        clock_gettime(CLOCK_MONOTONIC, &d->sync_due);
        d->sync_due.tv_sec += DATABASE_SYNC_INTERVAL;
        d->unsynced = true;
    }
    if (state == CHECKPOINT_WRITTEN) {
        d->checkpoint = CHECKPOINT_IDLE;
    } else if (state == CHECKPOINT_IDLE && d->log_pages >= d->due) {
        d->checkpoint = CHECKPOINT_ASKED;
    }
    if (first || d->checkpoint == CHECKPOINT_ASKED) {
        pthread_cond_signal(&d->wake);
    }
    pthread_mutex_unlock(&d->mutex);
    if (state == CHECKPOINT_WRITTEN) {
        /* When a reader still needs the log it cannot begin anew now: try again one size later. */
        d->due = d->log_pages + DATABASE_LOG_PAGES;
        sqlite3_wal_checkpoint_v2(d->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    }
}

static int start_thread(struct database *d, char errmsg[SEISMO_ERRMSG])
{
    int rc =
        sqlite3_open_v2(d->path, &d->thread_db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) {
        snprintf(errmsg, SEISMO_ERRMSG, "%.160s: %s", d->path, sqlite3_errstr(rc));
        return rc == SQLITE_NOMEM ? SEISMO_ENOMEM : SEISMO_EIO;
    }
    /* Signals are the loop's. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&d->thread, NULL, checkpoint_thread, d);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot start the checkpoint thread: %s", strerror(rc));
        return SEISMO_ENOMEM;
    }
    d->has_thread = true;
    return 0;
}

static int set_up(struct database *d, bool full, char errmsg[SEISMO_ERRMSG])
{
    if (sqlite3_open_v2(d->path, &d->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK) {
        return database_failed(d, errmsg);
    }
    sqlite3_extended_result_codes(d->db, 1);
    sqlite3_busy_timeout(d->db, 1000);
    int64_t version = 0;
    int err = identify(d, &version, errmsg);
    if (err) {
        return err;
    }
    /* cache_size: 2 MB is enough, because what is read back (the tails) was just written. */
    /* Until the log is in use a commit ends with the deletion of a journal; EXTRA syncs that, too.
     * Otherwise a power cut could bring the journal back, and with it the empty database. */
    err = exec(d,
               "PRAGMA synchronous=EXTRA; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; "
               "PRAGMA cache_size=-2000; "
               "PRAGMA journal_size_limit=16777216; PRAGMA temp_store=MEMORY",
               errmsg);
    err =
        err ? err : exec(d, full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", errmsg);
    err = err ? err : migrate(d, version, errmsg);
    sqlite3_wal_hook(d->db, on_commit, d);
    return err ? err : start_thread(d, errmsg);
}

int database_new(const char *path, bool full, struct database **ret_database,
                 char errmsg[SEISMO_ERRMSG])
{
    struct database *d = calloc(1, sizeof *d);
    if (d) {
        d->due = DATABASE_LOG_PAGES;
        pthread_condattr_t attr;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_mutex_init(&d->mutex, NULL);
        pthread_cond_init(&d->wake, &attr);
        pthread_condattr_destroy(&attr);
        d->full = full;
        d->path = strdup(path);
    }
    if (!d || !d->path) {
        snprintf(errmsg, SEISMO_ERRMSG, "opening %.200s: out of memory", path);
        database_free(&d);
        return SEISMO_ENOMEM;
    }
    int err = set_up(d, full, errmsg);
    if (err) {
        database_free(&d);
        return err;
    }
    *ret_database = d;
    return 0;
}

void database_free(struct database **database)
{
    struct database *d = *database;
    if (!d) {
        return;
    }
    *database = NULL;
    if (d->has_thread) {
        pthread_mutex_lock(&d->mutex);
        d->stopping = true;
        pthread_mutex_unlock(&d->mutex);
        pthread_cond_signal(&d->wake);
        pthread_join(d->thread, NULL);
    }
    sqlite3_close(d->thread_db);
    sqlite3_close(d->db);
    pthread_cond_destroy(&d->wake);
    pthread_mutex_destroy(&d->mutex);
    free(d->path);
    free(d);
}

sqlite3 *database_handle(const struct database *d)
{
    return d->db;
}

const char *database_path(const struct database *d)
{
    return d->path;
}
