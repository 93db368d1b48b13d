#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "models/model.h"
#include "tests/unit/simulated.h"
#include "tests/unit/small_model.h"

#define N 400

static struct model *small, *builtin;
static struct seismo_row healthy[N], diverging[N];

static struct model *parse(const char *text)
{
    struct model *m = NULL;
    char errmsg[SEISMO_ERRMSG] = "";

    if (model_parse(text, strlen(text), "small", &m, errmsg))
        fail_msg("%s", errmsg);
    return m;
}

static int set_up(void **state)
{
    (void)state;
    char errmsg[SEISMO_ERRMSG] = "";

    small = parse(SMALL_MODEL("small"));
    builtin = model_builtin(errmsg);
    simulated_run(healthy, N, 1, 0.05, 0.05, N, 0);
    simulated_run(diverging, N, 2, 0.05, 0.05, 320, 1.5);
    return builtin ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    model_free(&small);
    model_free(&builtin);
    return 0;
}

/* A run's verdicts in one line, "step:state/severity …"; the last of them in *ret. */
static const char *story(const struct model *m, const struct seismo_row *rows, int n,
                         struct verdict *ret)
{
    static char text[1024];
    struct detector d;
    struct detector_result result;
    size_t at = 0;

    text[0] = 0;
    *ret = (struct verdict){.n_reasons = 0};
    detector_init(&d);
    for (int t = 0; t < n; t++) {
        detector_step(&d, m, &rows[t], &result);
        assert_true(result.n_verdicts <= DETECTOR_MAX_VERDICTS);
        for (int v = 0; v < result.n_verdicts; v++) {
            *ret = result.verdict[v];
            assert_true(ret->step == rows[t].step && ret->state == result.state &&
                        ret->severity == result.severity);
            /* Mismatch, stalled and precursors tell their own. */
            if (ret->state != STATE_MISMATCH && ret->state != STATE_STALLED &&
                !d.judge.side[JUDGE_PRECURSOR].holds)
                assert_true(ret->score == result.score);
            at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%lld:%s/%s", at ? " " : "",
                                   (long long)ret->step, verdict_state_name(ret->state),
                                   verdict_severity_name(ret->severity));
        }
    }
    return text;
}

static void test_healthy_run(void **state)
{
    (void)state;
    struct verdict v;

    assert_string_equal(story(small, healthy, N, &v), "12:healthy/info");
    assert_true(v.n_reasons == 0 && v.fault == FAULT_UNKNOWN);
    assert_true(v.threshold == 0.9f);
}

/* The built-in model too must leave the one alone and call out the other, whatever it learned: by
 * step 345 the loss is 10,000 times what it was. With the loss alone it may take a little longer.
 */
static void test_builtin_model(void **state)
{
    (void)state;
    static struct seismo_row bare[N];
    const struct seismo_row *const runs[] = {diverging, bare};
    struct verdict v;

    story(builtin, healthy, N, &v);
    assert_int_equal(v.state, STATE_HEALTHY);
    for (int t = 0; t < N; t++) {
        bare[t] = (struct seismo_row){.step = t, .time = NAN};
        row_set(&bare[t], SEISMO_LOSS, diverging[t].value[SEISMO_LOSS]);
    }
    for (int i = 0; i < 2; i++) {
        const char *text = story(builtin, runs[i], N, &v);
        if (v.severity != SEVERITY_CRITICAL || v.step < 320 || v.step > 345 + 10 * i)
            fail_msg("%s: %s", i ? "loss alone" : "all fields", text);
        assert_int_equal(v.state, STATE_UNSTABLE);
        assert_true(v.score >= v.threshold && v.n_reasons > 0);
    }
}

/* What is neither surely healthy nor called out teaches nothing about usual levels. */
static void test_usual_levels_are_healthy_ones(void **state)
{
    (void)state;
    char text[] = SMALL_MODEL("small");
    struct detector d;
    struct detector_result result;
    struct verdict_reason why[FEATURES_N];
    float bias, margin;

    for (int unsure = 0; unsure < 2; unsure++) {
        if (unsure) /* scores stay at 0.37, between exit and warning */
            memcpy(strstr(text, "\"slope\":1.5"), "\"slope\":0.1", 11);
        struct model *m = parse(text);
        detector_init(&d);
        for (int t = 0; t < 300; t++)
            detector_step(&d, m, &healthy[t], &result);
        assert_int_equal(result.state, STATE_HEALTHY);
        detector_explain(&d, m, why, FEATURES_N, &bias, &margin);
        assert_true((strstr(why[0].text, "(usually ") == NULL) == (unsure == 1));
        model_free(&m);
    }
}

