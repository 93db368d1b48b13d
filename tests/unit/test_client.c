/* libseismo as a program uses it, against a small daemon of the test's own on a real socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "client/lib/client.h"
#include "proto/wire.h"

/* libzmq is not instrumented: ThreadSanitizer cannot see the atomics by which its threads hand
 * messages over, and takes every message for a race. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "called_from_lib:libzmq.so\nrace:libzmq.so\n";
}

/* What the library calls instead of ZeroMQ's own: while `narrowed`, its connection is made between
 * a look at the socket and one at the socket's monitor, or nearly always, and something has been
 * sent less than a millisecond before, after which ZeroMQ does not look for connections by itself.
 */
static _Atomic bool narrowed;
static _Atomic unsigned sent, unsent;

static int really_send(void *socket, const void *data, size_t n, int flags)
{
    int (*next)(void *, const void *, size_t, int) =
        (int (*)(void *, const void *, size_t, int))dlsym(RTLD_NEXT, "zmq_send");

    return next(socket, data, n, flags);
}

int zmq_poll(zmq_pollitem_t *items, int n, long timeout)
{
    int (*next)(zmq_pollitem_t *, int, long) =
        (int (*)(zmq_pollitem_t *, int, long))dlsym(RTLD_NEXT, "zmq_poll");

    for (int i = 0; atomic_load(&narrowed) && atomic_load(&sent) == 0 && i < 10000; i++) {
        next(items, 1, 0);
        really_send(items[0].socket, "", 0, ZMQ_DONTWAIT);
        for (int k = 0; k < 10; k++) {
            if (next(items + 1, 1, 0) > 0) {
                return 1;
            }
        }
    }
    return next(items, n, timeout);
}

int zmq_send(void *socket, const void *data, size_t n, int flags)
{
    int rc = really_send(socket, data, n, flags);

    if (flags == ZMQ_DONTWAIT) {
        atomic_fetch_add(rc < 0 ? &unsent : &sent, 1);
    }
    return rc;
}

/* Answers HELLO and acknowledges batches that come in order, like seismod with a perfect disk. */
struct mini_daemon {
    void *zmq;
    char endpoint[64];
    pthread_t thread;
    _Atomic bool stop;
    bool mute; /* acknowledges nothing */
    uint64_t last_batch;
    _Atomic uint64_t rows;
    int64_t last_step;
    struct seismo_row last_row;
    unsigned hellos, byes;
};

static void reply(void *socket, const void *id, size_t id_n, const struct wire_buf *m)
{
    assert_false(m->overflow);
    zmq_send(socket, id, id_n, ZMQ_SNDMORE);
    zmq_send(socket, m->data, m->n, 0);
}

static void take_rows(struct mini_daemon *d, struct wire_steps *steps)
{
    struct wire_layout layout;
    char errmsg[SEISMO_ERRMSG];

    wire_layout_all(&layout);
    while (wire_next_row(&steps->rows, &layout, &d->last_row, errmsg) == 0) {
        d->last_step = d->last_row.step;
        atomic_fetch_add(&d->rows, 1);
    }
}

static void handle(struct mini_daemon *d, void *socket, const void *id, size_t id_n,
                   struct wire_msg *msg)
{
    uint8_t data[512];
    struct wire_buf m = {.data = data, .cap = sizeof(data)};
    uint64_t batch = msg->type == WIRE_BYE ? msg->bye.batch : msg->steps.batch;

    if (msg->type == WIRE_HELLO) {
        struct wire_welcome w = {.version = SEISMO_PROTOCOL_VERSION,
                                 .run = msg->hello.run,
                                 .last_batch = d->last_batch,
                                 .max_rows = 1024,
                                 .max_bytes = SEISMO_MAX_MESSAGE,
                                 .max_unacked = 64,
                                 .probe_every = 10};

        d->hellos++;
        wire_put_welcome(&m, &w);
        reply(socket, id, id_n, &m);
        return;
    }
    if (batch == d->last_batch + 1) {
        if (msg->type == WIRE_STEPS) {
            take_rows(d, &msg->steps);
        } else {
            d->byes++;
        }
        d->last_batch = batch;
    }
    if (!d->mute) {
        static const char verdict[] =
            "{\"state\": \"healthy\", \"severity\": \"info\", \"step\": 3}";
        bool tell = batch == 1;

        wire_put_ack_head(&m, d->last_batch, true, d->last_step, tell);
        if (tell) {
            wire_put_text(&m, verdict, sizeof(verdict) - 1);
        }
        reply(socket, id, id_n, &m);
    }
}

