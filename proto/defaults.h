/* Where the programs meet when nobody says otherwise, and the limits of what a peer may send.
 * Every quantity that a peer controls is bounded by a name in this file. */
#ifndef SEISMO_PROTO_DEFAULTS_H
#define SEISMO_PROTO_DEFAULTS_H

#define SEISMO_PROTOCOL_VERSION 1

#define SEISMO_DEFAULT_INGEST "tcp://127.0.0.1:7747"
/* Sockets below the data directory: ipc://DATA/query.sock and ipc://DATA/events.sock. The data
 * directory is $XDG_STATE_HOME/seismo, or ~/.local/state/seismo; a service puts its own in /run. */
#define SEISMO_QUERY_SOCKET "query.sock"
#define SEISMO_EVENTS_SOCKET "events.sock"
#define SEISMO_SYSTEM_QUERY "ipc:///run/seismo/query.sock"

#define SEISMO_MAX_MESSAGE (1u << 20)    /* bytes of one message, any socket */
#define SEISMO_MAX_ROWS 1024             /* rows of one STEPS message */
#define SEISMO_MAX_WIRE_FIELDS 64        /* entries of a HELLO field list */
#define SEISMO_MAX_NAME 128              /* bytes of a run or program name, UTF-8 */
#define SEISMO_MAX_SESSION 64            /* bytes of a session id */
#define SEISMO_MAX_META 8192             /* bytes of the metadata map, encoded */
#define SEISMO_MAX_TEXT 1024             /* bytes of a BYE or ERROR text */
#define SEISMO_MAX_UNACKED 64            /* batches a client may have in flight */
#define SEISMO_MAX_QUERY 16384           /* bytes of a query's parameters */
#define SEISMO_MAX_TIME 1000000000000000 /* s since the epoch, of a step, either way */

#endif
