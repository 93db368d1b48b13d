#include "client/lib/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define HEAD 8 /* bytes before a message: its length and its CRC-32, little-endian */

/* Record locks tell processes apart, and not the runs of one process; this list does. It has to be
 * global, as two handles know nothing of each other. */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static struct spool *open_spools;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* In a forked child: a thread that stayed behind may have the lock, and the files are not ours. */
static void forget_files(void)
{
    pthread_mutex_init(&open_lock, NULL);
    open_spools = NULL;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_files);
}

static void put32(uint8_t *p, uint32_t x)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(x >> 8 * i);
    }
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* ---- records ---- */

static int write_all(int fd, const uint8_t *p, size_t n, uint64_t at)
{
    while (n > 0) {
        ssize_t written = pwrite(fd, p, n, (off_t)at);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            errno = written == 0 ? ENOSPC : errno;
            return SEISMO_EIO;
        }
        p += written;
        at += (uint64_t)written;
        n -= (size_t)written;
    }
    return 0;
}

static bool read_all(int fd, uint8_t *p, size_t n, uint64_t at)
{
    while (n > 0) {
        ssize_t got = pread(fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return false;
        }
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return true;
}

/* One record behind the last one, in one write. */
static int put_record(struct spool *s, const void *message, size_t n)
{
    put32(s->buffer, (uint32_t)n);
    put32(s->buffer + 4, (uint32_t)crc32(0, message, (uInt)n));
    memcpy(s->buffer + HEAD, message, n);
    int err = write_all(s->fd, s->buffer, HEAD + n, s->size - s->base);
    if (err) {
        int cause = errno;
        if (ftruncate(s->fd, (off_t)(s->size - s->base)) != 0) {
            /* What is left of it has a wrong checksum, or is written over. */
        }
        errno = cause;
        return err;
    }
    s->size += HEAD + n;
    return 0;
}

/* The message of the record at `at`, which lies in the buffer then. False at the end of what is
 * whole. */
static bool get_record(struct spool *s, uint64_t at, uint32_t *ret_n)
{
    uint32_t n;

    if (!read_all(s->fd, s->buffer, HEAD, at - s->base)) {
        return false;
    }
    n = get32(s->buffer);
    if (n == 0 || n > SPOOL_RECORD || !read_all(s->fd, s->buffer + HEAD, n, at - s->base + HEAD) ||
        crc32(0, s->buffer + HEAD, n) != get32(s->buffer + 4)) {
        return false;
    }
    *ret_n = n;
    return true;
}

static int put_ack(struct spool *s, uint64_t batch)
{
    uint8_t message[32];
    struct wire_buf b = {.data = message, .cap = sizeof(message)};

    wire_put_ack_head(&b, batch, false, 0, 0);
    return put_record(s, message, b.n);
}

static int put_hello(struct spool *s, const struct wire_hello *hello)
{
    uint8_t *message = malloc(SPOOL_RECORD);
    struct wire_buf b = {.data = message, .cap = SPOOL_RECORD};

    if (message == NULL) {
        errno = ENOMEM;
        return SEISMO_ENOMEM;
    }
    wire_put_hello(&b, hello);
    int err = put_record(s, message, b.n);
    free(message);
    return err;
}

/* ---- opening ---- */

static bool same_text(struct wire_str a, struct wire_str b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

static bool same_layout(const struct wire_layout *a, const struct wire_layout *b)
{
    return a->n == b->n && memcmp(a->position, b->position, a->n) == 0;
}

enum found { FOUND_OURS, FOUND_EMPTY, FOUND_FOREIGN };

/* Reads the whole file. What is behind the last whole record is cut off later. */
static enum found scan(struct spool *s, const struct wire_hello *hello, uint8_t *session)
{
    char errmsg[SEISMO_ERRMSG];
    uint64_t at = 0;
    struct wire_msg m;
    uint32_t n;

    while (get_record(s, at, &n)) {
        if (wire_decode(s->buffer + HEAD, n, &m, errmsg) != 0 ||
            (at == 0) != (m.type == WIRE_HELLO)) {
            if (at == 0) {
                return FOUND_FOREIGN; /* it is whole, but nothing that we write */
            }
            break;
        }
        at += HEAD + n;
        if (m.type == WIRE_HELLO) {
            if (!same_text(m.hello.run, hello->run) ||
                !same_text(m.hello.program, hello->program) || m.hello.rank != hello->rank ||
                m.hello.session.n != hello->session.n ||
                !same_layout(&m.hello.layout, &hello->layout)) {
                return FOUND_FOREIGN;
            }
            memcpy(session, m.hello.session.p, m.hello.session.n);
            s->head = s->settled_at = at;
        } else if (m.type == WIRE_STEPS || m.type == WIRE_BYE) {
            s->last = m.type == WIRE_STEPS ? m.steps.batch : m.bye.batch;
        } else if (m.type == WIRE_ACK && m.ack.batch > s->acked) {
            s->acked = m.ack.batch;
        }
        s->size = at;
    }
    s->last = s->last > s->acked ? s->last : s->acked;
    if (s->last == 0) {
        /* Nobody knows how far a session had come: what was there was acknowledged, and its process
         * died before it had noted the number. So this one has a session of its own. */
        s->size = 0;
        return FOUND_EMPTY;
    }
    return FOUND_OURS;
}

/* Where the first batch stands that is not acknowledged, and what follows from there. */
static void find_unsettled(struct spool *s)
{
    char errmsg[SEISMO_ERRMSG];
    uint64_t at = s->head;
    struct wire_msg m;
    uint32_t n;

    while (at < s->size && get_record(s, at, &n) &&
           wire_decode(s->buffer + HEAD, n, &m, errmsg) == 0) {
        uint64_t batch = m.type == WIRE_STEPS ? m.steps.batch
                         : m.type == WIRE_BYE ? m.bye.batch
                                              : 0;
        at += HEAD + n;
        if (batch > s->acked) {
            s->unread++;
            s->inherited_rows += m.type == WIRE_STEPS ? m.steps.n : 0;
        } else if (batch > 0) {
            s->settled_at = at;
        }
    }
    s->read_at = s->settled_at;
    s->inherited_until = s->size;
}

/* The lock dies with the process, is not inherited by fork, and is tried without waiting. */
static bool lock(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return fcntl(fd, F_SETLK, &whole) == 0;
}

/* Whether the file that was locked is still the one of that name: its owner may have replaced or
 * deleted it in between. */
static bool is_current(int fd, const char *path)
{
    struct stat opened, named;

    return fstat(fd, &opened) == 0 && stat(path, &named) == 0 && opened.st_ino == named.st_ino &&
           opened.st_dev == named.st_dev;
}

static void remember_file(struct spool *s)
{
    struct stat opened;

    if (fstat(s->fd, &opened) == 0) {
        s->device = opened.st_dev;
        s->inode = opened.st_ino;
    }
}

static bool is_open_here(const char *path)
{
    struct stat named;

    if (stat(path, &named) != 0) {
        return false;
    }
    for (const struct spool *other = open_spools; other != NULL; other = other->next) {
        if (other->inode == named.st_ino && other->device == named.st_dev) {
            return true;
        }
    }
    return false;
}

static void name_file(char ret[SPOOL_PATH], const char *dir, const struct wire_hello *hello, int i)
{
    char readable[65];
    uint8_t rank[4];
    uint32_t n = hello->run.n < 64 ? hello->run.n : 64;

    for (uint32_t k = 0; k < n; k++) {
        char c = hello->run.p[k];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '_';
        readable[k] = plain ? c : '_';
    }
    readable[n] = '\0';
    put32(rank, hello->rank);
    uLong sum = crc32(0, (const Bytef *)hello->run.p, hello->run.n);
    sum = crc32(sum, (const Bytef *)"", 1);
    sum = crc32(sum, (const Bytef *)hello->program.p, hello->program.n);
    sum = crc32(sum, rank, sizeof(rank));
    snprintf(ret, SPOOL_PATH, "%s/%s.%08lx.%d.spool", dir, readable, sum & 0xffffffff, i);
}

/* Takes the file number `i` unless somebody has it. *ret_taken: it is ours now. */
static int try_file(struct spool *s, const char *dir, const struct wire_hello *hello,
                    uint8_t *session, int i, bool *ret_taken)
{
    uint8_t found[SEISMO_MAX_SESSION];

    *ret_taken = false;
    name_file(s->path, dir, hello, i);
    if (is_open_here(s->path)) {
        return 0; /* opening it once more would lose that one's lock when we close */
    }
    int fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return SEISMO_EIO;
    }
    if (!lock(fd) || !is_current(fd, s->path)) {
        close(fd);
        return 0;
    }
    s->fd = fd;
    remember_file(s);
    enum found kind = scan(s, hello, found);
    if (kind == FOUND_FOREIGN) {
        close(fd);
        s->fd = -1;
        return 0;
    }
    *ret_taken = true;
    if (kind == FOUND_OURS) {
        memcpy(session, found, hello->session.n);
        find_unsettled(s);
    }
    return ftruncate(fd, (off_t)s->size) == 0 ? 0 : SEISMO_EIO;
}

int spool_open(struct spool *s, const char *dir, const struct wire_hello *hello, uint8_t *session,
               char errmsg[SEISMO_ERRMSG])
{
    bool taken = false;
    int err = 0;

    *s = (struct spool){.fd = -1, .max = SPOOL_MAX, .compact = SPOOL_COMPACT};
    s->buffer = malloc(HEAD + SPOOL_RECORD);
    if (s->buffer == NULL) {
        snprintf(errmsg, SEISMO_ERRMSG, "no spool: out of memory");
        return SEISMO_ENOMEM;
    }
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        err = SEISMO_EIO;
    }
    pthread_once(&fork_once, watch_forks);
    pthread_mutex_lock(&open_lock);
    for (int i = 1; i <= SPOOL_FILES && !taken && err == 0; i++) {
        err = try_file(s, dir, hello, session, i, &taken);
    }
    if (taken && err == 0) {
        s->next = open_spools;
        open_spools = s;
    }
    pthread_mutex_unlock(&open_lock);
    if (taken && err == 0 && s->size == 0) {
        err = put_hello(s, hello);
        s->head = s->read_at = s->settled_at = s->inherited_until = s->size;
    }
    if (!taken || err != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "no spool in %.120s: %s; the run goes on without one", dir,
                 err != 0 ? strerror(errno) : "jobs of the same name have all its files");
        spool_close(s, false);
        return SEISMO_EIO;
    }
    return 0;
}

