/* The client's side of the protocol against a scripted daemon, in virtual time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "client/lib/link.h"

enum { MAX_SENT = 512 };

/* What the link has sent, decoded, and the link itself. */
struct bench {
    struct ring ring;
    struct link link;
    bool up; /* a daemon is connected */
    double now;
    unsigned n;
    struct {
        enum wire_type type;
        uint64_t batch;
        uint32_t rows;
        int64_t first_step;
        enum wire_outcome outcome;
        char text[128];
        uint8_t session[LINK_SESSION];
    } sent[MAX_SENT];
};

static bool on_send(void *arg, const void *data, size_t n)
{
    struct bench *b = arg;
    char errmsg[SEISMO_ERRMSG] = "";
    struct wire_msg msg;
    struct wire_layout layout;
    struct seismo_row row;
    int err;

    if (!b->up) {
        return false;
    }
    err = wire_decode(data, n, &msg, errmsg);
    if (err != 0) {
        fail_msg("the link sent something malformed: %s", errmsg);
    }
    assert_true(b->n < MAX_SENT);
    memset(&b->sent[b->n], 0, sizeof(b->sent[0]));
    b->sent[b->n].type = msg.type;
    if (msg.type == WIRE_HELLO) {
        assert_int_equal(msg.hello.session.n, LINK_SESSION);
        memcpy(b->sent[b->n].session, msg.hello.session.p, LINK_SESSION);
    } else if (msg.type == WIRE_STEPS) {
        wire_layout_all(&layout);
        b->sent[b->n].batch = msg.steps.batch;
        b->sent[b->n].first_step = -1;
        while ((err = wire_next_row(&msg.steps.rows, &layout, &row, errmsg)) == 0) {
            if (b->sent[b->n].rows++ == 0) {
                b->sent[b->n].first_step = row.step;
            }
        }
        assert_int_equal(err, SEISMO_EEOF);
    } else {
        assert_int_equal(msg.type, WIRE_BYE);
        b->sent[b->n].batch = msg.bye.batch;
        b->sent[b->n].outcome = msg.bye.outcome;
        snprintf(b->sent[b->n].text, sizeof(b->sent[0].text), "%.*s", (int)msg.bye.text.n,
                 msg.bye.text.p);
    }
    b->n++;
    return true;
}

static int setup(void **state)
{
    static struct bench bench;
    static const struct link_identity identity = {
        .run = "r", .program = "p", .meta = "{}", .rank = 0, .world = 1};
    struct bench *b = &bench;

    memset(b, 0, sizeof(*b));
    b->up = true;
    b->now = 1000;
    assert_int_equal(ring_init(&b->ring, 1024), 0);
    assert_int_equal(link_init(&b->link, &b->ring, &identity, on_send, b, b->now), 0);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;

    link_close(&b->link);
    ring_close(&b->ring);
    return 0;
}

static void push(struct bench *b, int64_t first, int n)
{
    for (int i = 0; i < n; i++) {
        struct seismo_row row = {.step = first + i};

        row_set(&row, SEISMO_LOSS, 1);
        atomic_fetch_add(&b->link.dropped, ring_push(&b->ring, &row));
    }
}

static void run(struct bench *b, double seconds)
{
    b->now += seconds;
    link_run(&b->link, b->now);
}

static void receive(struct bench *b, const struct wire_buf *m)
{
    assert_false(m->overflow);
    link_receive(&b->link, m->data, m->n, b->now);
}

static void welcome(struct bench *b, uint64_t last_batch)
{
    uint8_t data[512];
    struct wire_buf m = {.data = data, .cap = sizeof(data)};
    struct wire_welcome w = {.version = SEISMO_PROTOCOL_VERSION,
                             .run = {"r#2", 3},
                             .last_batch = last_batch,
                             .max_rows = 1024,
                             .max_bytes = SEISMO_MAX_MESSAGE,
                             .max_unacked = 64,
                             .probe_every = 10};

    wire_put_welcome(&m, &w);
    receive(b, &m);
}

