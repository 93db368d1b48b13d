/* Asks seismod over its query socket: one request, one reply, with a time-out. */
#ifndef SEISMO_CLIENT_CLI_QUERY_CLIENT_H
#define SEISMO_CLIENT_CLI_QUERY_CLIENT_H

#include <jansson.h>

#include "proto/err.h"

#define QUERY_TIMEOUT 5.0 /* s */
#define QUERY_ERRMSG 2560 /* bytes: the daemon's text and hint of up to SEISMO_MAX_TEXT each */

struct query_client;

/* `endpoint` NULL: $SEISMO_QUERY, else the socket of the user's daemon if that is there, else the
 * system's. Copied. Connects in the background, with the keys that client/lib/credentials.h finds;
 * SEISMO_EINVAL for an endpoint that is none, or keys that are none. */
int query_client_new(const char *endpoint, struct query_client **ret_client,
                     char errmsg[QUERY_ERRMSG]);
void query_client_free(struct query_client **client);

/* `params` is taken. On success *ret_body is a new reference to an object whose "schema" is 1.
 * SEISMO_EUNREACHABLE: nobody answers. SEISMO_EVERSION: somebody does, but speaks otherwise.
 * SEISMO_EDENIED: the keys do not fit, or do not allow it.
 * Else the daemon's own error; its text and hint are in errmsg. */
int query_client_call(struct query_client *c, const char *method, json_t *params, json_t **ret_body,
                      char errmsg[QUERY_ERRMSG]);

#endif
