/* The hook helper: a process beside the daemon that runs its alert hooks.
 *
 * The daemon may not execute anything once it is confined (sandbox.h), so this process is forked
 * off before it opens its first socket, and again whenever it has died, by a keeper (keeper.h) that
 * is. It knows the hooks from the configuration, which it reads
 * again when told to: the daemon names a hook and hands over a document, and cannot have anything
 * else run, whoever has taken it over. Nothing of the helper parses the document.
 *
 * A hook gets the document and a newline on standard input, then end of file; PATH, LANG,
 * SEISMO_ALERT_ID, SEISMO_EVENT and SEISMO_STATE as its environment, and a process group of its
 * own, which is killed after the hook's timeout. The helper ends when the daemon does, however that
 * goes, and takes the hooks that still run with it. */
#ifndef SEISMO_DAEMON_HOOKD_H
#define SEISMO_DAEMON_HOOKD_H

#include <sys/types.h>

#include "daemon/config.h"
#include "proto/err.h"

#define HOOKD_MAX_RUNNING 8   /* hooks at once */
#define HOOKD_KILL_AFTER 2.0  /* s between SIGTERM and SIGKILL */
#define HOOKD_MAX_OUTPUT 4096 /* bytes of one hook run's output that are told */
#define HOOKD_MAX_LINE 512    /* bytes of a line of it; a longer one is told in parts */

/* Reads the configuration again; runs in the helper. */
typedef int (*hookd_load)(void *arg, struct config **ret_config, char errmsg[SEISMO_ERRMSG]);

struct hookd {
    pid_t keeper;
    int fd; /* brings struct keeper_news, each with a socket that speaks hookpipe.h and whose end is
             * that helper's; closing it ends the keeper */
};

/* Forks the keeper, which forks the helper. The process must have a single thread and no libuv loop
 * that is still used. `config`, `load` and `load_arg` are used in the child's memory, so they need
 * not outlive this call. */
int hookd_start(const struct config *config, hookd_load load, void *load_arg,
                struct hookd *ret_hookd, char errmsg[SEISMO_ERRMSG]);

#endif
