/* A loaded model: forests, calibration and the rules that turn scores into states. Immutable.
 * The file's format is in MODEL_FORMAT.md; everything in it is validated here. Include detector.h
 * for what other folders use of it. */
#ifndef SEISMO_MODELS_MODEL_H
#define SEISMO_MODELS_MODEL_H

#include "models/detector.h"
#include "models/forest.h"

#define MODEL_FORMAT 2 /* 1, with a single instability head, is read too */
#define MODEL_MAX_BYTES (64u << 20)
#define MODEL_MAX_NAME 64

struct model_head {
    struct forest *forest;
    float slope, intercept; /* Platt: score = sigmoid(slope * margin + intercept) */
};

struct model_alarm { /* an instability head, for runs that send certain fields */
    struct model_head head;
    struct judge_rules rules;
    uint32_t needs; /* bits of enum seismo_value, any of which calls for it; 0 for the first */
};

struct model {
    char name[MODEL_MAX_NAME + 1];
    uint64_t id;
    json_t *about; /* the file without its trees, for model_describe */

    uint32_t n_features;
    uint16_t feature[FEATURES_N]; /* n_features: enum feature of each column */

    uint32_t n_alarms; /* at least 1; from the poorest fields to the richest */
    struct model_alarm alarm[DETECTOR_HEADS];
    struct model_head side[JUDGE_SIDES_N]; /* forest NULL: the model has no such head */
    struct judge_side_rules side_rules[JUDGE_SIDES_N];

    struct forest *fault;      /* NULL when the model has no fault head */
    uint8_t classes[FAULTS_N]; /* enum fault_class of each of its groups */
};

/* Same as model_load from bytes in memory; `where` names them in errors. */
int model_parse(const char *bytes, size_t n, const char *where, struct model **ret_model,
                char errmsg[SEISMO_ERRMSG]);

/* The model's columns of a row of features. */
void model_columns(const struct model *m, const float features[FEATURES_N], float ret[FEATURES_N]);

/* Calibrated log-odds and score of a row of columns. */
float model_margin(const struct model_head *head, const float *columns);
float model_score(float margin);

#endif