static void ack(struct bench *b, uint64_t batch, const char *verdict)
{
    uint8_t data[1024];
    struct wire_buf m = {.data = data, .cap = sizeof(data)};

    wire_put_ack_head(&m, batch, true, 1, verdict != NULL);
    if (verdict != NULL) {
        wire_put_text(&m, verdict, strlen(verdict));
    }
    receive(b, &m);
}

static void error(struct bench *b, const char *code, bool has_ref, uint64_t ref)
{
    uint8_t data[512];
    struct wire_buf m = {.data = data, .cap = sizeof(data)};
    struct wire_error e = {.code = {code, (uint32_t)strlen(code)},
                           .text = {"what", 4},
                           .hint = {"do", 2},
                           .has_ref = has_ref,
                           .ref = ref};

    wire_put_error(&m, &e);
    receive(b, &m);
}

/* Open the session with one acknowledged row, and forget what was sent. */
static void open_session(struct bench *b)
{
    push(b, 0, 1);
    run(b, 0);
    welcome(b, 0);
    run(b, 0);
    ack(b, 1, NULL);
    run(b, 1);
    b->n = 0;
}

static void test_hello_comes_with_the_first_row(void **state)
{
    struct bench *b = *state;
    double timeout;

    run(b, 10);
    assert_int_equal(b->n, 0);
    assert_int_equal(link_wake(&b->link, b->now, &timeout), 1);
    push(b, 5, 1);
    run(b, 0);
    assert_int_equal(b->n, 1);
    assert_int_equal(b->sent[0].type, WIRE_HELLO);
    assert_int_equal(link_wake(&b->link, b->now, &timeout), LINK_NEVER);
    welcome(b, 0);
    run(b, 0);
    assert_int_equal(b->n, 2); /* a lone row goes at once */
    assert_int_equal(b->sent[1].type, WIRE_STEPS);
    assert_int_equal(b->sent[1].batch, 1);
    assert_int_equal(b->sent[1].rows, 1);
    assert_int_equal(b->sent[1].first_step, 5);
    assert_string_equal(b->link.run, "r#2");
}

static void test_batches_of_64_or_100_ms(void **state)
{
    struct bench *b = *state;
    double timeout;

    open_session(b);
    assert_int_equal(link_wake(&b->link, b->now, &timeout), 1);
    push(b, 1, 1);
    run(b, 0);
    assert_int_equal(b->n, 1);
    push(b, 2, 63);
    run(b, 0.05);
    assert_int_equal(b->n, 1);
    assert_int_equal(link_wake(&b->link, b->now, &timeout), 64);
    assert_true(timeout > 0.04 && timeout < 0.06);
    push(b, 65, 1);
    run(b, 0);
    assert_int_equal(b->n, 2);
    assert_int_equal(b->sent[1].rows, 64);
    push(b, 66, 3);
    run(b, 0.101);
    assert_int_equal(b->n, 3);
    assert_int_equal(b->sent[2].rows, 3);
    assert_int_equal(b->sent[2].batch, 4);
}

static void test_window(void **state)
{
    struct bench *b = *state;
    double timeout;

    open_session(b);
    for (int i = 0; i < 80; i++) {
        push(b, 1 + 64 * i, 64);
        run(b, 0);
    }
    assert_int_equal(b->n, 64);
    assert_int_equal(link_wake(&b->link, b->now, &timeout), LINK_NEVER);
    ack(b, 11, NULL); /* cumulative: ten of them */
    run(b, 0);
    assert_int_equal(b->n, 74);
    assert_int_equal(atomic_load(&b->link.acknowledged), 1 + 640);
}

static void test_lost_ack(void **state)
{
    struct bench *b = *state;

    open_session(b);
    push(b, 1, 64);
    run(b, 0);
    push(b, 65, 64);
    run(b, 0);
    assert_int_equal(b->n, 2);
    run(b, 4.9);
    assert_int_equal(b->n, 2);
    run(b, 0.2); /* nothing heard for 5 s */
    assert_int_equal(b->n, 3);
    assert_int_equal(b->sent[2].type, WIRE_HELLO);
    welcome(b, 2); /* batch 2 was stored, its ACK was lost */
    run(b, 0);
    assert_int_equal(b->n, 4);
    assert_int_equal(b->sent[3].batch, 3);
    assert_int_equal(b->sent[3].first_step, 65);
    assert_int_equal(atomic_load(&b->link.retransmitted), 1);
    ack(b, 3, NULL);
    assert_int_equal(atomic_load(&b->link.acknowledged), 129);
}

