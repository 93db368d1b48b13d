#include "tests/fault/vfs_shim.h"

#include <assert.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECTOR 512

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "out of memory\n");
        abort();
    }
    return p;
}

const char *shim_call_name(enum shim_call call)
{
    static const char *const name[] = {
#define X(constant, text) text,
        SHIM_CALL_MAP(X)
#undef X
    };
    return name[call];
}

/* One file layer a process, as SQLite has it. */
static struct {
    sqlite3_vfs vfs, *real;
    pthread_mutex_t lock; /* guards the rest */
    bool failing;
    struct shim_fault fault;
    int calls, hits; /* of the kind that fails */
    bool recording;
    struct shim_event *events;
    size_t n, room;
} shim = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct file { /* what SQLite takes for its file */
    sqlite3_file base;
    enum shim_file which; /* SHIM_FILES_N: of no interest */
    sqlite3_file real[];
};

static sqlite3_file *real(sqlite3_file *file)
{
    return ((struct file *)file)->real;
}

/* The code with which this call has to fail, or SQLITE_OK. */
static int fate(enum shim_call call)
{
    int code = SQLITE_OK;
    pthread_mutex_lock(&shim.lock);
    if (shim.failing && call == shim.fault.call) {
        int i = ++shim.calls - shim.fault.n;
        if (i >= 0 && i < shim.fault.count) {
            code = shim.fault.code;
            shim.hits++;
        }
    }
    pthread_mutex_unlock(&shim.lock);
    return code;
}

void shim_fail(const struct shim_fault *fault)
{
    pthread_mutex_lock(&shim.lock);
    shim.failing = true;
    shim.fault = *fault;
    shim.calls = shim.hits = 0;
    pthread_mutex_unlock(&shim.lock);
}

void shim_heal(void)
{
    pthread_mutex_lock(&shim.lock);
    shim.failing = false;
    pthread_mutex_unlock(&shim.lock);
}

int shim_hits(void)
{
    pthread_mutex_lock(&shim.lock);
    int hits = shim.hits;
    pthread_mutex_unlock(&shim.lock);
    return hits;
}

/* ---- recording ---- */

static void record(struct shim_event event, const void *data)
{
    pthread_mutex_lock(&shim.lock);
    if (shim.recording && event.file < SHIM_FILES_N) {
        if (shim.n == shim.room) {
            shim.room = shim.room ? 2 * shim.room : 1024;
            shim.events = must(realloc(shim.events, shim.room * sizeof *shim.events));
        }
        if (data) {
            event.data = must(malloc(event.n));
            memcpy(event.data, data, event.n);
        }
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        event.when = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
        shim.events[shim.n++] = event;
    }
    pthread_mutex_unlock(&shim.lock);
}

void shim_mark(int64_t value)
{
    record((struct shim_event){.what = SHIM_MARK, .at = value}, NULL);
}

void shim_record_free(void)
{
    for (size_t i = 0; i < shim.n; i++) {
        free(shim.events[i].data);
    }
    free(shim.events);
    shim.events = NULL;
    shim.n = shim.room = 0;
}

void shim_record_start(void)
{
    pthread_mutex_lock(&shim.lock);
    shim_record_free();
    shim.recording = true;
    pthread_mutex_unlock(&shim.lock);
}

void shim_record_resume(void)
{
    pthread_mutex_lock(&shim.lock);
    shim.recording = true;
    pthread_mutex_unlock(&shim.lock);
}

const struct shim_event *shim_record_stop(size_t *ret_n)
{
    pthread_mutex_lock(&shim.lock);
    shim.recording = false;
    *ret_n = shim.n;
    pthread_mutex_unlock(&shim.lock);
    return shim.events;
}

/* ---- files ---- */

static int on_close(sqlite3_file *file)
{
    return real(file)->pMethods->xClose(real(file));
}

static int on_read(sqlite3_file *file, void *to, int n, sqlite3_int64 at)
{
    int code = fate(SHIM_READ);
    return code ? code : real(file)->pMethods->xRead(real(file), to, n, at);
}

static int on_write(sqlite3_file *file, const void *p, int n, sqlite3_int64 at)
{
    int code = fate(SHIM_WRITE);
    if (code) {
        if (shim.fault.half) {
            real(file)->pMethods->xWrite(real(file), p, n / 2, at);
        }
        return code;
    }
    int rc = real(file)->pMethods->xWrite(real(file), p, n, at);
    if (rc == SQLITE_OK) {
        record((struct shim_event){.what = SHIM_WRITTEN,
                                   .file = ((struct file *)file)->which,
                                   .at = at,
                                   .n = (size_t)n},
               p);
    }
    return rc;
}

static int on_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    int code = fate(SHIM_TRUNCATE);
    int rc = code ? code : real(file)->pMethods->xTruncate(real(file), size);
    if (rc == SQLITE_OK) {
        record((struct shim_event){.what = SHIM_TRUNCATED,
                                   .file = ((struct file *)file)->which,
                                   .at = size},
               NULL);
    }
    return rc;
}

