#include "models/model.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json_text.h"

/* The file in the program: builtin_model.S, made by meson.build. */
extern const char seismo_model_begin[], seismo_model_end[];

/* A side's head is called like its state. */
static const char *side_name(int side)
{
    return verdict_state_name(judge_side_state((enum judge_side)side));
}

struct reader {
    struct model *m;
    const char *where;
    char *errmsg;
};

__attribute__((format(printf, 3, 4))) static int fail(struct reader *r, int err, const char *format,
                                                      ...)
{
    va_list ap;
    int n = snprintf(r->errmsg, SEISMO_ERRMSG, "%.60s: ", r->where);

    va_start(ap, format);
    vsnprintf(r->errmsg + n, SEISMO_ERRMSG - (size_t)n, format, ap);
    va_end(ap);
    seismo_errmsg_plain(r->errmsg);
    return err;
}

static int number(struct reader *r, const json_t *object, const char *head, const char *name,
                  double min, double max, double *ret)
{
    const json_t *x = json_object_get(object, name);
    double y = json_number_value(x);

    if (!json_is_number(x) || !(y >= min && y <= max))
        return fail(r, SEISMO_EMALFORMED, "%s.%s is not a number in %g..%g", head, name, min, max);
    *ret = y;
    return 0;
}

static int count(struct reader *r, const json_t *object, const char *head, const char *name,
                 int64_t min, int64_t max, uint16_t *ret)
{
    const json_t *x = json_object_get(object, name);
    int64_t y = json_integer_value(x);

    if (!json_is_integer(x) || y < min || y > max)
        return fail(r, SEISMO_EMALFORMED, "%s.%s is not an integer in %" PRId64 "..%" PRId64, head,
                    name, min, max);
    *ret = (uint16_t)y;
    return 0;
}

static int features_read(struct reader *r, const json_t *root)
{
    const json_t *list = json_object_get(root, "features"), *item;
    const json_t *version = json_object_get(root, "feature_version");
    bool seen[FEATURES_N] = {false};
    size_t i;

    if (!json_is_integer(version) || json_integer_value(version) != FEATURES_VERSION)
        return fail(r, SEISMO_EVERSION,
                    "feature_version is not %d; train the model again with this version of seismo",
                    FEATURES_VERSION);
    if (json_array_size(list) == 0 || json_array_size(list) > FEATURES_N)
        return fail(r, SEISMO_EMALFORMED, "features is not a list of 1 to %d names", FEATURES_N);
    json_array_foreach ((json_t *)list, i, item) {
        const char *name = json_string_value(item);
        int feature = name ? feature_find(name) : -1;
        if (feature < 0 || seen[feature])
            return fail(r, SEISMO_EMALFORMED, "features[%zu] (%.40s) is %s", i,
                        name ? name : "not a string",
                        feature < 0 ? "no feature of this version" : "listed twice");
        seen[feature] = true;
        r->m->feature[i] = (uint16_t)feature;
    }
    r->m->n_features = (uint32_t)i;
    return 0;
}

static int booster_read(struct reader *r, const json_t *head, const char *name, struct forest **ret)
{
    char where[96];

    snprintf(where, sizeof(where), "%.60s: heads.%s.booster", r->where, name);
    return forest_new(json_object_get(head, "booster"), where, r->m->n_features, ret, r->errmsg);
}

/* What a binary head has in any case: booster, calibration, budgets. ret_threshold: that of the
 * default budget. */
static int binary_read(struct reader *r, const json_t *head, const char *name,
                       struct model_head *ret, double *ret_threshold)
{
    const json_t *budgets = json_object_get(head, "budgets"), *budget;
    const json_t *platt = json_object_get(head, "calibration");
    const char *key, *chosen = json_string_value(json_object_get(head, "default_budget"));
    double slope = 0, intercept = 0;
    char h[64];
    int err;

    snprintf(h, sizeof(h), "heads.%s.calibration", name);
    if ((err = number(r, platt, h, "slope", 1e-6, 1e6, &slope)) ||
        (err = number(r, platt, h, "intercept", -1e6, 1e6, &intercept)))
        return err;
    snprintf(h, sizeof(h), "heads.%s", name);
    json_object_foreach ((json_t *)budgets, key, budget) {
        double level = json_is_number(budget) ? json_number_value(budget) : NAN;
        if (!(level > 0 && level <= 1))
            return fail(r, SEISMO_EMALFORMED, "%s.budgets[\"%.20s\"] is not a number in 0..1", h,
                        key);
    }
    if (!chosen || !json_object_get(budgets, chosen))
        return fail(r, SEISMO_EMALFORMED, "%s.default_budget is not one of its budgets", h);
    *ret_threshold = json_number_value(json_object_get(budgets, chosen));
    ret->slope = (float)slope;
    ret->intercept = (float)intercept;
    err = booster_read(r, head, name, &ret->forest);
    if (!err && forest_groups(ret->forest) != 1)
        return fail(r, SEISMO_EMALFORMED, "%s.booster is not binary:logistic", h);
    return err;
}

