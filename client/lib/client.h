/* What `seismo replay` needs of libseismo beyond seismo.h: recorded rows as they are, none dropped.
 */
#ifndef SEISMO_CLIENT_LIB_CLIENT_H
#define SEISMO_CLIENT_LIB_CLIENT_H

#include "client/lib/seismo.h"
#include "proto/row.h"

/* Puts the row into the ring unless that is full; then false. */
bool client_offer(struct seismo *run, const struct seismo_row *row);

/* Whether something that speaks ZeroMQ is at the other end: a daemon, if maybe one whose disk is so
 * slow that it has not answered yet. */
bool client_connected(struct seismo *run);

/* Whether the daemon takes nothing of this run for now; seismo_stats has its words. */
bool client_refused(struct seismo *run);

/* There is nobody for whom seismo_close should wait. */
void client_give_up(struct seismo *run);

/* All rows are offered: the last ones need not wait for others to share their batch. */
void client_hurry(struct seismo *run);

#endif
