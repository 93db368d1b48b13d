/* The clients' conversation, with doubles for the socket and the worker and a clock of its own. */
#include "tests/unit/ingest_world.h"

static void test_normal_course(void **state)
{
    struct world *w = *state;
    hello(w, "p", "run", "s1");
    const struct job *job = next_job(w, JOB_OPEN);
    assert_string_equal(job->open.name, "run");
    assert_string_equal(job->open.program, "train.py");
    assert_string_equal(job->open.meta, "{\"seed\":1}");
    assert_int_equal(job->open.session_n, 2);
    assert_memory_equal(job->open.session, "s1", 2);
    expect_nothing(w); /* not before the run is committed */
    done_open(w, 0);
    assert_int_equal(w->opened, 1);
    const struct wire_msg *m = expect(w, "p", WIRE_WELCOME);
    assert_int_equal(m->welcome.last_batch, 0);
    assert_false(m->welcome.has_step);
    assert_int_equal(m->welcome.probe_every, 10);
    assert_int_equal(m->welcome.max_unacked, SEISMO_MAX_UNACKED);

    steps(w, "p", 1, 0, 3);
    steps(w, "p", 2, 3, 2);
    job = next_job(w, JOB_STEPS);
    assert_int_equal(job->run_id, 1);
    assert_int_equal(job->batch, 1);
    assert_int_equal(job->steps.n, 3);
    assert_int_equal(job->steps.rows[2].step, 2);
    assert_true(job->steps.rows[2].value[SEISMO_LOSS] == 1.0F);
    ingest_flush(w->ingest);
    expect_nothing(w); /* not before the commit */
    done_batch(w, JOB_STEPS);
    done_batch(w, JOB_STEPS);
    expect_nothing(w);
    ingest_flush(w->ingest);
    m = expect(w, "p", WIRE_ACK); /* one for both */
    assert_int_equal(m->ack.batch, 2);
    assert_true(m->ack.has_step);
    assert_int_equal(m->ack.last_step, 77);
    assert_int_equal(m->ack.n, 0);

    bye(w, "p", 3);
    job = next_job(w, JOB_CLOSE);
    assert_int_equal(job->batch, 3);
    assert_int_equal(job->close.outcome, WIRE_FAILED);
    assert_string_equal(job->close.text, "out of money");
    done_batch(w, JOB_CLOSE);
    ingest_flush(w->ingest);
    assert_int_equal(expect(w, "p", WIRE_ACK)->ack.batch, 3);
    bye(w, "p", 3); /* its ACK was lost */
    assert_int_equal(expect(w, "p", WIRE_ACK)->ack.batch, 3);
    steps(w, "p", 4, 9, 1);
    expect_error(w, "p", "invalid", 4);
    no_job(w);
    expect_nothing(w);
}

static void test_batch_numbers(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    steps(w, "p", 1, 0, 1);
    steps(w, "p", 1, 0, 1); /* under way */
    steps(w, "p", 3, 2, 1);
    expect_error(w, "p", "out_of_order", 3);
    steps(w, "p", 4, 3, 1); /* the same gap: said already */
    expect_nothing(w);
    w->now += 1.5;
    steps(w, "p", 5, 4, 1);
    expect_error(w, "p", "out_of_order", 5);
    done_batch(w, JOB_STEPS);
    no_job(w);
    ingest_flush(w->ingest);
    assert_int_equal(expect(w, "p", WIRE_ACK)->ack.batch, 1);
    steps(w, "p", 1, 0, 1); /* committed: acknowledged again, not stored */
    assert_int_equal(expect(w, "p", WIRE_ACK)->ack.batch, 1);
    no_job(w);
    steps(w, "p", 2, 1, 1);
    assert_int_equal(next_job(w, JOB_STEPS)->batch, 2);
    struct ingest_stats stats;
    ingest_stats(w->ingest, &stats);
    assert_int_equal(stats.duplicate_batches, 1);
    assert_int_equal(stats.attached, 1);
}