static int on_sync(sqlite3_file *file, int flags)
{
    (void)flags;
    pthread_mutex_lock(&shim.lock);
    size_t covered = shim.n;
    pthread_mutex_unlock(&shim.lock);
    int rc = fate(SHIM_SYNC);
    if (rc == SQLITE_OK) {
        record((struct shim_event){.what = SHIM_SYNCED,
                                   .file = ((struct file *)file)->which,
                                   .covered = covered},
               NULL);
    }
    return rc;
}

static int on_size(sqlite3_file *file, sqlite3_int64 *ret)
{
    int code = fate(SHIM_SIZE);
    return code ? code : real(file)->pMethods->xFileSize(real(file), ret);
}

static int on_lock(sqlite3_file *file, int level)
{
    int code = fate(SHIM_LOCK);
    return code ? code : real(file)->pMethods->xLock(real(file), level);
}

static int on_unlock(sqlite3_file *file, int level)
{
    return real(file)->pMethods->xUnlock(real(file), level);
}

static int on_check_lock(sqlite3_file *file, int *ret)
{
    return real(file)->pMethods->xCheckReservedLock(real(file), ret);
}

static int on_control(sqlite3_file *file, int op, void *arg)
{
    return real(file)->pMethods->xFileControl(real(file), op, arg);
}

static int on_sector_size(sqlite3_file *file)
{
    return real(file)->pMethods->xSectorSize(real(file));
}

static int on_characteristics(sqlite3_file *file)
{
    return real(file)->pMethods->xDeviceCharacteristics(real(file));
}

static int on_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **ret)
{
    int code = fate(SHIM_SHM_MAP);
    return code ? code : real(file)->pMethods->xShmMap(real(file), page, size, extend, ret);
}

static int on_shm_lock(sqlite3_file *file, int offset, int n, int flags)
{
    /* Giving a lock back does not fail. */
    int code = flags & SQLITE_SHM_LOCK ? fate(SHIM_SHM_LOCK) : SQLITE_OK;
    return code ? code : real(file)->pMethods->xShmLock(real(file), offset, n, flags);
}

static void on_shm_barrier(sqlite3_file *file)
{
    real(file)->pMethods->xShmBarrier(real(file));
}

static int on_shm_unmap(sqlite3_file *file, int delete)
{
    return real(file)->pMethods->xShmUnmap(real(file), delete);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = on_close,
    .xRead = on_read,
    .xWrite = on_write,
    .xTruncate = on_truncate,
    .xSync = on_sync,
    .xFileSize = on_size,
    .xLock = on_lock,
    .xUnlock = on_unlock,
    .xCheckReservedLock = on_check_lock,
    .xFileControl = on_control,
    .xSectorSize = on_sector_size,
    .xDeviceCharacteristics = on_characteristics,
    .xShmMap = on_shm_map,
    .xShmLock = on_shm_lock,
    .xShmBarrier = on_shm_barrier,
    .xShmUnmap = on_shm_unmap,
};

static int on_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret)
{
    (void)vfs;
    struct file *f = (struct file *)file;
    file->pMethods = NULL;
    int code = fate(SHIM_OPEN);
    int rc = code ? code : shim.real->xOpen(shim.real, name, f->real, flags, ret);
    if (f->real->pMethods && rc == SQLITE_OK) {
        file->pMethods = &methods;
    }
    f->which = flags & SQLITE_OPEN_MAIN_DB        ? SHIM_DATABASE
               : flags & SQLITE_OPEN_WAL          ? SHIM_LOG
               : flags & SQLITE_OPEN_MAIN_JOURNAL ? SHIM_JOURNAL
                                                  : SHIM_FILES_N;
    return rc;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static int on_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    (void)vfs;
    int code = fate(SHIM_DELETE);
    int rc = code ? code : shim.real->xDelete(shim.real, name, sync);
    if (rc == SQLITE_OK) {
        enum shim_file which = ends_with(name, "-wal")       ? SHIM_LOG
                               : ends_with(name, "-journal") ? SHIM_JOURNAL
                                                             : SHIM_FILES_N;
        record((struct shim_event){.what = SHIM_DELETED, .file = which}, NULL);
        if (sync) { /* the directory was synced, too */
            record((struct shim_event){.what = SHIM_SYNCED, .file = which, .covered = SIZE_MAX},
                   NULL);
        }
    }
    return rc;
}

static int on_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret)
{
    (void)vfs;
    int code = fate(SHIM_ACCESS);
    return code ? code : shim.real->xAccess(shim.real, name, flags, ret);
}

void shim_install(void)
{
    shim.real = sqlite3_vfs_find(NULL);
    shim.vfs = *shim.real;
    shim.vfs.zName = "shim";
    shim.vfs.szOsFile = (int)sizeof(struct file) + shim.real->szOsFile;
    shim.vfs.xOpen = on_open;
    shim.vfs.xDelete = on_delete;
    shim.vfs.xAccess = on_access;
    sqlite3_vfs_register(&shim.vfs, 1);
}

