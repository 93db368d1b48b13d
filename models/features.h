/* Streaming features of one run: one row in, FEATURES_N float32 out.
 *
 * Invariants: the state has a fixed size, holds no pointer (so a byte copy is a snapshot) and costs
 * O(1) a step. A feature that cannot be computed from what was sent is NaN, never zero. No feature
 * changes when the loss is scaled by a positive factor or shifted (gradients and dot products
 * scaled along), nor with the number of parameters, the batch size or the number of steps planned.
 * Every feature's formula, unit and invariance stands in features.def. */
#ifndef SEISMO_MODELS_FEATURES_H
#define SEISMO_MODELS_FEATURES_H

#include "proto/row.h"

enum feature {
#define SEISMO_FEATURE(constant, name, group, meaning) FEATURE_##constant,
#include "models/features.def"
    FEATURES_N
};

struct features; /* defined in features_state.h or below by the implementer: visible, fixed size */

#endif
