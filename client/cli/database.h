/* Which database a command is to read: the one that is named, or the daemon's. */
#ifndef SEISMO_CLIENT_CLI_DATABASE_H
#define SEISMO_CLIENT_CLI_DATABASE_H

#include <limits.h>

#include "client/cli/cli.h"

/* `named`: a file, a data directory, or NULL, which asks the daemon. On failure the error has been
 * reported. */
enum cli_exit database_find(struct cli *cli, const char *named, char ret_path[PATH_MAX]);

/* The exit code that fits an error of archive/. */
enum cli_exit database_exit(int err);

#endif
