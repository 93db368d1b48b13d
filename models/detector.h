/* The detector: features, forest and verdict joined. One row in, a score and perhaps a verdict out.
 *
 * The daemon, `seismo score` and the training pipeline all run this code, so a stored run scored
 * again gives the same bits. `struct model` is immutable after loading and may be shared by
 * threads; `struct detector` is plain data of fixed size (<= 2.25 kB), one a run, copied by
 * assignment. */
#ifndef SEISMO_MODELS_DETECTOR_H
#define SEISMO_MODELS_DETECTOR_H

#include <stddef.h>

#include "models/features.h"
#include "models/judge.h"
#include "models/verdict.h"
#include "proto/err.h"
#include "proto/row.h"

struct model;

/* The model compiled into the program. NULL only when out of memory or the build is broken. */
struct model *model_builtin(char errmsg[SEISMO_ERRMSG]);

/* Load a model file (format: models/MODEL_FORMAT.md), or the built-in model for a NULL path.
 * Everything is validated: a hostile or damaged file gives SEISMO_EMALFORMED, SEISMO_ETOOBIG or
 * SEISMO_EVERSION and a text naming the place. */
int model_load(const char *path, struct model **ret_model, char errmsg[SEISMO_ERRMSG]);
void model_free(struct model **model);

/* Choose the thresholds for another budget of false alarms (a share of healthy runs, such as 0.01)
 * than the model's default; before the model is used. SEISMO_EINVAL when the model has none for it.
 * The warning level is at most the threshold. Another budget than the default one is another model
 * with an id of its own. */
int model_set_budget(struct model *m, double budget, char errmsg[SEISMO_ERRMSG]);

const char *model_name(const struct model *m);
uint64_t model_id(const struct model *m); /* hash of the file's bytes and the feature version */
json_t *model_describe(const struct model *m); /* for `seismo model info`; new reference */

#define DETECTOR_HEADS 4 /* instability heads at most */
/* For so many rows a field counts as one that the run sends; features forget it as soon. */
#define DETECTOR_SENT 64
/* A loss that is NaN for so many rows beside finite gradients is taken for a mean over steps of
 * which one was skipped; from the next one on it counts as not finite. */
#define DETECTOR_NAN_MEAN 64

struct detector {
    struct features features;
    struct judge judge;
    int64_t step;                    /* of the last row; -1 before the first */
    int64_t nan_since;               /* step of the first of the `nan_mean` rows */
    uint32_t healthy;                /* rows that `usual` is made from */
    uint8_t head;                    /* the instability head in charge of the last row */
    uint8_t nan_mean;                /* rows in a row with a NaN loss beside finite gradients;
                                        at most DETECTOR_NAN_MEAN + 1 */
    uint8_t unsent[DETECTOR_HEADS];  /* rows since one of a head's fields came, saturating */
    float score;                     /* after the last row */
    float side_score[JUDGE_SIDES_N]; /* when last judged; NaN before */
    float value[FEATURES_N];         /* features after the last row */
    float usual[FEATURES_N];   /* their running mean while the run was healthy; NaN if unknown */
    float spread[FEATURES_N];  /* and their mean absolute deviation from it */
    uint16_t away[FEATURES_N]; /* steps that the present excursion has lasted, saturating; 0 when
                                  the feature is in none */
};
_Static_assert(sizeof(struct detector) <= 2304, "a run's state must stay within 2.25 kB");

#define DETECTOR_MAX_VERDICTS 2 /* one step can both leave a state and enter one */

struct detector_result {
    float score;     /* calibrated probability of instability after this step, 0 to 1; 1 when the
                        loss or the parameters have been non-finite for JUDGE_NONFINITE rows */
    float curvature; /* for plots: sharpness times step size along the update, dimensionless; NaN if
                        unknown */
    enum verdict_state state; /* after this step */
    enum verdict_severity severity;
    uint8_t n_verdicts;
    struct verdict verdict[DETECTOR_MAX_VERDICTS]; /* in order */
};

void detector_init(struct detector *d);

/* Steps must increase; the caller restores an earlier state when a job resumes from a checkpoint.
 */
void detector_step(struct detector *d, const struct model *m, const struct seismo_row *row,
                   struct detector_result *ret);

/* Why the score is what it is at the last step, sorted by |contribution|: feature names, values,
 * contributions (log-odds; they and the bias sum to the margin) and words. Returns how many: the
 * model's features, at most FEATURES_N and at most `max`. */
int detector_explain(const struct detector *d, const struct model *m, struct verdict_reason *ret,
                     int max, float *ret_bias, float *ret_margin);

/* Snapshot: a versioned, checksummed byte string. Restoring one from another model or feature
 * version gives SEISMO_EVERSION (the caller then replays the stored rows), a damaged one
 * SEISMO_ECORRUPT. */
#define DETECTOR_SNAPSHOT_MAX 2368
size_t detector_snapshot(const struct detector *d, const struct model *m,
                         uint8_t ret[DETECTOR_SNAPSHOT_MAX]);
int detector_restore(struct detector *d, const struct model *m, const uint8_t *data, size_t n);

#endif
