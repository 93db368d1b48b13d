/* Who may do what. Peers on socket files and, without a server key, on loopback are local: what the
 * file system lets in may do everything. Once there is a server key, TCP endpoints ask for keys,
 * and the daemon looks at every message: its key must be authorised at that moment, for what it
 * wants.
 *
 * Of the loop's thread; the handler of handshakes (zap.h) hangs on it. */
#ifndef SEISMO_DAEMON_AUTH_H
#define SEISMO_DAEMON_AUTH_H

#include "daemon/config.h"
#include "daemon/zsock.h"
#include "proto/err.h"

struct auth;

enum auth_wish {
    AUTH_CONNECT, /* be heard at all */
    AUTH_PUSH,    /* stream a run */
    AUTH_QUERY,
    AUTH_ADMIN,
};

/* Reads the keys that the configuration names, so that a fault is found at the start. */
int auth_check(const struct config *config, char errmsg[SEISMO_ERRMSG]);

/* Before any socket is bound. `zmq_ctx` must be terminated before auth_free. */
int auth_new(const struct config *config, void *zmq_ctx, struct auth **ret_auth,
             char errmsg[SEISMO_ERRMSG]);
void auth_free(struct auth **a);

/* Protects a socket before it is bound. `domain` says in the log which one it is; a literal. */
void auth_guard(const struct auth *a, struct zsock *z, const char *domain);

/* Whether the user of a message (zsock_msg.user, NULL: local) may. `run` of `run_n` bytes is looked
 * at for AUTH_PUSH. On refusal errmsg says why, without the key. */
bool auth_may(const struct auth *a, const char *user, enum auth_wish wish, const char *run,
              size_t run_n, char errmsg[SEISMO_ERRMSG]);

/* Reads the clients' keys from `dir` again. What is wrong is logged and keeps out, so that no
 * mistake keeps a revoked key in; where memory or descriptors lack, auth_tick asks for it again.
 * Returns true when the table is another one now; *ret_lost_query: somebody may not hear the events
 * any more. */
bool auth_reload(struct auth *a, const char *dir, bool *ret_lost_query);

/* About once a second: true when the directory has changed and been left alone since the last call,
 * and so wants auth_reload. */
bool auth_tick(struct auth *a, const char *dir);

#endif
