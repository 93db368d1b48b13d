/* ZeroMQ endpoints in the configuration: which ones the daemon listens on. */
#ifndef SEISMO_DAEMON_ENDPOINT_H
#define SEISMO_DAEMON_ENDPOINT_H

#include <stdbool.h>

#include "proto/err.h"

/* Checks *endpoint, and replaces the host name localhost, which libzmq does not listen on, by its
 * address. SEISMO_ECONFIG, SEISMO_ENOMEM. */
int endpoint_check(char **endpoint, char errmsg[SEISMO_ERRMSG]);

bool endpoint_is_tcp(const char *endpoint);

/* Whether only this machine can connect to a checked endpoint: a socket file or loopback. */
bool endpoint_is_local(const char *endpoint);

#endif
