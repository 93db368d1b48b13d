#include "models/batch.h"

#include <stdlib.h>
#include <string.h>

#include "models/model.h"

size_t seismo_row_size(void)
{
    return sizeof(struct seismo_row);
}

int seismo_values_n(void)
{
    return SEISMO_N_VALUES;
}

const char *seismo_value_name(int i)
{
    static const char *const names[SEISMO_N_VALUES] = {
#define SEISMO_VALUE(constant, name, unit, meaning) [SEISMO_##constant] = #name,
#include "proto/fields.def"
    };
    return i >= 0 && i < SEISMO_N_VALUES ? names[i] : NULL;
}

int seismo_features_n(void)
{
    return FEATURES_N;
}

unsigned seismo_features_version(void)
{
    return FEATURES_VERSION;
}

static const struct feature_info *info(int i)
{
    static const struct feature_info none;
    return i >= 0 && i < FEATURES_N ? &feature_info[i] : &none;
}

const char *seismo_feature_name(int i)
{
    return info(i)->name;
}

const char *seismo_feature_group(int i)
{
    return i >= 0 && i < FEATURES_N ? feature_group_name(info(i)->group) : NULL;
}

const char *seismo_feature_unit(int i)
{
    return info(i)->unit;
}

const char *seismo_feature_invariance(int i)
{
    return info(i)->invariance;
}

const char *seismo_feature_meaning(int i)
{
    return info(i)->meaning;
}

void seismo_features_batch(const struct seismo_row *rows, size_t n, float *ret)
{
    struct features f;

    features_init(&f);
    for (size_t i = 0; i < n; i++)
        features_push(&f, &rows[i], ret + i * FEATURES_N);
}

struct model *seismo_model_load(const char *path, char *errmsg)
{
    struct model *m = NULL;

    return model_load(path, &m, errmsg) ? NULL : m;
}

void seismo_model_free(struct model *m)
{
    model_free(&m);
}

char *seismo_model_describe(const struct model *m)
{
    json_t *about = model_describe(m);
    char *text = about ? json_dumps(about, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;

    json_decref(about);
    return text;
}

int seismo_model_heads(const struct model *m)
{
    return (int)m->n_alarms;
}

void seismo_model_scores(const struct model *m, int head, const float *features, size_t n,
                         float *ret_margin, float *ret_score)
{
    const struct model_head *h = &m->alarm[head].head;
    float x[FEATURES_N];

    for (size_t i = 0; i < n; i++) {
        model_columns(m, features + i * FEATURES_N, x);
        if (ret_margin)
            forest_margin(h->forest, x, &ret_margin[i]);
        if (ret_score)
            ret_score[i] = model_score(model_margin(h, x));
    }
}

char *seismo_detector_batch(const struct model *m, const struct seismo_row *rows, size_t n,
                            const char *run, const char *program, float *ret_score,
                            unsigned char *ret_state, unsigned char *ret_severity,
                            float *ret_curvature)
{
    struct detector d;
    struct detector_result result;
    json_t *verdicts = json_array();
    int err = !verdicts;

    detector_init(&d);
    for (size_t i = 0; i < n; i++) {
        detector_step(&d, m, &rows[i], &result);
        if (ret_score)
            ret_score[i] = result.score;
        if (ret_state)
            ret_state[i] = (unsigned char)result.state;
        if (ret_severity)
            ret_severity[i] = (unsigned char)result.severity;
        if (ret_curvature)
            ret_curvature[i] = result.curvature;
        for (int v = 0; v < result.n_verdicts; v++)
            err |= json_array_append_new(verdicts, verdict_json(&result.verdict[v], run, program));
    }
    char *text = err ? NULL : json_dumps(verdicts, JSON_REAL_PRECISION(15));
    json_decref(verdicts);
    return text;
}

const char *seismo_state_name(int i)
{
    return i >= 0 && i < STATES_N ? verdict_state_name((enum verdict_state)i) : NULL;
}

const char *seismo_severity_name(int i)
{
    return i >= 0 && i < SEVERITIES_N ? verdict_severity_name((enum verdict_severity)i) : NULL;
}

struct forest *seismo_forest_load(const char *json, int n_features, char *errmsg)
{
    struct forest *f = NULL;
    json_t *booster = json_loads(json, 0, NULL);
    int err = forest_new(booster, "booster", (uint32_t)n_features, &f, errmsg);

    json_decref(booster);
    return err ? NULL : f;
}

void seismo_forest_free(struct forest *f)
{
    forest_free(&f);
}

int seismo_forest_groups(const struct forest *f)
{
    return (int)forest_groups(f);
}

void seismo_forest_predict(const struct forest *f, const float *x, size_t n, int n_features,
                           float *ret_margin, float *ret_probability, double *ret_contribution)
{
    uint32_t groups = forest_groups(f);
    size_t width = (size_t)n_features;
    float margin[FOREST_MAX_GROUPS];

    for (size_t i = 0; i < n; i++, x += width) {
        forest_margin(f, x, margin);
        if (ret_margin)
            memcpy(ret_margin + i * groups, margin, groups * sizeof(*margin));
        forest_probability(f, margin);
        if (ret_probability)
            memcpy(ret_probability + i * groups, margin, groups * sizeof(*margin));
        for (uint32_t g = 0; ret_contribution && g < groups; g++) {
            ret_contribution[width] = forest_attribute(f, x, g, ret_contribution);
            ret_contribution += width + 1;
        }
    }
}

void seismo_free(char *text)
{
    free(text);
}
