/* Streaming features of one run: one row in, FEATURES_N float32 out.
 *
 * Invariants: the state has a fixed size, holds no pointer (so a byte copy is a snapshot) and costs
 * O(1) a step. A feature that cannot be computed from what was sent is NaN, never zero, and no
 * feature is ever infinite. NaN and infinities among the inputs leave the state as it was, apart
 * from the shares that count them. No feature changes when the loss is scaled by a positive factor
 * (gradients and dot products scaled along), nor with the number of parameters, the batch size or
 * the number of steps planned; scaling by a power of two gives the same bits. What compares sizes
 * of losses (loss_below_zero, loss_over_best, loss_noise_share, grad_against_loss) changes when the
 * loss is shifted, and nothing else. Every feature's formula, unit and invariance stands in
 * features.def. */
#ifndef SEISMO_MODELS_FEATURES_H
#define SEISMO_MODELS_FEATURES_H

#include "models/window.h"
#include "proto/row.h"

/* Raised whenever a formula or the state below changes: snapshots of another version are refused.
 */
#define FEATURES_VERSION 3

#define FEATURE_GROUP_MAP(X)    \
    X(LOSS, "loss")             \
    X(GRADIENT, "gradient")     \
    X(CURVATURE, "curvature")   \
    X(OPTIMIZER, "optimizer")   \
    X(ACTIVATION, "activation") \
    X(VALIDATION, "validation") \
    X(LR, "lr")

enum feature_group {
#define X(constant, name) FEATURE_GROUP_##constant,
    FEATURE_GROUP_MAP(X)
#undef X
        FEATURE_GROUPS_N
};

enum feature_form { FORM_NUMBER, FORM_RATIO, FORM_SHARE }; /* see features.def */

enum feature {
#define SEISMO_FEATURE(constant, name, group, form, unit, invariance, phrase, meaning) \
    FEATURE_##constant,
#include "models/features.def"
    FEATURES_N
};

struct feature_info { /* one line of features.def */
    const char *name;
    enum feature_group group;
    enum feature_form form;
    const char *unit, *invariance, *phrase, *meaning;
};
extern const struct feature_info feature_info[FEATURES_N];

const char *feature_group_name(enum feature_group group);

/* The feature called `name`, or -1. */
int feature_find(const char *name);

/* Running means of one quantity; plain means until their horizon is reached. */
struct level {
    float fast, slow; /* over about 8 and 128 values */
    float first;      /* mean of the first 8 values */
    uint16_t n, age;  /* values so far (saturating); rows since the last one */
};

/* The same for the logarithm of a positive quantity, over the quantity's first value: so neither
 * its unit nor its magnitude costs precision. */
struct log_level {
    float ref; /* first value, in the quantity's unit; 0 before it */
    struct level log;
};

struct features_loss {
    double fast, mid, slow;        /* running means over 8, 32, 128 rows; loss */
    double first, best;            /* levels; loss */
    double initial, high;          /* the very first loss; highest f since f was best */
    double worst;                  /* highest f so far; loss */
    double previous[2];            /* the last finite losses, newest first; loss */
    double change;                 /* the last change, winsorised; loss */
    double product, square;        /* means of change * last change and of change^2; loss^2 */
    double noise_slow, noise_fast; /* before their floors; loss */
    double noise;                  /* the unit of most features; NaN until known; loss */
    double noise_best;             /* noise_fast with its floor, when f was best; loss */
    struct window window;          /* losses */
    float sign_changes, above_first, spikes, nonfinite; /* running shares */
    float above_initial, lost;                          /* running shares, too */
    float peak;                                         /* recent highest loss_above_best */
    uint32_t n;                                         /* finite losses */
    uint16_t since_high;                                /* rows, saturating */
    uint16_t since_best;                                /* rows, saturating */
    uint16_t rows;                                      /* rows with a loss, saturating */
};

struct features_gradient {
    struct log_level norm;
    float min, best;      /* norm.log.fast: the lowest, and that when the loss was best */
    struct window window; /* log(norm / norm.ref) */
    struct level peak;    /* log(max / norm) */
    float nonfinite;      /* running share */
    uint32_t rows;        /* rows that told of the gradient */
};

struct features_curvature {
    int64_t step; /* of the row that the five values below are from */
    float grad_norm, update_norm, ema_norm, dot_update, ema_dot_update; /* NaN if missing */
    struct level cosine, overshoot, change, ema_share, ema_cosine;
    struct log_level lipschitz;
    float secant_after, secant_before;         /* running means over 16 rows, see features.def */
    float ema_secant_after, ema_secant_before; /* the same with e in place of g before the step */
    uint16_t secant_n, ema_secant_n;
    uint16_t probe_n, ratio_n, probe_age; /* probes, those with a ratio; rows since the last */
    float probe_ratio, probe_ratio_mean, probe_ratio_slow, probe_change, probe_worse;
    float probe_sharpness, probe_grad_change; /* NaN unless the last probe was a full one */
};

struct features_optimizer {
    struct level update; /* log(update / param) */
    struct log_level param, efficiency, lr;
    struct level momentum, second_moment; /* log(norm / grad_norm) */
    struct level descent_cosine, descent_noise;
};

struct features_activation {
    struct level dead, saturated;
    struct log_level rms;
};

struct features_validation {
    double best; /* lowest val_loss; loss */
    float gap, rise;
    uint32_t n;
};

struct features {
    struct features_loss loss;
    struct features_gradient gradient;
    struct features_curvature curvature;
    struct features_optimizer optimizer;
    struct features_activation activation;
    struct features_validation validation;
};

void features_init(struct features *f);

/* Takes a row and returns the features after it. */
void features_push(struct features *f, const struct seismo_row *row, float ret[FEATURES_N]);

/* Sharpness times step size along the update, for plots: from the same-batch probe while one is
 * remembered (the gradient's, else twice the loss's second-order share), else the secant of
 * averaged gradients, else that of consecutive gradients, which sampling noise pulls to 1. NaN if
 * unknown. */
float features_curvature(const float features[FEATURES_N]);

/* Whether a state that comes from a file can be used without leaving its arrays. */
bool features_valid(const struct features *f);

#endif