void spool_close(struct spool *s, bool delete)
{
    pthread_mutex_lock(&open_lock);
    for (struct spool **at = &open_spools; *at != NULL; at = &(*at)->next) {
        if (*at == s) {
            *at = s->next;
            break;
        }
    }
    if (s->fd >= 0) {
        if (delete) {
            unlink(s->path);
        }
        close(s->fd);
    }
    pthread_mutex_unlock(&open_lock);
    free(s->buffer);
    s->buffer = NULL;
    s->unread = 0; /* of one that could not be opened after all, too */
    s->fd = -1;
}

/* ---- use ---- */

bool spool_ready(const struct spool *s)
{
    return s->fd >= 0 && !s->failed && s->size - s->base + HEAD + SPOOL_RECORD <= s->max;
}

int spool_append(struct spool *s, uint64_t batch, const void *message, size_t n)
{
    int err = put_record(s, message, n);

    s->failed = err != 0;
    s->last = err != 0 ? s->last : batch;
    s->unread += err == 0;
    return err;
}

int spool_next(struct spool *s, struct wire_msg *ret, uint64_t *ret_end, char errmsg[SEISMO_ERRMSG])
{
    uint32_t n;

    while (spool_unread(s)) {
        if (!get_record(s, s->read_at, &n)) {
            snprintf(errmsg, SEISMO_ERRMSG, "%.160s cannot be read back", s->path);
            return SEISMO_EIO;
        }
        int err = wire_decode(s->buffer + HEAD, n, ret, errmsg);
        if (err) {
            return SEISMO_ECORRUPT;
        }
        s->read_at += HEAD + n;
        if (ret->type == WIRE_STEPS || ret->type == WIRE_BYE) {
            s->unread--;
            *ret_end = s->read_at;
            return 0;
        }
    }
    return SEISMO_EEOF;
}

