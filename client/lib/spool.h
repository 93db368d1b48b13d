/* The client spool: what a run has not had acknowledged, in a file, so that a process that dies
 * leaves it to the next one. It survives the death of the process, not a power cut: nothing is
 * synced. PROTOCOL.md describes the file.
 *
 * The file is a sequence of records: length, CRC-32, and a message of the wire protocol. It begins
 * with the HELLO of the session; STEPS and BYE are appended before they are sent, ACK (without
 * verdicts) when they are acknowledged. A torn record at the end is cut off. Once everything is
 * acknowledged the file is empty but for its head; after BYE it is deleted.
 *
 * One thread. Positions are counted from the first byte ever written (`base` is what has been taken
 * away since), so that they stay valid when the file is made shorter. */
#ifndef SEISMO_CLIENT_LIB_SPOOL_H
#define SEISMO_CLIENT_LIB_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/err.h"
#include "proto/wire.h"

#define SPOOL_MAX (256u << 20)    /* bytes of a file; more steps wait in the ring */
#define SPOOL_COMPACT (8u << 20)  /* bytes acknowledged at which they are taken away */
#define SPOOL_FILES 16            /* jobs of one run, program and rank at the same time */
#define SPOOL_RECORD (64u * 1024) /* bytes of the largest message */
#define SPOOL_PATH 4096

struct spool {
    int fd; /* -1: not open */
    char path[SPOOL_PATH];
    uint8_t *buffer;          /* SPOOL_RECORD and the head of a record */
    uint64_t head;            /* bytes of the first record */
    uint64_t base, size;      /* see above; size: end of the last whole record */
    uint64_t read_at;         /* where the next batch to load stands */
    uint64_t settled_at;      /* everything before it is acknowledged */
    uint64_t inherited_until; /* what an earlier process wrote ends here */
    uint64_t acked, last;     /* batches: highest acknowledged, highest written */
    uint64_t unread;          /* batches from read_at on */
    uint64_t inherited_rows;  /* not acknowledged, of an earlier process */
    uint64_t max, compact;    /* bytes: SPOOL_MAX, SPOOL_COMPACT but in tests */
    bool failed;              /* nothing is written until everything is acknowledged */
    dev_t device;             /* which file it is */
    ino_t inode;
    struct spool *next; /* open ones of this process */
};

/* Opens or makes the file of this run, program and rank in `dir` (made when missing), and locks it;
 * of files that others have open, or that have another list of fields, the next one is taken.
 * `session` is what a new file begins with, and is replaced by that of a file with batches to carry
 * on. SEISMO_EIO, SEISMO_ENOMEM. */
int spool_open(struct spool *s, const char *dir, const struct wire_hello *hello, uint8_t *session,
               char errmsg[SEISMO_ERRMSG]);

/* Whether spool_append may be tried: it is open, has not failed, and has room. */
bool spool_ready(const struct spool *s);

/* Appends a STEPS or BYE message of number `batch`. SEISMO_EIO with the cause in errno. */
int spool_append(struct spool *s, uint64_t batch, const void *message, size_t n);

static inline bool spool_unread(const struct spool *s)
{
    return s->unread > 0;
}

/* Reads the next batch that was not read yet; `*ret` borrows from the spool until the next call.
 * *ret_end: where its record ends. SEISMO_EIO, SEISMO_ECORRUPT: nothing more can be read. */
int spool_next(struct spool *s, struct wire_msg *ret, uint64_t *ret_end,
               char errmsg[SEISMO_ERRMSG]);

/* Whether there is nothing but the HELLO: the next process takes a session of its own. */
static inline bool spool_is_bare(const struct spool *s)
{
    return s->size - s->base == s->head;
}

/* Takes away everything but the HELLO. SEISMO_EIO. */
int spool_cut(struct spool *s);

/* Gives up what was not read; counts as a failure to write. */
void spool_skip(struct spool *s);

/* Batches up to `batch`, whose records end at `end` (0: unknown), are acknowledged; `all`: and none
 * that was ever made is not. SEISMO_EIO. */
int spool_settle(struct spool *s, uint64_t batch, uint64_t end, bool all);

/* `delete`: there is nothing left to carry on. */
void spool_close(struct spool *s, bool delete);

#endif
