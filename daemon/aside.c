#include "daemon/aside.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <libgen.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PIECE (1 << 20) /* bytes that are read at a time */
#define MARK "-check"   /* PATH-check: the next start looks at every page */

static bool means_damage(int rc)
{
    return (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB;
}

/* One look: SEISMO_ECORRUPT, with SQLite's words, SEISMO_EIO or 0. */
static int look(const char *path, char why[SEISMO_ERRMSG])
{
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_busy_timeout(db, 1000);
        sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL); /* looks, and no more */
        rc = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &stmt, NULL);
    }
    rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
    const char *said = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    bool damaged = means_damage(rc) || (said && strcmp(said, "ok") != 0);
    if (damaged) {
        /* Its first line may be no more than a heading. */
        const char *line = said && strncmp(said, "***", 3) == 0 ? strchr(said, '\n') : NULL;
        line = line ? line + 1 : said ? said : sqlite3_errstr(rc);
        snprintf(why, SEISMO_ERRMSG, "%.*s", (int)strcspn(line, "\n"), line);
    }
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return damaged ? SEISMO_ECORRUPT : (rc & 0xff) == SQLITE_IOERR ? SEISMO_EIO : 0;
}

/* Reads a file, if there is one, to its end; 0, or errno. */
static int read_through(const char *path, const char *suffix)
{
    char name[PATH_MAX + 16];
    snprintf(name, sizeof name, "%s%s", path, suffix);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? 0 : errno;
    }
    char *piece = malloc(PIECE);
    int error = piece ? 0 : ENOMEM;
    ssize_t n = 1;
    for (off_t at = 0; !error && n > 0; at += n) {
        n = pread(fd, piece, PIECE, at);
        error = n < 0 ? errno : 0;
    }
    free(piece);
    close(fd);
    return error;
}

/* What SQLite says does not tell damage from a disk that fails: an error of the kernel's is handed
 * on as a malformed image, or stands in a line like those about damage. So the files are read here,
 * and looked at again, because an error may have passed. */
int aside_look(const char *path, char why[SEISMO_ERRMSG])
{
    struct stat st;
    int found = stat(path, &st) == 0 && st.st_size > 0 ? look(path, why) : 0;
    if (!found) {
        return 0;
    }
    int error = read_through(path, "");
    error = error ? error : read_through(path, "-wal");
    if (!error && found == SEISMO_ECORRUPT && look(path, why) == SEISMO_ECORRUPT) {
        return SEISMO_ECORRUPT;
    }
    snprintf(why, SEISMO_ERRMSG,
             "%.110s cannot be read (%s): look into the system's log for errors of its disk", path,
             error ? strerror(error) : "for a moment");
    return SEISMO_EIO;
}

static void set_name(char ret[ASIDE_NAME], const char *path)
{
    const char *slash = strrchr(path, '/');
    snprintf(ret, ASIDE_NAME, "%.255s", slash ? slash + 1 : path);
}

static int sync_directory(const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

/* A name that nothing has yet. */
static void choose_name(const char *path, double now, char ret[PATH_MAX])
{
    char stamp[32];
    time_t seconds = (time_t)now;
    struct tm tm;
    strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", gmtime_r(&seconds, &tm));
    int n = snprintf(ret, PATH_MAX, "%s.damaged-%s", path, stamp);
    for (int i = 2; n > 0 && n < PATH_MAX && access(ret, F_OK) == 0; i++) {
        n = snprintf(ret, PATH_MAX, "%s.damaged-%s-%d", path, stamp, i);
    }
}

/* Renames one file, which need not be there when it is `optional`. */
static int move(const char *from, const char *to, bool optional, char errmsg[SEISMO_ERRMSG])
{
    if (rename(from, to) == 0 || (optional && errno == ENOENT)) {
        return 0;
    }
    snprintf(errmsg, SEISMO_ERRMSG,
             "%.120s is damaged and cannot be set aside (%s): move it away by hand", from,
             strerror(errno));
    return SEISMO_EIO;
}

/* All is renamed: makes that last. */
static int finish(const char *path, const char *to, char ret_name[ASIDE_NAME],
                  char errmsg[SEISMO_ERRMSG])
{
    if (sync_directory(path) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "syncing the directory of %.150s: %s", path,
                 strerror(errno));
        return SEISMO_EIO;
    }
    set_name(ret_name, to);
    return 0;
}

int aside_move(const char *path, double now, char ret_name[ASIDE_NAME], char errmsg[SEISMO_ERRMSG])
{
    /* The database goes last: without it beside them SQLite would delete the log as left over. */
    static const char *const part[] = {"-shm", "-journal", "-wal", ""};
    char to[PATH_MAX];
    choose_name(path, now, to);
    for (unsigned i = 0; i < sizeof part / sizeof *part; i++) {
        char a[PATH_MAX + 16], b[PATH_MAX + 16];
        snprintf(a, sizeof a, "%s%s", path, part[i]);
        snprintf(b, sizeof b, "%s%s", to, part[i]);
        int err = move(a, b, *part[i], errmsg);
        if (err) {
            return err;
        }
    }
    return finish(path, to, ret_name, errmsg);
}

static void log_path(const char *path, char ret[PATH_MAX + 16])
{
    snprintf(ret, PATH_MAX + 16, "%s-wal", path);
}

bool aside_is_orphan(const char *path)
{
    char log[PATH_MAX + 16];
    struct stat st;
    log_path(path, log);
    bool empty = stat(path, &st) == 0 ? st.st_size == 0 : errno == ENOENT;
    return empty && stat(log, &st) == 0 && st.st_size > 0;
}

int aside_move_log(const char *path, double now, char ret_name[ASIDE_NAME],
                   char errmsg[SEISMO_ERRMSG])
{
    char log[PATH_MAX + 16], to[PATH_MAX];
    log_path(path, log);
    choose_name(path, now, to);
    int err = move(log, to, false, errmsg);
    return err ? err : finish(path, to, ret_name, errmsg);
}

bool aside_find(const char *path, char ret_name[ASIDE_NAME])
{
    char copy[PATH_MAX], escaped[2 * PATH_MAX], pattern[2 * PATH_MAX + 32];
    snprintf(copy, sizeof copy, "%s", path);
    char *to = escaped;
    for (const char *p = copy; *p; p++) {
        if (strchr("*?[\\", *p)) {
            *to++ = '\\';
        }
        *to++ = *p;
    }
    *to = 0;
    snprintf(pattern, sizeof pattern, "%s.damaged-*", escaped);
    glob_t found;
    bool any = false;
    if (glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) { /* sorted, and so by time */
            const char *name = found.gl_pathv[i], *last = strrchr(name, '-');
            if (strcmp(last, "-wal") != 0 && strcmp(last, "-shm") != 0 &&
                strcmp(last, "-journal") != 0) {
                any = true;
                set_name(ret_name, name);
            }
        }
    }
    globfree(&found);
    return any;
}

static void mark_path(const char *path, char ret[PATH_MAX + 16])
{
    snprintf(ret, PATH_MAX + 16, "%s" MARK, path);
}

void aside_ask(const char *path)
{
    char mark[PATH_MAX + 16];
    mark_path(path, mark);
    int fd = open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) { /* otherwise the next start meets the same damage again */
        close(fd);
    }
}

bool aside_is_asked(const char *path)
{
    char mark[PATH_MAX + 16];
    mark_path(path, mark);
    return access(mark, F_OK) == 0;
}

void aside_done(const char *path)
{
    char mark[PATH_MAX + 16];
    mark_path(path, mark);
    unlink(mark);
}
