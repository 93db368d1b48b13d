/* The data directory: made when missing, and held by one daemon at a time. */
#ifndef SEISMO_DAEMON_DATADIR_H
#define SEISMO_DAEMON_DATADIR_H

#include "proto/err.h"

#define DATADIR_LOCK "seismo.lock" /* holds the pid of the daemon that has the directory */

/* Makes `path` (and its parents) with mode 0700 unless it is there, and locks it. The lock lasts
 * until *ret_fd is closed or the process ends. When another daemon has it, errmsg names its pid. */
int datadir_open(const char *path, int *ret_fd, char errmsg[SEISMO_ERRMSG]);

#endif