static int instability_read(struct reader *r, const json_t *head)
{
    const char *h = "heads.instability";
    struct judge_rules *rules = &r->m->rules;
    double warning = 0, threshold, leave = 0;
    int err;

    if (!json_is_object(head))
        return fail(r, SEISMO_EMALFORMED, "%s is missing", h);
    if ((err = binary_read(r, head, "instability", &r->m->instability, &threshold)) ||
        (err = number(r, head, h, "warning", 0, 1, &warning)) ||
        (err = number(r, head, h, "exit", 0, 1, &leave)) ||
        (err = count(r, head, h, "confirm", 1, 100, &rules->confirm)) ||
        (err = count(r, head, h, "exit_confirm", 1, 10000, &rules->exit_confirm)) ||
        (err = count(r, head, h, "warmup", 0, 10000, &rules->warmup)))
        return err;
    if (!(leave <= warning && warning <= threshold))
        return fail(r, SEISMO_EMALFORMED,
                    "%s: exit (%g) <= warning (%g) <= the default budget's threshold (%g) does "
                    "not hold",
                    h, leave, warning, threshold);
    rules->warning = (float)warning;
    rules->threshold = (float)threshold;
    rules->exit = (float)leave;
    return 0;
}

static int side_read(struct reader *r, const json_t *heads, enum judge_side side)
{
    const char *name = side_name(side);
    const json_t *head = json_object_get(heads, name);
    struct judge_side_rules *rules = &r->m->side_rules[side];
    double threshold, leave = 0;
    char h[64];
    int err;

    if (!head)
        return 0;
    snprintf(h, sizeof(h), "heads.%s", name);
    if ((err = binary_read(r, head, name, &r->m->side[side], &threshold)) ||
        (err = number(r, head, h, "exit", 0, 1, &leave)) ||
        (err = count(r, head, h, "confirm", 1, 100, &rules->confirm)) ||
        (err = count(r, head, h, "exit_confirm", 1, 10000, &rules->exit_confirm)))
        return err;
    if (leave > threshold)
        return fail(r, SEISMO_EMALFORMED, "%s.exit is above the default budget's threshold", h);
    rules->threshold = (float)threshold;
    rules->exit = (float)leave;
    return 0;
}

static int fault_read(struct reader *r, const json_t *head)
{
    const json_t *classes = json_object_get(head, "classes"), *item;
    bool seen[FAULTS_N] = {false};
    size_t i;
    int err;

    if (!head)
        return 0;
    err = booster_read(r, head, "fault", &r->m->fault);
    if (err)
        return err;
    uint32_t groups = forest_groups(r->m->fault);
    if (groups < 2 || groups > FAULTS_N || json_array_size(classes) != groups)
        return fail(r, SEISMO_EMALFORMED,
                    "heads.fault: the booster has %" PRIu32
                    " classes, `classes` %zu; 2 to %d, both the same, are allowed",
                    groups, json_array_size(classes), FAULTS_N);
    json_array_foreach ((json_t *)classes, i, item) {
        const char *name = json_string_value(item);
        int f = 0;
        while (f < FAULTS_N && !(name && strcmp(name, fault_name((enum fault_class)f)) == 0))
            f++;
        if (f == FAULTS_N || seen[f])
            return fail(r, SEISMO_EMALFORMED,
                        "heads.fault.classes[%zu] (%.40s) is unknown or listed twice", i,
                        name ? name : "not a string");
        seen[f] = true;
        r->m->classes[i] = (uint8_t)f;
    }
    return 0;
}

static json_t *forest_describe(const struct forest *f)
{
    return json_pack("{s:i, s:i, s:i}", "trees", (int)forest_trees(f), "nodes",
                     (int)forest_nodes(f), "depth", (int)forest_depth(f));
}

static int head_describe(json_t *heads, const char *name, const struct forest *f, float threshold)
{
    json_t *head = json_object_get(heads, name);

    return json_object_set_new(head, "booster", forest_describe(f)) |
           json_object_set_new(head, "threshold", json_real((double)threshold));
}

