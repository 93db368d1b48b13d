#include "models/window.h"

#include <math.h>
#include <string.h>

static void window_measure(struct window *w)
{
    float sorted[WINDOW];
    int n = w->n;

    for (int i = 0; i < n; i++)
        sorted[i] = w->x[w->order[i]];
    double median = ((double)sorted[(n - 1) / 2] + sorted[n / 2]) / 2;

    /* The k values nearest to the median are neighbours in the sorted order, so the k-th smallest
     * deviation is the smallest over all runs of k neighbours of the run's largest deviation. */
    int k = n / 2 + 1;
    double mad = INFINITY;
    for (int i = 0; i + k <= n; i++) {
        double low = median - sorted[i], high = sorted[i + k - 1] - median;
        double far = low > high ? low : high;
        mad = far < mad ? far : mad;
    }
    w->median = median;
    w->mad = mad;
}

void window_push(struct window *w, float x)
{
    uint8_t slot = w->head;
    uint8_t n = w->n;

    if (n < WINDOW) {
        slot = w->n++;
    } else {
        const uint8_t *at = memchr(w->order, slot, WINDOW);
        n = (uint8_t)(at - w->order);
        memmove(w->order + n, at + 1, WINDOW - 1u - n);
        n = WINDOW - 1;
        w->head = (uint8_t)((slot + 1) % WINDOW);
    }

    /* Counting instead of searching: no branch depends on the data. */
    uint8_t below = 0;
    for (uint8_t i = 0; i < n; i++)
        below += w->x[w->order[i]] <= x;
    memmove(w->order + below + 1, w->order + below, (size_t)(n - below));
    w->order[below] = slot;
    w->x[slot] = x;
    window_measure(w);
}

bool window_valid(const struct window *w)
{
    uint64_t seen = 0;

    if (w->n > WINDOW || w->head >= WINDOW)
        return false;
    for (int i = 0; i < w->n; i++) {
        if (w->order[i] >= w->n)
            return false;
        seen |= 1ull << w->order[i];
    }
    return seen == (w->n == 0 ? 0 : (1ull << w->n) - 1);
}
