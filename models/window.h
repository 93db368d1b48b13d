/* The last WINDOW values and their order: median and median absolute deviation in a few dozen
 * instructions, without sorting.
 *
 * Invariant: order[0..n) is the permutation of slots that sorts x[0..n) ascending; slots fill from
 * 0 and are then reused from `head`, the oldest. Only finite values are pushed. */
#ifndef SEISMO_MODELS_WINDOW_H
#define SEISMO_MODELS_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#define WINDOW 32

struct window {
    float x[WINDOW];
    uint8_t order[WINDOW];
    double median; /* mean of the middle two for an even count; 0 while the window is empty */
    double mad;    /* the (n/2 + 1)-th smallest absolute deviation from the median */
    uint8_t n, head;
};

void window_push(struct window *w, float x);

/* Whether the invariant's indices hold; for states that come from a file. */
bool window_valid(const struct window *w);

#endif
