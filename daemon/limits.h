/* Every quantity that a peer controls, and what bounds it.
 *
 * Three kinds stand side by side: LIMITS_MAP, which [limits] of the configuration changes and
 * `seismo status --json` shows; the constants below it; and what one message may hold by the
 * protocol, in proto/defaults.h: SEISMO_MAX_MESSAGE, _ROWS, _WIRE_FIELDS, _NAME, _SESSION, _META,
 * _TEXT, _UNACKED and _QUERY.
 *
 * Who comes to a limit first finds the daemon slower (its acknowledgements wait, nobody else's do),
 * then gets one ERROR that names the limit and its value, then, LIMIT_ERROR_BURST errors later,
 * hardly an answer any more.
 *
 * Where the daemon may take little memory, peers, query_peers, runs, queued_bytes,
 * peer_queued_bytes and message_bytes are lowered to what it holds, unless they are configured:
 * memory.h. */
#ifndef SEISMO_DAEMON_LIMITS_H
#define SEISMO_DAEMON_LIMITS_H

#include <stdint.h>

#include "proto/defaults.h"

/*  X(name, default, least, most, whether a change needs a restart, help) */
#define LIMITS_MAP(X)                                                                             \
    X(peers, 8192, 1, 65536, true,                                                                \
      "Connections to the ingest endpoints. More are told so, or cut off; their clients try\n"    \
      "again by themselves. Unless it is set, no more than fit into the memory that the daemon\n" \
      "may take.")                                                                                \
    X(query_peers, 256, 1, 65536, true, "The same for the query and for the events endpoint.")    \
    X(runs, 16384, 1, 1000000, false,                                                             \
      "Runs that go on, in all. A new one beyond it is told to come again later.")                \
    X(runs_per_peer, 64, 1, 1000000, false,                                                       \
      "Runs that one connection may begin at once; one more every ten seconds after that.")       \
    X(runs_per_address, 4096, 1, 1000000, false,                                                  \
      "Runs connected at a time from one address, or with one key where keys are asked for.")     \
    X(steps_per_second, 1000000, 1, 1000000000, false,                                            \
      "Steps a second of one connection. What is above it waits unacknowledged.")                 \
    X(unacked, 64, 1, 64, true, "Batches of one session that wait for their commit.")             \
    X(message_bytes, 1048576, 16384, 1048576, true,                                               \
      "Bytes of one message. Beyond twice as many, or the protocol's own limit, the connection\n" \
      "is closed.")                                                                               \
    X(fields, 64, 2, 64, false, "Fields that a HELLO may name.")                                  \
    X(metadata_bytes, 8192, 2, 8192, false, "Bytes of the metadata of a run.")                    \
    X(queued_bytes, 67108864, 1048576, 4000000000, false,                                         \
      "Bytes of all steps that wait to be scored. Beyond it the daemon reads from nobody.")       \
    X(peer_queued_bytes, 8388608, 262144, 4000000000, false,                                      \
      "Bytes of them from one connection; less when queued_bytes is nearly used up.")

struct limits {
#define X(name, fallback, least, most, fixed, help) uint32_t name;
    LIMITS_MAP(X)
#undef X
};

#define LIMITS_DEFAULT           \
    {                            \
        LIMITS_MAP(LIMITS_VALUE) \
    }
#define LIMITS_VALUE(name, fallback, least, most, fixed, help) .name = fallback,

#define LIMIT_SESSIONS 65536 /* the most that `peers` can be: slots of the session table */
#define LIMIT_PEERS_TOLD 64  /* connections beyond `peers` that hear why they get no session */
#define LIMIT_PEER_ID 255    /* bytes of a ZeroMQ routing id */
#define LIMIT_TOPIC 1024     /* bytes of a frame from who hears events: subscription, handshake */
#define LIMIT_ORIGIN 256     /* bytes of an address or key that are told apart */
#define LIMIT_RUN_REFILL 0.1 /* runs a second that runs_per_peer comes back by */
#define LIMIT_HELLO_BURST 8  /* HELLOs of one connection at once, */
#define LIMIT_HELLO_RATE 1.0 /* and a second after that */
#define LIMIT_ERROR_BURST 16 /* ERROR messages to one peer at once */
#define LIMIT_ERROR_RATE 1.0 /* and a second after that; the rest is silence */
#define LIMIT_STRANGER_BURST 64  /* ERROR messages at once to peers that got no session, */
#define LIMIT_STRANGER_RATE 16.0 /* and a second after that, to all of them together */
#define LIMIT_LANE_BYTES                                                    \
    (512 << 10) /* what a connection may have waiting however full it is: a \
                   whole window of an ordinary client's batches */
#define LIMIT_SESSION_VERDICTS \
    64 /* verdicts waiting to be sent to one session; the oldest go first */
#define LIMIT_ACK_BYTES (64 << 10) /* bytes of one ACK; more verdicts go into another one */
#define LIMIT_PING_INTERVAL 10.0   /* s without a word to a peer before it is pinged */
#define LIMIT_STOP_SECONDS 8.0     /* s that a stop may take before the daemon gives up on peers */

#endif
