/* How many connections the file descriptors allow that the process may have.
 *
 * Where none is left libzmq cannot accept, and with a socket file it even aborts the process. So
 * what comes may take all but those that the daemon needs for itself, whatever is configured. */
#ifndef SEISMO_DAEMON_DESCRIPTORS_H
#define SEISMO_DAEMON_DESCRIPTORS_H

#include "daemon/limits.h"

/* For itself: the database, events and sockets of threads, pipes of hooks; and connections beyond a
 * limit until they are cut. */
#define DESCRIPTORS_OWN 128

/* Lowers query_peers and peers to what RLIMIT_NOFILE allows, and tells the log. */
void descriptors_fit(struct limits *limits);

#endif
