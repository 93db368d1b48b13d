/* No more connections than the limit: the newest is cut, those that are there go on, and one that
 * was cut gets in once another has gone. And no more of one than makes messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>
#include <zmq.h>

#include "daemon/log.h"
#include "daemon/zsock.h"

#define MOST 3
#define PEERS 6
#define PATIENCE_MS 20000

struct fixture {
    uv_loop_t loop;
    uv_timer_t timer;
    void *ctx, *client_ctx;
    struct zsock *router;
    void *peer[PEERS];
    bool heard[PEERS];
    uint16_t port;
    int raw;             /* a connection without libzmq */
    const char *part;    /* what it says again and again, */
    size_t part_n, sent; /* bytes: of it, and in all */
    bool (*done)(struct fixture *f);
    bool reached; /* done() was true once: the loop may go on for a moment and change it again */
    uint64_t deadline;
};

static void on_message(void *arg, const struct zsock_msg *msg)
{
    struct fixture *f = arg;
    uint8_t number;
    assert_int_equal(msg->n, 1);
    memcpy(&number, msg->data, 1);
    assert_true(number < PEERS);
    f->heard[number] = true;
}

static void on_timer(uv_timer_t *timer)
{
    struct fixture *f = timer->data;
    f->reached = f->done(f);
    if (f->reached || uv_now(&f->loop) > f->deadline)
        uv_stop(&f->loop);
}

static void run_until(struct fixture *f, bool (*done)(struct fixture *f))
{
    f->done = done;
    f->reached = false;
    uv_update_time(&f->loop);
    f->deadline = uv_now(&f->loop) + PATIENCE_MS;
    uv_timer_start(&f->timer, on_timer, 1, 1);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    uv_timer_stop(&f->timer);
    assert_true(f->reached);
}

static void connect_peer(struct fixture *f, int i)
{
    int linger = 0;
    uint8_t number = (uint8_t)i;
    f->peer[i] = zmq_socket(f->client_ctx, ZMQ_DEALER);
    assert_non_null(f->peer[i]);
    zmq_setsockopt(f->peer[i], ZMQ_LINGER, &linger, sizeof(linger));
    assert_int_equal(zmq_connect(f->peer[i], zsock_endpoint(f->router)), 0);
    assert_int_equal(zmq_send(f->peer[i], &number, 1, 0), 1);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    char errmsg[SEISMO_ERRMSG];
    assert_non_null(f);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_timer_init(&f->loop, &f->timer);
    f->timer.data = f;
    f->ctx = zmq_ctx_new();
    f->client_ctx = zmq_ctx_new();
    if (zsock_new(&f->loop, f->ctx, ZMQ_ROUTER, 1000, on_message, f, &f->router, errmsg) != 0 ||
        zsock_limit(f->router, f->ctx, MOST, "peers", errmsg) != 0 ||
        zsock_bind(f->router, "tcp://127.0.0.1:*", errmsg) != 0)
        fail_msg("%s", errmsg);
    f->port = (uint16_t)atoi(strrchr(zsock_endpoint(f->router), ':') + 1);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < PEERS; i++)
        if (f->peer[i])
            zmq_close(f->peer[i]);
    zmq_ctx_term(f->client_ctx);
    zsock_close(&f->router, NULL, NULL);
    uv_close((uv_handle_t *)&f->timer, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    zmq_ctx_term(f->ctx);
    free(f);
    return 0;
}

static bool first_three(struct fixture *f)
{
    return f->heard[0] && f->heard[1] && f->heard[2];
}

/* What they said on connections that were cut is lost, so they say it again and again. */
static void say_again(struct fixture *f)
{
    for (uint8_t i = 0; i < PEERS; i++)
        if (f->peer[i] && !f->heard[i])
            zmq_send(f->peer[i], &i, 1, ZMQ_DONTWAIT);
}

static bool first_three_in_time(struct fixture *f)
{
    say_again(f);
    return first_three(f);
}

static bool a_fourth(struct fixture *f)
{
    say_again(f);
    return f->heard[3] || f->heard[4] || f->heard[5];
}

static bool enough_time(struct fixture *f)
{
    return uv_now(&f->loop) + PATIENCE_MS > f->deadline + 500;
}

static void test_newest_is_cut(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < MOST; i++)
        connect_peer(f, i);
    run_until(f, first_three);
    assert_int_equal(zsock_connections(f->router), MOST);
    for (int i = MOST; i < PEERS; i++)
        connect_peer(f, i);
    run_until(f, enough_time); /* the three try again and again meanwhile */
    assert_in_range(zsock_connections(f->router), MOST, PEERS);
    memset(f->heard, 0, sizeof(f->heard));
    for (uint8_t i = 0; i < MOST; i++)
        assert_int_equal(zmq_send(f->peer[i], &i, 1, 0), 1);
    run_until(f, first_three);
    zmq_close(f->peer[0]);
    f->peer[0] = NULL;
    run_until(f, a_fourth);
}