/* What model_describe tells: the file, with each booster replaced by its size. Heads that this
 * version does not score are told apart by the lack of it. */
static int about_make(struct reader *r, json_t *root)
{
    json_t *heads = json_object_get(root, "heads"), *head;
    struct model *m = r->m;
    char id[17];
    const char *key;
    int err = 0;

    json_object_foreach (heads, key, head)
        json_object_del(head, "booster");
    err |= head_describe(heads, "instability", m->instability.forest, m->rules.threshold);
    for (int i = 0; i < JUDGE_SIDES_N; i++)
        if (m->side[i].forest)
            err |=
                head_describe(heads, side_name(i), m->side[i].forest, m->side_rules[i].threshold);
    if (m->fault)
        err |= json_object_set_new(json_object_get(heads, "fault"), "booster",
                                   forest_describe(m->fault));
    snprintf(id, sizeof(id), "%016" PRIx64, m->id);
    err |= json_object_set_new(root, "id", json_string(id));
    m->about = json_deep_copy(root);
    return err || !m->about ? fail(r, SEISMO_ENOMEM, "out of memory") : 0;
}

static int model_read(struct reader *r, json_t *root)
{
    const json_t *format = json_object_get(root, "format");
    const char *name = json_string_value(json_object_get(root, "name"));
    const json_t *heads = json_object_get(root, "heads");
    int err;

    if (!json_is_object(root))
        return fail(r, SEISMO_EMALFORMED, "is not a JSON object");
    if (!json_is_integer(format) || json_integer_value(format) != MODEL_FORMAT)
        return fail(r, SEISMO_EVERSION, "format is not %d, the one this version reads",
                    MODEL_FORMAT);
    if (!name || strlen(name) == 0 || strlen(name) > MODEL_MAX_NAME)
        return fail(r, SEISMO_EMALFORMED, "name is not a string of 1 to %d bytes", MODEL_MAX_NAME);
    strcpy(r->m->name, name);
    if (!json_is_string(json_object_get(root, "created")))
        return fail(r, SEISMO_EMALFORMED, "created is not a string");
    if ((err = features_read(r, root)) ||
        (err = instability_read(r, json_object_get(heads, "instability"))) ||
        (err = side_read(r, heads, JUDGE_MISMATCH)) || (err = side_read(r, heads, JUDGE_STALLED)) ||
        (err = fault_read(r, json_object_get(heads, "fault"))))
        return err;
    return about_make(r, root);
}