/* ---- a disk ---- */

struct image {
    uint8_t *data;
    size_t n, room;
    bool there;
};

struct shim_disk {
    struct image synced[SHIM_FILES_N];
    size_t *pending[SHIM_FILES_N]; /* events since then, in order */
    size_t pending_n[SHIM_FILES_N], pending_room[SHIM_FILES_N];
};

struct shim_disk *shim_disk_new(void)
{
    return must(calloc(1, sizeof(struct shim_disk)));
}

void shim_disk_free(struct shim_disk **disk)
{
    for (int f = 0; f < SHIM_FILES_N; f++) {
        free((*disk)->synced[f].data);
        free((*disk)->pending[f]);
    }
    free(*disk);
    *disk = NULL;
}

static void resize(struct image *m, size_t n)
{
    if (n > m->room) {
        m->room = n > 2 * m->room ? n : 2 * m->room;
        m->data = must(realloc(m->data, m->room));
    }
    if (n > m->n) {
        memset(m->data + m->n, 0, n - m->n);
    }
    m->n = n;
    m->there = true;
}

/* The `n` first bytes of a write, or another event whole. */
static void apply(struct image *m, const struct shim_event *e, size_t n)
{
    switch (e->what) {
    case SHIM_WRITTEN:
        if ((size_t)e->at + n > m->n) {
            resize(m, (size_t)e->at + n);
        }
        memcpy(m->data + e->at, e->data, n);
        break;
    case SHIM_TRUNCATED:
        resize(m, (size_t)e->at);
        break;
    case SHIM_DELETED:
        m->n = 0;
        m->there = false;
        break;
    case SHIM_MARK:
    case SHIM_SYNCED:
        break;
    }
}

static void sync_file(struct shim_disk *d, const struct shim_event *events,
                      const struct shim_event *sync)
{
    enum shim_file f = sync->file;
    size_t done = 0;
    while (done < d->pending_n[f] && d->pending[f][done] < sync->covered) {
        const struct shim_event *e = &events[d->pending[f][done++]];
        apply(&d->synced[f], e, e->n);
    }
    d->pending_n[f] -= done;
    memmove(d->pending[f], d->pending[f] + done, d->pending_n[f] * sizeof *d->pending[f]);
}

void shim_disk_take(struct shim_disk *d, const struct shim_event *events, size_t i)
{
    const struct shim_event *e = &events[i];
    if (e->what == SHIM_MARK) {
        return;
    }
    if (e->what == SHIM_SYNCED) {
        sync_file(d, events, e);
        return;
    }
    enum shim_file f = e->file;
    if (d->pending_n[f] == d->pending_room[f]) {
        d->pending_room[f] = d->pending_room[f] ? 2 * d->pending_room[f] : 64;
        d->pending[f] = must(realloc(d->pending[f], d->pending_room[f] * sizeof *d->pending[f]));
    }
    d->pending[f][d->pending_n[f]++] = i;
}

static uint64_t draw(uint64_t *seed)
{
    *seed ^= *seed << 13; /* xorshift */
    *seed ^= *seed >> 7;
    return *seed ^= *seed << 17;
}

static void write_file(const char *path, const char *suffix, const struct image *m)
{
    char name[4096];
    snprintf(name, sizeof name, "%s%s", path, suffix);
    if (!m->there) {
        unlink(name);
        return;
    }
    FILE *out = must(fopen(name, "wb"));
    if (fwrite(m->data, 1, m->n, out) != m->n || fclose(out) != 0) {
        perror(name);
        abort();
    }
}

void shim_disk_write(const struct shim_disk *d, const struct shim_event *events, enum shim_cut cut,
                     uint64_t seed, const char *path)
{
    static const char *const suffix[] = {"", "-wal", "-journal"};
    seed = seed * 2654435769u + 88172645463325252u;
    for (int f = 0; f < SHIM_FILES_N; f++) {
        struct image m = {0};
        resize(&m, d->synced[f].n);
        if (m.n > 0) {
            memcpy(m.data, d->synced[f].data, m.n);
        }
        m.there = d->synced[f].there;
        for (size_t i = 0; i < d->pending_n[f] && cut != SHIM_LOSE_ALL; i++) {
            const struct shim_event *e = &events[d->pending[f][i]];
            uint64_t luck = cut == SHIM_LOSE_NONE ? 3 : draw(&seed) % 4;
            if (luck == 0) {
                continue;
            }
            size_t sectors = (e->n + SECTOR - 1) / SECTOR;
            size_t n = luck == 1 && sectors > 0 ? draw(&seed) % sectors * SECTOR : e->n;
            apply(&m, e, n);
        }
        write_file(path, suffix[f], &m);
        free(m.data);
    }
}
