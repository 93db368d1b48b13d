/* The daemon as a whole: the loop and everything that hangs on it, from start to stop. */
#ifndef SEISMO_DAEMON_SERVER_H
#define SEISMO_DAEMON_SERVER_H

#include "daemon/config.h"
#include "models/detector.h"
#include "proto/err.h"

/* Reads the configuration again, for SIGHUP: file, command line, finished. */
typedef int (*server_load)(void *arg, struct config **ret_config, char errmsg[SEISMO_ERRMSG]);

/* Runs until SIGTERM or SIGINT. 0: started, ran, and stopped in order. Otherwise it did not start,
 * and errmsg says why, or something was left over at the end, which is a bug. `config` (finished)
 * and `model` are borrowed. */
int server_run(const struct config *config, const struct model *model, server_load load,
               void *load_arg, char errmsg[SEISMO_ERRMSG]);

#endif