static void test_unknown_peer(void **state)
{
    struct world *w = *state;
    steps(w, "p", 5, 0, 1);
    expect_error(w, "p", "hello_required", 5);
    steps(w, "p", 6, 0, 1); /* said a moment ago */
    bye(w, "p", 7);
    expect_nothing(w);
    no_job(w);
    hello(w, "p", "run", "s");
    done_open(w, 4);
    const struct wire_msg *m = expect(w, "p", WIRE_WELCOME);
    assert_int_equal(m->welcome.last_batch, 4);
    assert_true(m->welcome.has_step);
    steps(w, "p", 6, 0, 1);
    expect_error(w, "p", "out_of_order", 6);
    steps(w, "p", 5, 0, 1);
    assert_int_equal(next_job(w, JOB_STEPS)->batch, 5);
}

/* Nothing of the session is stored, but its client has had batches acknowledged: see PROTOCOL.md.
 */
static void test_any_first_batch(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    steps(w, "p", 17, 0, 1);
    steps(w, "p", 19, 0, 1);
    expect_error(w, "p", "out_of_order", 19);
    assert_int_equal(next_job(w, JOB_STEPS)->batch, 17);
    done_batch(w, JOB_STEPS);
    no_job(w);
}

/* A client that says where it begins is held to it: a first batch that got lost is missed. */
static void test_first_batch_as_said(void **state)
{
    struct world *w = *state;
    hello_next(w, "p", "run", "s", 17);
    done_open(w, 0);
    expect(w, "p", WIRE_WELCOME);
    steps(w, "p", 18, 1, 1);
    expect_error(w, "p", "out_of_order", 18);
    steps(w, "p", 16, 0, 1); /* acknowledged long ago, sent twice */
    expect_nothing(w);
    no_job(w);
    steps(w, "p", 17, 0, 1);
    assert_int_equal(next_job(w, JOB_STEPS)->batch, 17);
    done_batch(w, JOB_STEPS);
    no_job(w);
    /* What is stored counts for more than what the client says. */
    hello_next(w, "q", "other", "t", 1);
    done_open(w, 4);
    expect(w, "q", WIRE_WELCOME);
    steps(w, "q", 5, 0, 1);
    assert_int_equal(next_job(w, JOB_STEPS)->batch, 5);
    done_batch(w, JOB_STEPS);
}

/* Batches before WELCOME are not taken, and one that follows must not leave a gap behind it. */
static void test_impatient_client(void **state)
{
    struct world *w = *state;
    hello(w, "p", "run", "s");
    steps(w, "p", 1, 0, 1);
    hello(w, "p", "run", "s"); /* again: WELCOME is under way */
    done_open(w, 0);
    expect(w, "p", WIRE_WELCOME);
    expect_error(w, "p", "out_of_order", 1);
    steps(w, "p", 2, 1, 1);
    expect_error(w, "p", "out_of_order", 2);
    no_job(w);
    steps(w, "p", 1, 0, 1);
    steps(w, "p", 2, 1, 1);
    done_batch(w, JOB_STEPS);
    done_batch(w, JOB_STEPS);
    no_job(w);
}