static void test_daemon_restarted(void **state)
{
    struct bench *b = *state;

    open_session(b);
    push(b, 1, 64);
    run(b, 0);
    error(b, "hello_required", true, 2);
    error(b, "hello_required", true, 3); /* only the first one matters */
    assert_int_equal(b->n, 2);
    assert_int_equal(b->sent[1].type, WIRE_HELLO);
    welcome(b, 1);
    run(b, 0);
    assert_int_equal(b->n, 3);
    assert_int_equal(b->sent[2].batch, 2);

    /* The same when the connection says so first, even with nothing in flight. */
    ack(b, 2, NULL);
    link_disconnected(&b->link);
    link_connected(&b->link, b->now);
    assert_int_equal(b->n, 4);
    assert_int_equal(b->sent[3].type, WIRE_HELLO);
}

static void test_out_of_order_goes_back_once(void **state)
{
    struct bench *b = *state;

    open_session(b);
    for (int i = 0; i < 4; i++) {
        push(b, 1 + 64 * i, 64);
        run(b, 0);
    }
    assert_int_equal(b->n, 4); /* 2, 3, 4, 5; 2 gets lost */
    error(b, "out_of_order", true, 3);
    run(b, 0);
    assert_int_equal(b->n, 8);
    assert_int_equal(b->sent[4].batch, 2);
    error(b, "out_of_order", true, 4);
    error(b, "out_of_order", true, 5);
    run(b, 0);
    assert_int_equal(b->n, 8);
    error(b, "out_of_order", true, 5); /* and lost again */
    run(b, 1.5);
    error(b, "out_of_order", true, 5);
    run(b, 0);
    assert_int_equal(b->n, 12);
    ack(b, 5, NULL);
    assert_int_equal(atomic_load(&b->link.acknowledged), 1 + 256);
}

static void test_refused_batch(void **state)
{
    struct bench *b = *state;

    open_session(b);
    push(b, 1, 64);
    run(b, 0);
    push(b, 65, 64);
    run(b, 0);
    error(b, "malformed", true, 2);
    run(b, 0);
    assert_int_equal(b->n, 4);
    assert_int_equal(b->sent[2].batch, 2); /* empty, in its place */
    assert_int_equal(b->sent[2].rows, 0);
    assert_int_equal(b->sent[3].batch, 3);
    assert_int_equal(b->sent[3].rows, 64);
    ack(b, 3, NULL);
    assert_int_equal(atomic_load(&b->link.rejected), 64);
    assert_int_equal(atomic_load(&b->link.acknowledged), 1 + 64);
}

static void test_busy_waits(void **state)
{
    struct bench *b = *state;

    open_session(b);
    push(b, 1, 64);
    run(b, 0);
    error(b, "busy", true, 2);
    run(b, 0.1);
    assert_int_equal(b->n, 1);
    run(b, 0.15);
    assert_int_equal(b->n, 2);
    assert_int_equal(b->sent[1].batch, 2);
}

/* A daemon that has no room for the session is asked again; the rows wait. */
static void test_busy_hello(void **state)
{
    struct bench *b = *state;

    push(b, 0, 10);
    run(b, 0);
    assert_int_equal(b->n, 1);
    error(b, "busy", false, 0);
    run(b, LINK_PATIENCE - 0.1);
    assert_int_equal(b->n, 1);
    run(b, 0.2);
    assert_int_equal(b->n, 2);
    assert_int_equal(b->sent[1].type, WIRE_HELLO);
    welcome(b, 0);
    run(b, 0);
    assert_int_equal(b->sent[2].type, WIRE_STEPS);
    assert_int_equal(b->sent[2].rows, 10);
    assert_int_equal(atomic_load(&b->link.rejected), 0);
}

