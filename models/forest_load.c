#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/forest_walk.h"
#include "proto/json_text.h"

#define MAX_TREE_NODES (2u << FOREST_MAX_DEPTH) /* a full tree has one node less */

/* One tree's arrays in the booster's JSON, all of n elements. */
struct columns {
    const json_t *left, *right, *parent, *feature, *condition, *default_left, *cover;
    size_t n, deleted;
};

struct loader {
    struct forest *f;
    const char *where;
    char *errmsg;
    int64_t tree;    /* being loaded, for errors; -1 outside of trees */
    int64_t *source; /* MAX_TREE_NODES: the file's index of each node of the tree being loaded */
    double *cover;   /* MAX_TREE_NODES */
};

__attribute__((format(printf, 3, 4))) static int fail(struct loader *l, int err, const char *format,
                                                      ...)
{
    va_list ap;
    char text[128], tree[32] = "";

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    if (l->tree >= 0)
        snprintf(tree, sizeof(tree), "tree %" PRId64 ": ", l->tree);
    snprintf(l->errmsg, SEISMO_ERRMSG, "%.90s: %s%s", l->where, tree, text);
    return err;
}

/* Member `name` of an object as a number; XGBoost writes its parameters as strings. */
static int parameter(struct loader *l, const json_t *object, const char *name, double *ret)
{
    const char *text = json_string_value(json_object_get(object, name));
    bool no_memory = false;
    json_t *number = text ? json_text(text, strlen(text), JSON_DECODE_ANY, NULL, &no_memory) : NULL;
    bool ok = json_is_number(number);

    if (ok)
        *ret = json_number_value(number);
    json_decref(number);
    if (no_memory)
        return fail(l, SEISMO_ENOMEM, "out of memory");
    return ok ? 0
              : fail(l, SEISMO_EMALFORMED, "parameter %s is missing or not a number in a string",
                     name);
}

static int whole(struct loader *l, const json_t *object, const char *name, uint32_t max,
                 uint32_t *ret)
{
    double x = 0;
    int err = parameter(l, object, name, &x);

    if (err)
        return err;
    if (!(x >= 0) || x != floor(x))
        return fail(l, SEISMO_EMALFORMED, "parameter %s is %g, not a count", name, x);
    if (x > max)
        return fail(l, SEISMO_ETOOBIG, "parameter %s is %g; at most %" PRIu32 " is allowed", name,
                    x, max);
    *ret = (uint32_t)x;
    return 0;
}

static int column(struct loader *l, const json_t *tree, const char *name, size_t n,
                  const json_t **ret)
{
    *ret = json_object_get(tree, name);
    if (!json_is_array(*ret) || json_array_size(*ret) != n)
        return fail(l, SEISMO_EMALFORMED, "%s is not a list of %zu", name, n);
    return 0;
}

/* Categorical splits are not part of this walker; a file that has any is refused. */
static int refuse_categories(struct loader *l, const json_t *tree)
{
    const json_t *types = json_object_get(tree, "split_type"), *type;
    size_t i;

    bool categorical = json_array_size(json_object_get(tree, "categories")) > 0 ||
                       json_array_size(json_object_get(tree, "categories_nodes")) > 0;
    json_array_foreach ((json_t *)types, i, type)
        categorical |= !json_is_integer(type) || json_integer_value(type) != 0;
    return categorical ? fail(l, SEISMO_EMALFORMED, "has categorical splits; train without") : 0;
}

static int columns_open(struct loader *l, const json_t *tree, struct columns *c)
{
    const json_t *param = json_object_get(tree, "tree_param");
    uint32_t n, deleted, vector;
    int err;

    if ((err = whole(l, param, "num_nodes", MAX_TREE_NODES - 1, &n)) ||
        (err = whole(l, param, "num_deleted", MAX_TREE_NODES, &deleted)) ||
        (err = whole(l, param, "size_leaf_vector", 0, &vector)) ||
        (err = column(l, tree, "left_children", n, &c->left)) ||
        (err = column(l, tree, "right_children", n, &c->right)) ||
        (err = column(l, tree, "parents", n, &c->parent)) ||
        (err = column(l, tree, "split_indices", n, &c->feature)) ||
        (err = column(l, tree, "split_conditions", n, &c->condition)) ||
        (err = column(l, tree, "default_left", n, &c->default_left)) ||
        (err = column(l, tree, "sum_hessian", n, &c->cover)) || (err = refuse_categories(l, tree)))
        return err;
    if (n == 0)
        return fail(l, SEISMO_EMALFORMED, "has no node");
    c->n = n;
    c->deleted = deleted;
    return 0;
}

static int integer(struct loader *l, const json_t *list, int64_t node, const char *name,
                   int64_t min, int64_t max, int64_t *ret)
{
    const json_t *x = json_array_get(list, (size_t)node);
    int64_t i = json_integer_value(x);

    if (!json_is_integer(x) || i < min || i > max)
        return fail(l, SEISMO_EMALFORMED,
                    "node %" PRId64 ": %s is not an integer in %" PRId64 "..%" PRId64, node, name,
                    min, max);
    *ret = i;
    return 0;
}