void spool_skip(struct spool *s)
{
    s->read_at = s->size;
    s->unread = 0;
    s->failed = true; /* nothing may follow what cannot be read */
}

/* Writes the file anew without what is acknowledged. The new one is locked before it has the name,
 * so that nobody can take it. */
static int compact(struct spool *s)
{
    char path[SPOOL_PATH + 8];
    uint64_t from = s->settled_at - s->base, to = s->head, end = s->size - s->base;

    snprintf(path, sizeof(path), "%s.new", s->path);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = fd >= 0 && lock(fd) && read_all(s->fd, s->buffer, s->head, 0) &&
                write_all(fd, s->buffer, s->head, 0) == 0;
    while (good && from < end) {
        size_t n = end - from < SPOOL_RECORD ? (size_t)(end - from) : SPOOL_RECORD;
        good = read_all(s->fd, s->buffer, n, from) && write_all(fd, s->buffer, n, to) == 0;
        from += n;
        to += n;
    }
    pthread_mutex_lock(&open_lock); /* till the list knows what has the name */
    good = good && rename(path, s->path) == 0;
    int cause = errno;
    if (good) {
        close(s->fd);
        s->fd = fd;
        remember_file(s);
    }
    pthread_mutex_unlock(&open_lock);
    if (!good) {
        if (fd >= 0) {
            unlink(path);
            close(fd);
        }
        errno = cause;
        return SEISMO_EIO;
    }
    s->base = s->settled_at - s->head;
    return 0;
}

int spool_cut(struct spool *s)
{
    if (ftruncate(s->fd, (off_t)s->head) != 0) {
        return SEISMO_EIO;
    }
    s->size = s->base + s->head;
    s->read_at = s->settled_at = s->inherited_until = s->size;
    return 0;
}

int spool_settle(struct spool *s, uint64_t batch, uint64_t end, bool all)
{
    if (s->fd < 0) {
        return 0;
    }
    if (batch <= s->acked && !(all && s->failed)) {
        return 0;
    }
    s->settled_at = end > s->settled_at ? end : s->settled_at;
    if (all) {
        /* Begins anew, also after a failure: perhaps there is room again. */
        s->failed = spool_cut(s) != 0;
    }
    if (s->failed) {
        return 0;
    }
    s->acked = batch > s->acked ? batch : s->acked;
    s->last = s->last > s->acked ? s->last : s->acked;
    int err = put_ack(s, s->acked);
    s->read_at = all ? s->size : s->read_at;
    if (!err && s->settled_at - s->base > s->head + s->compact &&
        2 * s->settled_at > s->size + s->base) {
        err = compact(s);
    }
    s->failed = err != 0;
    return err;
}