/* A daemon that takes only short messages gets short ones. */
static void test_short_messages(void **state)
{
    struct bench *b = *state;
    uint8_t data[512];
    struct wire_buf m = {.data = data, .cap = sizeof(data)};
    struct wire_welcome w = {.version = SEISMO_PROTOCOL_VERSION,
                             .run = {"r", 1},
                             .max_rows = 1024,
                             .max_bytes = 10 * LINK_ROW_BYTES,
                             .max_unacked = 64};

    push(b, 0, 25);
    run(b, 0);
    wire_put_welcome(&m, &w);
    receive(b, &m);
    run(b, 0);
    run(b, 0.2);
    assert_int_equal(b->n, 4);
    assert_int_equal(b->sent[1].rows, 10);
    assert_int_equal(b->sent[2].rows, 10);
    assert_int_equal(b->sent[3].rows, 5);
}

static void test_refused_session(void **state)
{
    struct bench *b = *state;

    push(b, 0, 1);
    run(b, 0);
    error(b, "version", false, 0);
    assert_string_equal(b->link.error, "the daemon says what; do");
    run(b, 29);
    assert_int_equal(b->n, 1);
    run(b, 2); /* the daemon may have been upgraded meanwhile */
    assert_int_equal(b->n, 2);
    assert_int_equal(b->sent[1].type, WIRE_HELLO);
    welcome(b, 0);
    run(b, 0);
    assert_int_equal(b->n, 3);
}

static void test_no_daemon(void **state)
{
    struct bench *b = *state;

    b->up = false;
    for (int i = 0; i < 50; i++) {
        push(b, 64 * i, 64);
        run(b, 1);
    }
    assert_int_equal(b->n, 0);
    assert_int_equal(ring_count(&b->ring), 1024);
    assert_int_equal(atomic_load(&b->link.dropped), 50 * 64 - 1024);
    assert_int_equal(b->link.n_batches, 0);

    b->up = true; /* at last */
    link_connected(&b->link, b->now);
    welcome(b, 0);
    run(b, 0);
    assert_int_equal(b->sent[0].type, WIRE_HELLO);
    assert_int_equal(b->sent[1].first_step, 50 * 64 - 1024);
    link_finish(&b->link, WIRE_FINISHED);
    run(b, 0);
    assert_int_equal(b->sent[b->n - 1].type, WIRE_BYE);
    assert_string_equal(b->sent[b->n - 1].text,
                        "the client dropped 2176 steps (ring full), the daemon refused 0");
}

static void test_daemon_lost_its_data(void **state)
{
    struct bench *b = *state;
    uint8_t session[LINK_SESSION];

    open_session(b);
    memcpy(session, b->link.identity.session, sizeof(session));
    push(b, 1, 64);
    run(b, 0);
    error(b, "hello_required", true, 2);
    welcome(b, 0); /* it had acknowledged batch 1 */
    assert_int_equal(b->sent[2].type, WIRE_HELLO);
    assert_memory_not_equal(b->sent[2].session, session, sizeof(session));
    /* Said before the daemon heard of the new session, in which the rows are batch 1: for a verdict
     * of a silent run, say, and to a HELLO that was repeated. */
    ack(b, 1, NULL);
    welcome(b, 1);
    run(b, 0);
    assert_int_equal(b->n, 3);
    assert_int_equal(atomic_load(&b->link.acknowledged), 1);
    welcome(b, 0);
    run(b, 0);
    assert_int_equal(b->n, 4);
    assert_int_equal(b->sent[3].batch, 1);
    assert_int_equal(b->sent[3].first_step, 1);
}