/* A model with one more head, that knows losses which stay where they began. */
static struct model *with_side(const char *whole, const char *name)
{
    static char text[16384];
    const char *at = strstr(whole, "\"heads\":{") + strlen("\"heads\":{");

    snprintf(text, sizeof(text),
             "%.*s\"%s\":{\"booster\":%s,\"calibration\":{\"slope\":1,\"intercept\":0},"
             "\"budgets\":{\"0.01\":0.9},\"default_budget\":\"0.01\",\"exit\":0.2,\"confirm\":3,"
             "\"exit_confirm\":3},%s",
             (int)(at - whole), whole, name,
             SMALL_BOOSTER("binary:logistic", "0", "0", "1",
                           SMALL_TREE("0", "0", "-2E-1", "-3E0", "3E0", "0")),
             at);
    return parse(text);
}

/* A run whose loss stays where it began, by a head for just that; reasons are that head's. */
static void test_stalled(void **state)
{
    (void)state;
    static struct seismo_row rows[N];
    struct verdict v;

    struct model *m = with_side(SMALL_MODEL("small"), "stalled");
    for (int t = 0; t < N; t++) {
        rows[t] = (struct seismo_row){.step = t, .time = NAN};
        row_set(&rows[t], SEISMO_LOSS, 1 + 0.01 * (t % 3));
    }
    assert_string_equal(story(m, rows, N, &v), "12:healthy/info 23:stalled/warning");
    assert_float_equal(v.score, 1 / (1 + exp(-3)), 1e-4);
    assert_true(v.threshold == 0.9f && v.n_reasons == 1);
    assert_string_equal(v.reason[0].feature, "loss_above_first");
    assert_string_equal(story(m, healthy, N, &v), story(small, healthy, N, &v));
    model_free(&m);
}

/* The same head as one for precursors: a warning of instability, told with its score and reasons,
 * and no alarm; and none where the richest fields are not sent. */
static void test_precursor(void **state)
{
    (void)state;
    static struct seismo_row rows[N];
    struct verdict v;

    for (int t = 0; t < N; t++) {
        rows[t] = (struct seismo_row){.step = t, .time = NAN};
        row_set(&rows[t], SEISMO_LOSS, 1 + 0.01 * (t % 3));
    }
    struct model *m = with_side(SMALL_MODEL("small"), "precursor");
    assert_string_equal(story(m, rows, N, &v), "12:unstable/warning");
    assert_float_equal(v.score, 1 / (1 + exp(-3)), 1e-4);
    assert_true(v.threshold == 0.9f && v.n_reasons == 1 && v.fault == FAULT_UNKNOWN);
    assert_string_equal(v.reason[0].feature, "loss_above_first");
    assert_string_equal(story(m, healthy, N, &v), story(small, healthy, N, &v));
    model_free(&m);
    m = with_side(SMALL_HEADS("small"), "precursor");
    assert_string_equal(story(m, rows, N, &v), "12:healthy/info");
    for (int t = 0; t < N; t++)
        row_set(&rows[t], SEISMO_GRAD_NORM, 1);
    assert_string_equal(story(m, rows, N, &v), "12:unstable/warning");
    model_free(&m);
}

