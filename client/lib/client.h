/* What `seismo replay` needs of libseismo beyond seismo.h: recorded rows as they are, none dropped.
 */
#ifndef SEISMO_CLIENT_LIB_CLIENT_H
#define SEISMO_CLIENT_LIB_CLIENT_H

#include "client/lib/seismo.h"
#include "proto/row.h"

/* Puts the row into the ring unless that is full; then false. */
bool client_offer(struct seismo *run, const struct seismo_row *row);

#endif