/* The new session's HELLO could not be sent yet: no answer is about it. */
static void test_an_answer_before_the_new_hello(void **state)
{
    struct bench *b = *state;

    open_session(b);
    push(b, 1, 64);
    run(b, 0);
    error(b, "hello_required", true, 2);
    b->up = false; /* nothing can be sent for a moment */
    welcome(b, 0); /* it had acknowledged batch 1 */
    b->up = true;
    welcome(b, 0); /* the same once more */
    run(b, 0);
    assert_int_equal(b->n, 2);
    run(b, LINK_PATIENCE + 0.1);
    assert_int_equal(b->n, 3);
    assert_int_equal(b->sent[2].type, WIRE_HELLO);
    welcome(b, 0);
    run(b, 0);
    assert_int_equal(b->n, 4);
    assert_int_equal(b->sent[3].batch, 1);
    assert_int_equal(b->sent[3].first_step, 1);
}

static void test_bye(void **state)
{
    struct bench *b = *state;

    open_session(b);
    push(b, 1, 3);
    run(b, 0.01);
    link_finish(&b->link, WIRE_FAILED);
    run(b, 0);
    assert_int_equal(b->n, 2); /* what is left does not wait for company */
    assert_int_equal(b->sent[0].rows, 3);
    assert_int_equal(b->sent[1].type, WIRE_BYE);
    assert_int_equal(b->sent[1].batch, 3);
    assert_int_equal(b->sent[1].outcome, WIRE_FAILED);
    assert_string_equal(b->sent[1].text, "");
    assert_false(link_done(&b->link));
    ack(b, 2, NULL);
    assert_false(link_done(&b->link));
    ack(b, 3, NULL);
    assert_true(link_done(&b->link));
}

static void test_nothing_to_say(void **state)
{
    struct bench *b = *state;

    link_finish(&b->link, WIRE_FINISHED);
    run(b, 0);
    assert_int_equal(b->n, 0);
    assert_true(link_done(&b->link));
}

static void test_verdict(void **state)
{
    struct bench *b = *state;
    const struct seismo_verdict *v = &b->link.verdict;

    open_session(b);
    push(b, 1, 1);
    run(b, 0);
    ack(b, 2,
        "{\"run\": \"r\", \"step\": 7, \"state\": \"unstable\", \"severity\": \"critical\","
        " \"score\": 0.9, \"threshold\": null,"
        " \"fault\": {\"class\": \"data\", \"distribution\": {}},"
        " \"reasons\": [{\"text\": \"loss is nan\"}, {\"text\": \"so is the gradient\"}]}");
    assert_int_equal(v->count, 1);
    assert_int_equal(v->step, 7);
    assert_string_equal(v->state, "unstable");
    assert_string_equal(v->severity, "critical");
    assert_string_equal(v->fault, "data");
    assert_true(v->score > 0.89 && v->score < 0.91);
    assert_true(v->threshold != v->threshold);
    assert_int_equal(v->n_reasons, 2);
    assert_string_equal(v->reason[1], "so is the gradient");
    ack(b, 2, "[1]"); /* not a verdict */
    ack(b, 2, "{\"state\": ");
    assert_int_equal(v->count, 1);
}

static void test_garbage_is_survived(void **state)
{
    struct bench *b = *state;

    open_session(b);
    link_receive(&b->link, "\xc1garbage", 8, b->now);
    link_receive(&b->link, "", 0, b->now);
    assert_non_null(strstr(b->link.error, "cannot read a message of the daemon"));
    ack(b, UINT64_MAX, NULL);
    push(b, 1, 1);
    run(b, 0);
    assert_int_equal(b->n, 1);
    assert_int_equal(b->sent[0].batch, 2);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_hello_comes_with_the_first_row),
        TEST(test_batches_of_64_or_100_ms),
        TEST(test_window),
        TEST(test_lost_ack),
        TEST(test_daemon_restarted),
        TEST(test_out_of_order_goes_back_once),
        TEST(test_refused_batch),
        TEST(test_busy_waits),
        TEST(test_busy_hello),
        TEST(test_short_messages),
        TEST(test_refused_session),
        TEST(test_no_daemon),
        TEST(test_daemon_lost_its_data),
        TEST(test_an_answer_before_the_new_hello),
        TEST(test_bye),
        TEST(test_nothing_to_say),
        TEST(test_verdict),
        TEST(test_garbage_is_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
