/* Command lines in the configuration: words as a shell would split them, without a shell. */
#ifndef SEISMO_DAEMON_ARGV_H
#define SEISMO_DAEMON_ARGV_H

#include <stdio.h>

#include "proto/err.h"

/* Splits `text` at blanks into at most `max` words. 'Single quotes' keep everything, "double
 * quotes" keep all but \" and \\, a backslash outside quotes keeps the next character; nothing is
 * expanded. Writes `max` + 1 entries at most, the last one NULL, each to be freed (argv_free).
 * Nothing is written on failure: SEISMO_ECONFIG with the reason, or SEISMO_ENOMEM. */
int argv_split(const char *text, char **ret_argv, int max, char errmsg[SEISMO_ERRMSG]);

/* Frees the words and nulls the entries; accepts an empty list. */
void argv_free(char **argv);

/* The reverse: one line that argv_split reads as the same words. */
void argv_print(char *const *argv, FILE *out);

#endif
