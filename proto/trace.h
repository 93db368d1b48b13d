/* Recorded-trace files: JSON lines, plain or gzip. First line a header object (run, program and
 * optional framework, optimizer, batch_size, n_params, params, seed), then one object a step.
 * Errors name file and line. Unknown keys are ignored; a missing field is an absent key; non-finite
 * numbers are the strings "nan", "inf", "-inf". */
#ifndef SEISMO_PROTO_TRACE_H
#define SEISMO_PROTO_TRACE_H

#include <jansson.h>

#include "proto/err.h"
#include "proto/row.h"

#define TRACE_MAX_LINE (1u << 20) /* bytes of a line */
#define TRACE_MAX_ROW 1024        /* bytes of a row as trace_row_print writes it, NUL included */

struct trace_reader;

/* Opens `path` (or "-" for stdin) and reads its header. */
int trace_reader_new(const char *path, struct trace_reader **ret_reader,
                     char errmsg[SEISMO_ERRMSG]);
void trace_reader_free(struct trace_reader **reader);

/* The header object, borrowed; "run" and "program" are strings that wire_name_valid accepts. */
const json_t *trace_reader_header(const struct trace_reader *reader);

/* The next row; SEISMO_EEOF at the end. SEISMO_EMALFORMED: the line is no row, the next call goes
 * on behind it. SEISMO_ETOOBIG: the line is longer than TRACE_MAX_LINE. SEISMO_ECORRUPT: damaged
 * gzip, or a last line that was cut short. SEISMO_EIO: reading failed. All say file:line in errmsg.
 * Of a file that is cut short all whole rows are returned before the error, of a damaged gzip those
 * up to some kilobytes before the damage. Steps need not increase: a job that resumed goes back. */
int trace_reader_next(struct trace_reader *reader, struct seismo_row *ret,
                      char errmsg[SEISMO_ERRMSG]);

/* Rough progress, 0..1, by compressed bytes consumed; -1 when unknown (stdin). */
double trace_reader_progress(const struct trace_reader *reader);

/* One row as a trace object, for query bodies; new reference or NULL when out of memory. Dumped
 * with JSON_REAL_PRECISION(15) its measurements have at most 9 digits and read back as the same
 * float32. */
json_t *trace_row_json(const struct seismo_row *row);

/* The same as one line of text without its end, for files: numbers have the 9 digits that read back
 * as the same float32, time as many as it needs. Returns its length. */
size_t trace_row_print(const struct seismo_row *row, char ret[TRACE_MAX_ROW]);

/* The reverse of both. SEISMO_EMALFORMED with the key's name in errmsg. */
int trace_row_from_json(const json_t *object, struct seismo_row *ret, char errmsg[SEISMO_ERRMSG]);

#endif
