/* Doubles for the socket, the worker and the clock around the clients' conversation, and both sides
 * that talk through it. For the tests of ingest. */
#ifndef SEISMO_TESTS_INGEST_WORLD_H
#define SEISMO_TESTS_INGEST_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/backlog.h"
#include "daemon/ingest.h"
#include "daemon/limits.h"
#include "daemon/log.h"
#include "proto/wire.h"

#define MAX_SENT 256
#define MAX_JOBS 256

struct sent {
    char peer[LIMIT_PEER_ID + 1];
    struct wire_msg msg;
    size_t n;
    uint8_t data[LIMIT_ACK_BYTES];
};

struct world {
    struct ingest *ingest;
    struct sent *sent; /* MAX_SENT */
    int n_sent, taken; /* `taken` have been looked at */
    struct job *job[MAX_JOBS];
    int n_jobs, done;
    int opened;
    double now;
    const char *unreachable; /* peer */
    bool busy;               /* the socket's queue is full */
    int64_t next_run;
    const char *origin; /* of messages */
    uint64_t allowance; /* bytes that a lane may have waiting */
};

/* ---- doubles ---- */

static inline int fake_send(void *arg, const void *peer, size_t peer_n, const void *data, size_t n)
{
    struct world *w = arg;
    if (w->unreachable && strlen(w->unreachable) == peer_n &&
        memcmp(w->unreachable, peer, peer_n) == 0)
        return SEISMO_EUNREACHABLE;
    if (w->busy)
        return SEISMO_EBUSY;
    assert_true(w->n_sent < MAX_SENT && n <= LIMIT_ACK_BYTES);
    struct sent *s = &w->sent[w->n_sent++];
    memcpy(s->peer, peer, peer_n);
    s->peer[peer_n] = 0;
    s->n = n;
    memcpy(s->data, data, n);
    char errmsg[SEISMO_ERRMSG];
    if (wire_decode(s->data, n, &s->msg, errmsg) != 0)
        fail_msg("the daemon sends what nobody can read: %s", errmsg);
    return 0;
}

static inline void fake_submit(void *arg, struct job *job)
{
    struct world *w = arg;
    assert_true(w->n_jobs < MAX_JOBS);
    w->job[w->n_jobs++] = job;
}

static inline void fake_opened(void *arg, const char *run, const char *program)
{
    struct world *w = arg;
    assert_string_equal(program, "train.py");
    assert_true(strlen(run) > 0);
    w->opened++;
}

static inline uint64_t fake_allowance(void *arg)
{
    struct world *w = arg;
    return w->allowance;
}

static inline double fake_now(void *arg)
{
    struct world *w = arg;
    return w->now;
}

static const struct ingest_ops ingest_doubles = {.send = fake_send,
                                                 .submit = fake_submit,
                                                 .opened = fake_opened,
                                                 .now = fake_now,
                                                 .allowance = fake_allowance};

/* `limits` NULL: the defaults. */
static inline struct world *world_new(const struct limits *limits)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->sent = calloc(MAX_SENT, sizeof(*w->sent));
    assert_non_null(w->sent);
    w->now = 1000;
    w->allowance = UINT64_MAX;
    w->next_run = 1;
    w->ingest = ingest_new(&ingest_doubles, w, 10, limits);
    assert_non_null(w->ingest);
    return w;
}

static inline int set_up(void **state)
{
    *state = world_new(NULL);
    return 0;
}

static inline int tear_down(void **state)
{
    struct world *w = *state;
    for (int i = w->done; i < w->n_jobs; i++)
        job_free(&w->job[i]);
    ingest_free(&w->ingest);
    assert_null(w->ingest);
    free(w->sent);
    free(w);
    return 0;
}

/* ---- the client's side ---- */

static inline void receive(struct world *w, const char *peer, const void *data, size_t n)
{
    struct zsock_msg msg = {.peer = peer,
                            .peer_n = strlen(peer),
                            .origin = w->origin,
                            .data = data,
                            .n = n,
                            .frames = 1};
    ingest_receive(w->ingest, &msg);
}

static inline struct wire_str str(const char *text)
{
    return (struct wire_str){text, (uint32_t)strlen(text)};
}

