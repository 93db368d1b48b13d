/* A daemon's socket in a thread of the test, for tests in which memory runs out: it answers every
 * message, and its own memory never does. */
#ifndef SEISMO_TESTS_SERVING_H
#define SEISMO_TESTS_SERVING_H

#include <pthread.h>
#include <zmq.h>

#include "proto/wire.h"
#include "tests/unit/fail_alloc.h"

struct serving {
    void (*answer)(void *arg, const struct wire_msg *m, struct wire_buf *ret);
    void *arg;
    void *socket;
    pthread_t thread;
    atomic_bool stop;
};

static void *serving_run(void *arg)
{
    struct serving *s = arg;
    uint8_t data[SEISMO_MAX_MESSAGE], out[SEISMO_MAX_MESSAGE];
    fail_spared_thread = true;
    while (!s->stop) {
        char id[64], errmsg[SEISMO_ERRMSG];
        struct wire_msg m;
        struct wire_buf b = {.data = out, .cap = sizeof out};
        int id_n = zmq_recv(s->socket, id, sizeof id, 0);
        if (id_n < 0)
            continue;
        int n = zmq_recv(s->socket, data, sizeof data, 0);
        assert_int_equal(wire_decode(data, (size_t)n, &m, errmsg), 0);
        s->answer(s->arg, &m, &b);
        zmq_send(s->socket, id, (size_t)id_n, ZMQ_SNDMORE);
        zmq_send(s->socket, b.data, b.n, 0);
    }
    return NULL;
}

/* `wait`: ms after which it sees that it shall stop. */
static void serving_start(struct serving *s, void *zmq, const char *endpoint, int wait)
{
    int linger = 0;
    s->socket = zmq_socket(zmq, ZMQ_ROUTER);
    zmq_setsockopt(s->socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(s->socket, ZMQ_RCVTIMEO, &wait, sizeof wait);
    assert_int_equal(zmq_bind(s->socket, endpoint), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, serving_run, s), 0);
}

static void serving_stop(struct serving *s)
{
    s->stop = true;
    pthread_join(s->thread, NULL);
    zmq_close(s->socket);
}

/* What an ingest side says that takes everything: WELCOME, or ACK with so many verdicts to follow.
 */
static inline void serving_take(const struct wire_msg *m, uint64_t *last_batch, uint32_t verdicts,
                                struct wire_buf *ret)
{
    if (m->type == WIRE_HELLO) {
        struct wire_welcome w = {.version = SEISMO_PROTOCOL_VERSION,
                                 .run = m->hello.run,
                                 .last_batch = *last_batch,
                                 .max_rows = 1024,
                                 .max_bytes = SEISMO_MAX_MESSAGE,
                                 .max_unacked = 64};
        wire_put_welcome(ret, &w);
        return;
    }
    uint64_t batch = m->type == WIRE_BYE ? m->bye.batch : m->steps.batch;
    if (batch == *last_batch + 1)
        *last_batch = batch;
    wire_put_ack_head(ret, *last_batch, true, 1, verdicts);
}

#endif
