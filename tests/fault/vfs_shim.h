/* An SQLite file layer over the default one that fails on demand, and remembers what a disk would.
 *
 * Failing: the n-th call of one kind, and as many after it as asked for, returns an error; a write
 * may do half of its work before.
 *
 * Remembering: every write, truncation, deletion and sync of the database and its log is recorded
 * with its bytes, and marks of the test between them. From that record comes what lies on the disk
 * when the power is cut after any of them: what was synced for sure, and of the rest nothing, all,
 * or any part. A sync counts for what was written before it began. */
#ifndef SEISMO_TESTS_VFS_SHIM_H
#define SEISMO_TESTS_VFS_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*  X(constant, name): calls that can fail */
#define SHIM_CALL_MAP(X)         \
    X(SHIM_OPEN, "open")         \
    X(SHIM_DELETE, "delete")     \
    X(SHIM_ACCESS, "access")     \
    X(SHIM_READ, "read")         \
    X(SHIM_WRITE, "write")       \
    X(SHIM_SYNC, "sync")         \
    X(SHIM_TRUNCATE, "truncate") \
    X(SHIM_SIZE, "size")         \
    X(SHIM_LOCK, "lock")         \
    X(SHIM_SHM_MAP, "shm map")   \
    X(SHIM_SHM_LOCK, "shm lock")

enum shim_call {
#define X(constant, name) constant,
    SHIM_CALL_MAP(X)
#undef X
        SHIM_CALLS_N
};
const char *shim_call_name(enum shim_call call);

/* Makes it the default file layer of the process. Once, before the first database is opened. Syncs
 * end here: the power of the machine that runs the test stays on. */
void shim_install(void);

struct shim_fault {
    enum shim_call call;
    int code;  /* what it returns: SQLITE_IOERR_…, SQLITE_FULL … */
    int n;     /* the first one that fails, from 1 */
    int count; /* how many do */
    bool half; /* a write writes its first half before it fails */
};
void shim_fail(const struct shim_fault *fault);
void shim_heal(void);
int shim_hits(void); /* calls that failed since shim_fail */

/* ---- the record ---- */

enum shim_file { SHIM_DATABASE, SHIM_LOG, SHIM_JOURNAL, SHIM_FILES_N };
enum shim_what { SHIM_MARK, SHIM_WRITTEN, SHIM_TRUNCATED, SHIM_DELETED, SHIM_SYNCED };

struct shim_event {
    enum shim_what what;
    enum shim_file file;
    double when;    /* s, monotonic */
    int64_t at;     /* offset; of a truncation the size; of a mark its value */
    size_t n;       /* bytes */
    uint8_t *data;  /* n bytes */
    size_t covered; /* of a sync: events before this one were written before it began */
};

/* Starts an empty record. */
void shim_record_start(void);
/* Ends it; the events are borrowed until the next start or shim_record_free. */
const struct shim_event *shim_record_stop(size_t *ret_n);
void shim_record_resume(void); /* after a stop: goes on with the same record */
void shim_record_free(void);
void shim_mark(int64_t value);

/* ---- a disk, event by event ---- */

struct shim_disk;

struct shim_disk *shim_disk_new(void);
void shim_disk_free(struct shim_disk **disk);
/* The next event of the record has happened. */
void shim_disk_take(struct shim_disk *disk, const struct shim_event *events, size_t i);

enum shim_cut {
    SHIM_LOSE_ALL,  /* nothing that was not synced is there: the power is cut */
    SHIM_LOSE_NONE, /* everything written is there: the process was killed */
    SHIM_LOSE_SOME, /* any part of it, writes torn at sectors of 512 bytes */
};
/* Writes the files as they would be found after a cut now, to PATH, PATH-wal, PATH-journal. `seed`
 * decides what SHIM_LOSE_SOME loses. */
void shim_disk_write(const struct shim_disk *disk, const struct shim_event *events,
                     enum shim_cut cut, uint64_t seed, const char *path);

#endif
