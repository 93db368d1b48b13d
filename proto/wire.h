/* The wire: what clients and daemon say to each other over ZeroMQ, one msgpack value a message.
 * PROTOCOL.md is the specification; this is its decoder and encoder.
 *
 * Decoding is by a cursor over the received bytes: it allocates nothing (but to check that HELLO's
 * metadata is JSON), does not recurse, and never reads past the end. Everything it returns borrows
 * from the message and is valid as long as it. Every decoder returns 0, SEISMO_EMALFORMED,
 * SEISMO_ETOOBIG, SEISMO_EVERSION or SEISMO_EFIELD (a HELLO also SEISMO_ENOMEM, and is then to be
 * sent again), and on failure writes what is wrong and at which byte into errmsg. Outputs are written on success only. */
#ifndef SEISMO_PROTO_WIRE_H
#define SEISMO_PROTO_WIRE_H

#include <stddef.h>

#include "proto/defaults.h"
#include "proto/err.h"
#include "proto/row.h"

#define WIRE_MAX_METHOD 64                        /* bytes of a method or an error code */
#define WIRE_MAX_SHOWN_RUN (SEISMO_MAX_NAME + 16) /* bytes of a run's name as daemons show it */

enum wire_type {
    WIRE_HELLO = 1,    /* client: [1, {version, run, program, session, rank, world, fields,
                          meta, next}] */
    WIRE_STEPS = 2,    /* client: [2, batch, [row, ...]]; a row is the values of HELLO's fields */
    WIRE_BYE = 3,      /* client: [3, batch, outcome, text]; takes a batch number of its own */
    WIRE_QUERY = 4,    /* query client: [4, id, method, params]; params is a JSON object as text */
    WIRE_WELCOME = 17, /* daemon: [17, {version, run, last_batch, last_step, max_rows, max_bytes,
                          max_unacked, probe_every}] */
    WIRE_ACK = 18,     /* daemon: [18, batch, last_step, [verdict, ...]]; verdicts are JSON texts */
    WIRE_ERROR = 19,   /* daemon: [19, code, text, hint, ref]; ref is a batch, a query id or nil */
    WIRE_REPLY = 20,   /* daemon: [20, id, body]; body is a JSON document as text */
    WIRE_PING = 21,    /* daemon: [21]; needs no answer, finds out whether the peer is there */
};

struct wire_str { /* UTF-8, not terminated, borrowed from the message */
    const char *p;
    uint32_t n;
};

/* What a run or program may be called: UTF-8, 1..SEISMO_MAX_NAME bytes, no control characters
 * (names are shown in terminals and are part of topics). */
bool wire_name_valid(struct wire_str name);

/* Where each position of a row goes: canonical positions of proto/row.h. */
struct wire_layout {
    uint8_t n;
    uint8_t position[SEISMO_MAX_WIRE_FIELDS];
};

struct wire_hello {
    uint32_t version;
    struct wire_str run, program; /* 1..SEISMO_MAX_NAME bytes */
    struct wire_str session;      /* 1..SEISMO_MAX_SESSION random bytes, sent as bin or str */
    uint32_t rank, world;         /* rank < world */
    struct wire_layout layout;    /* has step and loss, no name twice */
    struct wire_str meta;         /* JSON object as text, "{}" when absent */
    uint64_t next;                /* first batch that the client will send; 0 when absent */
};

struct wire_rows { /* cursor over the rows of a STEPS message */
    const uint8_t *p, *end, *base;
    uint32_t left; /* rows still to come */
    uint32_t n;    /* rows in all, for error texts */
};

struct wire_steps {
    uint64_t batch; /* counts from 1 in a session */
    uint32_t n;     /* rows, 0..SEISMO_MAX_ROWS */
    struct wire_rows rows;
};

enum wire_outcome { WIRE_FINISHED, WIRE_FAILED, WIRE_ABORTED };

struct wire_bye {
    uint64_t batch;
    enum wire_outcome outcome; /* "finished", "failed", "aborted" on the wire */
    struct wire_str text;      /* may be empty */
};

struct wire_query {
    uint64_t id;
    struct wire_str method; /* 1..WIRE_MAX_METHOD bytes */
    struct wire_str params; /* JSON object as text; only its size and UTF-8 have been checked */
};

struct wire_welcome {
    uint32_t version;
    struct wire_str run; /* as the daemon calls it */
    uint64_t last_batch; /* committed of this session, 0 = none */
    bool has_step;
    int64_t last_step; /* committed of this run */
    uint32_t max_rows, max_bytes, max_unacked, probe_every;
};

struct wire_ack {
    uint64_t batch; /* cumulative */
    bool has_step;
    int64_t last_step;
    uint32_t n;              /* verdicts */
    struct wire_rows cursor; /* for wire_next_text */
};

struct wire_error {
    struct wire_str code, text, hint;
    bool has_ref;
    uint64_t ref;
};

struct wire_reply {
    uint64_t id;
    struct wire_str body;
};

struct wire_msg {
    enum wire_type type;
    union {
        struct wire_hello hello;
        struct wire_steps steps;
        struct wire_bye bye;
        struct wire_query query;
        struct wire_welcome welcome;
        struct wire_ack ack;
        struct wire_error error;
        struct wire_reply reply;
    };
};

/* Decode one whole message; trailing bytes are malformed. The rows of STEPS and the texts of ACK
 * are only counted here, and checked one by one by wire_next_row / wire_next_text. */
int wire_decode(const void *data, size_t n, struct wire_msg *ret, char errmsg[SEISMO_ERRMSG]);

/* The next row. SEISMO_EEOF after the last one, when the message must end too. A row without step
 * or loss, with a negative or non-integer step, or of another length than the layout is malformed.
 */
int wire_next_row(struct wire_rows *rows, const struct wire_layout *layout, struct seismo_row *ret,
                  char errmsg[SEISMO_ERRMSG]);

/* The next verdict text of an ACK. SEISMO_EEOF after the last one. */
int wire_next_text(struct wire_rows *cursor, struct wire_str *ret, char errmsg[SEISMO_ERRMSG]);

/* All fields in canonical order: what libseismo and `seismo replay` announce. */
void wire_layout_all(struct wire_layout *ret);

/* Encoding into a caller's buffer. A put that does not fit sets `overflow` and leaves the rest;
 * check once at the end. */
struct wire_buf {
    uint8_t *data;
    size_t n, cap;
    bool overflow;
};

void wire_put_hello(struct wire_buf *b, const struct wire_hello *hello);
void wire_put_steps_head(struct wire_buf *b, uint64_t batch, uint32_t n_rows);
void wire_put_row(struct wire_buf *b, const struct wire_layout *layout,
                  const struct seismo_row *row);
void wire_put_bye(struct wire_buf *b, const struct wire_bye *bye);
void wire_put_query(struct wire_buf *b, const struct wire_query *query);
void wire_put_welcome(struct wire_buf *b, const struct wire_welcome *welcome);
void wire_put_ack_head(struct wire_buf *b, uint64_t batch, bool has_step, int64_t last_step,
                       uint32_t n_verdicts);
void wire_put_text(struct wire_buf *b, const char *text, size_t n);
void wire_put_error(struct wire_buf *b, const struct wire_error *error);
void wire_put_reply(struct wire_buf *b, uint64_t id, const char *json, size_t n);
void wire_put_ping(struct wire_buf *b);

#endif
