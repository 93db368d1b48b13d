/* ZeroMQ on libuv: what the module delivers, and that the two simpler designs really stall.
 *
 * The stalling designs stay here as a reminder of why zsock.c is written as it is: each gets
 * exactly the load that zsock gets, and loses the signal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>
#include <zmq.h>

#include "daemon/zsock.h"

#define QUIET_MS 400   /* without progress: stalled */
#define LIMIT_MS 20000 /* no scenario may take longer */

/* ---- the three designs behind one interface ---- */

enum design { ZSOCK, ONE_PER_POLL, DRAIN_IN_POLL };

struct receiver {
    enum design design;
    uv_loop_t loop;
    uv_timer_t watch, sender;
    void *ctx;
    struct zsock *zsock;
    void *naive;
    uv_poll_t poll;
    char endpoint[256];
    int received, expected, last_seen;
    uint64_t started, progress;
    bool stalled, sending;
    uint8_t peer[255];
    size_t peer_n;
};

static void finish(struct receiver *r)
{
    uv_timer_stop(&r->watch);
    uv_timer_stop(&r->sender);
    uv_stop(&r->loop);
}

static void got(struct receiver *r, const void *peer, size_t peer_n)
{
    memcpy(r->peer, peer, peer_n);
    r->peer_n = peer_n;
    if (++r->received == r->expected)
        finish(r);
}

static void on_zsock(void *arg, const struct zsock_msg *msg)
{
    assert_int_equal(msg->frames, 1);
    got(arg, msg->peer, msg->peer_n);
}

static bool naive_receive(struct receiver *r)
{
    uint8_t peer[255], data[64];
    int n = zmq_recv(r->naive, peer, sizeof(peer), ZMQ_DONTWAIT);
    if (n < 0)
        return false;
    assert_true(zmq_recv(r->naive, data, sizeof(data), ZMQ_DONTWAIT) >= 0);
    got(r, peer, (size_t)n);
    return true;
}

/* Both designs trust that a readable descriptor comes again as long as messages are there. */
static void on_naive(uv_poll_t *poll, int status, int bits)
{
    (void)bits;
    struct receiver *r = poll->data;
    int events;
    size_t size = sizeof(events);
    assert_int_equal(status, 0);
    assert_int_equal(zmq_getsockopt(r->naive, ZMQ_EVENTS, &events, &size), 0);
    if (events & ZMQ_POLLIN)
        while (naive_receive(r) && r->design == DRAIN_IN_POLL)
            ;
}

static void on_watch(uv_timer_t *timer)
{
    struct receiver *r = timer->data;
    uint64_t now = uv_now(&r->loop);
    if (r->received != r->last_seen) {
        r->last_seen = r->received;
        r->progress = now;
    }
    if (now - r->progress < QUIET_MS && now - r->started < LIMIT_MS)
        return;
    r->stalled = true;
    finish(r);
}

static void send_one(struct receiver *r)
{
    if (r->design == ZSOCK) {
        assert_int_equal(zsock_send(r->zsock, r->peer, r->peer_n, "x", 1), 0);
        return;
    }
    zmq_send(r->naive, r->peer, r->peer_n, ZMQ_DONTWAIT | ZMQ_SNDMORE);
    zmq_send(r->naive, "x", 1, ZMQ_DONTWAIT);
}

/* A callback that sends, is busy for a while, and sends again: the client has gone on after the
 * first message, and the second send takes the signal that says so. */
static void on_sender(uv_timer_t *timer)
{
    struct receiver *r = timer->data;
    if (r->peer_n == 0)
        return;
    send_one(r);
    usleep(20000);
    send_one(r);
}

static void receiver_open(struct receiver *r, enum design design, int expected, bool sending)
{
    char errmsg[SEISMO_ERRMSG] = "";
    *r = (struct receiver){.design = design, .expected = expected, .sending = sending};
    assert_int_equal(uv_loop_init(&r->loop), 0);
    r->ctx = zmq_ctx_new();
    assert_non_null(r->ctx);
    if (design == ZSOCK) {
        if (zsock_new(&r->loop, r->ctx, ZMQ_ROUTER, 1000, on_zsock, r, &r->zsock, errmsg) != 0 ||
            zsock_bind(r->zsock, "tcp://127.0.0.1:*", errmsg) != 0)
            fail_msg("%s", errmsg);
        snprintf(r->endpoint, sizeof(r->endpoint), "%s", zsock_endpoint(r->zsock));
    } else {
        int fd, linger = 0;
        size_t size = sizeof(fd), endpoint = sizeof(r->endpoint);
        r->naive = zmq_socket(r->ctx, ZMQ_ROUTER);
        assert_int_equal(zmq_setsockopt(r->naive, ZMQ_LINGER, &linger, sizeof(linger)), 0);
        assert_int_equal(zmq_bind(r->naive, "tcp://127.0.0.1:*"), 0);
        assert_int_equal(zmq_getsockopt(r->naive, ZMQ_LAST_ENDPOINT, r->endpoint, &endpoint), 0);
        assert_int_equal(zmq_getsockopt(r->naive, ZMQ_FD, &fd, &size), 0);
        assert_int_equal(uv_poll_init(&r->loop, &r->poll, fd), 0);
        r->poll.data = r;
        assert_int_equal(uv_poll_start(&r->poll, UV_READABLE, on_naive), 0);
    }
    uv_timer_init(&r->loop, &r->watch);
    uv_timer_init(&r->loop, &r->sender);
    r->watch.data = r->sender.data = r;
    r->started = r->progress = uv_now(&r->loop);
}

