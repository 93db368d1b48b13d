/* Who may connect: the handler that libzmq asks, over inproc://zeromq.zap.01, about every CURVE
 * handshake (ZeroMQ RFC 27). A thread of its own, so that handshakes go on while the loop is busy.
 *
 * A key that is authorised is let in, with its own text as the user id of all its messages; on the
 * domain "events", where nothing can be refused later, only with the role query. */
#ifndef SEISMO_DAEMON_ZAP_H
#define SEISMO_DAEMON_ZAP_H

#include "daemon/keys.h"

#define ZAP_EVENTS "events" /* the domain of the events socket */

struct zap;

/* Must be there before the first socket is bound that asks for keys. Nobody gets in before
 * zap_set. SEISMO_EINTERNAL, SEISMO_ENOMEM. */
int zap_new(void *zmq_ctx, struct zap **ret_zap, char errmsg[SEISMO_ERRMSG]);

/* From now on these keys hold; borrowed until the next call. */
void zap_set(struct zap *z, const struct keys *keys);

/* The thread ends when its context is terminated: call this after zmq_ctx_term. Accepts NULL. */
void zap_free(struct zap **z);

#endif
