#include "client/lib/ring.h"

#include <stdlib.h>

#include "proto/err.h"

int ring_init(struct ring *r, uint32_t rows)
{
    uint64_t n = 2;

    while (n < rows) {
        n *= 2;
    }
    r->cells = calloc(n, sizeof(*r->cells));
    if (r->cells == NULL) {
        return SEISMO_ENOMEM;
    }
    for (uint64_t i = 0; i < n; i++) {
        atomic_init(&r->cells[i].turn, i);
    }
    r->mask = n - 1;
    atomic_init(&r->tail, 0);
    atomic_init(&r->head, 0);
    return 0;
}

void ring_close(struct ring *r)
{
    free(r->cells);
    r->cells = NULL;
}

bool ring_offer(struct ring *r, const struct seismo_row *row)
{
    uint64_t position = atomic_load_explicit(&r->tail, memory_order_relaxed);

    for (;;) {
        struct ring_cell *cell = &r->cells[position & r->mask];
        int64_t ahead =
            (int64_t)(atomic_load_explicit(&cell->turn, memory_order_acquire) - position);

        if (ahead < 0) {
            return false;
        }
        if (ahead > 0) {
            position = atomic_load_explicit(&r->tail, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak(&r->tail, &position, position + 1)) {
            cell->row = *row;
            atomic_store_explicit(&cell->turn, position + 1, memory_order_release);
            return true;
        }
    }
}

bool ring_pop(struct ring *r, struct seismo_row *ret)
{
    uint64_t position = atomic_load_explicit(&r->head, memory_order_relaxed);

    for (;;) {
        struct ring_cell *cell = &r->cells[position & r->mask];
        int64_t ahead =
            (int64_t)(atomic_load_explicit(&cell->turn, memory_order_acquire) - (position + 1));

        if (ahead < 0) {
            return false;
        }
        if (ahead > 0) {
            position = atomic_load_explicit(&r->head, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak(&r->head, &position, position + 1)) {
            *ret = cell->row;
            atomic_store_explicit(&cell->turn, position + r->mask + 1, memory_order_release);
            return true;
        }
    }
}

unsigned ring_push(struct ring *r, const struct seismo_row *row)
{
    struct seismo_row oldest;
    unsigned dropped = 0;

    if (ring_offer(r, row)) {
        return 0;
    }
    if (ring_pop(r, &oldest)) {
        dropped++;
    }
    return ring_offer(r, row) ? dropped : dropped + 1;
}