/* The head in charge after each row, by the fields sent so far; it scores, and it explains. */
static void test_heads_by_fields(void **state)
{
    (void)state;
    struct model *m = parse(SMALL_HEADS("small"));
    static struct seismo_row rows[N];
    struct verdict_reason why[FEATURES_N];
    struct detector d, restored;
    struct detector_result result, again;
    uint8_t snapshot[DETECTOR_SNAPSHOT_MAX];
    float bias, margin, x[FEATURES_N];

    detector_init(&d);
    detector_init(&restored);
    for (int t = 0; t < N; t++) {
        rows[t] = (struct seismo_row){.step = t, .time = NAN};
        row_set(&rows[t], SEISMO_LOSS, diverging[t].value[SEISMO_LOSS]);
        if (t >= 40 && t <= 200 && t % 10 == 0) /* late, now and then, and no more at the end */
            row_set(&rows[t], SEISMO_GRAD_NORM, diverging[t].value[SEISMO_GRAD_NORM]);
        detector_step(&d, m, &rows[t], &result);
        int head = t >= 40 && t < 200 + DETECTOR_SENT;
        assert_int_equal(d.head, head);
        /* Calm since the start, but rows judged by the head before do not count for this one. */
        if (t == 39 || t == 199 + DETECTOR_SENT)
            assert_true(d.judge.exit > 20);
        if (t == 40 || t == 200 + DETECTOR_SENT)
            assert_int_equal(d.judge.exit, 1);
        model_columns(m, d.value, x);
        float expected = model_margin(&m->alarm[head].head, x);
        assert_true(result.score == model_score(expected));
        detector_explain(&d, m, why, FEATURES_N, &bias, &margin);
        assert_true(margin == expected);
        detector_step(&restored, m, &rows[t], &again);
        assert_memory_equal(&again.score, &result.score, sizeof(result.score));
        size_t n = detector_snapshot(&restored, m, snapshot);
        memset(&restored, 0xff, sizeof(restored));
        assert_int_equal(detector_restore(&restored, m, snapshot, n), 0);
    }
    d.head = 2;
    size_t n = detector_snapshot(&d, m, snapshot);
    assert_int_equal(detector_restore(&d, m, snapshot, n), SEISMO_ECORRUPT);
    model_free(&m);
}

/* A level that is held for long has a lower threshold, and the verdict says which was reached. */
static void test_lasting_level(void **state)
{
    (void)state;
    struct model *m = parse(SMALL_HEADS("small"));
    struct verdict v;

    /* The second head's score is at most sigmoid(0.5 * 3.5 - 0.25) = 0.82. */
    story(m, diverging, N, &v);
    assert_int_equal(v.severity, SEVERITY_CRITICAL);
    assert_true(v.threshold == 0.7f && v.score >= 0.7f && v.score < 0.9f);
    model_free(&m);
}

static void test_budget(void **state)
{
    (void)state;
    char errmsg[SEISMO_ERRMSG];
    struct model *m = parse(SMALL_MODEL("small"));
    uint64_t id = model_id(m);

    assert_int_equal(model_set_budget(m, 0.02, errmsg), SEISMO_EINVAL);
    assert_string_equal(errmsg,
                        "the model has no threshold for a budget of 0.02; it has 0.01 0.05");
    assert_int_equal(model_set_budget(m, 0.01, errmsg), 0);
    assert_true(m->alarm[0].rules.threshold == 0.9f && model_id(m) == id);
    assert_int_equal(model_set_budget(m, 0.05, errmsg), 0);
    assert_true(m->alarm[0].rules.threshold == 0.5f && m->alarm[0].rules.warning == 0.5f &&
                model_id(m) != id);
    model_free(&m);
    m = parse(SMALL_HEADS("small"));
    assert_int_equal(model_set_budget(m, 0.05, errmsg), 0);
    assert_true(m->alarm[0].rules.threshold == 0.5f && m->alarm[1].rules.threshold == 0.5f);
    assert_true(isnan(m->alarm[1].rules.lasting)); /* none for this budget: it never counts */
    model_free(&m);
}

static void test_divergence(void **state)
{
    (void)state;
    struct verdict v;
    const char *text = story(small, diverging, N, &v);

    assert_int_equal(v.severity, SEVERITY_CRITICAL);
    if (v.step < 321 || v.step > 335)
        fail_msg("%s", text);
    /* Both features of this model speak, in the order of their contributions. */
    assert_int_equal(v.n_reasons, 2);
    assert_string_equal(v.reason[0].feature, "loss_above_first");
    assert_true(v.reason[0].contribution > v.reason[1].contribution);
    assert_non_null(strstr(v.reason[0].text, "(usually -0.9"));
    if (!strstr(v.reason[0].text, ", since step 33"))
        fail_msg("%s", v.reason[0].text);
    /* The fault head takes a jump of the gradient for a learning rate. */
    assert_int_equal(v.fault, FAULT_LR);
    assert_float_equal(v.fault_p[FAULT_LR] + v.fault_p[FAULT_DATA], 1, 1e-6);
}

