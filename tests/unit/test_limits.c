/* What a peer gets at each limit: its own messages wait or are refused with the limit's name,
 * others go on, and who does not stop is met with silence. */
#include "tests/unit/ingest_world.h"

static struct world *world_with(void **state, const struct limits *limits)
{
    struct world *w = world_new(limits);
    *state = w;
    return w;
}

/* An error of this code that names the limit and its value. */
static void expect_limit(struct world *w, const char *peer, const char *code, uint64_t ref,
                         const char *limit, uint32_t value)
{
    assert_true(w->taken < w->n_sent);
    struct wire_error e = w->sent[w->taken].msg.error;
    char text[SEISMO_ERRMSG], named[96];
    expect_error(w, peer, code, ref);
    snprintf(text, sizeof(text), "%.*s", (int)e.text.n, e.text.p);
    snprintf(named, sizeof(named), "%s is %u", limit, value);
    if (!strstr(text, named))
        fail_msg("\"%s\" does not say \"%s\"", text, named);
    struct ingest_stats stats;
    ingest_stats(w->ingest, &stats);
    assert_true(stats.refused > 0);
}

static void test_peers(void **state)
{
    struct limits limits = LIMITS_DEFAULT;
    limits.peers = 3;
    struct world *w = world_with(state, &limits);
    open_session(w, "a", "a", "sa");
    open_session(w, "b", "b", "sb");
    open_session(w, "c", "c", "sc");
    hello(w, "d", "d", "sd");
    expect_limit(w, "d", "busy", 0, "peers", 3);
    for (int i = 0; i < 200; i++) /* silence */
        hello(w, "e", "e", "se");
    assert_true(w->n_sent - w->taken < LIMIT_STRANGER_BURST);
    w->taken = w->n_sent;
    no_job(w);
    steps(w, "a", 1, 0, 1); /* the others go on */
    done_batch(w, JOB_STEPS);
    bye(w, "a", 2);
    done_batch(w, JOB_CLOSE);
    ingest_flush(w->ingest);
    expect(w, "a", WIRE_ACK);
    open_session(w, "d", "d", "sd"); /* in the place of one that has ended */
}

static void test_runs_per_peer(void **state)
{
    struct limits limits = LIMITS_DEFAULT;
    limits.runs_per_peer = 3;
    struct world *w = world_with(state, &limits);
    char run[8];
    for (int i = 0; i < 3; i++) {
        snprintf(run, sizeof(run), "r%d", i);
        hello(w, "p", run, run);
        if (i > 0)
            give_back(w); /* the DETACH of the one before */
        done_open(w, 0);
        expect(w, "p", WIRE_WELCOME);
    }
    hello(w, "p", "r3", "r3");
    expect_limit(w, "p", "busy", 0, "runs_per_peer", 3);
    hello(w, "p", "r3", "r2"); /* another run, whatever the client calls its session */
    expect_limit(w, "p", "busy", 0, "runs_per_peer", 3);
    no_job(w);
    hello(w, "p", "r2", "r2"); /* its own run again is no new one */
    done_open(w, 0);
    expect(w, "p", WIRE_WELCOME);
    open_session(w, "q", "q", "q"); /* others go on */
    w->now += 1 / LIMIT_RUN_REFILL + 0.1;
    hello(w, "p", "r3", "r3");
    give_back(w);
    done_open(w, 0);
    expect(w, "p", WIRE_WELCOME);
}

static void test_runs_per_address(void **state)
{
    struct limits limits = LIMITS_DEFAULT;
    limits.runs_per_address = 2;
    struct world *w = world_with(state, &limits);
    w->origin = "10.0.0.1";
    open_session(w, "a", "a", "sa");
    open_session(w, "b", "b", "sb");
    hello(w, "c", "c", "sc");
    expect_limit(w, "c", "busy", 0, "runs_per_address", 2);
    w->origin = "10.0.0.2";
    open_session(w, "d", "d", "sd");
    w->origin = "10.0.0.1";
    bye(w, "a", 1); /* one has ended, so there is room for another one */
    done_batch(w, JOB_CLOSE);
    ingest_flush(w->ingest);
    expect(w, "a", WIRE_ACK);
    open_session(w, "c", "c", "sc");
    w->origin = NULL; /* nobody knows from where: not limited by this */
    open_session(w, "e", "e", "se");
    open_session(w, "f", "f", "sf");
    open_session(w, "g", "g", "sg");
}

