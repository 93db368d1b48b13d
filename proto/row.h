/* One step's statistics, as every part of seismo passes them on.
 *
 * Invariant: bit i of `present` is set exactly when value[i] was sent. NaN and infinities are data
 * (a diverged run has them); absence is a cleared bit, and value[i] is then 0. Values are rounded
 * to float32 where a row is made, before anything looks at them, so that what is stored is exactly
 * what was scored. */
#ifndef SEISMO_PROTO_ROW_H
#define SEISMO_PROTO_ROW_H

#include <stdbool.h>
#include <stdint.h>

/* Indices of the float32 values, in the order of fields.def. */
enum seismo_value {
#define SEISMO_VALUE(constant, name, unit, meaning) SEISMO_##constant,
#include "proto/fields.def"
    SEISMO_N_VALUES
};

/* Positions in the canonical field list (step, time, then the values). */
enum { SEISMO_FIELD_STEP, SEISMO_FIELD_TIME, SEISMO_FIELD_VALUE0 };
#define SEISMO_N_FIELDS (SEISMO_FIELD_VALUE0 + SEISMO_N_VALUES)

struct seismo_row {
    int64_t step;                 /* optimizer step, >= 0 */
    double time;                  /* s since the epoch, NaN when the client sent none */
    uint32_t present;             /* bit i: value[i] was sent */
    float value[SEISMO_N_VALUES]; /* units in fields.def */
};

static inline bool row_has(const struct seismo_row *row, enum seismo_value v)
{
    return row->present >> v & 1u;
}

static inline void row_set(struct seismo_row *row, enum seismo_value v, double x)
{
    row->value[v] = (float)x;
    row->present |= 1u << v;
}

/* Name of the canonical field at `position` (0 = "step"); NULL when out of range. */
const char *seismo_field_name(int position);

/* Canonical position of a field name of `n` bytes, or -1 when there is none. */
int seismo_field_find(const char *name, uint32_t n);

#endif
