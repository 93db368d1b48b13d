/* Bounds of what the daemon keeps for its peers. What one message may hold is in proto/defaults.h.
 */
#ifndef SEISMO_DAEMON_LIMITS_H
#define SEISMO_DAEMON_LIMITS_H

#define LIMIT_SESSIONS 8192  /* peers of the ingest sockets that the daemon remembers */
#define LIMIT_PEER_ID 255    /* bytes of a ZeroMQ routing id */
#define LIMIT_ERROR_BURST 16 /* ERROR messages to one peer at once */
#define LIMIT_ERROR_RATE 1.0 /* and a second after that; the rest is silence */
#define LIMIT_SESSION_VERDICTS \
    64 /* verdicts waiting to be sent to one session; the oldest go first */
#define LIMIT_ACK_BYTES (64 << 10) /* bytes of one ACK; more verdicts go into another one */
#define LIMIT_PING_INTERVAL 10.0   /* s without a word to a peer before it is pinged */
#define LIMIT_STOP_SECONDS 8.0     /* s that a stop may take before the daemon gives up on peers */

#endif
