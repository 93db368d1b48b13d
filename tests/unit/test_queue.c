/* The queue between the loop and the worker; the run with threads belongs under ThreadSanitizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/queue.h"

static double monotonic(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static int setup(void **state)
{
    static struct queue q;
    assert_int_equal(queue_init(&q), 0);
    *state = &q;
    return 0;
}

static int teardown(void **state)
{
    queue_close(*state);
    return 0;
}

static struct job *steps(uint64_t batch, uint32_t n)
{
    struct job *job = job_new(JOB_STEPS, n);
    job->batch = batch;
    return job;
}

static void push(struct queue *q, struct job *job)
{
    assert_int_equal(queue_push(q, job), 0);
}

/* Frees the list; how many jobs, whose batches count up from `first`? */
static uint32_t count(struct job *list, uint64_t first)
{
    uint32_t n = 0;
    for (struct job *next; list; list = next) {
        next = list->next;
        assert_int_equal(list->batch, first + n++);
        job_free(&list);
    }
    return n;
}

static void jobs_have_room_for_what_they_carry(void **state)
{
    (void)state;
    for (int type = JOB_OPEN; type <= JOB_NEWS; type++) {
        struct job *job = job_new((enum job_type)type, type == JOB_STEPS ? 3 : 0);
        assert_int_equal(job->type, type);
        /* Writing each to its end is what a sanitizer would object to. */
        if (type == JOB_OPEN) {
            job->open.ret_run[sizeof job->open.ret_run - 1] = 'x';
        } else if (type == JOB_STEPS) {
            assert_int_equal(job->steps.n, 3);
            job->steps.rows[2].value[SEISMO_N_VALUES - 1] = 1;
        } else if (type == JOB_CLOSE) {
            job->close.text[sizeof job->close.text - 1] = 'x';
        } else if (type == JOB_LABEL) {
            job->label.outcome[sizeof job->label.outcome - 1] = 'x';
        } else if (type == JOB_ALERT) {
            job->alert.result[sizeof job->alert.result - 1] = 'x';
        } else if (type == JOB_OUTBOX) {
            job->outbox.ret_all = true;
        }
        job_free(&job);
        assert_null(job);
        job_free(&job);
    }
}

static void order_is_kept_and_groups_are_bounded(void **state)
{
    struct queue *q = *state;
    assert_null(queue_take(q, 100));
    for (uint64_t i = 1; i <= 10; i++) {
        push(q, steps(i, 10));
    }
    assert_int_equal(count(queue_take(q, 35), 1), 3);
    assert_int_equal(count(queue_take(q, 5), 4), 1); /* at least one */
    uint32_t jobs, rows;
    queue_waiting(q, &jobs, &rows);
    assert_int_equal(jobs, 6);
    assert_int_equal(rows, 60);
    push(q, steps(11, 0));
    assert_int_equal(count(queue_take(q, 1000), 5), 7);
    queue_waiting(q, &jobs, &rows);
    assert_int_equal(jobs, 0);
    assert_int_equal(rows, 0);
    push(q, steps(12, 1));
    assert_int_equal(count(queue_take(q, 1000), 12), 1);
}

static void a_full_queue_refuses(void **state)
{
    struct queue *q = *state;
    for (uint64_t i = 1; i <= QUEUE_MAX_JOBS; i++) {
        push(q, steps(i, 1));
    }
    struct job *extra = steps(QUEUE_MAX_JOBS + 1, 1);
    assert_int_equal(queue_push(q, extra), SEISMO_EBUSY);
    assert_int_equal(count(queue_take(q, 1), 1), 1);
    push(q, extra);
    assert_int_equal(count(queue_take(q, UINT32_MAX), 2), QUEUE_MAX_JOBS);

    for (uint64_t i = 1; i <= QUEUE_MAX_ROWS / SEISMO_MAX_ROWS; i++) {
        push(q, steps(i, SEISMO_MAX_ROWS));
    }
    extra = steps(0, 1);
    assert_int_equal(queue_push(q, extra), SEISMO_EBUSY);
    job_free(&extra);
    push(q, job_new(JOB_DETACH, 0)); /* has no rows */
}

#define NEVER 1e6 /* s: longer than meson has patience with this program */

static void waiting_ends_in_time(void **state)
{
    struct queue *q = *state;
    double start = monotonic();
    assert_false(queue_wait(q, 0, 0.02));
    assert_true(monotonic() - start >= 0.019);
    push(q, steps(1, 5));
    assert_false(queue_wait(q, 0, NEVER));
    assert_false(queue_wait(q, 5, NEVER));
    start = monotonic();
    assert_false(queue_wait(q, 6, 0.02));
    assert_false(queue_wait(q, QUEUE_NOTHING, 0.02));
    assert_true(monotonic() - start >= 0.038);
    /* Many small jobs are enough too, else a full queue would wait for rows that cannot come. */
    for (uint64_t i = 2; i <= QUEUE_MAX_JOBS / 2; i++) {
        push(q, steps(i, 0));
    }
    assert_false(queue_wait(q, 6, NEVER));
    queue_stop(q);
    assert_true(queue_wait(q, QUEUE_NOTHING, NEVER));
}

static void done_jobs_come_back_in_order(void **state)
{
    struct queue *q = *state;
    assert_null(queue_drain(q));
    struct job *a = steps(1, 0), *b = steps(2, 0);
    a->next = b;
    assert_true(queue_give(q, a));
    assert_false(queue_give(q, steps(3, 0)));
    assert_int_equal(count(queue_drain(q), 1), 3);
    assert_true(queue_give(q, steps(4, 0)));
    /* The rest is freed with the queue. */
}

#define MANY 20000

static void *work(void *arg)
{
    struct queue *q = arg;
    for (;;) {
        bool stopped = queue_wait(q, 0, 1);
        stopped = queue_wait(q, 64, 0.001) || stopped;
        struct job *list = queue_take(q, 64);
        if (list) {
            queue_give(q, list);
        } else if (stopped) {
            return NULL;
        }
    }
}

static void two_threads_lose_nothing(void **state)
{
    struct queue *q = *state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, work, q), 0);
    uint64_t sent = 0, got = 0;
    while (got < MANY) {
        struct job *job = sent < MANY ? steps(sent + 1, sent % 7) : NULL;
        if (job && queue_push(q, job) == 0) {
            sent++;
        } else {
            job_free(&job);
            usleep(100);
        }
        got += count(queue_drain(q), got + 1);
    }
    queue_stop(q);
    pthread_join(thread, NULL);
    assert_int_equal(got, MANY);
    assert_null(queue_drain(q));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_have_room_for_what_they_carry),
        cmocka_unit_test_setup_teardown(order_is_kept_and_groups_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_queue_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(waiting_ends_in_time, setup, teardown),
        cmocka_unit_test_setup_teardown(done_jobs_come_back_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(two_threads_lose_nothing, setup, teardown),
    };
    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