static void test_malformed(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    open_session(w, "q", "other", "t");
    static const uint8_t bad_row[] = {0x93, 2, 1, 0x92, 0x92, 0, 1, 0x92, 1, 0xc0}; /* no loss */
    static const uint8_t bad_count[] = {0x93, 2, 1, 0xdd, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t large_batch[] = {0x93, 2, 0xcd, 1, 0, 0x81};
    receive(w, "p", bad_row, sizeof(bad_row));
    expect_error(w, "p", "malformed", 1);
    receive(w, "p", bad_count, sizeof(bad_count));
    w->taken++; /* malformed or too_big, as the decoder sees it */
    assert_int_equal(w->sent[w->taken - 1].msg.type, WIRE_ERROR);
    assert_true(w->sent[w->taken - 1].msg.error.has_ref);
    assert_int_equal(w->sent[w->taken - 1].msg.error.ref, 1);
    receive(w, "p", large_batch, sizeof(large_batch));
    expect_error(w, "p", "malformed", 256);
    receive(w, "p", "\xc1", 1);
    expect_error(w, "p", "malformed", 0);
    receive(w, "p", "", 0);
    expect_error(w, "p", "malformed", 0);
    receive(w, "p", "\x91\x15", 2); /* PING is the daemon's */
    expect_error(w, "p", "malformed", 0);
    struct zsock_msg two = {.peer = "p", .peer_n = 1, .data = "", .n = 0, .frames = 2};
    ingest_receive(w->ingest, &two);
    expect_error(w, "p", "malformed", 0);
    no_job(w);
    steps(w, "p", 1, 0, 0); /* the number is still due */
    assert_int_equal(next_job(w, JOB_STEPS)->steps.n, 0);
    done_batch(w, JOB_STEPS);
    steps(w, "q", 1, 0, 1); /* nobody else is disturbed */
    done_batch(w, JOB_STEPS);
    struct ingest_stats stats;
    ingest_stats(w->ingest, &stats);
    assert_int_equal(stats.errors, 7);
}

static void test_garbage_is_met_with_silence(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 100; i++)
        receive(w, "p", "\xc1", 1);
    for (int i = 0; i < LIMIT_ERROR_BURST; i++)
        expect_error(w, "p", "malformed", 0);
    expect_nothing(w);
    receive(w, "q", "\xc1", 1); /* another peer has its own measure */
    expect_error(w, "q", "malformed", 0);
    w->now += 2.0 / LIMIT_ERROR_RATE;
    for (int i = 0; i < 10; i++)
        receive(w, "p", "\xc1", 1);
    expect_error(w, "p", "malformed", 0);
    expect_error(w, "p", "malformed", 0);
    expect_nothing(w);
}

static void test_verdicts(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    open_session(w, "q", "other", "t");
    steps(w, "p", 1, 0, 1);
    add_news(next_job(w, JOB_STEPS), 1, "{\"id\":1}");
    done_batch(w, JOB_STEPS);
    struct job *news = job_new(JOB_NEWS, 0);
    add_news(news, 2, "{\"id\":2}");
    add_news(news, 1, "{\"id\":3}");
    add_news(news, 99, "{\"id\":4}"); /* nobody's */
    ingest_done(w->ingest, news);
    job_free(&news);
    w->busy = true;
    ingest_flush(w->ingest);
    expect_nothing(w);
    w->busy = false;
    ingest_flush(w->ingest); /* what could not be sent is not lost */
    int seen = 0;
    for (int i = 0; i < 2; i++) {
        const struct wire_msg *m = &w->sent[w->taken++].msg;
        assert_int_equal(m->type, WIRE_ACK);
        struct wire_rows cursor = m->ack.cursor;
        struct wire_str text;
        char errmsg[SEISMO_ERRMSG];
        bool p = strcmp(w->sent[w->taken - 1].peer, "p") == 0;
        assert_int_equal(m->ack.batch, p ? 1 : 0);
        assert_int_equal(m->ack.n, p ? 2 : 1);
        for (uint32_t k = 0; wire_next_text(&cursor, &text, errmsg) == 0; k++) {
            const char *wanted = !p ? "{\"id\":2}" : k == 0 ? "{\"id\":1}" : "{\"id\":3}";
            assert_int_equal(text.n, strlen(wanted));
            assert_memory_equal(text.p, wanted, text.n);
            seen++;
        }
    }
    assert_int_equal(seen, 3);
    ingest_flush(w->ingest);
    expect_nothing(w);
}

/* More than one ACK holds, and more than is kept for a client that does not read. */
static void test_many_verdicts(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    struct job *news = job_new(JOB_NEWS, 0);
    char *json = malloc(3001);
    assert_non_null(json);
    for (int i = 0; i < LIMIT_SESSION_VERDICTS + 10; i++) {
        memset(json, 'x', 3000);
        json[3000] = 0;
        json[snprintf(json, 8, "%d", i)] = ' ';
        add_news(news, 1, json);
    }
    free(json);
    ingest_done(w->ingest, news);
    job_free(&news);
    ingest_flush(w->ingest);
    int expected = 10; /* the oldest went */
    while (w->taken < w->n_sent) {
        struct wire_rows cursor = expect(w, "p", WIRE_ACK)->ack.cursor;
        struct wire_str text;
        char errmsg[SEISMO_ERRMSG];
        while (wire_next_text(&cursor, &text, errmsg) == 0)
            assert_int_equal(atoi(text.p), expected++);
    }
    assert_int_equal(expected, LIMIT_SESSION_VERDICTS + 10);
    assert_true(w->taken > 2);
}

