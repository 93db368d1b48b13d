#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/features.h"
#include "tests/unit/simulated.h"

#define N 400

static struct seismo_row healthy[N], diverging[N];
static float expected[N][FEATURES_N], other[N][FEATURES_N];

static void features_run(const struct seismo_row *rows, float ret[N][FEATURES_N])
{
    struct features f;

    features_init(&f);
    for (int t = 0; t < N; t++)
        features_push(&f, &rows[t], ret[t]);
}

static int simulate(void **state)
{
    (void)state;
    simulated_run(healthy, N, 1, 0.05, 0.05, N, 0);
    simulated_run(diverging, N, 2, 0.05, 0.05, 320, 1.5);
    return 0;
}

/* How each value changes under loss times `scale` plus `offset`, theta times `theta` and
 * activations times `act`; units as in proto/fields.def. */
static void transform(const struct seismo_row *rows, struct seismo_row *ret, double scale,
                      double offset, double theta, double act)
{
    const double factor[SEISMO_N_VALUES] = {
        [SEISMO_LOSS] = scale,
        [SEISMO_LR] = theta * theta / scale,
        [SEISMO_GRAD_NORM] = scale / theta,
        [SEISMO_GRAD_MAX_ABS] = scale / theta,
        [SEISMO_GRAD_NONFINITE] = 1,
        [SEISMO_GRAD_DOT_PREV] = scale * scale / theta / theta,
        [SEISMO_GRAD_DOT_UPDATE_PREV] = scale,
        [SEISMO_GRAD_DOT_UPDATE] = scale,
        [SEISMO_UPDATE_NORM] = theta,
        [SEISMO_PARAM_NORM] = theta,
        [SEISMO_MOMENTUM_NORM] = scale / theta,
        [SEISMO_SECOND_MOMENT_NORM] = scale / theta,
        [SEISMO_GRAD_EMA_NORM] = scale / theta,
        [SEISMO_GRAD_EMA_DOT_UPDATE] = scale,
        [SEISMO_GRAD_DOT_EMA_PREV] = scale * scale / theta / theta,
        [SEISMO_PROBE_LOSS] = scale,
        [SEISMO_PROBE_GRAD_DOT_UPDATE] = scale,
        [SEISMO_PROBE_GRAD_NORM] = scale / theta,
        [SEISMO_PROBE_GRAD_DIFF_NORM] = scale / theta,
        [SEISMO_ACT_RMS] = act,
        [SEISMO_ACT_DEAD] = 1,
        [SEISMO_ACT_SATURATED] = 1,
        [SEISMO_VAL_LOSS] = scale,
        [SEISMO_VAL_ACC] = 1,
    };

    memcpy(ret, rows, N * sizeof(*ret));
    for (int t = 0; t < N; t++)
        for (int v = 0; v < SEISMO_N_VALUES; v++) {
            bool shifts = v == SEISMO_LOSS || v == SEISMO_PROBE_LOSS || v == SEISMO_VAL_LOSS;
            if (row_has(&rows[t], v))
                row_set(&ret[t], v, rows[t].value[v] * factor[v] + (shifts ? offset : 0));
        }
}

/* Features that do not claim to be free of the loss's offset are left out when it is shifted. */
static void assert_near(double tolerance, bool shifted)
{
    for (int t = 0; t < N; t++)
        for (int i = 0; i < FEATURES_N; i++) {
            double a = other[t][i], b = expected[t][i];
            bool sized = feature_info[i].group == FEATURE_GROUP_LOSS || i == FEATURE_GRAD_LOSS;
            if (shifted && sized && !strstr(feature_info[i].invariance, "offset"))
                continue;
            /* Shares count rows: rounding may decide one row the other way. */
            double allowed =
                tolerance * (1 + fabs(b)) + (feature_info[i].form == FORM_SHARE) * 0.02;
            if (isnan(a) != isnan(b) || fabs(a - b) > allowed)
                fail_msg("row %d: %s is %g instead of %g", t, feature_info[i].name, a, b);
        }
}

static void assert_same_bits(void)
{
    for (int t = 0; t < N; t++)
        for (int i = 0; i < FEATURES_N; i++)
            if (memcmp(&other[t][i], &expected[t][i], sizeof(float)) != 0)
                fail_msg("row %d: %s is %.9g instead of %.9g", t, feature_info[i].name,
                         (double)other[t][i], (double)expected[t][i]);
}

