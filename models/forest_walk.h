/* The inside of a forest, shared by its loader (forest_load.c) and its walker (forest.c). */
#ifndef SEISMO_MODELS_FOREST_WALK_H
#define SEISMO_MODELS_FOREST_WALK_H

#include "models/forest.h"

/* Invariant: the nodes of a tree are stored breadth first from its root, so the children of a split
 * stand side by side behind it; a leaf points to itself, so walking on from it is harmless.
 *
 * The walker reads a row spread out to 2 F + 1 slots, F being the number of columns: first all
 * columns with missing values as -infinity, which is less than every split and so goes left; then
 * all columns with missing values as +infinity, which goes right; last one -infinity, for leaves.
 */
struct forest_node {
    float value;   /* split: less goes left; leaf: its weight, in log-odds. Finite */
    uint32_t left; /* index of the left child, the right one follows; leaf: own index */
    uint32_t slot; /* of what is compared: split column + (missing goes left ? 0 : F); leaf: 2 F */
};

struct forest {
    uint32_t n_features, n_groups, n_trees, n_nodes, depth;
    float base;                /* margin before the first tree */
    struct forest_node *nodes; /* n_nodes */
    double *mean;              /* n_nodes: cover-weighted mean of the leaves below, log-odds */
    uint32_t *root;            /* n_trees: index of the tree's root */
    uint8_t *tree_depth;       /* n_trees: splits on the longest path */
    uint8_t *group;            /* n_trees */
};

#endif