/* What the worker says when all runs are taken reaches the client as "busy". */
static void test_runs(void **state)
{
    struct world *w = world_with(state, NULL);
    hello(w, "p", "r", "s");
    struct job *job = next_job(w, JOB_OPEN);
    job->err = SEISMO_EBUSY;
    snprintf(job->errmsg, sizeof(job->errmsg), "as many runs go on as may: [limits] runs is 7");
    give_back(w);
    struct wire_error e = w->sent[w->taken].msg.error;
    expect_error(w, "p", "busy", 0);
    assert_non_null(memmem(e.text.p, e.text.n, "runs is 7", 9));
    open_session(w, "p", "r", "s"); /* later */
}

static void test_hello_flood(void **state)
{
    struct world *w = world_with(state, NULL);
    char session[16];
    for (int i = 0; i < 1000; i++) {
        snprintf(session, sizeof(session), "s%d", i);
        hello(w, "flood", "r", session);
        receive(w, "flood", "\xc1", 1);
    }
    assert_true(w->n_jobs <= 2 * LIMIT_HELLO_BURST);
    assert_true(w->n_sent <= LIMIT_ERROR_BURST); /* a new session is no new start for it */
    for (int i = w->done; i < w->n_jobs; i++)
        job_free(&w->job[i]);
    w->done = w->n_jobs;
    w->taken = w->n_sent;
    open_session(w, "good", "g", "sg");
}

static void test_message_bytes(void **state)
{
    struct limits limits = LIMITS_DEFAULT;
    limits.message_bytes = 16384;
    struct world *w = world_with(state, &limits);
    hello(w, "p", "r", "s");
    done_open(w, 0);
    assert_int_equal(expect(w, "p", WIRE_WELCOME)->welcome.max_bytes, 16384);
    static uint8_t data[16385] = {0x93, WIRE_STEPS, 1, 0xdc, 0xff, 0xff};
    receive(w, "p", data, sizeof(data));
    expect_limit(w, "p", "too_big", 1, "message_bytes", 16384);
    steps(w, "p", 1, 0, 0); /* an empty batch in its place */
    done_batch(w, JOB_STEPS);
}

static void test_fields_and_metadata(void **state)
{
    struct limits limits = LIMITS_DEFAULT;
    limits.fields = 2;
    limits.metadata_bytes = 9;
    struct world *w = world_with(state, &limits);
    hello(w, "p", "r", "s"); /* two fields, ten bytes */
    expect_limit(w, "p", "too_big", 0, "metadata_bytes", 9);
    limits.metadata_bytes = 10;
    ingest_limit(w->ingest, &limits);
    open_session(w, "p", "r", "s");

    uint8_t data[512];
    struct wire_buf b = {.data = data, .cap = sizeof(data)};
    struct wire_hello h = {.version = SEISMO_PROTOCOL_VERSION,
                           .run = str("q"),
                           .program = str("train.py"),
                           .session = str("q"),
                           .world = 1,
                           .meta = str("{}")};
    h.layout = (struct wire_layout){
        .n = 3, .position = {SEISMO_FIELD_STEP, SEISMO_FIELD_VALUE0, SEISMO_FIELD_TIME}};
    wire_put_hello(&b, &h);
    receive(w, "q", data, b.n);
    expect_limit(w, "q", "too_big", 0, "fields", 2);
    no_job(w);
}

static void test_unacked(void **state)
{
    struct limits limits = LIMITS_DEFAULT;
    limits.unacked = 2;
    struct world *w = world_with(state, &limits);
    hello(w, "p", "r", "s");
    done_open(w, 0);
    assert_int_equal(expect(w, "p", WIRE_WELCOME)->welcome.max_unacked, 2);
    steps(w, "p", 1, 0, 1);
    steps(w, "p", 2, 1, 1);
    steps(w, "p", 3, 2, 1);
    expect_limit(w, "p", "busy", 3, "unacked", 2);
    steps(w, "p", 4, 3, 1); /* what was on its way behind it is no news */
    expect_nothing(w);
    done_batch(w, JOB_STEPS);
    steps(w, "p", 3, 2, 1);
    steps(w, "p", 4, 3, 1);
    expect_limit(w, "p", "busy", 4, "unacked", 2);
    done_batch(w, JOB_STEPS);
    done_batch(w, JOB_STEPS);
    no_job(w);
}