static void test_reconnected_client(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    steps(w, "p", 1, 0, 1);
    hello(w, "p2", "run", "s"); /* the same session under a new connection */
    done_batch(w, JOB_STEPS);   /* of the old one: nobody is there to hear */
    ingest_flush(w->ingest);
    expect_nothing(w);
    done_open(w, 1);
    assert_int_equal(expect(w, "p2", WIRE_WELCOME)->welcome.last_batch, 1);
    assert_int_equal(w->opened, 1); /* the run was opened once */
    steps(w, "p2", 2, 1, 1);
    done_batch(w, JOB_STEPS);
    steps(w, "p", 2, 1, 1);
    expect_error(w, "p", "hello_required", 2);
    w->now += 100;
    ingest_tick(w->ingest);
    no_job(w); /* in particular no DETACH of the run that goes on */
}

static void test_dead_peer(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    open_session(w, "q", "other", "t");
    w->now += LIMIT_PING_INTERVAL - 1;
    ingest_tick(w->ingest);
    expect_nothing(w);
    steps(w, "q", 1, 0, 1);
    done_batch(w, JOB_STEPS);
    ingest_flush(w->ingest);
    expect(w, "q", WIRE_ACK); /* spoken to: no ping is due */
    w->now += 2;
    ingest_tick(w->ingest);
    expect(w, "p", WIRE_PING);
    expect_nothing(w);
    w->unreachable = "p";
    w->now += LIMIT_PING_INTERVAL;
    ingest_tick(w->ingest);
    expect(w, "q", WIRE_PING);
    assert_int_equal(next_job(w, JOB_DETACH)->run_id, 1);
    give_back(w);
    no_job(w);
    w->now += LIMIT_PING_INTERVAL;
    ingest_tick(w->ingest);
    expect(w, "q", WIRE_PING);
    no_job(w); /* once */
    struct ingest_stats stats;
    ingest_stats(w->ingest, &stats);
    assert_int_equal(stats.attached, 1);
}

static void test_name_collision(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    hello(w, "q", "run", "t"); /* the first one is there: the worker tells the two apart */
    expect(w, "p", WIRE_PING);
    done_open(w, 0);
    expect(w, "q", WIRE_WELCOME);
    no_job(w);
    w->unreachable = "p";
    hello(w, "r", "run", "u"); /* the first one died; the worker hears that before the new one */
    expect(w, "q", WIRE_PING);
    assert_int_equal(next_job(w, JOB_DETACH)->run_id, 1);
    give_back(w);
    done_open(w, 0);
    expect(w, "r", WIRE_WELCOME);
    hello(w, "z", "elsewhere", "v"); /* another name disturbs nobody */
    done_open(w, 0);
    expect(w, "z", WIRE_WELCOME);
    expect_nothing(w);
}

/* A connection that begins another session, before and after its first run was opened. */
static void test_session_changes(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    hello(w, "p", "next", "t");
    assert_int_equal(next_job(w, JOB_DETACH)->run_id, 1);
    give_back(w);
    hello(w, "p", "third", "u"); /* while "next" is being opened */
    done_open(w, 0);             /* of "next", which has nobody any more */
    expect_nothing(w);
    done_open(w, 0);
    expect(w, "p", WIRE_WELCOME);
    assert_int_equal(next_job(w, JOB_DETACH)->run_id, 2);
    give_back(w);
    no_job(w);
}

/* An ACK that could not be sent is not due any more once the connection has begun another session,
 * whose batches have the same numbers. */
static void test_acks_stay_in_their_session(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    steps(w, "p", 1, 0, 1);
    steps(w, "p", 2, 1, 1);
    w->busy = true;
    done_batch(w, JOB_STEPS);
    ingest_flush(w->ingest);
    next_job(w, JOB_STEPS)->err = SEISMO_EHELLO; /* the worker does not hold the run any more */
    give_back(w);
    w->busy = false;
    hello(w, "p", "next", "t");
    ingest_flush(w->ingest);
    expect_nothing(w);
    done_open(w, 0);
    assert_int_equal(expect(w, "p", WIRE_WELCOME)->welcome.last_batch, 0);
    assert_int_equal(w->opened, 2);
    ingest_flush(w->ingest);
    expect_nothing(w);
    no_job(w);
}