static void receiver_run(struct receiver *r)
{
    r->started = r->progress = uv_now(&r->loop);
    uv_timer_start(&r->watch, on_watch, 50, 50);
    if (r->sending)
        uv_timer_start(&r->sender, on_sender, 1, 1);
    uv_run(&r->loop, UV_RUN_DEFAULT);
}

static void receiver_close(struct receiver *r)
{
    uv_close((uv_handle_t *)&r->watch, NULL);
    uv_close((uv_handle_t *)&r->sender, NULL);
    if (r->design == ZSOCK) {
        zsock_close(&r->zsock, NULL, NULL);
        assert_null(r->zsock);
    } else {
        uv_poll_stop(&r->poll);
        uv_close((uv_handle_t *)&r->poll, NULL);
    }
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    if (r->naive)
        zmq_close(r->naive);
    zmq_ctx_term(r->ctx);
}

/* ---- clients, each in a thread and a context of its own ---- */

struct client {
    const char *endpoint;
    int messages;
    int window; /* > 0: wait for an answer after so many messages */
    pthread_t thread;
    pthread_mutex_t lock;
    bool stop;
};

static bool client_stopped(struct client *c)
{
    pthread_mutex_lock(&c->lock);
    bool stop = c->stop;
    pthread_mutex_unlock(&c->lock);
    return stop;
}

