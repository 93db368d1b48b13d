/* Packed rows: how steps lie in the database, in chunks and in the tail.
 *
 * One row, little-endian, no padding: step i64, time f64, presence mask u32, score f32, curvature
 * f32, then only the values that are present, f32 each, in the order of fields.def. Floats keep
 * their bits, NaN payloads included. Decoding trusts nothing: the mask, the length, the order of
 * the steps and the number of rows are all checked. */
#ifndef SEISMO_DAEMON_ARCHIVE_PACK_H
#define SEISMO_DAEMON_ARCHIVE_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "proto/row.h"

#define PACK_HEAD 28                               /* bytes of a row without its values */
#define PACK_MAX (PACK_HEAD + 4 * SEISMO_N_VALUES) /* bytes of the largest row */

struct pack_row {
    struct seismo_row row;
    float score;     /* what the detector said of the row when it was stored */
    float curvature; /* NaN when unknown */
};

/* Writes one row and returns its size; `to` has room for PACK_MAX bytes. */
size_t pack_row(uint8_t *to, const struct seismo_row *row, float score, float curvature);

/* The step of the first of some packed rows; `data` has at least PACK_HEAD bytes. */
int64_t pack_first_step(const void *data);

struct pack_cursor {
    const uint8_t *p, *end; /* borrowed */
    uint32_t left;          /* rows still to come */
    int64_t last;           /* step of the row before, -1 at the start */
};

/* Rows of the `bytes` at `data`, which must be exactly `n`. */
void pack_cursor_init(struct pack_cursor *c, const void *data, size_t bytes, uint32_t n);

/* The next row; SEISMO_EEOF after the last one; SEISMO_ECORRUPT with what is wrong in errmsg. */
int pack_next(struct pack_cursor *c, struct pack_row *ret, char errmsg[SEISMO_ERRMSG]);

#endif
