/* Reads the database for the query socket: method and parameters in, JSON body out.
 *
 * One reader is one read-only connection and is used by one thread at a time. Every request sees
 * one consistent snapshot (a deferred transaction under WAL), never blocks the writer and is never
 * blocked by it. Every body has "schema": 1, is bounded by the limits below and fits into one
 * message; a list that was cut says "more": true. Strings from outside are bound, never made part
 * of SQL. */
#ifndef SEISMO_DAEMON_READER_H
#define SEISMO_DAEMON_READER_H

#include <jansson.h>

#include "models/detector.h"
#include "proto/defaults.h"
#include "proto/err.h"

#define READER_MAX_BODY (SEISMO_MAX_MESSAGE - 1024) /* bytes of a body, the envelope taken off */
#define READER_MAX_RUNS 1000                        /* in one answer to `runs` */
#define READER_MAX_VERDICTS 1000                    /* … to `verdicts` */
#define READER_MAX_STEPS 1000                       /* rows … to `steps` */
#define READER_MAX_POINTS 4096                      /* … to `series`; longer ones are thinned */
#define READER_MAX_LABEL 63                         /* bytes of a label */
/* How bodies are written as text: neither 0.1 nor a time in seconds needs more digits. */
#define READER_DUMP (JSON_COMPACT | JSON_REAL_PRECISION(15))

#define READER_MAX_HINT 512
#define READER_DEADLINE 10.0    /* s that one request may take */
#define READER_BUSY_TIMEOUT 5.0 /* s to wait out a recovery or a schema change */

struct reader;

/* Opens the database at `path` (copied). `model` is borrowed until reader_free. */
int reader_new(const char *path, const struct model *model, struct reader **ret_reader,
               char errmsg[SEISMO_ERRMSG]);
void reader_free(struct reader **reader);

/* Answers one request. On success *ret_body is a new reference. On failure errmsg says what is
 * wrong and hint, which may come out empty, what to do. `params` is a JSON object as text.
 *
 * `label` is only checked here, because the worker does the writing: its body has "run" as stored
 * and the "outcome" to write. `status` has what the database knows; query.c adds the live numbers.
 */
int reader_query(struct reader *r, const char *method, const char *params, size_t params_n,
                 json_t **ret_body, char errmsg[SEISMO_ERRMSG], char hint[READER_MAX_HINT]);

/* Makes the request in progress, and every later one, fail with SEISMO_EBUSY. Any thread. */
void reader_interrupt(struct reader *r);

#endif
