#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "models/judge.h"
#include "models/reason.h"
#include "tests/unit/simulated.h"

static const struct judge_rules rules = {
    .warning = 0.5f, .threshold = 0.8f, .exit = 0.2f, .confirm = 2, .exit_confirm = 3, .warmup = 4};

/* Plays scores, one character a row, and writes what was said: '.' nothing, 'h' healthy,
 * 'w' unstable warning, 'C' unstable critical. Scores: 0 low, 3 between exit and warning, 6 between
 * warning and threshold, 9 above the threshold, N a row that is not finite, ? score unknown. */
static const char *play(const char *scores)
{
    static char said[256];
    struct judge j;
    size_t n = strlen(scores);

    judge_init(&j);
    for (size_t i = 0; i < n; i++) {
        char c = scores[i];
        float score = c == '?' ? NAN : c == 'N' ? 0.3f : (float)(c - '0') / 10;
        bool changed = judge_push(&j, &rules, (int64_t)i * 10, score, c == 'N');
        said[i] = !changed                         ? '.'
                  : j.state == STATE_HEALTHY       ? 'h'
                  : j.severity == SEVERITY_WARNING ? 'w'
                                                   : 'C';
        if (changed)
            assert_int_equal(j.since, i * 10);
        assert_true((j.state == STATE_UNSTABLE) == (j.severity != SEVERITY_INFO));
    }
    said[n] = 0;
    return said;
}