static void test_nan_loss(void **state)
{
    (void)state;
    static struct seismo_row rows[N];
    struct verdict v;

    memcpy(rows, healthy, sizeof(rows));
    row_set(&rows[100], SEISMO_LOSS, NAN);
    row_set(&rows[100], SEISMO_GRAD_NORM, NAN);
    assert_string_equal(story(small, rows, 103, &v), "12:healthy/info 100:unstable/warning");
    assert_int_equal(v.fault, FAULT_NUMERICS);
    assert_true(v.fault_p[FAULT_NUMERICS] == 1);
    assert_string_equal(v.reason[0].feature, "loss");
    assert_string_equal(v.reason[0].text, "the loss is NaN, since step 100");
    assert_string_equal(story(small, rows, N, &v),
                        "12:healthy/info 100:unstable/warning 105:healthy/info");
    assert_string_equal(v.reason[0].text, "score has been below 0.2 for 5 steps; the run was "
                                          "unstable since step 100");

    for (int t = 100; t < 150; t++)
        row_set(&rows[t], SEISMO_LOSS, INFINITY);
    assert_string_equal(story(small, rows, 150, &v),
                        "12:healthy/info 100:unstable/warning 102:unstable/critical");
    assert_true(v.score == 1);
    assert_string_equal(v.reason[0].text, "the loss is infinite and stays so, since step 100");
    assert_string_equal(
        story(small, rows, N, &v),
        "12:healthy/info 100:unstable/warning 102:unstable/critical 154:healthy/info");
}

/* A mean of losses over steps, of which one was skipped, stays NaN while gradients are well: the
 * run is. An infinite loss, or a NaN with no gradient beside it, counts. */
static void test_nan_mean_of_losses(void **state)
{
    (void)state;
    static struct seismo_row rows[N];
    struct verdict v;

    memcpy(rows, healthy, sizeof(rows));
    for (int t = 100; t < 120; t++)
        row_set(&rows[t], SEISMO_LOSS, NAN);
    assert_string_equal(story(small, rows, N, &v), "12:healthy/info");
    row_set(&rows[110], SEISMO_PARAM_NORM, NAN);
    story(small, rows, 111, &v);
    assert_string_equal(v.reason[0].text, "the parameters' norm is NaN, since step 110");
    for (int t = 100; t < 103; t++)
        rows[t].present &= ~(1u << SEISMO_GRAD_NORM);
    assert_string_equal(story(small, rows, 103, &v),
                        "12:healthy/info 100:unstable/warning 102:unstable/critical");
}

/* No mean goes over that many steps: what stays NaN is said to be so, gradients or not. */
static void test_nan_that_stays(void **state)
{
    (void)state;
    enum { FROM = 100, TOLD = FROM + DETECTOR_NAN_MEAN };
    static struct seismo_row rows[N];
    struct verdict v;
    char expected[128];

    _Static_assert(TOLD + JUDGE_NONFINITE <= N, "the run is long enough");
    memcpy(rows, healthy, sizeof(rows));
    for (int t = FROM; t < N; t++)
        row_set(&rows[t], SEISMO_LOSS, NAN);
    assert_string_equal(story(small, rows, TOLD, &v), "12:healthy/info");
    snprintf(expected, sizeof(expected), "12:healthy/info %d:unstable/warning %d:unstable/critical",
             TOLD, TOLD + JUDGE_NONFINITE - 1);
    assert_string_equal(story(small, rows, TOLD + JUDGE_NONFINITE, &v), expected);
    assert_string_equal(v.reason[0].text, "the loss is NaN and stays so, since step 100");
    row_set(&rows[FROM + 40], SEISMO_LOSS, rows[FROM - 1].value[SEISMO_LOSS]);
    assert_string_equal(story(small, rows, TOLD + JUDGE_NONFINITE, &v), "12:healthy/info");
}

