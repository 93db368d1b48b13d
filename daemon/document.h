/* JSON objects from rows of the database: keys are the columns' names, in their order. Times are
 * doubles, all other numbers float32 and written like those of a verdict document; columns that
 * hold JSON become values. Both return a new reference, or NULL when out of memory. */
#ifndef SEISMO_DAEMON_DOCUMENT_H
#define SEISMO_DAEMON_DOCUMENT_H

#include <jansson.h>
#include <sqlite3.h>

#define RUN_COLUMNS                                                                                \
    "id, run, name, program, rank, world, last_batch, meta, started, updated, ended, outcome, "    \
    "label, state, severity, worst, alarm_step, steps, first_step, step, loss, score, max_score, " \
    "model"

#define VERDICT_COLUMNS                                                                            \
    "id, run, program, step, time, state, severity, score, threshold, fault, fault_distribution, " \
    "reasons, recorded, superseded"

/* The statement's current row. */
json_t *document_row(sqlite3_stmt *s);

/* A row of VERDICT_COLUMNS, with its fault and distribution in one object as verdict_json has them.
 */
json_t *document_verdict(sqlite3_stmt *s);

#endif