static int real(struct loader *l, const json_t *list, int64_t node, const char *name, float *ret)
{
    const json_t *x = json_array_get(list, (size_t)node);

    *ret = (float)json_number_value(x);
    if (!json_is_number(x) || !isfinite(*ret))
        return fail(l, SEISMO_EMALFORMED, "node %" PRId64 ": %s is not a finite float32", node,
                    name);
    return 0;
}

/* Reads node `at` of the file into place i of the tree; a split's children go to the end of the
 * tree's queue, `*n`. Each node is queued by its only parent, so none is reached twice. */
static int node_load(struct loader *l, const struct columns *c, uint32_t i, uint32_t *n)
{
    struct forest_node *node = &l->f->nodes[l->f->n_nodes + i];
    int64_t at = l->source[i], last = (int64_t)c->n - 1;
    int64_t left = 0, right = 0, feature = 0, default_left = 0;
    float cover;
    int err;

    if ((err = integer(l, c->left, at, "left child", -1, last, &left)) ||
        (err = integer(l, c->right, at, "right child", -1, last, &right)) ||
        (err = real(l, c->condition, at, "split condition", &node->value)) ||
        (err = real(l, c->cover, at, "sum_hessian", &cover)))
        return err;
    if (cover < 0)
        return fail(l, SEISMO_EMALFORMED, "node %" PRId64 ": cover is negative", at);
    l->cover[i] = cover;
    bool split = left != -1;
    node->left = l->f->n_nodes + (split ? *n : i);
    node->slot = 2 * l->f->n_features;
    if (split) {
        int64_t up_left, up_right;
        if ((err = integer(l, c->feature, at, "feature", 0, l->f->n_features - 1, &feature)) ||
            (err = integer(l, c->default_left, at, "default_left", 0, 1, &default_left)) ||
            (err = integer(l, c->right, at, "right child", 1, last, &right)) ||
            (err = integer(l, c->left, at, "left child", 1, last, &left)) ||
            (err = integer(l, c->parent, left, "parent", at, at, &up_left)) ||
            (err = integer(l, c->parent, right, "parent", at, at, &up_right)))
            return err;
        if (left == right)
            return fail(l, SEISMO_EMALFORMED, "node %" PRId64 ": both children are node %" PRId64,
                        at, left);
        node->slot = (uint32_t)feature + (default_left ? 0 : l->f->n_features);
        l->source[(*n)++] = left;
        l->source[(*n)++] = right;
    } else if (right != -1) {
        return fail(l, SEISMO_EMALFORMED, "node %" PRId64 ": has a right child only", at);
    }
    return 0;
}

/* Means of the subtrees, from the leaves up: children stand behind their parent. */
static void means(struct loader *l, uint32_t n)
{
    struct forest *f = l->f;

    for (uint32_t i = n; i-- > 0;) {
        const struct forest_node *node = &f->nodes[f->n_nodes + i];
        if (node->slot == 2 * f->n_features) {
            f->mean[f->n_nodes + i] = node->value;
            continue;
        }
        uint32_t left = node->left - f->n_nodes;
        double a = l->cover[left], b = l->cover[left + 1];
        double share = a + b > 0 ? a / (a + b) : 0.5;
        f->mean[f->n_nodes + i] =
            share * f->mean[node->left] + (1 - share) * f->mean[node->left + 1];
    }
}

static int tree_load(struct loader *l, const json_t *tree, uint32_t t)
{
    struct forest *f = l->f;
    struct columns c = {0};
    int err = columns_open(l, tree, &c);

    if (err)
        return err;
    if (c.n > FOREST_MAX_NODES - f->n_nodes)
        return fail(l, SEISMO_ETOOBIG, "more than %u nodes altogether", FOREST_MAX_NODES);
    size_t room = f->n_nodes + c.n;
    struct forest_node *nodes = realloc(f->nodes, room * sizeof(*nodes));
    if (nodes)
        f->nodes = nodes;
    double *mean = realloc(f->mean, room * sizeof(*mean));
    if (mean)
        f->mean = mean;
    if (!nodes || !mean)
        return fail(l, SEISMO_ENOMEM, "out of memory");

    /* Breadth first, level by level. A node names its only parent and the root is nobody's child,
     * so there can be neither cycles nor more nodes than the tree has. */
    uint32_t n = 1, i = 0;
    uint8_t depth = 0;
    l->source[0] = 0;
    for (uint32_t level_end = 1;; level_end = n, depth++) {
        for (; i < level_end; i++)
            if ((err = node_load(l, &c, i, &n)))
                return err;
        if (n == level_end)
            break;
        if (depth == FOREST_MAX_DEPTH)
            return fail(l, SEISMO_ETOOBIG, "is deeper than %d", FOREST_MAX_DEPTH);
    }
    if (n + c.deleted != c.n)
        return fail(l, SEISMO_EMALFORMED,
                    "%" PRIu32 " of %zu nodes hang on the root, %zu are deleted", n, c.n,
                    c.deleted);
    means(l, n);
    f->root[t] = f->n_nodes;
    f->tree_depth[t] = depth;
    f->depth = depth > f->depth ? depth : f->depth;
    f->n_nodes += n;
    return 0;
}

