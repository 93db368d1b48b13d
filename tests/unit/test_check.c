/* What the check makes of databases that have a history: another model, a deleted beginning,
 * damaged rows that the daemon went on after. */
#include "tests/unit/worker_runs.h"

#include "daemon/archive/check.h"

static struct model *builtin, *other;

static struct {
    int n;
    char first[512];
} found;

static void on_problem(void *arg, const char *run, const char *text)
{
    (void)arg;
    if (found.n++ == 0) {
        snprintf(found.first, sizeof found.first, "%s: %s", run ? run : "", text);
    }
}

static bool on_progress(void *arg, double share)
{
    (void)arg;
    (void)share;
    return false;
}

/* Nothing is wrong; returns the report. */
static struct check_report expect_sound(const struct model *model)
{
    static const struct check_ops ops = {.problem = on_problem, .progress = on_progress};
    char path[128];
    struct check_report report;
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    found.n = 0;
    if (check_database(path, (const struct model *const[]){model, NULL}, &ops, NULL, &report,
                       rig.errmsg) != 0) {
        fail_msg("%s", rig.errmsg);
    }
    if (found.n > 0) {
        fail_msg("%d problems: %s", found.n, found.first);
    }
    return report;
}

static void restart_with(struct model *model)
{
    rig_stop();
    rig.model = model;
    rig_start();
}

/* A new model is installed while a run goes on, with (`n` not a multiple of 256) and without rows
 * in the tail. What the first one scored is not compared with what the second one says, nor the
 * other way round, and all the rest is. */
static void another_model(uint32_t n, uint64_t by_old, uint64_t by_new)
{
    struct peer p = rig_open("p", "s1");
    rig_feed(&p, rows, n);
    restart_with(other);
    p = rig_open("p", "s1");
    rig_feed(&p, rows + n, ROWS - n);
    struct peer q = rig_open("q", "s2");
    rig_feed(&q, rows, 300);
    struct check_report report = expect_sound(other);
    assert_int_equal(report.steps, ROWS + 300);
    assert_int_equal(report.unscored, by_old);
    report = expect_sound(builtin);
    assert_int_equal(report.unscored, by_new);
    /* A second change, and back again. */
    restart_with(builtin);
    expect_sound(builtin);
    expect_sound(other);
}

static void steps_of_another_model_are_not_compared(void **state)
{
    (void)state;
    another_model(600, 768, 300 + ROWS - 768);
}

static void steps_of_another_model_end_at_a_chunk(void **state)
{
    (void)state;
    another_model(512, 512, 300 + ROWS - 512);
}

static void a_short_run_of_another_model_is_not_compared(void **state)
{
    (void)state;
    another_model(100, 256, 300 + ROWS - 256);
}

static void a_deleted_beginning_is_no_damage(void **state)
{
    (void)state;
    struct peer p = rig_open("p", "s1");
    rig_feed(&p, rows, ROWS);
    rig_stop();
    rig_execute("DELETE FROM chunks WHERE first_step < 300; "
                "UPDATE runs SET steps = steps - 512, first_step = 512");
    struct check_report report = expect_sound(builtin);
    assert_int_equal(report.steps, ROWS - 512);
    assert_int_equal(report.unscored, 0);
    rig_start();
}

/* The logarithm of a certain prediction is -0, which no column can hold. */
static void a_negative_zero_is_no_damage(void **state)
{
    (void)state;
    static struct seismo_row zeros[600];
    struct peer p = rig_open("p", "s1");
    for (int i = 0; i < 600; i++) {
        zeros[i] = (struct seismo_row){.step = i, .time = NAN};
        row_set(&zeros[i], SEISMO_LOSS, i < 100 || i % 50 == 7 ? -0.0 : 1.0 / (1 + i));
        row_set(&zeros[i], SEISMO_GRAD_NORM, -0.0);
    }
    rig_feed(&p, zeros, 600);
    expect_sound(builtin);
    zeros[7].step = 607; /* as the last step, too */
    rig_feed(&p, &zeros[7], 1);
    expect_sound(builtin);
}

/* The daemon cuts off a tail that it cannot read; what is left is sound. */
static void what_is_left_after_damage_is_sound(void **state)
{
    (void)state;
    struct peer p = rig_open("p", "s1");
    rig_feed(&p, rows, 300);
    rig_stop();
    rig_execute("UPDATE tail SET rows = zeroblob(40)");
    rig_start();
    struct check_report report = expect_sound(builtin);
    assert_int_equal(report.steps, 256);
    p = rig_open("p", "s1");
    rig_feed(&p, rows + 256, ROWS - 256);
    report = expect_sound(builtin);
    assert_int_equal(report.steps, ROWS);
}

static int setup(void **state)
{
    rig.model = builtin;
    return rig_setup(state);
}

static int check_setup(void **state)
{
    group_setup(state);
    other = rig.model;
    builtin = model_builtin(rig.errmsg);
    assert_non_null(builtin);
    return 0;
}

static int check_teardown(void **state)
{
    model_free(&builtin);
    rig.model = other;
    return group_teardown(state);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(steps_of_another_model_are_not_compared),
        TEST(steps_of_another_model_end_at_a_chunk),
        TEST(a_short_run_of_another_model_is_not_compared),
        TEST(a_deleted_beginning_is_no_damage),
        TEST(a_negative_zero_is_no_damage),
        TEST(what_is_left_after_damage_is_sound),
    };
    return cmocka_run_group_tests_name("check", tests, check_setup, check_teardown);
}
