/* Gradient-boosted trees as XGBoost saves them (Booster.save_model, JSON, version 1.x; gbtree with
 * binary:logistic or multi:softprob), scored with the same bits as libxgboost gives.
 *
 * Loading validates everything, so that walking needs no checks: children lie in the tree, every
 * node is reached once, features exist, numbers are finite. A forest is immutable and may be shared
 * by threads. NaN is a missing value; infinite inputs are allowed. */
#ifndef SEISMO_MODELS_FOREST_H
#define SEISMO_MODELS_FOREST_H

#include <jansson.h>
#include <stdint.h>

#include "proto/err.h"

#define FOREST_MAX_TREES 4096
#define FOREST_MAX_DEPTH 16
#define FOREST_MAX_NODES (1u << 20) /* of all trees together */
#define FOREST_MAX_FEATURES 1024
#define FOREST_MAX_GROUPS 16 /* classes of multi:softprob */

struct forest;

/* Builds a forest from a booster's JSON object (borrowed) with exactly `n_features` columns.
 * SEISMO_EMALFORMED, SEISMO_ETOOBIG, SEISMO_EVERSION or SEISMO_ENOMEM; errmsg then names the place
 * below `where`. */
int forest_new(const json_t *booster, const char *where, uint32_t n_features,
               struct forest **ret_forest, char errmsg[SEISMO_ERRMSG]);
void forest_free(struct forest **forest);

uint32_t forest_groups(const struct forest *f); /* 1 for binary:logistic, else the classes */
uint32_t forest_trees(const struct forest *f);
uint32_t forest_nodes(const struct forest *f);
uint32_t forest_depth(const struct forest *f);

/* x: n_features values. ret: forest_groups margins. */
void forest_margin(const struct forest *f, const float *x, float *ret);

/* Sigmoid or softmax of forest_groups margins, in place, as libxgboost computes them. */
void forest_probability(const struct forest *f, float *margins);

/* Path attribution of one group's margin: at every split on x's path the change of the subtree's
 * cover-weighted mean goes to the feature split on. ret: n_features contributions; returns the
 * bias, so that bias + sum of contributions is the margin up to rounding. */
double forest_attribute(const struct forest *f, const float *x, uint32_t group, double *ret);

#endif
