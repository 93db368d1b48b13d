/* What the daemon gives up once it has started, so that who takes it over gains little: `sandbox`.
 *
 * Two locks, of which each holds by itself. sandbox_files (Landlock): nothing outside of the data
 * directory can be written, made, removed or executed, but sockets in the directories of the socket
 * files; reading stays as it is, for the configuration, the model and whatever keys there are.
 * sandbox_calls (seccomp): only the system calls that a running daemon makes are left. Among those
 * that are not: execute, fork, trace, mount, connect, bind (but for a daemon with keys), a socket
 * other than the one that tells systemd how things are, a signal to another process, a page that is
 * executable. One of these ends the process with SIGSYS, whoever makes it, as does any call that
 * nobody has thought of. Alert hooks run in another process, hookd.h. No lock can be taken off.
 *
 * The sanitizers need more than that, so a program built with one is not confined and says so. */
#ifndef SEISMO_DAEMON_SANDBOX_H
#define SEISMO_DAEMON_SANDBOX_H

#include <stdbool.h>

#include "daemon/config.h"
#include "proto/err.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||       \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define SANDBOX_POSSIBLE false
#else
#define SANDBOX_POSSIBLE true
#endif

struct sandbox {
    bool files, calls; /* which lock holds */
};

/* No new privileges, and the lock on files, while the process has a single thread: threads started
 * later have it too. The data directory must exist. A kernel that cannot do it, or a
 * configuration that does not want it, is logged. */
int sandbox_files(struct sandbox *s, const struct config *config, char errmsg[SEISMO_ERRMSG]);

/* The lock on system calls, for all threads: everything is bound, open and running. */
int sandbox_calls(struct sandbox *s, const struct config *config, char errmsg[SEISMO_ERRMSG]);

#endif
