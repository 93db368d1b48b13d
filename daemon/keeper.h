/* The keeper: a process that does nothing but start the hook helper again when it has died.
 *
 * The daemon cannot, once it is confined (sandbox.h), and a helper that the system killed for its
 * hooks' memory would take all alerts to come with it. The keeper is forked off at the start
 * too, forks the helper, hands the daemon a socket to it and waits for its end. It holds nothing
 * that grows, and it ends when the daemon does. */
#ifndef SEISMO_DAEMON_KEEPER_H
#define SEISMO_DAEMON_KEEPER_H

#include <stdbool.h>
#include <sys/types.h>

/* s before a helper that died is replaced: at first, and at most, because it doubles each time
 * until one has lived for a while. */
#define KEEPER_WAIT_FIRST 0.1
#define KEEPER_WAIT_MOST 30.0
#define KEEPER_STABLE 60.0

/* What the daemon hears of each new helper, with the daemon's end of a stream socket to it (as
 * SCM_RIGHTS). */
struct keeper_news {
    pid_t pid;
};

/* In a process of its own, the child of `daemon`: runs `child` in one process after the other, with
 * the other end of the socket. `control` is a blocking stream socket to the daemon, whose end is
 * the keeper's. */
_Noreturn void keeper_run(pid_t daemon, int control, void (*child)(void *arg, int fd), void *arg);

#endif