static void *mini_main(void *arg)
{
    struct mini_daemon *d = arg;
    void *socket = zmq_socket(d->zmq, ZMQ_ROUTER);
    int linger = 0, wait = 20;
    static _Thread_local uint8_t data[SEISMO_MAX_MESSAGE];

    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &wait, sizeof(wait));
    assert_int_equal(zmq_bind(socket, d->endpoint), 0);
    while (!atomic_load(&d->stop)) {
        char id[64], errmsg[SEISMO_ERRMSG];
        struct wire_msg msg;
        int id_n = zmq_recv(socket, id, sizeof(id), 0), n;

        if (id_n < 0) {
            continue;
        }
        n = zmq_recv(socket, data, sizeof(data), 0);
        if (n == 0) {
            continue; /* zmq_poll's, above */
        }
        assert_int_equal(wire_decode(data, (size_t)n, &msg, errmsg), 0);
        handle(d, socket, id, (size_t)id_n, &msg);
    }
    zmq_close(socket);
    return NULL;
}

static void mini_start(struct mini_daemon *d)
{
    atomic_store(&d->stop, false);
    d->zmq = zmq_ctx_new();
    assert_int_equal(pthread_create(&d->thread, NULL, mini_main, d), 0);
}

static void mini_stop(struct mini_daemon *d)
{
    atomic_store(&d->stop, true);
    pthread_join(d->thread, NULL);
    zmq_ctx_term(d->zmq);
}

static struct mini_daemon *mini_new(void)
{
    static unsigned count;
    struct mini_daemon *d = calloc(1, sizeof(*d));

    snprintf(d->endpoint, sizeof(d->endpoint), "ipc:///tmp/seismo-test-%ld-%u", (long)getpid(),
             count++);
    return d;
}

