/* Who goes next to the worker: in order within a lane, by turns between lanes, nothing dropped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "daemon/backlog.h"

#define MAX_DONE 4096

struct world {
    struct backlog b;
    struct job *with[MAX_DONE]; /* jobs that the worker has or had */
    int n, given_back;
    int room; /* jobs that its queue still takes */
    bool paused;
    int changes;
    double now;
};

static int fake_submit(void *arg, struct job *job)
{
    struct world *w = arg;
    if (w->room == 0)
        return SEISMO_EBUSY;
    w->room--;
    assert_true(w->n < MAX_DONE);
    w->with[w->n++] = job;
    return 0;
}

static void note_pause(void *arg, bool paused)
{
    struct world *w = arg;
    assert_true(w->paused != paused);
    w->paused = paused;
    w->changes++;
}

static double fake_now(void *arg)
{
    struct world *w = arg;
    return w->now;
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->room = MAX_DONE;
    w->now = 100;
    backlog_init(&w->b, fake_submit, note_pause, fake_now, w);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    backlog_close(&w->b);
    for (int i = 0; i < w->n; i++)
        if (w->with[i])
            job_free(&w->with[i]);
    free(w);
    return 0;
}

static struct job *numbered(struct lane *lane, uint64_t owner, uint64_t batch, uint32_t rows)
{
    struct job *job = job_new(JOB_STEPS, rows);
    assert_non_null(job);
    job->lane = lane;
    job->owner = owner;
    job->batch = batch;
    for (uint32_t i = 0; i < rows; i++)
        job->steps.rows[i].step = i;
    return job;
}

/* The worker gives the oldest job back; more may go to it then. */
static void give_back(struct world *w)
{
    assert_true(w->given_back < w->n);
    backlog_done(&w->b, w->with[w->given_back]);
    job_free(&w->with[w->given_back++]);
    backlog_pump(&w->b);
}

static void test_order_without_lanes(void **state)
{
    struct world *w = *state;
    w->room = 2;
    for (uint64_t i = 1; i <= 5; i++)
        backlog_submit(&w->b, numbered(NULL, 0, i, 0));
    assert_int_equal(w->n, 2);
    assert_int_equal(w->b.in_flight, 5);
    assert_int_equal(w->b.jobs, 3);
    w->room = 1;
    struct job *job = numbered(NULL, 0, 99, 0);
    assert_int_equal(backlog_try(&w->b, job),
                     SEISMO_EBUSY); /* there is room, but not before others */
    job_free(&job);
    w->room = 8;
    give_back(w);
    assert_int_equal(w->n, 5);
    for (int i = w->given_back; i < 5; i++)
        assert_int_equal(w->with[i]->batch, i + 1); /* in order, none lost */
    while (w->given_back < w->n)
        give_back(w);
    assert_int_equal(w->b.in_flight, 0);
    assert_int_equal(w->b.jobs, 0);
    job = numbered(NULL, 0, 6, 0);
    assert_int_equal(backlog_try(&w->b, job), 0);
    w->room = 0;
    backlog_submit(&w->b, numbered(NULL, 0, 7, 0)); /* freed by backlog_close */
}

/* One sends batches of 1024 rows and has many waiting, two send batches of 64: all three get the
 * same share of the worker, and each one's batches come in order. */
static void test_equal_shares(void **state)
{
    struct world *w = *state;
    struct lane *lane[3];
    static const uint32_t size[3] = {1024, 64, 64};
    for (int l = 0; l < 3; l++) {
        lane[l] = lane_new();
        assert_non_null(lane[l]);
    }
    for (uint64_t i = 0; i < 60; i++)
        backlog_submit(&w->b, numbered(lane[0], 0, i, size[0]));
    for (uint64_t i = 0; i < 960; i++)
        for (int l = 1; l < 3; l++)
            backlog_submit(&w->b, numbered(lane[l], (uint64_t)l, i, size[l]));
    while (w->given_back < w->n && w->with[w->given_back]->owner == 0)
        give_back(w); /* what the first one got while it was alone */
    assert_true(w->given_back < 10);
    uint64_t next[3] = {(uint64_t)w->given_back, 0, 0}, cost[3] = {0};
    while (w->given_back < 800) {
        const struct job *job = w->with[w->given_back];
        assert_int_equal(job->batch, next[job->owner]++);
        cost[job->owner] += job->steps.n + BACKLOG_COST_BATCH;
        give_back(w);
    }
    for (int l = 0; l < 3; l++) {
        assert_in_range(cost[l], cost[0] - 2 * BACKLOG_TURN, cost[0] + 2 * BACKLOG_TURN);
        lane_leave(&lane[l]); /* those with jobs in them go with the last one */
    }
    assert_true(cost[0] > 10 * BACKLOG_TURN);
}

