/* The table of runs that `seismo runs` and `seismo watch` show. */
#ifndef SEISMO_CLIENT_CLI_RUNS_TABLE_H
#define SEISMO_CLIENT_CLI_RUNS_TABLE_H

#include <jansson.h>

#include "client/cli/cli.h"

/* The value of every `runs` option (NULL: not given) as parameters of the query; new reference. */
json_t *runs_params(const char *state, const char *program);

/* `runs` is the list in the daemon's answer. */
void runs_table_write(const json_t *runs, const struct term *term, FILE *out);

#endif
