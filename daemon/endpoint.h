/* ZeroMQ endpoints in the configuration: which ones the daemon listens on.
 *
 * Until clients can prove who they are, only this machine may connect: loopback addresses and
 * socket files. */
#ifndef SEISMO_DAEMON_ENDPOINT_H
#define SEISMO_DAEMON_ENDPOINT_H

#include "proto/err.h"

/* Checks *endpoint, and replaces the host name localhost, which libzmq does not listen on, by its
 * address. SEISMO_ECONFIG, SEISMO_ENOMEM. */
int endpoint_check(char **endpoint, char errmsg[SEISMO_ERRMSG]);

#endif
