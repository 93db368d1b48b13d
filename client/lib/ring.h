/* Bounded queue of rows between training threads and the library's thread, without locks, so that a
 * preempted consumer never holds up a training loop.
 *
 * It is D. Vyukov's bounded multi-producer multi-consumer queue: a cell's `turn` says whose it is,
 * position `p` may be written when turn == p and read when turn == p + 1. A producer that finds the
 * ring full consumes the oldest row itself, which is why more than one consumer must be possible.
 */
#ifndef SEISMO_CLIENT_LIB_RING_H
#define SEISMO_CLIENT_LIB_RING_H

#include <stdatomic.h>
#include <stdbool.h>

#include "proto/row.h"

struct ring_cell {
    _Atomic uint64_t turn;
    struct seismo_row row;
};

struct ring {
    struct ring_cell *cells; /* mask + 1 of them */
    uint64_t mask;
    _Alignas(64) _Atomic uint64_t tail; /* next position to write; a cache line of its own */
    _Alignas(64) _Atomic uint64_t head; /* next position to read */
};

/* Room for at least `rows` rows (rounded up to a power of two). SEISMO_ENOMEM. */
int ring_init(struct ring *r, uint32_t rows);
void ring_close(struct ring *r);

/* False when there is no room. */
bool ring_offer(struct ring *r, const struct seismo_row *row);

/* Always returns at once; the result says how many rows were dropped for it: 0, or when the ring
 * was full the oldest one (and, should the consumer be stuck half way through a cell, the new one).
 */
unsigned ring_push(struct ring *r, const struct seismo_row *row);

/* False when it is empty, or the oldest row is still being written. */
bool ring_pop(struct ring *r, struct seismo_row *ret);

/* Rows in the ring, including those being written this moment. */
static inline uint64_t ring_count(struct ring *r)
{
    /* Head first: it never passes the tail, so the difference cannot come out negative. */
    uint64_t head = atomic_load(&r->head);

    return atomic_load(&r->tail) - head;
}

#endif
