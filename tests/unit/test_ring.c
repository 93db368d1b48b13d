/* The ring of rows: order, the bound, what is dropped, and threads on both ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>

#include "client/lib/ring.h"

static struct seismo_row row_of(int64_t step)
{
    struct seismo_row row = {.step = step};

    row_set(&row, SEISMO_LOSS, (double)(step % 1000));
    return row;
}

static void test_order(void **state)
{
    static struct ring r; /* its alignment is more than a stack under AddressSanitizer has */
    struct seismo_row row;

    (void)state;
    assert_int_equal(ring_init(&r, 8), 0);
    assert_false(ring_pop(&r, &row));
    for (int64_t i = 0; i < 100; i++) { /* goes round the ring several times */
        struct seismo_row a = row_of(2 * i), b = row_of(2 * i + 1);

        assert_int_equal(ring_push(&r, &a), 0);
        assert_int_equal(ring_push(&r, &b), 0);
        assert_int_equal(ring_count(&r), 2);
        assert_true(ring_pop(&r, &row));
        assert_int_equal(row.step, 2 * i);
        assert_true(ring_pop(&r, &row));
        assert_int_equal(row.step, 2 * i + 1);
        assert_int_equal(row.value[SEISMO_LOSS], (2 * i + 1) % 1000);
    }
    ring_close(&r);
}

static void test_full(void **state)
{
    static struct ring r; /* its alignment is more than a stack under AddressSanitizer has */
    struct seismo_row row = row_of(8);

    (void)state;
    assert_int_equal(ring_init(&r, 5), 0); /* rounded up to 8 */
    for (int64_t i = 0; i < 8; i++) {
        struct seismo_row next = row_of(i);

        assert_true(ring_offer(&r, &next));
    }
    assert_false(ring_offer(&r, &row));
    assert_int_equal(ring_push(&r, &row), 1);
    assert_int_equal(ring_count(&r), 8);
    for (int64_t i = 1; i <= 8; i++) { /* the oldest went */
        assert_true(ring_pop(&r, &row));
        assert_int_equal(row.step, i);
    }
    assert_false(ring_pop(&r, &row));
    ring_close(&r);
}

enum { PUSHERS = 3, PER_PUSHER = 20000 };

struct pusher {
    struct ring *ring;
    int64_t first;
    uint64_t dropped;
};

static void *push_many(void *arg)
{
    struct pusher *p = arg;

    for (int64_t i = 0; i < PER_PUSHER; i++) {
        struct seismo_row row = row_of(p->first + i);

        p->dropped += ring_push(p->ring, &row);
        if (i % 64 == 0) {
            sched_yield();
        }
    }
    return NULL;
}

/* Every row is either popped, once and whole, or counted as dropped; each thread's stay in order.
 */
static void test_threads(void **state)
{
    static struct ring r; /* its alignment is more than a stack under AddressSanitizer has */
    struct pusher pushers[PUSHERS];
    pthread_t threads[PUSHERS];
    int64_t last[PUSHERS] = {-1, -1, -1};
    uint64_t popped = 0, dropped = 0;
    struct seismo_row row;

    (void)state;
    assert_int_equal(ring_init(&r, 256), 0);
    for (int i = 0; i < PUSHERS; i++) {
        pushers[i] = (struct pusher){&r, (int64_t)i * PER_PUSHER, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, push_many, &pushers[i]), 0);
    }
    for (int joined = 0; joined < PUSHERS || ring_count(&r) > 0;) {
        if (ring_pop(&r, &row)) {
            int owner = (int)(row.step / PER_PUSHER);

            assert_true(row.step > last[owner]);
            assert_int_equal(row.value[SEISMO_LOSS], row.step % 1000);
            last[owner] = row.step;
            popped++;
        } else if (joined < PUSHERS && pthread_tryjoin_np(threads[joined], NULL) == 0) {
            joined++;
        } else {
            sched_yield();
        }
    }
    for (int i = 0; i < PUSHERS; i++) {
        dropped += pushers[i].dropped;
    }
    assert_int_equal(popped + dropped, PUSHERS * PER_PUSHER);
    ring_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