static void mini_free(struct mini_daemon *d)
{
    unlink(d->endpoint + strlen("ipc://"));
    free(d);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void nap(void)
{
    usleep(5000);
}

static struct seismo *open_run(const struct mini_daemon *d, const struct seismo_options *options)
{
    struct seismo_options o = *options;
    char errmsg[SEISMO_ERRMSG] = "";
    struct seismo *run;

    o.run = "test";
    o.program = "test_client.c";
    o.ingest = d->endpoint;
    run = seismo_open(&o, errmsg);
    if (run == NULL) {
        fail_msg("%s", errmsg);
    }
    return run;
}

static void stream(struct seismo *run, int64_t first, int n)
{
    for (int64_t i = first; i < first + n; i++) {
        struct seismo_step s = seismo_at(i, 1.0 / (double)(i + 1));

        SEISMO_SET(s, grad_norm, NAN);
        seismo_step(run, &s);
    }
}

static void test_stream(void **state)
{
    struct mini_daemon *d = mini_new();
    struct seismo_verdict verdict;
    struct seismo_stats stats;
    struct seismo *run;

    (void)state;
    mini_start(d);
    run = open_run(d, &(struct seismo_options){0});
    assert_false(seismo_verdict(run, &verdict));
    stream(run, 0, 10000);
    while (!seismo_verdict(run, &verdict)) {
        nap();
    }
    assert_string_equal(verdict.state, "healthy");
    assert_int_equal(verdict.step, 3);
    while (seismo_stats(run, &stats), stats.waiting > 0) {
        nap();
    }
    assert_true(stats.connected);
    assert_int_equal(stats.steps, 10000);
    assert_int_equal(stats.acknowledged, 10000);
    assert_int_equal(stats.dropped + stats.rejected, 0);
    assert_string_equal(stats.run, "test");
    assert_string_equal(stats.error, "");
    assert_true(seismo_close(&run, SEISMO_FINISHED));
    assert_null(run);
    mini_stop(d);
    assert_int_equal(d->rows, 10000);
    assert_int_equal(d->last_step, 9999);
    assert_int_equal(d->byes, 1);
    /* Absent, NaN and zero are three different things. */
    assert_true(row_has(&d->last_row, SEISMO_GRAD_NORM));
    assert_true(isnan(d->last_row.value[SEISMO_GRAD_NORM]));
    assert_false(row_has(&d->last_row, SEISMO_LR));
    assert_true(fabs(d->last_row.time - (double)time(NULL)) < 60);
    mini_free(d);
}

/* A clock that the daemon would not take says nothing, and costs no row. */
static void test_impossible_time(void **state)
{
    struct mini_daemon *d = mini_new();
    struct seismo_step s = seismo_at(0, 1);
    struct seismo *run;

    (void)state;
    mini_start(d);
    run = open_run(d, &(struct seismo_options){0});
    s.time = -1.1e15;
    seismo_step(run, &s);
    assert_true(seismo_close(&run, SEISMO_FINISHED));
    mini_stop(d);
    assert_int_equal(d->rows, 1);
    assert_true(isnan(d->last_row.time));
    mini_free(d);
}

static void test_invalid_steps(void **state)
{
    struct mini_daemon *d = mini_new();
    struct seismo_step negative = seismo_at(-1, 1), empty = {.step = 1};
    struct seismo_stats stats;
    struct seismo *run;

    (void)state;
    mini_start(d);
    run = open_run(d, &(struct seismo_options){0});
    seismo_step(run, &negative);
    seismo_step(run, &empty);
    seismo_stats(run, &stats);
    assert_int_equal(stats.rejected, 2);
    assert_true(seismo_close(&run, SEISMO_FINISHED));
    mini_stop(d);
    assert_int_equal(d->hellos, 0); /* a run without a step is never announced */
    mini_free(d);
}

static void test_daemon_restart(void **state)
{
    struct mini_daemon *d = mini_new();
    struct seismo *run;

    (void)state;
    mini_start(d);
    run = open_run(d, &(struct seismo_options){0});
    stream(run, 0, 1000);
    while (atomic_load(&d->rows) < 1000) {
        nap();
    }
    mini_stop(d);
    stream(run, 1000, 5000);
    mini_start(d); /* with what it had stored */
    stream(run, 6000, 1000);
    assert_true(seismo_close(&run, SEISMO_FINISHED));
    mini_stop(d);
    assert_int_equal(d->rows, 7000);
    assert_int_equal(d->last_step, 6999);
    assert_true(d->hellos >= 2);
    mini_free(d);
}

/* Nothing is said before there is a connection, and then ZeroMQ takes it, whenever that is. */
static void test_connection_at_any_moment(void **state)
{
    (void)state;
    atomic_store(&unsent, 0);
    atomic_store(&narrowed, true);
    for (int i = 0; i < 25; i++) {
        struct mini_daemon *d = mini_new();
        struct seismo *run;

        atomic_store(&sent, 0);
        mini_start(d);
        run = open_run(d, &(struct seismo_options){.close_timeout = 60});
        stream(run, 0, 1);
        assert_true(seismo_close(&run, SEISMO_FINISHED));
        mini_stop(d);
        assert_int_equal(atomic_load(&unsent), 0);
        assert_int_equal(d->rows, 1);
        assert_int_equal(d->hellos, 1);
        mini_free(d);
    }
    atomic_store(&narrowed, false);
}

static void test_no_daemon(void **state)
{
    struct mini_daemon *d = mini_new();
    struct seismo *run = open_run(d, &(struct seismo_options){.ring = 1024, .close_timeout = 0.3});
    struct seismo_stats stats;

    (void)state;
    stream(run, 0, 10000);
    seismo_stats(run, &stats);
    assert_int_equal(stats.dropped, 10000 - 1024);
    assert_int_equal(stats.waiting, 1024);
    assert_false(stats.connected);
    assert_false(seismo_close(&run, SEISMO_FINISHED));
    mini_free(d);
}

static void test_mute_daemon(void **state)
{
    struct mini_daemon *d = mini_new();
    struct seismo *run;
    double start;

    (void)state;
    d->mute = true;
    mini_start(d);
    run = open_run(d, &(struct seismo_options){.close_timeout = 0.3});
    stream(run, 0, 100);
    start = now();
    assert_false(seismo_close(&run, SEISMO_ABORTED));
    assert_true(now() - start >= 0.25);
    mini_stop(d);
    assert_int_equal(d->rows, 100);
    mini_free(d);
}

enum { TRAINERS = 4 };

static void *train(void *arg)
{
    stream(arg, 0, 1000);
    return NULL;
}

static void test_threads(void **state)
{
    struct mini_daemon *d = mini_new();
    pthread_t threads[TRAINERS];
    struct seismo *run;

    (void)state;
    mini_start(d);
    run = open_run(d, &(struct seismo_options){0});
    for (int i = 0; i < TRAINERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, train, run), 0);
    }
    for (int i = 0; i < TRAINERS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_true(seismo_close(&run, SEISMO_FINISHED));
    mini_stop(d);
    assert_int_equal(d->rows, TRAINERS * 1000);
    mini_free(d);
}