static inline void hello_next(struct world *w, const char *peer, const char *run,
                              const char *session, uint64_t next)
{
    uint8_t data[1024];
    struct wire_buf b = {.data = data, .cap = sizeof(data)};
    struct wire_hello h = {.version = SEISMO_PROTOCOL_VERSION,
                           .run = str(run),
                           .program = str("train.py"),
                           .session = str(session),
                           .world = 1,
                           .meta = str("{\"seed\":1}"),
                           .next = next};
    h.layout = (struct wire_layout){.n = 2, .position = {SEISMO_FIELD_STEP, SEISMO_FIELD_VALUE0}};
    wire_put_hello(&b, &h);
    assert_false(b.overflow);
    receive(w, peer, data, b.n);
}

static inline void hello(struct world *w, const char *peer, const char *run, const char *session)
{
    hello_next(w, peer, run, session, 0);
}

static inline void steps(struct world *w, const char *peer, uint64_t batch, int64_t first,
                         uint32_t n)
{
    uint8_t data[4096];
    struct wire_buf b = {.data = data, .cap = sizeof(data)};
    struct wire_layout layout = {.n = 2, .position = {SEISMO_FIELD_STEP, SEISMO_FIELD_VALUE0}};
    wire_put_steps_head(&b, batch, n);
    for (uint32_t i = 0; i < n; i++) {
        struct seismo_row row = {.step = first + i};
        row_set(&row, SEISMO_LOSS, 0.5 * (double)(first + i));
        wire_put_row(&b, &layout, &row);
    }
    assert_false(b.overflow);
    receive(w, peer, data, b.n);
}

static inline void bye(struct world *w, const char *peer, uint64_t batch)
{
    uint8_t data[256];
    struct wire_buf b = {.data = data, .cap = sizeof(data)};
    struct wire_bye m = {.batch = batch, .outcome = WIRE_FAILED, .text = str("out of money")};
    wire_put_bye(&b, &m);
    receive(w, peer, data, b.n);
}

/* The next message that the daemon has sent, which must be of this type and to this peer. */
static inline const struct wire_msg *expect(struct world *w, const char *peer, enum wire_type type)
{
    assert_true(w->taken < w->n_sent);
    struct sent *s = &w->sent[w->taken++];
    assert_string_equal(s->peer, peer);
    assert_int_equal(s->msg.type, type);
    return &s->msg;
}

static inline void expect_error(struct world *w, const char *peer, const char *code, uint64_t ref)
{
    const struct wire_msg *m = expect(w, peer, WIRE_ERROR);
    assert_int_equal(m->error.code.n, strlen(code));
    assert_memory_equal(m->error.code.p, code, strlen(code));
    assert_true(m->error.text.n > 0 && m->error.hint.n > 0);
    assert_int_equal(m->error.has_ref, ref != 0);
    if (ref != 0)
        assert_int_equal(m->error.ref, ref);
}

static inline void expect_nothing(struct world *w)
{
    assert_int_equal(w->taken, w->n_sent);
}

/* ---- the worker's side ---- */

/* The next job, not done yet. */
static inline struct job *next_job(struct world *w, enum job_type type)
{
    assert_true(w->done < w->n_jobs);
    assert_int_equal(w->job[w->done]->type, type);
    return w->job[w->done];
}

static inline void no_job(struct world *w)
{
    assert_int_equal(w->done, w->n_jobs);
}

static inline void give_back(struct world *w)
{
    ingest_done(w->ingest, w->job[w->done]);
    job_free(&w->job[w->done]);
    w->done++;
}

static inline void done_open(struct world *w, uint64_t last_batch)
{
    struct job *job = next_job(w, JOB_OPEN);
    job->run_id = w->next_run++;
    job->last_batch = last_batch;
    job->has_step = last_batch > 0;
    job->last_step = 77;
    snprintf(job->open.ret_run, sizeof(job->open.ret_run), "%s", job->open.name);
    give_back(w);
}

static inline void done_batch(struct world *w, enum job_type type)
{
    struct job *job = next_job(w, type);
    job->last_batch = job->batch;
    job->has_step = true;
    job->last_step = 77;
    give_back(w);
}

static inline void add_news(struct job *job, int64_t run_id, const char *json)
{
    struct news *n = calloc(1, sizeof(*n)), **end = &job->news;
    assert_non_null(n);
    n->run_id = run_id;
    n->json = strdup(json);
    while (*end)
        end = &(*end)->next;
    *end = n;
}

/* A session that streams, with nothing committed. */
static inline void open_session(struct world *w, const char *peer, const char *run,
                                const char *session)
{
    hello(w, peer, run, session);
    done_open(w, 0);
    expect(w, peer, WIRE_WELCOME);
}

#endif