static void assert_invariant(double scale, double offset, double theta, double act,
                             double tolerance)
{
    static struct seismo_row changed[N];
    const struct seismo_row *const runs[] = {healthy, diverging};

    for (int i = 0; i < 2; i++) {
        features_run(runs[i], expected);
        transform(runs[i], changed, scale, offset, theta, act);
        features_run(changed, other);
        if (tolerance > 0)
            assert_near(tolerance, offset != 0);
        else
            assert_same_bits();
    }
}

static void test_loss_scale(void **state)
{
    (void)state;
    assert_invariant(1e-6, 0, 1, 1, 1e-3);
    assert_invariant(1e5, 0, 1, 1, 1e-3);
    assert_invariant(ldexp(1, 17), 0, 1, 1, 0);
    assert_invariant(ldexp(1, -20), 0, 1, 1, 0);
}

/* float32 resolves a loss near 8 to 5e-7; probes here predict changes of 5e-4. */
static void test_loss_offset(void **state)
{
    (void)state;
    struct seismo_row kept[N];

    memcpy(kept, diverging, sizeof(kept));
    simulated_run(diverging, N, 2, 0.05, 0.05, 320, 0.9); /* stays small enough to be shifted */
    assert_invariant(1, 7, 1, 1, 5e-3);
    assert_invariant(1, -5, 1, 1, 5e-3);
    memcpy(diverging, kept, sizeof(kept));
}

static void test_theta_and_activation_scale(void **state)
{
    (void)state;
    assert_invariant(1, 0, 100, 1, 1e-3);
    assert_invariant(1, 0, 1e-3, 30, 1e-3);
    assert_invariant(ldexp(1, 9), 0, ldexp(1, -7), ldexp(1, 5), 0);
}

static void test_neither_step_nor_time_matters(void **state)
{
    (void)state;
    static struct seismo_row later[N];

    memcpy(later, diverging, sizeof(later));
    for (int t = 0; t < N; t++) {
        later[t].step += 1000000000000;
        later[t].time = 1.7e9 + 1e4 * t;
    }
    features_run(diverging, expected);
    features_run(later, other);
    assert_same_bits();
}

static void test_loss_alone(void **state)
{
    (void)state;
    static struct seismo_row bare[N];

    memcpy(bare, healthy, sizeof(bare));
    for (int t = 0; t < N; t++)
        bare[t].present = 1u << SEISMO_LOSS;
    features_run(healthy, expected);
    features_run(bare, other);
    for (int t = 0; t < N; t++)
        for (int i = 0; i < FEATURES_N; i++) {
            bool loss = feature_info[i].group == FEATURE_GROUP_LOSS;
            if (!loss)
                assert_true(isnan(other[t][i]));
            else
                assert_memory_equal(&other[t][i], &expected[t][i], sizeof(float));
            if (loss && t >= 8)
                assert_false(isnan(other[t][i]));
        }
}

/* Every feature is known in a full row, and every field but the two that no feature uses makes some
 * feature NaN, not another number, when it is never sent. */
static void test_missing_is_nan(void **state)
{
    (void)state;
    static struct seismo_row rows[N];

    features_run(healthy, expected);
    for (int i = 0; i < FEATURES_N; i++)
        if (isnan(expected[N - 1][i]))
            fail_msg("%s is not known", feature_info[i].name);
    for (int v = 0; v < SEISMO_N_VALUES; v++) {
        int gone = 0;
        memcpy(rows, healthy, sizeof(rows));
        for (int t = 0; t < N; t++)
            rows[t].present &= ~(1u << v);
        features_run(rows, other);
        for (int i = 0; i < FEATURES_N; i++) {
            gone += isnan(other[N - 1][i]);
            /* Whatever is still known is what it was. */
            if (!isnan(other[N - 1][i]))
                assert_memory_equal(&other[N - 1][i], &expected[N - 1][i], sizeof(float));
        }
        bool unused =
            v == SEISMO_PROBE_GRAD_NORM || v == SEISMO_VAL_ACC || v == SEISMO_GRAD_NONFINITE;
        assert_int_equal(gone > 0, !unused);
    }
}

