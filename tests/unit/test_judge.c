#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "models/judge.h"

static const struct judge_rules rules = {
    .warning = 0.5f, .threshold = 0.9f, .exit = 0.2f, .confirm = 2, .exit_confirm = 3, .warmup = 4};
static const struct judge_side_rules side = {
    .threshold = 0.8f, .exit = 0.4f, .confirm = 2, .exit_confirm = 2};

/* A row of a run that is well, judged on one side. */
static bool calm_row(struct judge *j, int64_t step, enum judge_side which, float score)
{
    judge_side(j, which, &side, score);
    return judge_push(j, &rules, step, 0.01f, false);
}

static void test_side_enters_and_leaves(void **state)
{
    (void)state;
    struct judge j;

    judge_init(&j);
    for (int t = 0; t < 4; t++)
        assert_false(calm_row(&j, t, JUDGE_STALLED, 0.9f)); /* warming up */
    assert_true(calm_row(&j, 4, JUDGE_STALLED, 0.9f));
    assert_int_equal(j.state, STATE_STALLED);
    assert_int_equal(j.severity, SEVERITY_WARNING);
    assert_int_equal(j.since, 4);
    assert_false(calm_row(&j, 5, JUDGE_STALLED, 0.5f)); /* between the levels */
    assert_false(calm_row(&j, 6, JUDGE_STALLED, 0.3f));
    assert_false(calm_row(&j, 7, JUDGE_STALLED, NAN)); /* not judged: no row at all */
    assert_true(calm_row(&j, 8, JUDGE_STALLED, 0.3f));
    assert_int_equal(j.state, STATE_HEALTHY);
    assert_false(calm_row(&j, 9, JUDGE_STALLED, 0.9f)); /* one is not two in a row */
    assert_int_equal(j.state, STATE_HEALTHY);
}

static void test_lower_level_held_for_longer(void **state)
{
    (void)state;
    struct judge_rules both = rules;
    struct judge j;

    both.lasting = 0.7f;
    both.lasting_confirm = 5;
    for (int broken = 0; broken < 2; broken++) {
        judge_init(&j);
        for (int t = 0; t < 20; t++)
            judge_push(&j, &both, t, 0.01f, false);
        int entered = -1;
        for (int t = 20; t < 28; t++) {
            judge_push(&j, &both, t, broken && t == 24 ? 0.65f : 0.75f, false);
            if (entered < 0 && j.severity == SEVERITY_CRITICAL)
                entered = t;
        }
        assert_int_equal(entered, broken ? -1 : 24);
    }
    judge_restart(&j); /* another head's rows do not count towards the five */
    for (int t = 28; t < 32; t++)
        judge_push(&j, &both, t, 0.75f, false);
    assert_int_equal(j.severity, SEVERITY_WARNING);
    judge_push(&j, &both, 32, 0.75f, false);
    assert_int_equal(j.severity, SEVERITY_CRITICAL);
}

static void test_order_of_states(void **state)
{
    (void)state;
    struct judge j;

    judge_init(&j);
    for (int t = 0; t < 6; t++)
        calm_row(&j, t, JUDGE_STALLED, 0.9f);
    assert_false(calm_row(&j, 6, JUDGE_MISMATCH, 0.9f));
    assert_true(calm_row(&j, 7, JUDGE_MISMATCH, 0.9f));
    assert_int_equal(j.state, STATE_MISMATCH);
    judge_push(&j, &rules, 8, 0.95f, false);
    assert_true(judge_push(&j, &rules, 9, 0.95f, false));
    assert_int_equal(j.state, STATE_UNSTABLE);
    assert_int_equal(j.severity, SEVERITY_CRITICAL);
    assert_false(calm_row(&j, 10, JUDGE_MISMATCH, 0.1f));
    assert_false(
        calm_row(&j, 11, JUDGE_MISMATCH, 0.1f)); /* mismatch no longer holds; stalled does */
    assert_true(calm_row(&j, 12, JUDGE_MISMATCH, 0.1f));
    assert_int_equal(j.state, STATE_STALLED);
}

/* A precursor warns before anything is unstable, keeps the run so while it holds, and is forgotten
 * when another head takes over; an alarm goes before it. */
static void test_precursor_warns(void **state)
{
    (void)state;
    struct judge j;
    int t = 0;

    judge_init(&j);
    for (; t < 6; t++)
        calm_row(&j, t, JUDGE_STALLED, 0.9f);
    assert_int_equal(j.state, STATE_STALLED);
    assert_false(calm_row(&j, t++, JUDGE_PRECURSOR, 0.9f));
    assert_true(calm_row(&j, t++, JUDGE_PRECURSOR, 0.9f));
    assert_int_equal(j.state, STATE_UNSTABLE);
    assert_int_equal(j.severity, SEVERITY_WARNING);
    assert_true(judge_foresees(&j, &rules));
    for (int i = 0; i < 9; i++)
        assert_false(calm_row(&j, t++, JUDGE_PRECURSOR, 0.5f));
    for (int i = 0; i < 2; i++) /* now the score itself is one of a warning */
        judge_push(&j, &rules, t++, 0.6f, false);
    assert_false(judge_foresees(&j, &rules));
    judge_push(&j, &rules, t++, 0.95f, false);
    assert_true(judge_push(&j, &rules, t++, 0.95f, false));
    assert_int_equal(j.severity, SEVERITY_CRITICAL);
    assert_false(judge_foresees(&j, &rules));
    for (int i = 0; i < 9; i++) /* as long as it holds the run is not well again */
        assert_false(calm_row(&j, t++, JUDGE_PRECURSOR, 0.5f));
    assert_false(calm_row(&j, t++, JUDGE_PRECURSOR, 0.3f));
    assert_true(calm_row(&j, t++, JUDGE_PRECURSOR, 0.3f));
    assert_int_equal(j.state, STATE_STALLED);

    for (int i = 0; i < 2; i++)
        calm_row(&j, t++, JUDGE_PRECURSOR, 0.9f);
    assert_int_equal(j.state, STATE_UNSTABLE);
    judge_restart(&j);
    for (int i = 0; i < 2; i++)
        assert_false(judge_push(&j, &rules, t++, 0.01f, false));
    assert_true(judge_push(&j, &rules, t++, 0.01f, false));
    assert_int_equal(j.state, STATE_STALLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_side_enters_and_leaves),
        cmocka_unit_test(test_lower_level_held_for_longer),
        cmocka_unit_test(test_order_of_states),
        cmocka_unit_test(test_precursor_warns),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