/* Parameters or updates that are not finite count as the loss does; a gradient alone does not. */
static void test_other_nonfinite(void **state)
{
    (void)state;
    static struct seismo_row rows[N];
    struct verdict v;

    memcpy(rows, healthy, sizeof(rows));
    for (int t = 100; t < 103; t++)
        row_set(&rows[t], SEISMO_PARAM_NORM, NAN);
    assert_string_equal(story(small, rows, 110, &v), "12:healthy/info 100:unstable/warning "
                                                     "102:unstable/critical 107:healthy/info");
    memcpy(rows, healthy, sizeof(rows));
    row_set(&rows[100], SEISMO_UPDATE_NORM, INFINITY);
    story(small, rows, 101, &v);
    assert_string_equal(v.reason[0].feature, "update_norm");

    /* Loss scaling skips a step: its gradient overflowed and nothing was updated. */
    memcpy(rows, healthy, sizeof(rows));
    for (int t = 30; t < N; t += 7) {
        row_set(&rows[t], SEISMO_GRAD_NORM, INFINITY);
        row_set(&rows[t], SEISMO_GRAD_MAX_ABS, INFINITY);
        row_set(&rows[t], SEISMO_GRAD_NONFINITE, 12);
        row_set(&rows[t], SEISMO_GRAD_DOT_UPDATE, NAN);
        row_set(&rows[t], SEISMO_UPDATE_NORM, 0);
    }
    assert_string_equal(story(small, rows, N, &v), "12:healthy/info");
}

static void test_nan_from_the_first_row(void **state)
{
    (void)state;
    static struct seismo_row rows[N];
    struct verdict v;

    memcpy(rows, healthy, sizeof(rows));
    for (int t = 0; t < N; t++) {
        rows[t].present = 1u << SEISMO_LOSS;
        rows[t].value[SEISMO_LOSS] = NAN;
    }
    assert_string_equal(story(small, rows, N, &v), "0:unstable/warning 2:unstable/critical");
}

static void test_blow_up_in_warm_up(void **state)
{
    (void)state;
    static struct seismo_row rows[12];
    struct verdict v;

    for (int t = 0; t < 12; t++) {
        rows[t] = (struct seismo_row){.step = t, .time = NAN};
        row_set(&rows[t], SEISMO_LOSS, 1 + 0.01 * (t % 3) + (t >= 8 ? exp(t) : 0));
    }
    story(small, rows, 12, &v);
    assert_int_equal(v.severity, SEVERITY_CRITICAL);
}

/* Contributions and bias sum to the calibrated margin, at any step and for any model. */
static void test_explain(void **state)
{
    (void)state;
    const struct model *const models[] = {small, builtin};

    for (int k = 0; k < 2; k++) {
        struct detector d;
        struct detector_result result;
        struct verdict_reason why[FEATURES_N];
        float bias, margin;

        detector_init(&d);
        for (int t = 0; t < 340; t++) {
            detector_step(&d, models[k], &diverging[t], &result);
            int n = detector_explain(&d, models[k], why, FEATURES_N, &bias, &margin);
            assert_int_equal(n, models[k]->n_features);
            double sum = bias;
            for (int i = 0; i < n; i++) {
                sum += why[i].contribution;
                if (i > 0)
                    assert_true(fabsf(why[i].contribution) <= fabsf(why[i - 1].contribution));
                assert_true(strlen(why[i].text) > 0);
            }
            assert_float_equal(sum, margin, 1e-4);
            assert_float_equal(result.score, 1 / (1 + exp(-(double)margin)), 1e-6);
        }
        assert_int_equal(detector_explain(&d, models[k], why, 1, &bias, &margin), 1);
    }
}

/* Rows as they come from jobs: some fields missing, some not finite, some steps not logged. */
static void random_row(uint64_t *seed, int64_t *step, struct seismo_row *ret)
{
    *ret = (struct seismo_row){.time = NAN};
    *step += simulated_uniform(seed) < 0.9 ? 1 : 7;
    ret->step = *step;
    for (int v = 0; v < SEISMO_N_VALUES; v++) {
        double x = simulated_normal(seed), kind = simulated_uniform(seed);
        if (kind < 0.15)
            continue;
        row_set(ret, (enum seismo_value)v,
                kind < 0.17   ? NAN
                : kind < 0.18 ? INFINITY
                : kind < 0.19 ? exp(40 * x)
                              : x);
    }
}