/* A value that is not finite is as if it had not been sent, for all features but those that count
 * such values. */
static void test_nonfinite_does_not_poison(void **state)
{
    (void)state;
    static struct seismo_row bad[N], absent[N];
    const float wild[] = {NAN, INFINITY, -INFINITY};
    uint64_t seed = 3;

    memcpy(bad, diverging, sizeof(bad));
    memcpy(absent, diverging, sizeof(absent));
    for (int t = 0; t < N; t++)
        for (int v = 0; v < SEISMO_N_VALUES; v++)
            if (v != SEISMO_GRAD_NONFINITE && row_has(&bad[t], v) &&
                simulated_uniform(&seed) < 0.1) {
                bad[t].value[v] = wild[(int)(3 * simulated_uniform(&seed))];
                absent[t].present &= ~(1u << v);
                absent[t].value[v] = 0;
            }
    features_run(absent, expected);
    features_run(bad, other);
    for (int t = 0; t < N; t++) {
        expected[t][FEATURE_LOSS_NONFINITE] = other[t][FEATURE_LOSS_NONFINITE];
        expected[t][FEATURE_GRAD_NONFINITE] = other[t][FEATURE_GRAD_NONFINITE];
    }
    assert_same_bits();
}

static void test_nonfinite_share(void **state)
{
    (void)state;
    struct features f;
    float out[FEATURES_N];

    features_init(&f);
    for (int t = 0; t < 300; t++) {
        struct seismo_row row = healthy[t];
        if (t >= 100 && t < 140) {
            row_set(&row, SEISMO_LOSS, NAN);
            row_set(&row, SEISMO_GRAD_NONFINITE, 3);
        }
        features_push(&f, &row, out);
        if (t == 99)
            assert_true(out[FEATURE_LOSS_NONFINITE] == 0 && out[FEATURE_GRAD_NONFINITE] == 0);
        if (t == 139) {
            assert_true(out[FEATURE_LOSS_NONFINITE] > 0.95f);
            assert_true(out[FEATURE_GRAD_NONFINITE] > 0.95f);
            assert_true(isnan(out[FEATURE_LOSS_Z]) && !isnan(out[FEATURE_LOSS_BEST]));
        }
    }
    assert_true(out[FEATURE_LOSS_NONFINITE] < 0.01f);
}

