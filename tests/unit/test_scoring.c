/* Scoring of recorded runs: what a job that resumes from a checkpoint takes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "client/cli/scoring.h"

static struct model *model;

/* A loss that falls with some noise; with its gradient NaN from `nan_from` on. */
static struct seismo_row row_of(int64_t step, int64_t nan_from)
{
    struct seismo_row row = {.step = step, .time = NAN};
    double noise = 0.02 * sin((double)(step * step % 1009));

    row_set(&row, SEISMO_LOSS, step >= nan_from ? NAN : 2 * exp(-(double)step / 100) + 0.1 + noise);
    row_set(&row, SEISMO_GRAD_NORM, step >= nan_from ? NAN : 1 + noise);
    return row;
}

static void feed(struct scoring *s, int64_t from, int64_t to, int64_t nan_from)
{
    for (int64_t step = from; step < to; step++) {
        struct seismo_row row = row_of(step, nan_from);

        assert_int_equal(scoring_row(s, &row), 0);
    }
}

static json_t *result(struct scoring *s)
{
    json_t *document = scoring_json(s, "r", "p");

    assert_non_null(document);
    return document;
}

static const char *state_of(const json_t *document)
{
    return json_string_value(json_object_get(document, "state"));
}

static void test_empty(void **state)
{
    struct scoring *s = scoring_new(model);
    json_t *document = result(s);

    (void)state;
    assert_string_equal(state_of(document), "warming_up");
    assert_true(json_is_null(json_object_get(document, "score")));
    assert_true(json_is_null(json_object_get(document, "alarm_step")));
    assert_int_equal(json_array_size(json_object_get(document, "verdicts")), 0);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(document, "fault"), "class")), "unknown");
    json_decref(document);
    scoring_free(&s);
}

static void test_alarm(void **state)
{
    struct scoring *s = scoring_new(model);
    json_t *document;

    (void)state;
    feed(s, 0, 400, 300);
    document = result(s);
    assert_string_equal(state_of(document), "unstable");
    /* The third row that is not finite is critical by rule; the model may be sure a row earlier. */
    assert_in_range(json_integer_value(json_object_get(document, "alarm_step")), 301, 302);
    assert_int_equal(json_integer_value(json_object_get(document, "steps")), 400);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(document, "fault"), "class")),
        "numerics");
    json_decref(document);
    scoring_free(&s);
}

/* Whatever a job took back leaves no trace: the result is that of a run without it. */
static void test_resumed(void **state)
{
    static const int64_t resume_at[] = {0, 1, 255, 256, 257, 300, 511, 599};

    (void)state;
    for (unsigned i = 0; i < sizeof(resume_at) / sizeof(*resume_at); i++) {
        struct scoring *plain = scoring_new(model), *resumed = scoring_new(model);
        json_t *wanted, *got;

        feed(plain, 0, 700, 1000);
        feed(resumed, 0, 600, 290); /* goes bad, in vain */
        feed(resumed, resume_at[i] < 290 ? resume_at[i] : 290, 700, 1000);
        wanted = result(plain);
        got = result(resumed);
        assert_true(json_equal(wanted, got));
        assert_int_equal(json_integer_value(json_object_get(got, "steps")), 700);
        json_decref(wanted);
        json_decref(got);
        scoring_free(&plain);
        scoring_free(&resumed);
    }
}

static void test_same_step_again(void **state)
{
    struct scoring *s = scoring_new(model);
    json_t *document;

    (void)state;
    for (int i = 0; i < 1000; i++) {
        feed(s, 7, 8, 1000);
    }
    document = result(s);
    assert_int_equal(json_integer_value(json_object_get(document, "steps")), 1);
    json_decref(document);
    scoring_free(&s);
}

static int setup(void **state)
{
    char errmsg[SEISMO_ERRMSG];

    (void)state;
    model = model_builtin(errmsg);
    return model != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    model_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_alarm),
        cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_same_step_again),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