/* A client's id with another name is another session: the run before it has nobody any more, or
 * another connection. */
static void test_one_id_for_several_runs(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    hello(w, "p", "next", "s");
    assert_int_equal(next_job(w, JOB_DETACH)->run_id, 1);
    give_back(w);
    hello(w, "p", "third", "s"); /* while "next" is being opened */
    done_open(w, 0);             /* of "next", which has nobody any more */
    expect_nothing(w);
    done_open(w, 0);
    expect(w, "p", WIRE_WELCOME);
    assert_int_equal(next_job(w, JOB_DETACH)->run_id, 2);
    give_back(w);
    open_session(w, "q", "fourth", "s");
    steps(w, "p", 1, 0, 1);
    assert_int_equal(next_job(w, JOB_STEPS)->run_id, 3);
    done_batch(w, JOB_STEPS);
    no_job(w);
}

static void test_open_fails(void **state)
{
    struct world *w = *state;
    hello(w, "p", "run", "s");
    struct job *job = next_job(w, JOB_OPEN);
    job->err = SEISMO_EINTERNAL;
    snprintf(job->errmsg, sizeof(job->errmsg), "no luck");
    give_back(w);
    expect_error(w, "p", "internal", 0);
    w->now += 2;
    steps(w, "p", 1, 0, 1);
    expect_error(w, "p", "hello_required", 1);
    no_job(w);
    /* That connection has not got the run when another one opens it and leaves. */
    hello(w, "q", "run", "s");
    hello(w, "q", "next", "t");
    done_open(w, 0);
    done_open(w, 0);
    expect(w, "q", WIRE_WELCOME);
    assert_int_equal(next_job(w, JOB_DETACH)->run_id, 1);
    give_back(w);
    no_job(w);
}

static void test_batch_fails(void **state)
{
    struct world *w = *state;
    open_session(w, "p", "run", "s");
    steps(w, "p", 1, 0, 1);
    steps(w, "p", 2, 1, 1);
    struct job *job = next_job(w, JOB_STEPS);
    job->err = SEISMO_ENOMEM;
    snprintf(job->errmsg, sizeof(job->errmsg), "no memory");
    give_back(w);
    expect_error(w, "p", "busy", 1); /* the client must not give the batch up */
    job = next_job(w, JOB_STEPS);
    job->err = SEISMO_EHELLO; /* and now the worker does not know the run any more */
    give_back(w);
    expect_error(w, "p", "hello_required", 2);
    hello(w, "p", "run", "s");
    done_open(w, 0);
    expect(w, "p", WIRE_WELCOME);
    steps(w, "p", 1, 0, 1);
    done_batch(w, JOB_STEPS);
    ingest_flush(w->ingest);
    assert_int_equal(expect(w, "p", WIRE_ACK)->ack.batch, 1);
}

/* More peers than are remembered: those without a run go first, those with one stay. */
static void test_too_many_peers(void **state)
{
    struct world *w = *state;
    open_session(w, "first", "run", "s");
    for (int i = 0; i < LIMIT_SESSIONS + 100; i++) {
        char peer[16];
        snprintf(peer, sizeof(peer), "p%d", i);
        receive(w, peer, "\xc1", 1);
        assert_string_equal(w->sent[w->n_sent - 1].peer, peer);
        w->n_sent--;
    }
    steps(w, "first", 1, 0, 1);
    assert_int_equal(next_job(w, JOB_STEPS)->batch, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_normal_course, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_batch_numbers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unknown_peer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_any_first_batch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_first_batch_as_said, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_impatient_client, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_malformed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_garbage_is_met_with_silence, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_verdicts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_verdicts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_reconnected_client, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dead_peer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_name_collision, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_session_changes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_acks_stay_in_their_session, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_id_for_several_runs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_open_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_batch_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_too_many_peers, set_up, tear_down),
    };
    log_set_level(LOG_ERROR); /* the complaints are provoked */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
