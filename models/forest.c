#include "models/forest.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "models/forest_walk.h"

/* Trees walked side by side: enough independent loads to hide their latency. */
#define LANES 8

void forest_free(struct forest **forest)
{
    struct forest *f = *forest;

    if (!f)
        return;
    free(f->nodes);
    free(f->mean);
    free(f->root);
    free(f->tree_depth);
    free(f->group);
    free(f);
    *forest = NULL;
}

uint32_t forest_groups(const struct forest *f)
{
    return f->n_groups;
}

uint32_t forest_trees(const struct forest *f)
{
    return f->n_trees;
}

uint32_t forest_nodes(const struct forest *f)
{
    return f->n_nodes;
}

uint32_t forest_depth(const struct forest *f)
{
    return f->depth;
}

/* The row as the walker wants it; see struct forest_node. */
static void spread(const struct forest *f, const float *x, float *ret)
{
    for (uint32_t i = 0; i < f->n_features; i++) {
        bool missing = isnan(x[i]);
        ret[i] = missing ? -INFINITY : x[i];
        ret[f->n_features + i] = missing ? INFINITY : x[i];
    }
    ret[2 * f->n_features] = -INFINITY;
}

/* The node after `n`; no branch depends on the data. */
static inline uint32_t next(const struct forest_node *n, const float *slots)
{
    return n->left + !(slots[n->slot] < n->value);
}

void forest_margin(const struct forest *f, const float *x, float *ret)
{
    const struct forest_node *nodes = f->nodes;
    float slots[2 * FOREST_MAX_FEATURES + 1];

    spread(f, x, slots);
    for (uint32_t g = 0; g < f->n_groups; g++)
        ret[g] = f->base;
    for (uint32_t t = 0; t < f->n_trees; t += LANES) {
        uint32_t at[LANES];
        uint32_t n = f->n_trees - t < LANES ? f->n_trees - t : LANES;
        uint8_t depth = 0;
        for (uint32_t i = 0; i < LANES; i++) {
            /* The last group repeats its first tree; the copies are not summed. */
            at[i] = f->root[t + (i < n ? i : 0)];
            uint8_t d = f->tree_depth[t + (i < n ? i : 0)];
            depth = d > depth ? d : depth;
        }
        for (uint8_t d = 0; d < depth; d++)
            for (uint32_t i = 0; i < LANES; i++)
                at[i] = next(&nodes[at[i]], slots);
        /* One float32 addition after the other in the order of the trees, as libxgboost does. */
        for (uint32_t i = 0; i < n; i++)
            ret[f->group[t + i]] += nodes[at[i]].value;
    }
}

void forest_probability(const struct forest *f, float *margins)
{
    if (f->n_groups == 1) {
        margins[0] = 1.0f / (expf(fminf(-margins[0], 88.7f)) + 1.0f + 1e-16f);
        return;
    }
    float most = margins[0];
    for (uint32_t g = 1; g < f->n_groups; g++)
        most = fmaxf(margins[g], most);
    double sum = 0;
    for (uint32_t g = 0; g < f->n_groups; g++) {
        margins[g] = expf(margins[g] - most);
        sum += margins[g];
    }
    for (uint32_t g = 0; g < f->n_groups; g++)
        margins[g] /= (float)sum;
}

double forest_attribute(const struct forest *f, const float *x, uint32_t group, double *ret)
{
    double bias = f->base;
    float slots[2 * FOREST_MAX_FEATURES + 1];

    spread(f, x, slots);
    memset(ret, 0, f->n_features * sizeof(*ret));
    for (uint32_t t = 0; t < f->n_trees; t++) {
        if (f->group[t] != group)
            continue;
        uint32_t at = f->root[t];
        bias += f->mean[at];
        while (f->nodes[at].slot != 2 * f->n_features) {
            uint32_t child = next(&f->nodes[at], slots);
            ret[f->nodes[at].slot % f->n_features] += f->mean[child] - f->mean[at];
            at = child;
        }
    }
    return bias;
}