/* What a row costs that goes back is waited for by whoever sends it. */
static void test_going_back(void **state)
{
    struct world *w = *state;
    struct lane *lane[2] = {lane_new(), lane_new()};
    for (uint64_t i = 0; i < 4; i++) {
        struct job *job = numbered(lane[0], 0, i, 64);
        for (uint32_t k = 0; k < 64; k++)
            job->steps.rows[k].step = 7;
        backlog_submit(&w->b, job);
    }
    for (uint64_t i = 0; i < 500; i++)
        backlog_submit(&w->b, numbered(lane[1], 1, i, 64));
    int before[2] = {0}; /* of the other one before the third and the fourth of these */
    int n = 0, seen = 0;
    for (; w->given_back < w->n && seen < 4; give_back(w)) {
        uint64_t owner = w->with[w->given_back]->owner;
        n += owner == 1;
        seen += owner == 0;
        if (owner == 0 && (seen == 3 || seen == 4))
            before[seen - 3] = n;
    }
    assert_int_equal(seen, 4);
    assert_in_range(before[1] - before[0], 60, 140); /* 6,372 is the cost of 88 */
    for (int l = 0; l < 2; l++)
        lane_leave(&lane[l]);
}

/* The worker never has more than two groups, so one that comes late finds a short queue. */
static void test_short_queue(void **state)
{
    struct world *w = *state;
    struct lane *greedy = lane_new(), *late = lane_new();
    assert_non_null(greedy);
    assert_non_null(late);
    for (uint64_t i = 0; i < 64; i++)
        backlog_submit(&w->b, numbered(greedy, 0, i, 1024));
    assert_true(w->n <= BACKLOG_AHEAD_MIN / 1024 + 1);
    backlog_submit(&w->b, numbered(late, 1, 1, 64));
    int at = w->n;
    for (int i = 0; i < 4; i++)
        give_back(w);
    while (at < w->n && w->with[at]->owner == 0)
        at++;
    assert_true(at < w->n); /* it was given to the worker while four batches were done */
    lane_leave(&greedy);
    lane_leave(&late);
}

static void test_pause(void **state)
{
    struct world *w = *state;
    struct limits limits = LIMITS_DEFAULT;
    limits.queued_bytes = 1 << 20;
    backlog_limit(&w->b, &limits, 1);
    w->room = 0;
    uint64_t full = 0;
    while (!w->paused) {
        backlog_submit(&w->b, numbered(NULL, 0, ++full, 100));
        assert_true(full < 1000);
    }
    assert_true(w->b.bytes > limits.queued_bytes);
    assert_int_equal(w->b.rows, full * 100);
    assert_true(w->b.bytes < limits.queued_bytes + 20000);
    w->room = 1;
    backlog_pump(&w->b);
    assert_true(w->paused); /* one less is not yet room */
    w->room = MAX_DONE / 2;
    while (w->paused)
        if (w->given_back < w->n)
            give_back(w);
        else
            backlog_pump(&w->b);
    assert_true(w->b.bytes < limits.queued_bytes);
    assert_int_equal(w->changes, 2);
}

/* The more waits, the less may a lane have; but never less than an ordinary client's window. */
static void test_allowance(void **state)
{
    struct world *w = *state;
    struct limits limits = LIMITS_DEFAULT;
    limits.queued_bytes = 4 << 20;
    limits.peer_queued_bytes = 2 << 20;
    backlog_limit(&w->b, &limits, 1);
    w->room = 0;
    assert_int_equal(backlog_allowance(&w->b), 2 << 20);
    uint64_t before = 2 << 20;
    for (uint64_t i = 0; i < 40; i++) {
        backlog_submit(&w->b, numbered(NULL, 0, i, 1000));
        uint64_t allowance = backlog_allowance(&w->b);
        assert_true(allowance <= before && allowance >= LIMIT_LANE_BYTES);
        assert_true(allowance == LIMIT_LANE_BYTES || allowance == 2 << 20 ||
                    allowance + w->b.bytes == limits.queued_bytes);
        before = allowance;
    }
    assert_int_equal(before, LIMIT_LANE_BYTES);
}

/* A job that is not due holds up its own lane only. */
static void test_due(void **state)
{
    struct world *w = *state;
    struct lane *fast = lane_new(), *slow = lane_new();
    assert_non_null(fast);
    assert_non_null(slow);
    struct job *job = numbered(fast, 0, 1, 10);
    job->due = 101;
    backlog_submit(&w->b, job);
    backlog_submit(&w->b, numbered(fast, 0, 2, 10));
    assert_int_equal(w->n, 0);
    assert_true(w->b.early);
    backlog_submit(&w->b, numbered(slow, 1, 1, 10));
    assert_int_equal(w->n, 1);
    assert_int_equal(w->with[0]->owner, 1);
    assert_true(w->b.early);
    w->now = 101;
    backlog_pump(&w->b);
    assert_int_equal(w->n, 3);
    assert_int_equal(w->with[1]->batch, 1);
    assert_false(w->b.early);
    job = numbered(fast, 0, 3, 10);
    job->due = 1000;
    backlog_submit(&w->b, job);
    assert_int_equal(w->n, 3);
    w->b.hurry = true; /* a stop does not wait for it */
    backlog_pump(&w->b);
    assert_int_equal(w->n, 4);
    lane_leave(&fast);
    lane_leave(&slow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_order_without_lanes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_equal_shares, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_going_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_short_queue, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pause, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_allowance, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_due, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