static void test_fork(void **state)
{
    struct mini_daemon *d = mini_new();
    struct seismo *run;
    int status;
    pid_t child;

    (void)state;
    mini_start(d);
    run = open_run(d, &(struct seismo_options){0});
    stream(run, 0, 10);
    child = fork();
    if (child == 0) {
        struct seismo_stats stats;

        stream(run, 10, 1000);
        seismo_stats(run, &stats);
        _exit(stats.steps == 0 && !seismo_close(&run, SEISMO_FAILED) && run == NULL ? 0 : 1);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    stream(run, 10, 10);
    assert_true(seismo_close(&run, SEISMO_FINISHED));
    mini_stop(d);
    assert_int_equal(d->rows, 20);
    assert_int_equal(d->byes, 1);
    mini_free(d);
}

static void assert_refused(struct seismo_options o, const char *words)
{
    char errmsg[SEISMO_ERRMSG] = "";

    assert_null(seismo_open(&o, errmsg));
    if (strstr(errmsg, words) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", errmsg, words);
    }
}

static void test_bad_options(void **state)
{
    char name[SEISMO_MAX_NAME + 2];
    struct seismo_step s = seismo_at(0, 1);
    struct seismo_verdict verdict;
    struct seismo_stats stats;
    struct seismo *none = NULL;

    (void)state;
    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    assert_refused((struct seismo_options){.ingest = "nonsense"}, "cannot connect to \"nonsense\"");
    assert_refused((struct seismo_options){.run = name}, "128 bytes");
    assert_refused((struct seismo_options){.program = name}, "128 bytes");
    assert_refused((struct seismo_options){.meta = "[1]"}, "not a JSON object");
    assert_refused((struct seismo_options){.rank = 2, .world = 2}, "below `world`");
    assert_refused((struct seismo_options){.close_timeout = -1}, "negative");
    /* The run then goes unwatched, and nothing else happens. */
    seismo_step(none, &s);
    seismo_stats(none, &stats);
    assert_int_equal(stats.steps, 0);
    assert_false(seismo_verdict(none, &verdict));
    assert_false(seismo_close(&none, SEISMO_FINISHED));
}

static void test_environment(void **state)
{
    struct mini_daemon *d = mini_new();
    struct seismo_stats stats;
    struct seismo *run;

    (void)state;
    mini_start(d);
    setenv("SEISMO_INGEST", d->endpoint, 1);
    setenv("SEISMO_RUN", "from-environment", 1);
    run = seismo_open(NULL, NULL);
    unsetenv("SEISMO_INGEST");
    unsetenv("SEISMO_RUN");
    stream(run, 0, 1);
    seismo_stats(run, &stats);
    assert_string_equal(stats.run, "from-environment");
    assert_true(seismo_close(&run, SEISMO_FINISHED));
    mini_stop(d);
    assert_int_equal(d->rows, 1);
    mini_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_invalid_steps),
        cmocka_unit_test(test_impossible_time),
        cmocka_unit_test(test_no_daemon),
        cmocka_unit_test(test_daemon_restart),
        cmocka_unit_test(test_mute_daemon),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_connection_at_any_moment),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