static void *client_main(void *arg)
{
    struct client *c = arg;
    int linger = 1000, timeout = 50;
    void *ctx = zmq_ctx_new(), *dealer = zmq_socket(ctx, ZMQ_DEALER);
    zmq_setsockopt(dealer, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_setsockopt(dealer, ZMQ_SNDTIMEO, &timeout, sizeof(timeout));
    zmq_setsockopt(dealer, ZMQ_RCVTIMEO, &timeout, sizeof(timeout));
    zmq_connect(dealer, c->endpoint);
    for (int sent = 0; sent < c->messages && !client_stopped(c);) {
        if (zmq_send(dealer, "0123456789", 10, 0) < 0)
            continue; /* full: try again */
        sent++;
        char answer[64];
        if (c->window > 0 && sent % c->window == 0)
            while (zmq_recv(dealer, answer, sizeof(answer), 0) < 0 && !client_stopped(c))
                ;
    }
    while (!client_stopped(c))
        usleep(1000); /* the receiver may still have to read */
    zmq_close(dealer);
    zmq_ctx_term(ctx);
    return NULL;
}

static void client_start(struct client *c, const char *endpoint, int messages, int window)
{
    *c = (struct client){.endpoint = endpoint, .messages = messages, .window = window};
    pthread_mutex_init(&c->lock, NULL);
    assert_int_equal(pthread_create(&c->thread, NULL, client_main, c), 0);
}

static void client_stop(struct client *c)
{
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    pthread_mutex_destroy(&c->lock);
}

/* A burst from one client, nothing else going on. */
static void burst(enum design design, struct receiver *r)
{
    struct client c;
    receiver_open(r, design, 5000, false);
    client_start(&c, r->endpoint, 5000, 0);
    receiver_run(r);
    client_stop(&c);
    receiver_close(r);
}

/* A client that waits for an answer now and then, while another callback sends. */
static void conversation(enum design design, struct receiver *r)
{
    struct client c;
    receiver_open(r, design, 400, true);
    client_start(&c, r->endpoint, 400, 10);
    receiver_run(r);
    client_stop(&c);
    receiver_close(r);
}

static void test_burst(void **state)
{
    (void)state;
    struct receiver r;
    burst(ZSOCK, &r);
    assert_false(r.stalled);
    assert_int_equal(r.received, 5000);
}

static void test_one_per_poll_stalls(void **state)
{
    (void)state;
    struct receiver r;
    burst(ONE_PER_POLL, &r);
    assert_true(r.stalled);
    assert_true(r.received < 5000);
}

static void test_conversation(void **state)
{
    (void)state;
    struct receiver r;
    conversation(ZSOCK, &r);
    assert_false(r.stalled);
    assert_int_equal(r.received, 400);
}

static void test_drain_in_poll_stalls(void **state)
{
    (void)state;
    struct receiver r;
    conversation(DRAIN_IN_POLL, &r);
    assert_true(r.stalled);
    assert_true(r.received < 400);
}

/* ---- one loop with raw peers, step by step ---- */

struct fixture {
    uv_loop_t loop;
    void *ctx;
    struct zsock *router;
    void *peer[2]; /* DEALERs */
    int received, frames, pause_after, stop_after;
    uint64_t read_at, full_at; /* ns */
    size_t n;
    uint8_t id[255];
    size_t id_n;
    int closed;
};

static void on_message(void *arg, const struct zsock_msg *msg)
{
    struct fixture *f = arg;
    f->received++;
    f->frames = msg->frames;
    f->n = msg->n;
    memcpy(f->id, msg->peer, msg->peer_n);
    f->id_n = msg->peer_n;
    if (f->pause_after > 0 && f->received == f->pause_after)
        zsock_pause(f->router, true);
    if (f->stop_after > 0 && f->received == f->stop_after)
        uv_stop(&f->loop);
}

static void on_timeout(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void run_for(struct fixture *f, uint64_t ms)
{
    uv_timer_t timer;
    uv_timer_init(&f->loop, &timer);
    uv_timer_start(&timer, on_timeout, ms, 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

static void run_until(struct fixture *f, int received)
{
    for (int i = 0; i < 500 && f->received < received; i++)
        run_for(f, 10);
    assert_int_equal(f->received, received);
}

static void *peer_new(struct fixture *f, int hwm)
{
    int linger = 0, timeout = 2000;
    void *peer = zmq_socket(f->ctx, ZMQ_DEALER);
    assert_non_null(peer);
    zmq_setsockopt(peer, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_setsockopt(peer, ZMQ_RCVTIMEO, &timeout, sizeof(timeout));
    zmq_setsockopt(peer, ZMQ_RCVHWM, &hwm, sizeof(hwm));
    assert_int_equal(zmq_connect(peer, zsock_endpoint(f->router)), 0);
    return peer;
}

static void open_fixture(struct fixture *f)
{
    char errmsg[SEISMO_ERRMSG] = "";
    *f = (struct fixture){0};
    assert_int_equal(uv_loop_init(&f->loop), 0);
    f->ctx = zmq_ctx_new();
    if (zsock_new(&f->loop, f->ctx, ZMQ_ROUTER, 1000, on_message, f, &f->router, errmsg) != 0 ||
        zsock_bind(f->router, "tcp://127.0.0.1:*", errmsg) != 0)
        fail_msg("%s", errmsg);
    f->peer[0] = peer_new(f, 1000);
    f->peer[1] = peer_new(f, 1000);
}

static void on_closed(void *arg)
{
    struct fixture *f = arg;
    f->closed++;
}

static void close_fixture(struct fixture *f)
{
    for (int i = 0; i < 2; i++)
        if (f->peer[i])
            zmq_close(f->peer[i]);
    zsock_close(&f->router, on_closed, f);
    assert_null(f->router);
    zsock_close(&f->router, on_closed, f); /* nothing */
    assert_int_equal(f->closed, 0);        /* not before libuv has let go */
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(f->closed, 1);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    zmq_ctx_term(f->ctx);
}

static void test_frames(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f);
    zmq_send(f.peer[0], "abc", 3, 0);
    run_until(&f, 1);
    assert_int_equal(f.frames, 1);
    assert_int_equal(f.n, 3);
    for (int i = 0; i < 5; i++)
        zmq_send(f.peer[0], "0123456", (size_t)i, i < 4 ? ZMQ_SNDMORE : 0);
    run_until(&f, 2);
    assert_int_equal(f.frames, 5);
    assert_int_equal(f.n, 0);
    zmq_send(f.peer[0], "", 0, 0);
    run_until(&f, 3);
    assert_int_equal(f.frames, 1);
    assert_int_equal(f.n, 0);
    close_fixture(&f);
}

static void test_too_large(void **state)
{
    (void)state;
    struct fixture f;
    char large[1001] = {0};
    open_fixture(&f);
    zmq_send(f.peer[0], large, 1000, 0);
    run_until(&f, 1);
    zmq_send(f.peer[0], large, 1001, 0);
    run_for(&f, 200);
    assert_int_equal(f.received, 1);
    zmq_send(f.peer[1], "x", 1, 0); /* nobody else is disturbed */
    run_until(&f, 2);
    close_fixture(&f);
}

static void test_pause(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f);
    f.pause_after = 3;
    for (int i = 0; i < 200; i++)
        zmq_send(f.peer[0], "x", 1, 0);
    run_for(&f, 200);
    assert_int_equal(f.received, 3); /* and none after it, though more were there */
    /* No signal comes any more for what has arrived, and nothing else wakes the loop. */
    f.pause_after = 0;
    f.stop_after = 200;
    zsock_pause(f.router, false);
    run_for(&f, 3000);
    assert_int_equal(f.received, 200);
    close_fixture(&f);
}

static void test_unreachable(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f);
    assert_int_equal(zsock_send(f.router, "nobody", 6, "x", 1), SEISMO_EUNREACHABLE);
    zmq_send(f.peer[0], "x", 1, 0);
    run_until(&f, 1);
    assert_int_equal(zsock_send(f.router, f.id, f.id_n, "y", 1), 0);
    char answer[8];
    assert_int_equal(zmq_recv(f.peer[0], answer, sizeof(answer), 0), 1);
    zmq_close(f.peer[0]);
    f.peer[0] = NULL;
    int rc = 0;
    for (int i = 0; i < 200 && rc == 0; i++) {
        run_for(&f, 10);
        rc = zsock_send(f.router, f.id, f.id_n, "z", 1);
    }
    assert_int_equal(rc, SEISMO_EUNREACHABLE);
    close_fixture(&f);
}

/* A peer that does not read fills libzmq's queues, then ours, then is refused; another one is
 * served all the while; and when the first one reads at last, everything comes in order. */
static void test_slow_reader(void **state)
{
    (void)state;
    struct fixture f;
    uint8_t slow[255];
    static char data[50000];
    open_fixture(&f);
    zmq_close(f.peer[0]);
    f.peer[0] = peer_new(&f, 10);
    zmq_send(f.peer[0], "x", 1, 0);
    run_until(&f, 1);
    size_t slow_n = f.id_n;
    memcpy(slow, f.id, slow_n);
    int sent = 0, rc;
    for (;;) {
        memcpy(data, &sent, sizeof(sent));
        rc = zsock_send(f.router, slow, slow_n, data, sizeof(data));
        if (rc != 0)
            break;
        sent++;
        assert_true(sent < 100000);
    }
    assert_int_equal(rc, SEISMO_EBUSY);
    assert_int_equal(zsock_queued(f.router), ZSOCK_MAX_QUEUED_PEER);
    zmq_send(f.peer[1], "x", 1, 0);
    run_until(&f, 2);
    assert_int_equal(zsock_send(f.router, f.id, f.id_n, "fast", 4), 0);
    char answer[8];
    assert_int_equal(zmq_recv(f.peer[1], answer, sizeof(answer), 0), 4);

    /* An idle loop must not spin while the queue waits. */
    struct timespec before, after;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    run_for(&f, 300);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    double cpu =
        (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    assert_true(cpu < 0.15);

    int limit = sent + 20;
    for (int i = 0; i < sent;) {
        int n = zmq_recv(f.peer[0], data, sizeof(data), ZMQ_DONTWAIT), number;
        if (n < 0) {
            /* What is sent now must not overtake what waits, though there is room for it. */
            usleep(5000);
            memcpy(data, &sent, sizeof(sent));
            if (sent < limit && zsock_send(f.router, slow, slow_n, data, sizeof(data)) == 0)
                sent++;
            run_for(&f, 2);
            continue;
        }
        memcpy(&number, data, sizeof(number));
        assert_int_equal(number, i);
        i++;
    }
    assert_int_equal(zsock_queued(f.router), 0);
    close_fixture(&f);
}

/* A slow reader that reads while the loop is in another callback: the signal that it has room is
 * gone by the time the loop asks for events, and the retry timer has to do. */
static void read_much(uv_timer_t *timer)
{
    struct fixture *f = timer->data;
    char data[64];
    int n = 0;
    while (n < 600 && zmq_recv(f->peer[0], data, sizeof(data), 0) >= 0)
        n++;
    usleep(50000);
    f->read_at = uv_hrtime();
}

/* Runs after each poll of the loop and, started later, before zsock's own check. */
static void look(uv_check_t *check)
{
    struct fixture *f = check->data;
    if (zsock_queued(f->router) == ZSOCK_MAX_QUEUED_PEER)
        f->full_at = uv_hrtime();
}

static void test_lost_signal(void **state)
{
    (void)state;
    struct fixture f;
    static char data[20000];
    uv_timer_t timer;
    uv_check_t check;
    open_fixture(&f);
    zmq_send(f.peer[0], "x", 1, 0);
    run_until(&f, 1);
    for (int i = 0; i < 100; i++) { /* until libzmq takes no more into its buffers */
        while (zsock_send(f.router, f.id, f.id_n, data, sizeof(data)) == 0)
            ;
        run_for(&f, 100);
        if (zsock_queued(f.router) == ZSOCK_MAX_QUEUED_PEER)
            break;
    }
    assert_int_equal(zsock_queued(f.router), ZSOCK_MAX_QUEUED_PEER);
    uv_timer_init(&f.loop, &timer);
    timer.data = &f;
    uv_check_init(&f.loop, &check);
    check.data = &f;
    uv_timer_start(&timer, read_much, 20, 0);
    uv_check_start(&check, look);
    run_for(&f, 1500);
    assert_true(zsock_queued(f.router) < ZSOCK_MAX_QUEUED_PEER / 2);
    assert_true(f.full_at < f.read_at + 1000 * 1000 * 1000);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_close((uv_handle_t *)&check, NULL);
    close_fixture(&f);
}

/* What waits for a peer that goes away is dropped, and the queue has room again. */
static void test_reader_gone(void **state)
{
    (void)state;
    struct fixture f;
    static char data[50000];
    open_fixture(&f);
    zmq_send(f.peer[0], "x", 1, 0);
    run_until(&f, 1);
    while (zsock_send(f.router, f.id, f.id_n, data, sizeof(data)) == 0)
        ;
    assert_int_equal(zsock_queued(f.router), ZSOCK_MAX_QUEUED_PEER);
    zmq_close(f.peer[0]);
    f.peer[0] = NULL;
    for (int i = 0; i < 200 && zsock_queued(f.router) > 0; i++)
        run_for(&f, 10);
    assert_int_equal(zsock_queued(f.router), 0);
    close_fixture(&f);
}

static void test_ipc(void **state)
{
    (void)state;
    char directory[] = "/tmp/seismo-test-zsock-XXXXXX", path[64], endpoint[80],
         errmsg[SEISMO_ERRMSG];
    struct fixture f;
    struct zsock *other = NULL;
    struct stat st;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/s", directory);
    snprintf(endpoint, sizeof(endpoint), "ipc://%s", path);
    open_fixture(&f);

    /* A socket file that nobody answers on is replaced. */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    assert_int_equal(zsock_bind(f.router, endpoint, errmsg), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_string_equal(zsock_endpoint(f.router), endpoint);

    /* One that is in use is not taken away. */
    assert_int_equal(zsock_new(&f.loop, f.ctx, ZMQ_ROUTER, 1000, on_message, &f, &other, errmsg),
                     0);
    assert_int_equal(zsock_bind(other, endpoint, errmsg), SEISMO_EINVAL);
    assert_non_null(strstr(errmsg, "another process listens there"));
    assert_int_equal(stat(path, &st), 0);

    /* Nor is a file that is something else deleted. */
    char file[80];
    snprintf(file, sizeof(file), "ipc://%s/file", directory);
    FILE *out = fopen(file + 6, "w");
    assert_non_null(out);
    fclose(out);
    assert_int_equal(zsock_bind(other, file, errmsg), SEISMO_EINVAL);
    assert_non_null(strstr(errmsg, "not a socket"));
    assert_int_equal(unlink(file + 6), 0);

    char long_path[200] = "ipc:///";
    memset(long_path + 7, 'x', 150);
    assert_int_equal(zsock_bind(other, long_path, errmsg), SEISMO_ETOOBIG);
    assert_int_equal(zsock_bind(other, "ipc:///nonexistent/s", errmsg), SEISMO_EIO);
    assert_int_equal(zsock_bind(other, zsock_endpoint(f.router), errmsg), SEISMO_EINVAL);
    zsock_close(&other, NULL, NULL);
    close_fixture(&f);
    assert_int_equal(rmdir(directory), 0); /* the socket file is gone */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_burst),        cmocka_unit_test(test_one_per_poll_stalls),
        cmocka_unit_test(test_conversation), cmocka_unit_test(test_drain_in_poll_stalls),
        cmocka_unit_test(test_frames),       cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_pause),        cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_slow_reader),  cmocka_unit_test(test_reader_gone),
        cmocka_unit_test(test_ipc),          cmocka_unit_test(test_lost_signal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