static void test_states(void **state)
{
    (void)state;
    const char *const cases[][2] = {
        {"00000000", "....h..."},
        {"0000006600000000", "....h..w..h....."}, /* sustained warning, resolved once */
        {"00000060606060", "....h........."},     /* one row is no evidence */
        {"0000009000909000", "....h..........."}, /* nor are single critical ones */
        {"000000990000", "....h..C..h."},         /* straight to critical */
        {"000000699000", "....h..wC..h"},         /* warning, then critical */
        {"000000669900", "....h..w.C.."},
        {"0000009933333300300000", "....h..C...........h.."}, /* between the levels: stays */
        {"0000009966666699", "....h..C........"}, /* falls back to the warning level: stays */
        {"9900000000", ".C..h....."},             /* blow-up while warming up */
        {"6666666", "....w.."},                   /* a warning waits for the warm-up */
        {"00????00", "....h..."},
        {"0000009??0000", "....h........"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_string_equal(play(cases[i][0]), cases[i][1]);
}

static void test_nonfinite(void **state)
{
    (void)state;
    const char *const cases[][2] = {
        {"000000N0000", "....h.w..h."}, /* one is a warning, and resolves */
        {"000000NN0000", "....h.w...h."},
        {"000000NNNNN", "....h.w.C.."},             /* three in a row are critical */
        {"000000NNNN0000", "....h.w.C...h."},       /* a finite loss resolves, with hysteresis */
        {"000000N0N0N0N00N0", "....h.w.........."}, /* coming and going: one warning */
        {"N000000", "w..h..."},
        {"NNNN", "w.C."},                   /* from the first row on */
        {"00000099NN000", "....h..C....h"}, /* no second verdict for the same state */
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_string_equal(play(cases[i][0]), cases[i][1]);
}

/* Whatever comes: verdicts alternate between entering and leaving, and none is repeated. */
static void test_never_flaps(void **state)
{
    (void)state;
    struct judge j;
    uint64_t seed = 8;
    int last_state = STATE_WARMING_UP, last_severity = SEVERITY_INFO, last = -100;

    judge_init(&j);
    for (int t = 0; t < 100000; t++) {
        bool bad = simulated_uniform(&seed) < 0.01;
        bool changed = judge_push(&j, &rules, t, (float)simulated_uniform(&seed), bad);
        assert_true(changed == (j.state != last_state || j.severity != last_severity));
        if (changed && j.state == STATE_HEALTHY && last_state == STATE_UNSTABLE)
            assert_true(t - last >= rules.exit_confirm);
        if (changed)
            last = t;
        last_state = j.state;
        last_severity = j.severity;
    }
}

static void test_reasons(void **state)
{
    (void)state;
    struct verdict_reason r;

    reason_feature(&r, FEATURE_LOSS_BEST_NOISE, 14.2f, 0.4f, 412, 1.5f);
    assert_string_equal(r.text, "smoothed loss is 14.2 noise widths above its best (usually 0.4), "
                                "since step 412");
    assert_string_equal(r.feature, "loss_above_best_noise");
    assert_true(r.value == 14.2f && r.contribution == 1.5f);
    reason_feature(&r, FEATURE_GRAD_JUMP, logf(250), 0, -1, 1);
    assert_string_equal(r.text, "gradient norm is 250 times its recent median (usually 1)");
    reason_feature(&r, FEATURE_LOSS_SPIKES, 0.125f, NAN, 7, 1);
    assert_string_equal(r.text, "12.5 % of recent steps are loss spikes, since step 7");
    reason_feature(&r, FEATURE_LOSS_JUMP, 1000, -2000, -1, 1);
    assert_string_equal(r.text, "loss moved by 1000 noise widths in one step (usually -2000)");
    reason_feature(&r, FEATURE_ACT_DEAD, NAN, 0.5f, 7, -0.1f);
    assert_string_equal(r.text, "act_dead is not known");
    reason_rule(&r, "loss", NAN, "%s", "NaN");
    assert_true(r.contribution == 0);
    for (int i = 0; i < FEATURES_N; i++) {
        /* The longest that can come of any phrase still fits. */
        reason_feature(&r, (enum feature)i, -1.23e-20f, -9.87e-20f, INT64_MAX, 1);
        assert_non_null(strstr(r.text, "since step 9223372036854775807"));
    }
}

static void test_json(void **state)
{
    (void)state;
    struct verdict v = {.step = 412,
                        .time = 1717766400.25,
                        .state = STATE_UNSTABLE,
                        .severity = SEVERITY_CRITICAL,
                        .score = 0.1f,
                        .threshold = 0.85f,
                        .fault = FAULT_LR,
                        .n_reasons = 3};

    v.fault_p[FAULT_LR] = 0.75f;
    v.fault_p[FAULT_DATA] = 0.25f;
    reason_rule(&v.reason[0], "loss", INFINITY, "first");
    reason_rule(&v.reason[1], "param_norm", -INFINITY, "second");
    reason_rule(&v.reason[2], "update_norm", NAN, "third");
    json_t *object = verdict_json(&v, "gpt2-a", "train \"x\".py");
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(15));
    assert_string_equal(
        text,
        "{\"run\":\"gpt2-a\",\"program\":\"train \\\"x\\\".py\",\"step\":412,"
        "\"time\":1717766400.25,\"state\":\"unstable\",\"severity\":\"critical\",\"score\":0.1,"
        "\"threshold\":0.85,\"fault\":{\"class\":\"learning_rate\",\"distribution\":{"
        "\"learning_rate\":0.75,\"data\":0.25}},\"reasons\":[{\"feature\":\"loss\",\"value\":"
        "\"inf\",\"contribution\":0.0,\"text\":\"first\"},{\"feature\":\"param_norm\",\"value\":"
        "\"-inf\",\"contribution\":0.0,\"text\":\"second\"},{\"feature\":\"update_norm\","
        "\"value\":null,\"contribution\":0.0,\"text\":\"third\"}]}");
    free(text);
    json_decref(object);

    struct verdict silent = {.step = 7,
                             .time = NAN,
                             .state = STATE_SILENT,
                             .severity = SEVERITY_WARNING,
                             .score = NAN,
                             .threshold = NAN};
    object = verdict_json(&silent, "a", "b");
    assert_true(json_is_null(json_object_get(object, "time")));
    assert_true(json_is_null(json_object_get(object, "score")));
    assert_true(json_is_null(json_object_get(object, "threshold")));
    assert_int_equal(json_array_size(json_object_get(object, "reasons")), 0);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(object, "fault"), "class")), "unknown");
    json_decref(object);
}

/* Every float32 comes back from the document as it was. */
static void test_json_numbers_read_back(void **state)
{
    (void)state;
    uint64_t seed = 9;

    for (int i = 0; i < 10000; i++) {
        struct verdict v = {.time = NAN, .threshold = NAN};
        uint32_t bits = (uint32_t)(simulated_uniform(&seed) * 4294967296.0);
        memcpy(&v.score, &bits, sizeof(v.score));
        json_t *object = verdict_json(&v, "a", "b");
        char *text = json_dumps(object, JSON_REAL_PRECISION(15));
        json_t *back = json_loads(text, 0, NULL), *score = json_object_get(back, "score");
        if (isfinite(v.score))
            assert_true((float)json_real_value(score) == v.score);
        else
            assert_true(isnan(v.score) ? json_is_null(score) : json_is_string(score));
        json_decref(back);
        free(text);
        json_decref(object);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states),      cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_never_flaps), cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_json),        cmocka_unit_test(test_json_numbers_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
