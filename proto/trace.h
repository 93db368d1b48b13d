/* Recorded-trace files: JSON lines, plain or gzip. First line a header object (run, program and
 * optional framework, optimizer, batch_size, n_params, params, seed), then one object a step.
 * Errors name file and line. Unknown keys are ignored; a missing field is an absent key; non-finite
 * numbers are the strings "nan", "inf", "-inf". */
#ifndef SEISMO_PROTO_TRACE_H
#define SEISMO_PROTO_TRACE_H

#include <jansson.h>

#include "proto/err.h"
#include "proto/row.h"

struct trace_reader;

/* Opens `path` (or "-" for stdin) and reads its header. */
int trace_reader_new(const char *path, struct trace_reader **ret_reader,
                     char errmsg[SEISMO_ERRMSG]);
void trace_reader_free(struct trace_reader **reader);

/* The header object, borrowed; "run" and "program" are strings of 1..SEISMO_MAX_NAME bytes. */
const json_t *trace_reader_header(const struct trace_reader *reader);

/* The next row; SEISMO_EEOF at the end. SEISMO_EMALFORMED or SEISMO_ECORRUPT (damaged gzip, a line
 * cut short) say file:line in errmsg; rows before the damage have been returned. */
int trace_reader_next(struct trace_reader *reader, struct seismo_row *ret,
                      char errmsg[SEISMO_ERRMSG]);

/* Rough progress, 0..1, by compressed bytes consumed; -1 when unknown (stdin). */
double trace_reader_progress(const struct trace_reader *reader);

/* One row as a trace object; new reference or NULL. Numbers are written so that they read back as
 * the same float32. Used by export, by query bodies and by the writer. */
json_t *trace_row_json(const struct seismo_row *row);

/* The reverse. SEISMO_EMALFORMED with the key's name in errmsg. */
int trace_row_from_json(const json_t *object, struct seismo_row *ret, char errmsg[SEISMO_ERRMSG]);

#endif