static bool was_cut(struct fixture *f)
{
    char byte;
    while (recv(f->raw, &byte, 1, MSG_DONTWAIT) > 0)
        ;
    return recv(f->raw, &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET;
}

static bool as_many_as_may(struct fixture *f)
{
    return zsock_connections(f->router) == MOST;
}

static int raw_connect(const struct fixture *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(f->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* Whoever is one too many finds its connection closed, however silent it is. */
static void test_one_too_many(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < MOST; i++)
        connect_peer(f, i);
    run_until(f, first_three);
    f->raw = raw_connect(f);
    run_until(f, was_cut);
    run_until(f, as_many_as_may);
    close(f->raw);
}

static bool none_left(struct fixture *f)
{
    return zsock_connections(f->router) == 0;
}

/* Connections of strangers, who say nothing, garbage or half a greeting and go, are counted out. */
static void test_comes_back_to_zero(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 300; i++) {
        int fd = raw_connect(f);
        if (i % 3 == 1)
            assert_true(send(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL) != 0);
        else if (i % 3 == 2)
            assert_true(send(fd, "\xff\0\0\0\0\0\0\0\1\x7f\3", 11, MSG_NOSIGNAL) != 0);
        if (i % 50 == 0)
            run_until(f, enough_time);
        close(fd);
    }
    /* None is left more than once while there are some to be accepted, so the three may come too
     * early at first. */
    run_until(f, none_left);
    connect_peer(f, 0);
    connect_peer(f, 1);
    connect_peer(f, 2);
    run_until(f, first_three_in_time);
    run_until(f, as_many_as_may);
}

/* ---- what makes no message ---- */

static const uint8_t greeting[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0, 'N', 'U', 'L', 'L'};

static void greet(struct fixture *f, const char *type)
{
    uint8_t ready[64] = {4, 0, 5, 'R', 'E', 'A', 'D', 'Y', 11}, n = (uint8_t)strlen(type);
    memcpy(ready + 9, "Socket-Type\0\0\0", 14);
    ready[23] = n;
    memcpy(ready + 24, type, n);
    ready[1] = (uint8_t)(22 + n);
    f->raw = raw_connect(f);
    f->sent = 0;
    assert_int_equal(send(f->raw, greeting, sizeof(greeting), 0), sizeof(greeting));
    assert_int_equal(send(f->raw, ready, 24u + n, 0), 24 + n);
}

/* Says its part some times more, as far as there is room. False: it has been cut. */
static bool say_more(struct fixture *f)
{
    for (int i = 0; i < 100; i++) {
        size_t at = f->sent % f->part_n;
        ssize_t n = send(f->raw, f->part + at, f->part_n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN;
        f->sent += (size_t)n;
    }
    return true;
}

static bool cut_in_the_end(struct fixture *f)
{
    return !say_more(f);
}

/* A message of which more and more parts come, each small enough. */
static void test_a_message_without_end(void **state)
{
    struct fixture *f = *state;
    static char part[202] = {1, (char)200}; /* more, bytes */
    f->part = part;
    f->part_n = sizeof(part);
    connect_peer(f, 0);
    greet(f, "DEALER");
    run_until(f, cut_in_the_end);
    close(f->raw);
    assert_true(f->sent > 18000); /* as much as may wait in whole messages */
    connect_peer(f, 1);
    connect_peer(f, 2);
    run_until(f, first_three_in_time);
}

static bool said_much(struct fixture *f)
{
    return !say_more(f) || f->sent > 200000;
}

static void test_messages_without_end(void **state)
{
    struct fixture *f = *state;
    f->part = (const char[]){0, 1, 5}; /* from peer 5 */
    f->part_n = 3;
    greet(f, "DEALER");
    run_until(f, said_much);
    run_until(f, enough_time);
    assert_true(say_more(f));
    assert_true(f->heard[5]);
    close(f->raw);
}

/* Subscriptions, which libzmq keeps at some thirty times their size. */
static void test_subscriptions_without_end(void **state)
{
    struct fixture *f = *state;
    struct zsock *router = f->router;
    char errmsg[SEISMO_ERRMSG];
    static char subscription[202] = {0, (char)200, 1};
    f->part = subscription;
    f->part_n = sizeof(subscription);
    if (zsock_new(&f->loop, f->ctx, ZMQ_PUB, 256, NULL, NULL, &f->router, errmsg) != 0 ||
        zsock_limit(f->router, f->ctx, MOST, "query_peers", errmsg) != 0 ||
        zsock_bind(f->router, "tcp://127.0.0.1:*", errmsg) != 0)
        fail_msg("%s", errmsg);
    f->port = (uint16_t)atoi(strrchr(zsock_endpoint(f->router), ':') + 1);
    greet(f, "SUB");
    run_until(f, cut_in_the_end);
    close(f->raw);
    assert_true(f->sent > 60000);
    zsock_close(&f->router, NULL, NULL);
    f->router = router;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_newest_is_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_too_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_comes_back_to_zero, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_message_without_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_messages_without_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_subscriptions_without_end, set_up, tear_down),
    };
    log_set_level(LOG_ERROR); /* the refusals are provoked */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