static void test_queued_bytes(void **state)
{
    struct limits limits = LIMITS_DEFAULT;
    limits.peer_queued_bytes = 10 * sizeof(struct seismo_row);
    struct world *w = world_with(state, &limits);
    open_session(w, "p", "r", "s");
    open_session(w, "q", "q", "sq");
    w->allowance = 10 * sizeof(struct seismo_row);
    steps(w, "p", 1, 0, 20); /* alone a batch is always taken */
    struct job *job = next_job(w, JOB_STEPS);
    job->lane->bytes = 8 * sizeof(struct seismo_row); /* as the backlog would */
    steps(w, "p", 2, 20, 2);
    steps(w, "p", 3, 22, 3);
    expect_limit(w, "p", "busy", 3, "peer_queued_bytes", limits.peer_queued_bytes);
    w->allowance = 9 * sizeof(struct seismo_row);
    w->now += 10;
    steps(w, "p", 3, 22, 2);
    expect_limit(w, "p", "busy", 3, "queued_bytes", limits.queued_bytes);
    steps(w, "q", 1, 0, 20); /* its own lane is empty */
    expect_nothing(w);
    job->lane->bytes = 0;
    steps(w, "p", 3, 22, 2);
    for (int i = 0; i < 4; i++)
        done_batch(w, JOB_STEPS);
    no_job(w);
}

static void test_steps_per_second(void **state)
{
    struct limits limits = LIMITS_DEFAULT;
    limits.steps_per_second = 100;
    struct world *w = world_with(state, &limits);
    open_session(w, "p", "r", "s");
    open_session(w, "q", "q", "sq");
    for (uint64_t i = 0; i < 10; i++)
        steps(w, "p", i + 1, (int64_t)(50 * i), 50);
    expect_nothing(w); /* it waits, and hears nothing of it */
    double last = 0;
    for (uint64_t i = 0; i < 10; i++) {
        double due = next_job(w, JOB_STEPS)->due;
        assert_true(due >= last);
        assert_true(due <= w->now + 0.5 * (double)i - 1 + 1e-9);
        assert_true(due >= w->now + 0.5 * (double)i - 1 - 1e-9);
        last = due;
        done_batch(w, JOB_STEPS);
    }
    steps(w, "q", 1, 0, 10);
    assert_true(next_job(w, JOB_STEPS)->due <= w->now);
    done_batch(w, JOB_STEPS);
    w->now += 100; /* a pause is not saved up for more than a second */
    w->taken = w->n_sent;
    for (uint64_t i = 10; i < 14; i++)
        steps(w, "p", i + 1, (int64_t)(50 * i), 50);
    for (int i = 0; i < 3; i++) {
        assert_true(next_job(w, JOB_STEPS)->due <= w->now);
        done_batch(w, JOB_STEPS);
    }
    assert_true(next_job(w, JOB_STEPS)->due > w->now);
    done_batch(w, JOB_STEPS);
}

/* A connection that begins session after session keeps its place in the queue: what it left goes
 * before what it says now. */
static void test_lane_stays(void **state)
{
    struct world *w = world_with(state, NULL);
    open_session(w, "p", "r", "s1");
    steps(w, "p", 1, 0, 1);
    const struct lane *lane = next_job(w, JOB_STEPS)->lane;
    assert_non_null(lane);
    hello(w, "p", "r", "s2");
    assert_int_equal(w->job[w->done + 1]->type, JOB_DETACH);
    assert_ptr_equal(w->job[w->done + 1]->lane, lane);
    assert_int_equal(w->job[w->done + 2]->type, JOB_OPEN);
    assert_ptr_equal(w->job[w->done + 2]->lane, lane);
    hello(w, "q", "r", "s2"); /* the same session from a new connection */
    assert_int_equal(w->job[w->done + 3]->type, JOB_OPEN);
    assert_ptr_equal(w->job[w->done + 3]->lane, lane);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_peers, tear_down),
        cmocka_unit_test_teardown(test_runs_per_peer, tear_down),
        cmocka_unit_test_teardown(test_runs_per_address, tear_down),
        cmocka_unit_test_teardown(test_runs, tear_down),
        cmocka_unit_test_teardown(test_hello_flood, tear_down),
        cmocka_unit_test_teardown(test_message_bytes, tear_down),
        cmocka_unit_test_teardown(test_fields_and_metadata, tear_down),
        cmocka_unit_test_teardown(test_unacked, tear_down),
        cmocka_unit_test_teardown(test_queued_bytes, tear_down),
        cmocka_unit_test_teardown(test_steps_per_second, tear_down),
        cmocka_unit_test_teardown(test_lane_stays, tear_down),
    };
    log_set_level(LOG_ERROR); /* the complaints are provoked */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
