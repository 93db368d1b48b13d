/* The decimated series of a run: how rows become points. */
#ifndef SEISMO_DAEMON_ARCHIVE_SERIES_H
#define SEISMO_DAEMON_ARCHIVE_SERIES_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/row.h"

/* The point that is being filled. */
struct bucket {
    uint32_t steps;
    float loss, loss_max;                  /* NaN when NaN came */
    float grad_norm, curvature, score_max; /* NaN while unknown */
};

struct point { /* a finished bucket */
    int64_t step;
    struct bucket bucket;
};

/* Rows in the unfinished bucket of a run of `steps` rows. */
uint64_t bucket_rows(uint64_t steps);

/* Adds row number `index` (from 0) of the run. True when that finished a bucket: then *ret is it,
 * and the bucket is empty again. */
bool bucket_add(struct bucket *b, uint64_t index, const struct seismo_row *row, float score,
                float curvature, struct point *ret);

#endif