/* Any bits at all: features stay finite or NaN. */
static void test_any_row(void **state)
{
    (void)state;
    const char *given = getenv("SEISMO_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 20240607;
    struct features f;
    float out[FEATURES_N];

    print_message("seed %llu (SEISMO_SEED)\n", (unsigned long long)seed);
    for (int run = 0; run < 200; run++) {
        features_init(&f);
        for (int t = 0; t < 200; t++) {
            struct seismo_row row = {.step = t + (simulated_uniform(&seed) < 0.1), .time = NAN};
            if (run % 3 == 0)
                row.step += INT64_MAX - 200;
            for (int v = 0; v < SEISMO_N_VALUES; v++) {
                uint32_t bits = (uint32_t)(simulated_uniform(&seed) * 4294967296.0);
                float x;
                memcpy(&x, &bits, sizeof(x));
                if (run % 2)
                    x = (float)simulated_normal(&seed);
                if (simulated_uniform(&seed) < 0.8) {
                    row.value[v] = x;
                    row.present |= 1u << v;
                }
            }
            features_push(&f, &row, out);
            for (int i = 0; i < FEATURES_N; i++)
                if (isinf(out[i]))
                    fail_msg("run %d, row %d: %s is infinite", run, t, feature_info[i].name);
            assert_true(features_valid(&f));
        }
    }
}

/* Curvature along the step of a quadratic without noise is known exactly. */
static void test_curvature_of_a_quadratic(void **state)
{
    (void)state;
    static struct seismo_row rows[N];
    const double lr[] = {0.1, 0.6, 1.4}; /* largest eigenvalue 1.6: edge of stability at 1.25 */

    for (int i = 0; i < 3; i++) {
        simulated_run(rows, N, 4, 0, lr[i], N, 0);
        features_run(rows, other);
        for (int t = 10; t < 60; t++) {
            const float *out = other[t], *g = rows[t].value;
            if (t % 10 == 0) {
                double sharp = (g[SEISMO_PROBE_GRAD_DOT_UPDATE] - g[SEISMO_GRAD_DOT_UPDATE]) /
                               fabs((double)g[SEISMO_GRAD_DOT_UPDATE]);
                assert_float_equal(out[FEATURE_PROBE_SHARPNESS], sharp, 1e-3);
                assert_float_equal(features_curvature(out), sharp, 1e-3);
                if (!isnan(out[FEATURE_PROBE_RATIO]) && i > 0 && t < 30)
                    assert_float_equal(out[FEATURE_PROBE_RATIO], sharp / 2, 0.02);
            }
            /* The secant from t - 1 to t is the sharpness of the step t - 1. */
            double secant = 1 - g[SEISMO_GRAD_DOT_UPDATE_PREV] /
                                    (double)rows[t - 1].value[SEISMO_GRAD_DOT_UPDATE];
            assert_float_equal(out[FEATURE_SECANT], secant, 1e-4);
        }
        /* Near the end the sharpest direction rules: lr times 1.6. */
        if (i == 2) {
            assert_float_equal(other[190][FEATURE_PROBE_SHARPNESS], 1.4 * 1.6, 0.01);
            assert_float_equal(other[190][FEATURE_SECANT_MEAN], 1.4 * 1.6, 0.01);
            assert_true(other[190][FEATURE_OVERSHOOT] > 0.99f);
            assert_true(other[190][FEATURE_PROBE_WORSE] > 0.5f);
        }
    }
}

static void test_probe_is_forgotten(void **state)
{
    (void)state;
    struct features f;
    float out[FEATURES_N];

    features_init(&f);
    for (int t = 0; t < 200; t++) {
        struct seismo_row row = healthy[t];
        if (t > 100)
            row.present &= ~(1u << SEISMO_PROBE_LOSS);
        features_push(&f, &row, out);
        assert_int_equal(isnan(out[FEATURE_PROBE_RATIO]), t >= 164);
    }
}

/* Rows that are not consecutive steps have no pairs, and everything else. */
static void test_every_tenth_step(void **state)
{
    (void)state;
    static struct seismo_row rows[N];

    memcpy(rows, healthy, sizeof(rows));
    for (int t = 0; t < N; t++)
        rows[t].step *= 10;
    features_run(healthy, expected);
    features_run(rows, other);
    for (int i = 0; i < FEATURES_N; i++) {
        bool pairs = i == FEATURE_SECANT || i == FEATURE_SECANT_MEAN || i == FEATURE_EMA_SECANT ||
                     i == FEATURE_GRAD_COS || i == FEATURE_OVERSHOOT || i == FEATURE_EMA_COS ||
                     i == FEATURE_LIPSCHITZ || i == FEATURE_LIPSCHITZ_TREND;
        if (pairs)
            assert_true(isnan(other[N - 1][i]));
        else
            assert_memory_equal(&other[N - 1][i], &expected[N - 1][i], sizeof(float));
    }
}

/* What the features of pure noise are known to be. */
static void test_white_noise(void **state)
{
    (void)state;
    struct features f;
    float out[FEATURES_N];
    uint64_t seed = 5;
    double signs = 0, correlation = 0, z2 = 0, noise = 0;

    features_init(&f);
    for (int t = 0; t < 4000; t++) {
        struct seismo_row row = {.step = t, .time = NAN};
        /* Near 1e5 float32 keeps seven bits of a noise of 1. */
        row_set(&row, SEISMO_LOSS, 1e5 + simulated_normal(&seed));
        features_push(&f, &row, out);
        if (t < 200)
            continue;
        signs += out[FEATURE_LOSS_SIGN_CHANGES] / 3800;
        correlation += out[FEATURE_LOSS_AUTOCORR] / 3800;
        z2 += out[FEATURE_LOSS_Z] * out[FEATURE_LOSS_Z] / 3800;
        noise += f.loss.noise / 3800;
        assert_true(out[FEATURE_LOSS_BEST_NOISE] < 4);
    }
    assert_float_equal(signs, 2.0 / 3, 0.02);
    assert_float_equal(correlation, -0.5, 0.05);
    assert_float_equal(noise, 1, 0.05);
    assert_true(z2 > 0.5 && z2 < 1.5);
}

/* A loss that does not move, or moves without noise, divides by nothing. */
static void test_without_noise(void **state)
{
    (void)state;
    const double slope[] = {0, -1e-3};

    for (int i = 0; i < 2; i++) {
        struct features f;
        float out[FEATURES_N];
        features_init(&f);
        for (int t = 0; t < 300; t++) {
            struct seismo_row row = {.step = t, .time = NAN};
            row_set(&row, SEISMO_LOSS, 2 + slope[i] * t);
            features_push(&f, &row, out);
        }
        assert_true(fabsf(out[FEATURE_LOSS_BEST]) < 0.01f);
        assert_true(fabsf(out[FEATURE_LOSS_NOW]) < 0.1f);
        assert_true(fabsf(out[FEATURE_LOSS_JUMP]) < 2);
    }
}

/* A spike of one step shows at once and is gone from the levels soon. */
static void test_spike_heals(void **state)
{
    (void)state;
    static struct seismo_row rows[N];

    memcpy(rows, healthy, sizeof(rows));
    row_set(&rows[200], SEISMO_LOSS, 1e9);
    features_run(healthy, expected);
    features_run(rows, other);
    assert_true(other[200][FEATURE_LOSS_Z] == 1000);
    assert_true(other[200][FEATURE_LOSS_BEST] > 1);
    assert_true(other[201][FEATURE_LOSS_SPIKES] > 0.01f);
    assert_float_equal(other[260][FEATURE_LOSS_BEST], expected[260][FEATURE_LOSS_BEST], 0.05);
    assert_float_equal(other[260][FEATURE_LOSS_NOW], expected[260][FEATURE_LOSS_NOW], 0.05);
    assert_true(fabsf(other[260][FEATURE_LOSS_Z]) < 5);
}

static void test_divergence_shows(void **state)
{
    (void)state;
    features_run(diverging, other);
    const float *before = other[319], *after = other[335];
    assert_true(before[FEATURE_LOSS_BEST] < 0.5f && after[FEATURE_LOSS_BEST] > 2);
    assert_true(before[FEATURE_LOSS_FIRST] < 0 && after[FEATURE_LOSS_FIRST] > 2);
    assert_true(before[FEATURE_GRAD_TREND] < 0.5f && after[FEATURE_GRAD_TREND] > 1);
    assert_true(before[FEATURE_PROBE_RATIO] < 0.2f && after[FEATURE_PROBE_RATIO] > 1);
    assert_true(before[FEATURE_SECANT_MEAN] < 1.2f && after[FEATURE_SECANT_MEAN] > 1.7f);
    assert_true(before[FEATURE_UPDATE_JUMP] < 1 && after[FEATURE_UPDATE_JUMP] > 1);
}

/* The loss of a run that falls from 3 to `end` with white noise of 0.02, from `sooner` rows on
 * times `factor`. */
static void falling(struct seismo_row rows[N], double end, int sooner, double factor)
{
    uint64_t seed = 7;

    for (int t = 0; t < N; t++) {
        double times = t >= sooner ? factor : 1;
        double loss = end + (3 - end) * exp(-t / 30.0) + 0.02 * simulated_normal(&seed);
        rows[t] = (struct seismo_row){.step = t, .time = NAN};
        row_set(&rows[t], SEISMO_LOSS, times * loss);
        row_set(&rows[t], SEISMO_GRAD_NORM, times * (0.5 + 0.05 * simulated_normal(&seed)));
    }
}

/* A loss that is only weighted otherwise keeps its noise and its gradients in proportion; one that
 * stands on a new level with the old noise does not. */
static void test_weighting_is_told_from_a_loss(void **state)
{
    (void)state;
    static struct seismo_row rows[N];

    falling(rows, 0.5, 300, 4);
    features_run(rows, other);
    const float *weighted = other[N - 1];
    assert_float_equal(weighted[FEATURE_LOSS_OVER_BEST], log(4), 0.1);
    assert_float_equal(weighted[FEATURE_LOSS_NOISE_SHARE], 0, 0.4);
    assert_float_equal(weighted[FEATURE_GRAD_LOSS], 0, 0.1);
    falling(rows, 0.5, N, 1);
    for (int t = 300; t < N; t++)
        rows[t].value[SEISMO_LOSS] += 1.5f;
    features_run(rows, other);
    assert_float_equal(other[N - 1][FEATURE_LOSS_OVER_BEST], log(4), 0.1);
    assert_true(other[N - 1][FEATURE_LOSS_NOISE_SHARE] < -0.9f);
    assert_float_equal(other[N - 1][FEATURE_GRAD_LOSS], -log(4), 0.1);
}

/* A run that goes wrong within its first rows has a first level that hides it, but a first loss
 * that does not. */
static void test_lost_at_once(void **state)
{
    (void)state;
    static struct seismo_row rows[N];

    falling(rows, 0.5, N, 1);
    features_run(rows, other);
    const float *well = other[N - 1];
    assert_float_equal(well[FEATURE_LOSS_START], -1, 0.1);
    assert_true(well[FEATURE_LOSS_WORST] < 0.1f);
    assert_float_equal(well[FEATURE_LOSS_START_GAIN], log(2.5 / 0.02), 0.4);
    for (int t = 1; t < N; t++)
        rows[t].value[SEISMO_LOSS] += t < 20 ? 30 : 2.7f;
    features_run(rows, other);
    assert_true(other[N - 1][FEATURE_LOSS_FIRST] < -0.5f);
    assert_true(other[N - 1][FEATURE_LOSS_START] > 1);
    assert_true(other[N - 1][FEATURE_LOSS_WORST] > 3);
    assert_true(other[N - 1][FEATURE_LOSS_START_GAIN] < 3);
}

static int float_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static void test_window_against_sorting(void **state)
{
    (void)state;
    struct window w = {0};
    float all[500];
    uint64_t seed = 6;

    for (int t = 0; t < 500; t++) {
        /* Few distinct values, so that ties are common. */
        all[t] = (float)(int)(8 * simulated_normal(&seed)) / 4;
        window_push(&w, all[t]);
        float sorted[WINDOW], away[WINDOW];
        int n = t + 1 < WINDOW ? t + 1 : WINDOW;
        memcpy(sorted, &all[t + 1 - n], (size_t)n * sizeof(*sorted));
        qsort(sorted, (size_t)n, sizeof(*sorted), float_compare);
        double median = ((double)sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
        for (int i = 0; i < n; i++)
            away[i] = (float)fabs(sorted[i] - median);
        qsort(away, (size_t)n, sizeof(*away), float_compare);
        assert_true(w.median == median);
        assert_true((float)w.mad == away[n / 2]);
        assert_true(window_valid(&w));
    }
    w.order[3] = w.order[4];
    assert_false(window_valid(&w));
}

static void test_list(void **state)
{
    (void)state;
    assert_true(sizeof(struct features) <= 1200);
    for (int i = 0; i < FEATURES_N; i++) {
        const struct feature_info *f = &feature_info[i];
        const char *hole = strstr(f->phrase, "%s");
        assert_int_equal(feature_find(f->name), i);
        assert_true(hole && !strchr(hole + 1, '%') && strchr(f->phrase, '%') == hole);
        assert_true(*f->unit && *f->invariance && *f->meaning);
        assert_non_null(feature_group_name(f->group));
    }
    assert_int_equal(feature_find("none"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_scale),
        cmocka_unit_test(test_loss_offset),
        cmocka_unit_test(test_theta_and_activation_scale),
        cmocka_unit_test(test_neither_step_nor_time_matters),
        cmocka_unit_test(test_loss_alone),
        cmocka_unit_test(test_missing_is_nan),
        cmocka_unit_test(test_nonfinite_does_not_poison),
        cmocka_unit_test(test_nonfinite_share),
        cmocka_unit_test(test_any_row),
        cmocka_unit_test(test_curvature_of_a_quadratic),
        cmocka_unit_test(test_probe_is_forgotten),
        cmocka_unit_test(test_every_tenth_step),
        cmocka_unit_test(test_white_noise),
        cmocka_unit_test(test_without_noise),
        cmocka_unit_test(test_spike_heals),
        cmocka_unit_test(test_divergence_shows),
        cmocka_unit_test(test_weighting_is_told_from_a_loss),
        cmocka_unit_test(test_lost_at_once),
        cmocka_unit_test(test_window_against_sorting),
        cmocka_unit_test(test_list),
    };

    return cmocka_run_group_tests(tests, simulate, NULL);
}
