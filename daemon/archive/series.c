#include "daemon/archive/series.h"

#include <math.h>

#define POINTS_OCTAVE 256 /* points for each doubling of a run's length */

/* Steps in the bucket that row number `index` belongs to: 1 in the first two octaves, then twice
 * as many in each. */
static uint64_t bucket_width(uint64_t index)
{
    uint64_t width = 1;
    while (index / width >= 2 * POINTS_OCTAVE) {
        width *= 2;
    }
    return width;
}

uint64_t bucket_rows(uint64_t steps)
{
    return steps % bucket_width(steps);
}

bool bucket_add(struct bucket *b, uint64_t index, const struct seismo_row *row, float score,
                float curvature, struct point *ret)
{
    float grad_norm = row_has(row, SEISMO_GRAD_NORM) ? row->value[SEISMO_GRAD_NORM] : NAN;
    float loss = row->value[SEISMO_LOSS];
    if (b->steps == 0) {
        *b =
            (struct bucket){.loss_max = loss, .grad_norm = NAN, .curvature = NAN, .score_max = NAN};
    }
    b->steps++;
    b->loss = loss;
    b->loss_max = isnan(loss) || isnan(b->loss_max) ? NAN : fmaxf(b->loss_max, loss);
    b->grad_norm = fmaxf(b->grad_norm, grad_norm); /* fmaxf prefers numbers to NaN */
    b->curvature = fmaxf(b->curvature, curvature);
    b->score_max = fmaxf(b->score_max, score);
    if ((index + 1) % bucket_width(index) != 0) {
        return false;
    }
    ret->step = row->step;
    ret->bucket = *b;
    b->steps = 0;
    return true;
}
