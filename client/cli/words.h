/* Numbers, times, states and verdicts in words, the same in every command. */
#ifndef SEISMO_CLIENT_CLI_WORDS_H
#define SEISMO_CLIENT_CLI_WORDS_H

#include <jansson.h>
#include <time.h>

#include "client/cli/term.h"

#define WORDS_MAX 40 /* bytes of a short text */

/* "0.0123", "nan", "inf"; "-" for a number that is not there when `absent`. */
const char *words_number(double x, bool absent, char ret[WORDS_MAX]);

/* The number under `key`; "-" when it is null or missing. */
const char *words_of(const json_t *object, const char *key, char ret[WORDS_MAX]);

/* "3 s", "5 min", "2 h", "4 d". */
const char *words_duration(double seconds, char ret[WORDS_MAX]);

/* Local date and time of seconds since the epoch; "-" for NaN. */
const char *words_time(double epoch, char ret[WORDS_MAX]);

/* "3.4 MB" */
const char *words_bytes(double bytes, char ret[WORDS_MAX]);

/* How a state is drawn: colour and a mark of one column. */
enum colour words_state_colour(const char *state);
const char *words_state_mark(const char *state, bool utf8);

/* A verdict document: one line (run first when `with_run`), then a line for the likely fault and
 * for each reason. */
void words_verdict(const json_t *verdict, bool with_run, const struct term *term, FILE *out);

/* What is left of a peer's string when it is made fit for the terminal. */
void words_put(const char *text, FILE *out);

#endif