static void test_snapshot_continues_bit_for_bit(void **state)
{
    (void)state;
    const char *given = getenv("SEISMO_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 20240609;
    uint8_t bytes[DETECTOR_SNAPSHOT_MAX];
    struct detector d, copy;
    struct detector_result a, b;
    struct verdict_reason why_a[FEATURES_N], why_b[FEATURES_N];
    float bias_a, bias_b, margin_a, margin_b;

    print_message("seed %llu (SEISMO_SEED)\n", (unsigned long long)seed);
    for (int run = 0; run < 20; run++) {
        int64_t step = -1;
        bool restored = false;
        detector_init(&d);
        for (int t = 0; t < 300; t++) {
            struct seismo_row row;
            /* A copy starts at a random step and is renewed from its own bytes now and then. */
            if (simulated_uniform(&seed) < 0.05) {
                size_t n = detector_snapshot(restored ? &copy : &d, builtin, bytes);
                memset(&copy, 0xa5, sizeof(copy));
                assert_int_equal(detector_restore(&copy, builtin, bytes, n), 0);
                restored = true;
            }
            random_row(&seed, &step, &row);
            memset(&a, 0, sizeof(a));
            memset(&b, 0, sizeof(b));
            detector_step(&d, builtin, &row, &a);
            if (!restored)
                continue;
            detector_step(&copy, builtin, &row, &b);
            assert_memory_equal(&a, &b, sizeof(a));
            memset(why_a, 0, sizeof(why_a));
            memset(why_b, 0, sizeof(why_b));
            int n = detector_explain(&d, builtin, why_a, FEATURES_N, &bias_a, &margin_a);
            detector_explain(&copy, builtin, why_b, FEATURES_N, &bias_b, &margin_b);
            for (int i = 0; i < n; i++)
                assert_string_equal(why_a[i].text, why_b[i].text);
            assert_memory_equal(&margin_a, &margin_b, sizeof(margin_a));
        }
        assert_true(restored);
        assert_memory_equal(&d, &copy, sizeof(d));
    }
}

static void test_snapshot_refusals(void **state)
{
    (void)state;
    uint8_t bytes[DETECTOR_SNAPSHOT_MAX], bad[DETECTOR_SNAPSHOT_MAX];
    struct detector d, kept;
    struct detector_result result;

    detector_init(&d);
    for (int t = 0; t < 50; t++)
        detector_step(&d, small, &healthy[t], &result);
    size_t n = detector_snapshot(&d, small, bytes);
    assert_in_range(n, sizeof(d), DETECTOR_SNAPSHOT_MAX);
    kept = d;
    assert_int_equal(detector_restore(&d, builtin, bytes, n), SEISMO_EVERSION);
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(detector_restore(&d, small, bytes, cut), SEISMO_ECORRUPT);
    for (size_t at = 0; at < n; at++) {
        memcpy(bad, bytes, n);
        bad[at] ^= 0x10;
        int err = detector_restore(&d, small, bad, n);
        bool reserved = at >= 12 && at < 16;
        assert_true(reserved ? err == 0 : err == SEISMO_ECORRUPT || err == SEISMO_EVERSION);
        assert_memory_equal(&d, &kept, sizeof(d));
    }
    d.step = INT64_MIN; /* a checksum that is right does not make a step of it */
    n = detector_snapshot(&d, small, bytes);
    assert_int_equal(detector_restore(&d, small, bytes, n), SEISMO_ECORRUPT);
}

static void test_curvature(void **state)
{
    (void)state;
    struct detector d;
    struct detector_result result;
    struct seismo_row bare = {.time = NAN, .present = 1u << SEISMO_LOSS};

    detector_init(&d);
    detector_step(&d, small, &bare, &result);
    assert_true(isnan(result.curvature));
    detector_init(&d);
    for (int t = 0; t < 331; t++)
        detector_step(&d, small, &diverging[t], &result);
    assert_true(result.curvature > 2); /* past the edge of stability */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_healthy_run),
        cmocka_unit_test(test_builtin_model),
        cmocka_unit_test(test_usual_levels_are_healthy_ones),
        cmocka_unit_test(test_stalled),
        cmocka_unit_test(test_precursor),
        cmocka_unit_test(test_heads_by_fields),
        cmocka_unit_test(test_lasting_level),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_divergence),
        cmocka_unit_test(test_nan_loss),
        cmocka_unit_test(test_nan_mean_of_losses),
        cmocka_unit_test(test_nan_that_stays),
        cmocka_unit_test(test_other_nonfinite),
        cmocka_unit_test(test_nan_from_the_first_row),
        cmocka_unit_test(test_blow_up_in_warm_up),
        cmocka_unit_test(test_explain),
        cmocka_unit_test(test_snapshot_continues_bit_for_bit),
        cmocka_unit_test(test_snapshot_refusals),
        cmocka_unit_test(test_curvature),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