static uint64_t hash(uint64_t h, const void *data, size_t n) /* FNV-1a */
{
    const uint8_t *p = data;

    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* The end of a long path says more than its begin, and leaves room for the error. */
static const char *path_end(const char *path)
{
    size_t n = strlen(path);

    return n > 60 ? path + n - 60 : path;
}

int model_parse(const char *bytes, size_t n, const char *where, struct model **ret_model,
                char errmsg[SEISMO_ERRMSG])
{
    struct reader r = {.where = path_end(where), .errmsg = errmsg};
    uint32_t version = FEATURES_VERSION;
    json_error_t error;
    bool no_memory;
    int err;

    json_t *root = json_text(bytes, n, JSON_REJECT_DUPLICATES, &error, &no_memory);
    if (no_memory)
        return fail(&r, SEISMO_ENOMEM, "out of memory");
    if (!root)
        return fail(&r, SEISMO_EMALFORMED, "line %d, column %d: %.100s", error.line, error.column,
                    error.text);
    r.m = calloc(1, sizeof(*r.m));
    if (!r.m) {
        json_decref(root);
        return fail(&r, SEISMO_ENOMEM, "out of memory");
    }
    r.m->id = hash(hash(0xcbf29ce484222325u, bytes, n), &version, sizeof(version));
    err = model_read(&r, root);
    json_decref(root);
    if (err)
        model_free(&r.m);
    else
        *ret_model = r.m;
    return err;
}

static int file_load(const char *path, struct model **ret_model, char errmsg[SEISMO_ERRMSG])
{
    struct reader r = {.where = path_end(path), .errmsg = errmsg};
    FILE *file = fopen(path, "rb");
    char *bytes = NULL;
    size_t n = 0, size = 1 << 16;
    int err = 0;

    if (!file && errno == ENOMEM)
        return fail(&r, SEISMO_ENOMEM, "out of memory");
    if (!file)
        return fail(&r, errno == ENOENT ? SEISMO_ENOTFOUND : SEISMO_EIO,
                    "cannot open the model file: %s", strerror(errno));
    do {
        char *more = realloc(bytes, size *= 2);
        if (!more) {
            err = fail(&r, SEISMO_ENOMEM, "out of memory");
            break;
        }
        bytes = more;
        n += fread(bytes + n, 1, size - n, file);
        if (n > MODEL_MAX_BYTES)
            err = fail(&r, SEISMO_ETOOBIG, "more than %u bytes", MODEL_MAX_BYTES);
    } while (!err && n == size);
    if (!err && ferror(file))
        err = fail(&r, SEISMO_EIO, "cannot read the model file: %s", strerror(errno));
    fclose(file);
    if (!err)
        err = model_parse(bytes, n, path, ret_model, errmsg);
    free(bytes);
    return err;
}

int model_load(const char *path, struct model **ret_model, char errmsg[SEISMO_ERRMSG])
{
    size_t n = (size_t)(seismo_model_end - seismo_model_begin);

    return path ? file_load(path, ret_model, errmsg)
                : model_parse(seismo_model_begin, n, "built-in model", ret_model, errmsg);
}

struct model *model_builtin(char errmsg[SEISMO_ERRMSG])
{
    struct model *m = NULL;

    return model_load(NULL, &m, errmsg) ? NULL : m;
}

void model_free(struct model **model)
{
    struct model *m = *model;

    if (!m)
        return;
    forest_free(&m->instability.forest);
    for (int i = 0; i < JUDGE_SIDES_N; i++)
        forest_free(&m->side[i].forest);
    forest_free(&m->fault);
    json_decref(m->about);
    free(m);
    *model = NULL;
}

/* The threshold of one head for a budget; the default where the head has none for it. */
static double budget_threshold(const struct model *m, const char *name, double budget,
                               double otherwise)
{
    json_t *head = json_object_get(json_object_get(m->about, "heads"), name), *level;
    const char *key;

    json_object_foreach (json_object_get(head, "budgets"), key, level)
        if (fabs(strtod(key, NULL) - budget) < 1e-9 * budget) {
            json_object_set_new(head, "threshold", json_deep_copy(level));
            return json_number_value(level);
        }
    return otherwise;
}

int model_set_budget(struct model *m, double budget, char errmsg[SEISMO_ERRMSG])
{
    double threshold = budget_threshold(m, "instability", budget, NAN);
    char id[17];

    if (isnan(threshold)) {
        char known[128] = "";
        const char *key;
        json_t *level;
        json_object_foreach (
            json_object_get(json_object_get(json_object_get(m->about, "heads"), "instability"),
                            "budgets"),
            key, level)
            snprintf(known + strlen(known), sizeof(known) - strlen(known), " %.20s", key);
        snprintf(errmsg, SEISMO_ERRMSG, "the model has no threshold for a budget of %g; it has%s",
                 budget, known);
        return SEISMO_EINVAL;
    }
    if (m->rules.threshold == (float)threshold)
        return 0; /* the default budget: the file's own model */
    m->rules.threshold = (float)threshold;
    m->rules.warning = fminf(m->rules.warning, m->rules.threshold);
    m->rules.exit = fminf(m->rules.exit, m->rules.warning);
    for (int i = 0; i < JUDGE_SIDES_N; i++) {
        struct judge_side_rules *rules = &m->side_rules[i];
        rules->threshold =
            (float)budget_threshold(m, side_name(i), budget, (double)rules->threshold);
        rules->exit = fminf(rules->exit, rules->threshold);
    }
    m->id = hash(m->id, &m->rules.threshold, sizeof(m->rules.threshold));
    snprintf(id, sizeof(id), "%016" PRIx64, m->id);
    return json_object_set_new(m->about, "id", json_string(id)) ? SEISMO_ENOMEM : 0;
}

const char *model_name(const struct model *m)
{
    return m->name;
}

uint64_t model_id(const struct model *m)
{
    return m->id;
}

json_t *model_describe(const struct model *m)
{
    return json_deep_copy(m->about);
}

void model_columns(const struct model *m, const float features[FEATURES_N], float ret[FEATURES_N])
{
    for (uint32_t i = 0; i < m->n_features; i++)
        ret[i] = features[m->feature[i]];
}

float model_margin(const struct model_head *head, const float *columns)
{
    float margin;

    forest_margin(head->forest, columns, &margin);
    return head->slope * margin + head->intercept;
}

float model_score(float margin)
{
    return 1.0f / (1.0f + expf(-margin));
}