static int trees_load(struct loader *l, const json_t *model)
{
    struct forest *f = l->f;
    const json_t *param = json_object_get(model, "gbtree_model_param");
    const json_t *trees = json_object_get(model, "trees");
    const json_t *info = json_object_get(model, "tree_info");
    uint32_t n, parallel;
    int err;

    if ((err = whole(l, param, "num_trees", FOREST_MAX_TREES, &n)) ||
        (err = whole(l, param, "num_parallel_tree", 1, &parallel)))
        return err;
    if (n == 0 || json_array_size(trees) != n || json_array_size(info) != n)
        return fail(l, SEISMO_EMALFORMED,
                    "num_trees is %" PRIu32 ", but there are %zu trees and %zu tree_info", n,
                    json_array_size(trees), json_array_size(info));
    f->root = calloc(n, sizeof(*f->root));
    f->tree_depth = calloc(n, sizeof(*f->tree_depth));
    f->group = calloc(n, sizeof(*f->group));
    l->source = calloc(MAX_TREE_NODES, sizeof(*l->source));
    l->cover = calloc(MAX_TREE_NODES, sizeof(*l->cover));
    if (!f->root || !f->tree_depth || !f->group || !l->source || !l->cover)
        return fail(l, SEISMO_ENOMEM, "out of memory for %" PRIu32 " trees", n);
    for (uint32_t t = 0; t < n; t++) {
        int64_t group = 0;
        l->tree = t;
        if ((err = integer(l, info, t, "tree_info", 0, f->n_groups - 1, &group)) ||
            (err = tree_load(l, json_array_get(trees, t), t)))
            return err;
        f->group[t] = (uint8_t)group;
    }
    f->n_trees = n;
    return 0;
}

/* What the learner says about itself: objective, columns, classes, where the margin starts. */
static int learner_load(struct loader *l, const json_t *learner, uint32_t n_features)
{
    struct forest *f = l->f;
    const json_t *param = json_object_get(learner, "learner_model_param");
    const json_t *booster = json_object_get(learner, "gradient_booster");
    const char *kind = json_string_value(json_object_get(booster, "name"));
    const char *objective =
        json_string_value(json_object_get(json_object_get(learner, "objective"), "name"));
    uint32_t columns, classes;
    double base = 0;
    int err;

    if (!kind || strcmp(kind, "gbtree") != 0)
        return fail(l, SEISMO_EMALFORMED, "gradient_booster is not gbtree");
    if ((err = whole(l, param, "num_feature", FOREST_MAX_FEATURES, &columns)) ||
        (err = whole(l, param, "num_class", FOREST_MAX_GROUPS, &classes)) ||
        (err = parameter(l, param, "base_score", &base)))
        return err;
    if (columns != n_features)
        return fail(l, SEISMO_EMALFORMED,
                    "trained on %" PRIu32 " columns, but the model lists %" PRIu32 " features",
                    columns, n_features);
    f->n_features = columns;
    f->base = (float)base;
    if (objective && strcmp(objective, "binary:logistic") == 0 && classes == 0) {
        if (!(f->base > 0 && f->base < 1))
            return fail(l, SEISMO_EMALFORMED, "base_score is %g, not between 0 and 1", base);
        f->n_groups = 1;
        f->base = -logf(1.0f / f->base - 1.0f); /* as libxgboost computes it */
    } else if (objective && strcmp(objective, "multi:softprob") == 0 && classes >= 2) {
        f->n_groups = classes;
    } else {
        return fail(l, SEISMO_EMALFORMED,
                    "objective is neither binary:logistic nor multi:softprob with 2..%d classes",
                    FOREST_MAX_GROUPS);
    }
    if (!isfinite(f->base))
        return fail(l, SEISMO_EMALFORMED, "base_score is not finite");
    return trees_load(l, json_object_get(booster, "model"));
}

int forest_new(const json_t *booster, const char *where, uint32_t n_features,
               struct forest **ret_forest, char errmsg[SEISMO_ERRMSG])
{
    struct loader l = {.where = where, .errmsg = errmsg, .tree = -1};
    const json_t *version = json_array_get(json_object_get(booster, "version"), 0);
    int err;

    if (!json_is_object(booster))
        return fail(&l, SEISMO_EMALFORMED, "is not an object as Booster.save_model writes it");
    if (!json_is_integer(version) || json_integer_value(version) != 1)
        return fail(&l, SEISMO_EVERSION, "not saved by XGBoost 1.x");
    if (n_features == 0 || n_features > FOREST_MAX_FEATURES)
        return fail(&l, SEISMO_ETOOBIG, "%" PRIu32 " features; 1 to %d are allowed", n_features,
                    FOREST_MAX_FEATURES);
    l.f = calloc(1, sizeof(*l.f));
    if (!l.f)
        return fail(&l, SEISMO_ENOMEM, "out of memory");
    err = learner_load(&l, json_object_get(booster, "learner"), n_features);
    free(l.source);
    free(l.cover);
    if (err)
        forest_free(&l.f);
    else
        *ret_forest = l.f;
    return err;
}
