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

/* A side's head is called like its state, if that is its own. */
static const char *side_name(int side)
{
    if (side == JUDGE_PRECURSOR)
        return "precursor";
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

/* Budgets and the one among them that is the default; ret_threshold: its level. */
static int budgets_read(struct reader *r, const json_t *object, const char *h, const char *chosen,
                        double *ret_threshold)
{
    const json_t *budgets = json_object_get(object, "budgets"), *budget;
    const char *key;

    json_object_foreach ((json_t *)budgets, key, budget) {
        double level = json_is_number(budget) ? json_number_value(budget) : NAN;
        if (!(level > 0 && level <= 1))
            return fail(r, SEISMO_EMALFORMED, "%s.budgets[\"%.20s\"] is not a number in 0..1", h,
                        key);
    }
    if (!chosen || !json_object_get(budgets, chosen))
        return fail(r, SEISMO_EMALFORMED, "%s: default_budget is not one of its budgets", h);
    *ret_threshold = json_number_value(json_object_get(budgets, chosen));
    return 0;
}

/* What a binary head has in any case: booster, calibration, budgets. ret_threshold: that of the
 * default budget. */
static int binary_read(struct reader *r, const json_t *head, const char *name,
                       struct model_head *ret, double *ret_threshold)
{
    const json_t *platt = json_object_get(head, "calibration");
    const char *chosen = json_string_value(json_object_get(head, "default_budget"));
    double slope = 0, intercept = 0;
    char h[64];
    int err;

    snprintf(h, sizeof(h), "heads.%s.calibration", name);
    if ((err = number(r, platt, h, "slope", 1e-6, 1e6, &slope)) ||
        (err = number(r, platt, h, "intercept", -1e6, 1e6, &intercept)))
        return err;
    snprintf(h, sizeof(h), "heads.%s", name);
    if ((err = budgets_read(r, head, h, chosen, ret_threshold)))
        return err;
    ret->slope = (float)slope;
    ret->intercept = (float)intercept;
    err = booster_read(r, head, name, &ret->forest);
    if (!err && forest_groups(ret->forest) != 1)
        return fail(r, SEISMO_EMALFORMED, "%s.booster is not binary:logistic", h);
    return err;
}

/* The fields that call for a head: at least one for any but the first, which has none. */
static int needs_read(struct reader *r, const json_t *head, const char *h, bool first,
                      uint32_t *ret)
{
    const json_t *list = json_object_get(head, "needs"), *item;
    size_t i;

    if (!json_is_array(list) || (json_array_size(list) == 0) != first)
        return fail(r, SEISMO_EMALFORMED, "%s.needs is not a list of %s", h,
                    first ? "no fields: the first head is for any run" : "one field or more");
    json_array_foreach ((json_t *)list, i, item) {
        const char *name = json_string_value(item);
        int value =
            name ? seismo_field_find(name, (uint32_t)strlen(name)) - SEISMO_FIELD_VALUE0 : -1;
        if (value < 0)
            return fail(r, SEISMO_EMALFORMED, "%s.needs[%zu] (%.40s) is no field", h, i,
                        name ? name : "not a string");
        *ret |= 1u << value;
    }
    return 0;
}

/* The lower level that must be held for longer. */
static int lasting_read(struct reader *r, const json_t *head, const char *h, double leave,
                        double threshold, struct judge_rules *rules)
{
    const char *chosen = json_string_value(json_object_get(head, "default_budget"));
    const json_t *lasting = json_object_get(head, "lasting");
    char name[80];
    double level = 0;
    int err;

    snprintf(name, sizeof(name), "%s.lasting", h);
    if ((err = count(r, lasting, name, "confirm", 1, 1000, &rules->lasting_confirm)) ||
        (err = budgets_read(r, lasting, name, chosen, &level)))
        return err;
    if (!(leave <= level && level <= threshold))
        return fail(r, SEISMO_EMALFORMED,
                    "%s: the default budget's level (%g) is not between exit (%g) and the "
                    "threshold (%g)",
                    name, level, leave, threshold);
    rules->lasting = (float)level;
    return 0;
}

static int alarm_read(struct reader *r, const json_t *head, const char *name)
{
    struct model_alarm *alarm = &r->m->alarm[r->m->n_alarms];
    struct judge_rules *rules = &alarm->rules;
    double warning = 0, threshold, leave = 0;
    char h[64];
    int err;

    snprintf(h, sizeof(h), "heads.%s", name);
    if (!json_is_object(head))
        return fail(r, SEISMO_EMALFORMED, "%s is no object", h);
    r->m->n_alarms++; /* what is freed if this head turns out to be bad */
    if ((err = binary_read(r, head, name, &alarm->head, &threshold)) ||
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
    if (json_object_get(head, "lasting") &&
        (err = lasting_read(r, head, h, leave, threshold, rules)))
        return err;
    rules->warning = (float)warning;
    rules->threshold = (float)threshold;
    rules->exit = (float)leave;
    return 0;
}

/* Format 1 has one head, for all runs; format 2 a list. */
static int instability_read(struct reader *r, const json_t *heads, int64_t format)
{
    const json_t *list = json_object_get(heads, "instability"), *head;
    char name[40];
    size_t i;
    int err;

    if (!list)
        return fail(r, SEISMO_EMALFORMED, "heads.instability is missing");
    if (format == 1)
        return alarm_read(r, list, "instability");
    if (json_array_size(list) == 0 || json_array_size(list) > DETECTOR_HEADS)
        return fail(r, SEISMO_EMALFORMED, "heads.instability is not a list of 1 to %d heads",
                    DETECTOR_HEADS);
    json_array_foreach ((json_t *)list, i, head) {
        snprintf(name, sizeof(name), "instability[%zu]", i);
        if ((err = alarm_read(r, head, name)) ||
            (err = needs_read(r, head, name, i == 0, &r->m->alarm[i].needs)))
            return err;
    }
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

/* An instability head in the file or in what is told of it. */
static json_t *alarm_about(const json_t *root, uint32_t i)
{
    json_t *heads = json_object_get(json_object_get(root, "heads"), "instability");

    return json_is_array(heads) ? json_array_get(heads, i) : heads;
}

static int head_describe(json_t *head, const struct forest *f, float threshold)
{
    return json_object_set_new(head, "booster", forest_describe(f)) |
           json_object_set_new(head, "threshold", verdict_number(threshold));
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
    for (uint32_t i = 0; i < m->n_alarms; i++)
        err |= head_describe(alarm_about(root, i), m->alarm[i].head.forest,
                             m->alarm[i].rules.threshold);
    for (int i = 0; i < JUDGE_SIDES_N; i++)
        if (m->side[i].forest)
            err |= head_describe(json_object_get(heads, side_name(i)), m->side[i].forest,
                                 m->side_rules[i].threshold);
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
    if (!json_is_integer(format) || json_integer_value(format) < 1 ||
        json_integer_value(format) > MODEL_FORMAT)
        return fail(r, SEISMO_EVERSION, "format is not 1 to %d, those this version reads",
                    MODEL_FORMAT);
    if (!name || strlen(name) == 0 || strlen(name) > MODEL_MAX_NAME)
        return fail(r, SEISMO_EMALFORMED, "name is not a string of 1 to %d bytes", MODEL_MAX_NAME);
    strcpy(r->m->name, name);
    if (!json_is_string(json_object_get(root, "created")))
        return fail(r, SEISMO_EMALFORMED, "created is not a string");
    if ((err = features_read(r, root)) ||
        (err = instability_read(r, heads, json_integer_value(format))) ||
        (err = side_read(r, heads, JUDGE_MISMATCH)) || (err = side_read(r, heads, JUDGE_STALLED)) ||
        (err = side_read(r, heads, JUDGE_PRECURSOR)) ||
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
    for (uint32_t i = 0; i < m->n_alarms; i++)
        forest_free(&m->alarm[i].head.forest);
    for (int i = 0; i < JUDGE_SIDES_N; i++)
        forest_free(&m->side[i].forest);
    forest_free(&m->fault);
    json_decref(m->about);
    free(m);
    *model = NULL;
}

/* The threshold of a head for a budget, NaN where it has none; its description tells it. */
static float budget_threshold(json_t *head, double budget)
{
    json_t *level;
    const char *key;

    json_object_foreach (json_object_get(head, "budgets"), key, level)
        if (fabs(strtod(key, NULL) - budget) < 1e-9 * budget)
            return (float)json_number_value(level);
    return NAN;
}

int model_set_budget(struct model *m, double budget, char errmsg[SEISMO_ERRMSG])
{
    json_t *heads = json_object_get(m->about, "heads");
    bool changed = false;
    char id[17];
    int err = 0;

    for (uint32_t i = 0; i < m->n_alarms; i++) {
        json_t *head = alarm_about(m->about, i), *level;
        float threshold = budget_threshold(head, budget);
        char known[128] = "";
        const char *key;
        changed |= threshold != m->alarm[i].rules.threshold;
        if (!isnan(threshold))
            continue;
        json_object_foreach (json_object_get(head, "budgets"), key, level)
            snprintf(known + strlen(known), sizeof(known) - strlen(known), " %.20s", key);
        snprintf(errmsg, SEISMO_ERRMSG, "the model has no threshold for a budget of %g; it has%s",
                 budget, known);
        return SEISMO_EINVAL;
    }
    if (!changed)
        return 0; /* the default budget: the file's own model */
    for (uint32_t i = 0; i < m->n_alarms; i++) {
        struct judge_rules *rules = &m->alarm[i].rules;
        json_t *head = alarm_about(m->about, i);
        rules->threshold = budget_threshold(head, budget);
        if (rules->lasting_confirm > 0)
            rules->lasting = budget_threshold(json_object_get(head, "lasting"), budget);
        rules->warning = fminf(rules->warning, rules->threshold);
        rules->exit = fminf(rules->exit, rules->warning);
        if (rules->lasting_confirm > 0)
            rules->exit = fminf(rules->exit, rules->lasting);
        err |= json_object_set_new(head, "threshold", verdict_number(rules->threshold));
        m->id = hash(m->id, &rules->threshold, sizeof(rules->threshold));
    }
    for (int i = 0; i < JUDGE_SIDES_N; i++) {
        json_t *head = json_object_get(heads, side_name(i));
        struct judge_side_rules *rules = &m->side_rules[i];
        float threshold = budget_threshold(head, budget);
        if (isnan(threshold)) /* the default's, where the head has none for it */
            continue;
        rules->threshold = threshold;
        rules->exit = fminf(rules->exit, threshold);
        err |= json_object_set_new(head, "threshold", verdict_number(threshold));
    }
    snprintf(id, sizeof(id), "%016" PRIx64, m->id);
    err |= json_object_set_new(m->about, "id", json_string(id));
    return err ? SEISMO_ENOMEM : 0;
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
