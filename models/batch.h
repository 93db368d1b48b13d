/* The shared library's interface for Python's ctypes (libseismo_detector.so): whole runs at once,
 * with exactly the code that the daemon and `seismo score` run.
 *
 * A run is an array of struct seismo_row, as numpy dtype
 *   {'names': ['step', 'time', 'present', 'value'],
 *    'formats': ['<i8', '<f8', '<u4', ('<f4', (24,))], 'offsets': [0, 8, 16, 20], 'itemsize': 120}
 * Texts are UTF-8. Functions that return `char *` give text the caller frees with seismo_free. */
#ifndef SEISMO_MODELS_BATCH_H
#define SEISMO_MODELS_BATCH_H

#include <stddef.h>

#include "proto/row.h"

size_t seismo_row_size(void);
int seismo_values_n(void);
const char *seismo_value_name(int i); /* "loss", …; NULL when out of range */

int seismo_features_n(void);
unsigned seismo_features_version(void);
/* Of feature i in the order of the matrix; NULL when out of range. */
const char *seismo_feature_name(int i);
const char *seismo_feature_group(int i);
const char *seismo_feature_unit(int i);
const char *seismo_feature_meaning(int i);

/* Features after each of n rows of one run: ret is n x seismo_features_n() float32, row by row. */
void seismo_features_batch(const struct seismo_row *rows, size_t n, float *ret);

#endif
