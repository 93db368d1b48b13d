/* The shared library's interface for Python's ctypes (libseismo_detector.so): whole runs at once,
 * with exactly the code that the daemon and `seismo score` run.
 *
 * A run is an array of struct seismo_row in step order, as numpy dtype
 *   {'names': ['step', 'time', 'present', 'value'],
 *    'formats': ['<i8', '<f8', '<u4', ('<f4', (24,))], 'offsets': [0, 8, 16, 20], 'itemsize': 120}
 * Texts are UTF-8. A `char *` result is the caller's, to be freed with seismo_free; errmsg is a
 * buffer of SEISMO_ERRMSG (256) bytes. */
#ifndef SEISMO_MODELS_BATCH_H
#define SEISMO_MODELS_BATCH_H

#include <stddef.h>

#include "models/detector.h"
#include "models/forest.h"

size_t seismo_row_size(void);
int seismo_values_n(void);
const char *seismo_value_name(int i); /* "loss", …; NULL when out of range */

int seismo_features_n(void);
unsigned seismo_features_version(void);
/* Of feature i in the order of the matrix; NULL when out of range. */
const char *seismo_feature_name(int i);
const char *seismo_feature_group(int i);
const char *seismo_feature_unit(int i);
const char *seismo_feature_invariance(int i);
const char *seismo_feature_meaning(int i);

/* Features after each of n rows of one run: ret is n x seismo_features_n() float32, row by row. */
void seismo_features_batch(const struct seismo_row *rows, size_t n, float *ret);

/* A model file, or the built-in model for a NULL path; NULL with errmsg on failure. */
struct model *seismo_model_load(const char *path, char *errmsg);
void seismo_model_free(struct model *m);
char *seismo_model_describe(const struct model *m); /* JSON */

int seismo_model_heads(const struct model *m);

/* One instability head, counted from 0, on n rows of *all* features (as seismo_features_batch gives
 * them): raw margins of the booster, and calibrated scores. Either may be NULL. */
void seismo_model_scores(const struct model *m, int head, const float *features, size_t n,
                         float *ret_margin, float *ret_score);

/* One run through the detector, row by row: scores, states (enum verdict_state), severities (enum
 * verdict_severity) and curvature after each row, each of n elements or NULL. Returns the verdicts
 * as a JSON list, or NULL when out of memory. */
char *seismo_detector_batch(const struct model *m, const struct seismo_row *rows, size_t n,
                            const char *run, const char *program, float *ret_score,
                            unsigned char *ret_state, unsigned char *ret_severity,
                            float *ret_curvature);
const char *seismo_state_name(int i);    /* NULL when out of range */
const char *seismo_severity_name(int i); /* NULL when out of range */

/* A booster's JSON text alone; NULL with errmsg on failure. */
struct forest *seismo_forest_load(const char *json, int n_features, char *errmsg);
void seismo_forest_free(struct forest *f);
int seismo_forest_groups(const struct forest *f);
/* n rows of n_features: margins and probabilities, n x groups each; contributions, n x groups x
 * (n_features + 1) float64 with the bias last. Each may be NULL. */
void seismo_forest_predict(const struct forest *f, const float *x, size_t n, int n_features,
                           float *ret_margin, float *ret_probability, double *ret_contribution);

void seismo_free(char *text);

#endif
