/* Sockets and worker for the clients' conversation (daemon/ingest), with the invariants that hold
 * whatever peers send:
 *
 * - No ACK and no WELCOME names a batch that is not committed for the session of that connection.
 * - The batches of a session reach the worker in order and without a gap, and are stored once.
 * - What a peer sends goes into runs of its own session; verdicts come to their run's session, in
 *   order and once.
 * - A connection gets no more ERRORs than its measure; memory is bounded by the connections.
 * - When all connections are gone, no run is attached. */
#ifndef SEISMO_TESTS_FAKE_DAEMON_H
#define SEISMO_TESTS_FAKE_DAEMON_H

#include <stdbool.h>

#include "daemon/ingest.h"

#define FAKE_PEERS 5
#define FAKE_RUNS 256
#define FAKE_SESSION 256 /* bytes of a session's name here, terminated */
#define FAKE_LOSS(peer, batch) ((peer)*4096.0 + (double)((batch) % 4096))

struct fake_peer {
    unsigned incarnation; /* of its connection */
    bool unreachable, busy;
    uint64_t sent; /* last batch that its client numbered */
    /* What this connection has been told. */
    double since; /* s */
    uint64_t errors, welcomes, acks, acked;
    char session[FAKE_SESSION]; /* of its last HELLO that was taken */
    uint64_t owner;             /* of that one in jobs */
    uint64_t early;             /* least batch that came between its HELLO and its WELCOME */
    int runs;                   /* made for this peer's sessions */
    /* All that the peer has been told, over all its connections. */
    uint8_t *told;
    size_t told_n, told_cap;
};

struct fake_run {
    int64_t id;
    char name[SEISMO_MAX_NAME + 1], program[SEISMO_MAX_NAME + 1];
    char session[FAKE_SESSION];
    uint32_t rank;
    int peer;       /* whose session it is */
    uint64_t owner; /* job.owner of the last JOB_OPEN */
    bool attached, ended;
    uint64_t last_batch;
    bool has_step;
    int64_t last_step;
    uint64_t news, news_heard;
};

/* What has been committed of a session, in whatever run of its name. */
struct fake_commit {
    char session[FAKE_SESSION];
    uint64_t batch;
};

/* A session as the worker sees it. */
struct fake_owner {
    uint64_t owner;
    int peer;
    uint64_t received; /* highest batch submitted */
    bool opened, any;  /* the first batch may have any number */
};

struct fake {
    struct ingest *ingest;
    double now;
    bool shared; /* peers may name each other's runs */
    bool skip;   /* the operation is another peer's: take its arguments, do nothing */
    int refuse_open;
    struct fake_peer peer[FAKE_PEERS];
    struct fake_run run[FAKE_RUNS];
    int n_runs;
    struct fake_commit *commit;
    int n_commits;
    struct fake_owner *owner;
    int n_owners;
    struct job **job; /* queued */
    int n_jobs, cap_jobs;
    int receiving; /* the peer whose message is being taken, -1: none */
    bool clean;    /* which is one that clients send */
    unsigned connections;
    size_t heap; /* bytes at the start, where a sanitizer counts them */
};

struct fake *fake_new(bool shared);
void fake_free(struct fake **f);
void fake_skip(struct fake *f, bool skip);

void fake_receive(struct fake *f, int peer, const uint8_t *data, size_t n, int frames, bool clean);
/* The next message is this batch. */
void fake_batch(struct fake *f, int peer, uint64_t batch);
void fake_reconnect(struct fake *f, int peer);
/* Up to n jobs: the oldest ones where runs are shared, else the oldest of this peer. */
void fake_commit(struct fake *f, int peer, int n);
/* Verdicts that no job asked for, for a run of this peer. */
void fake_news(struct fake *f, int peer, uint8_t choice);
void fake_pass(struct fake *f, double seconds);
void fake_restart(struct fake *f);

/* The last operation: every connection is gone, and the daemon finds out. */
void fake_all_gone(struct fake *f);

void fake_check_memory(struct fake *f);
/* Both have been told the same. */
void fake_same(const struct fake_peer *a, const struct fake_peer *b);

#endif
