/* Verdicts come from the daemon in pages, oldest first. */
#ifndef SEISMO_CLIENT_CLI_VERDICT_PAGES_H
#define SEISMO_CLIENT_CLI_VERDICT_PAGES_H

#include "client/cli/cli.h"

/* The page behind verdict number *after, which moves on to the page's end. `run` NULL: of all runs.
 */
enum cli_exit verdict_pages_next(struct cli *cli, const char *run, bool superseded,
                                 json_int_t *after, json_t **ret_body);

/* All pages as one body. */
enum cli_exit verdict_pages_all(struct cli *cli, const char *run, bool superseded,
                                json_t **ret_body);

#endif
