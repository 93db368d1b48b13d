#include "daemon/archive/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/archive/source.h"

#define PAGES 1000   /* copied between two looks at `progress` */
#define BUSY_SLEEP 5 /* ms */

struct backup {
    const char *from, *to;
    char part[PATH_MAX]; /* under this name until it is whole */
    bool made;
    sqlite3 *source, *copy;
    const struct backup_ops *ops;
    void *arg;
};

static int fail_errno(const char *what, const char *path, char errmsg[SEISMO_ERRMSG])
{
    snprintf(errmsg, SEISMO_ERRMSG, "cannot %s %.180s: %s", what, path, strerror(errno));
    return SEISMO_EIO;
}

static bool is_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Whether the backup would take the place of the database or of one of its files, there now or
 * not: a daemon would go on writing into what is nowhere any more. */
static bool is_its_own(const char *from, const char *to)
{
    static const char *const part[] = {"", "-wal", "-shm", "-journal"};
    char from_dir[PATH_MAX], to_dir[PATH_MAX], from_copy[PATH_MAX], to_copy[PATH_MAX];
    snprintf(from_dir, sizeof from_dir, "%s", from);
    snprintf(from_copy, sizeof from_copy, "%s", from);
    snprintf(to_dir, sizeof to_dir, "%s", to);
    snprintf(to_copy, sizeof to_copy, "%s", to);
    bool beside = is_same(dirname(from_dir), dirname(to_dir));
    const char *from_name = basename(from_copy), *to_name = basename(to_copy);
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        char path[PATH_MAX + 16], name[PATH_MAX + 16];
        snprintf(path, sizeof path, "%s%s", from, part[i]);
        snprintf(name, sizeof name, "%s%s", from_name, part[i]);
        if (is_same(path, to) || (beside && strcmp(name, to_name) == 0)) {
            return true;
        }
    }
    return false;
}

/* The file is made here, so that nobody else can ever read it, and then opened by SQLite. */
static int make_part(struct backup *b, char errmsg[SEISMO_ERRMSG])
{
    if ((size_t)snprintf(b->part, sizeof b->part, "%s.partial-%d", b->to, (int)getpid()) >=
        sizeof b->part) {
        snprintf(errmsg, SEISMO_ERRMSG, "the name of the backup is too long");
        return SEISMO_EINVAL;
    }
    int fd = open(b->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return fail_errno("write", b->part, errmsg);
    }
    close(fd);
    b->made = true;
    if (sqlite3_open_v2(b->part, &b->copy, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        return source_failed(b->copy, b->part, errmsg);
    }
    return 0;
}

static int copy_pages(struct backup *b, sqlite3_backup *job, char errmsg[SEISMO_ERRMSG])
{
    int rc;
    while ((rc = sqlite3_backup_step(job, PAGES)) != SQLITE_DONE) {
        int all = sqlite3_backup_pagecount(job), left = sqlite3_backup_remaining(job);
        if (rc != SQLITE_OK && rc != SQLITE_BUSY && rc != SQLITE_LOCKED) {
            snprintf(errmsg, SEISMO_ERRMSG, "copying %.100s to %.100s: %s", b->from, b->part,
                     sqlite3_errstr(rc));
            return SEISMO_EIO;
        }
        if (b->ops->progress(b->arg, all > 0 ? (double)(all - left) / all : 0)) {
            snprintf(errmsg, SEISMO_ERRMSG, "interrupted, there is no backup");
            return SEISMO_EBUSY;
        }
        if (rc != SQLITE_OK) {
            sqlite3_sleep(BUSY_SLEEP);
        }
    }
    return 0;
}

/* Within one transaction of the source, so that what is committed meanwhile does not begin the copy
 * anew. */
static int copy(struct backup *b, char errmsg[SEISMO_ERRMSG])
{
    if (sqlite3_exec(b->source, "BEGIN; SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL) !=
        SQLITE_OK) {
        return source_failed(b->source, b->from, errmsg);
    }
    sqlite3_backup *job = sqlite3_backup_init(b->copy, "main", b->source, "main");
    if (!job) {
        return source_failed(b->copy, b->part, errmsg);
    }
    int err = copy_pages(b, job, errmsg);
    int rc = sqlite3_backup_finish(job);
    sqlite3_exec(b->source, "ROLLBACK", NULL, NULL, NULL);
    return err || rc == SQLITE_OK ? err : source_failed(b->copy, b->part, errmsg);
}

/* One file without a log, whose pages are sound. */
static int settle(struct backup *b, char errmsg[SEISMO_ERRMSG])
{
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_exec(b->copy, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(b->copy, "PRAGMA quick_check(1)", -1, &stmt, NULL) != SQLITE_OK) {
        return source_failed(b->copy, b->part, errmsg);
    }
    int rc = sqlite3_step(stmt);
    const char *said = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    bool sound = said && strcmp(said, "ok") == 0;
    if (!said) { /* no answer is no damage: memory may be out */
        int err = source_failed(b->copy, b->part, errmsg);
        sqlite3_finalize(stmt);
        return err;
    }
    sqlite3_finalize(stmt);
    if (!sound) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "%.110s is damaged, and so would be its backup: see `seismo check`", b->from);
    }
    return sound ? 0 : SEISMO_ECORRUPT;
}

static int sync_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

static int put_in_place(struct backup *b, int64_t *ret_bytes, char errmsg[SEISMO_ERRMSG])
{
    char copy[PATH_MAX];
    struct stat st;
    sqlite3_close(b->copy);
    b->copy = NULL;
    if (stat(b->part, &st) != 0 || sync_path(b->part, O_RDONLY) != 0) {
        return fail_errno("sync", b->part, errmsg);
    }
    if (rename(b->part, b->to) != 0) {
        return fail_errno("make", b->to, errmsg);
    }
    b->made = false;
    snprintf(copy, sizeof copy, "%s", b->to);
    if (sync_path(dirname(copy), O_RDONLY | O_DIRECTORY) != 0) {
        return fail_errno("sync the directory of", b->to, errmsg);
    }
    *ret_bytes = (int64_t)st.st_size;
    return 0;
}

int backup_database(const char *from, const char *to, bool replace, const struct backup_ops *ops,
                    void *arg, int64_t *ret_bytes, char errmsg[SEISMO_ERRMSG])
{
    struct backup b = {.from = from, .to = to, .ops = ops, .arg = arg};
    if (is_its_own(from, to)) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "%.180s belongs to the database that is copied: give the backup another name", to);
        return SEISMO_EINVAL;
    }
    if (!replace && access(to, F_OK) == 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "%.180s is there already: --force replaces it", to);
        return SEISMO_EINVAL;
    }
    int err = source_open(from, &b.source, errmsg);
    err = err ? err : make_part(&b, errmsg);
    err = err ? err : copy(&b, errmsg);
    err = err ? err : settle(&b, errmsg);
    if (!err && source_is_stale(from, b.source)) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "%.150s was opened by a daemon during the backup: make it again", from);
        err = SEISMO_EBUSY;
    }
    err = err ? err : put_in_place(&b, ret_bytes, errmsg);
    sqlite3_close(b.source);
    sqlite3_close(b.copy);
    if (b.made) {
        unlink(b.part);
    }
    return err;
}
