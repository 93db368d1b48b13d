/* Model files: what a good one says and that no bad one does harm. That scores equal libxgboost's
 * bit for bit is shown by tests/python/test_forest.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "models/model.h"
#include "tests/unit/simulated.h"
#include "tests/unit/small_model.h"

static const char two_heads[] = SMALL_HEADS("small");
static const char good[] = SMALL_MODEL("small");

static struct model *parse(const char *text)
{
    struct model *m = NULL;
    char errmsg[SEISMO_ERRMSG] = "";

    if (model_parse(text, strlen(text), "small", &m, errmsg))
        fail_msg("%s", errmsg);
    return m;
}

static void test_scores(void **state)
{
    (void)state;
    struct model *m = parse(good);
    const struct {
        float x[2], margin;
    } rows[] = {
        {{0, 0}, -3},        {{0.5f, 0}, 3},         {{0.49f, 0.99f}, -3},         {{7, 1}, 3.5f},
        {{NAN, NAN}, -2.5f}, {{NAN, -INFINITY}, -3}, {{INFINITY, INFINITY}, 3.5f},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        float margin;
        double parts[2];
        forest_margin(m->alarm[0].head.forest, rows[i].x, &margin);
        assert_true(margin == rows[i].margin);
        double bias = forest_attribute(m->alarm[0].head.forest, rows[i].x, 0, parts);
        assert_float_equal(bias, -1.5 + 0.125, 1e-6);
        assert_float_equal(bias + parts[0] + parts[1], margin, 1e-6);
        assert_true(model_margin(&m->alarm[0].head, rows[i].x) == 1.5f * margin - 0.25f);
    }
    assert_float_equal(model_score(model_margin(&m->alarm[0].head, rows[1].x)),
                       1 / (1 + exp(-4.25)), 1e-6);
    model_free(&m);
    assert_null(m);
    model_free(&m);
}

static void test_describe(void **state)
{
    (void)state;
    struct model *m = parse(good), *other = parse(SMALL_MODEL("other"));
    json_t *about = model_describe(m);
    json_t *head = json_object_get(json_object_get(about, "heads"), "instability");

    assert_string_equal(model_name(m), "small");
    assert_true(model_id(m) != model_id(other));
    assert_string_equal(json_string_value(json_object_get(about, "name")), "small");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(head, "booster"), "trees")),
                     2);
    assert_float_equal(json_number_value(json_object_get(head, "threshold")), 0.9, 1e-6);
    assert_non_null(json_object_get(about, "training"));
    json_decref(about);
    model_free(&m);
    model_free(&other);
}

/* A head of a later version is kept in the description and otherwise left alone. */
static void test_further_head(void **state)
{
    (void)state;
    char text[sizeof(good) + 64];
    const char *at = strstr(good, "\"heads\":{") + strlen("\"heads\":{");

    snprintf(text, sizeof(text), "%.*s\"novelty\":{\"booster\":{\"a\":1},\"b\":2},%s",
             (int)(at - good), good, at);
    struct model *m = parse(text);
    json_t *about = model_describe(m);
    json_t *head = json_object_get(json_object_get(about, "heads"), "novelty");
    assert_null(json_object_get(head, "booster"));
    assert_int_equal(json_integer_value(json_object_get(head, "b")), 2);
    json_decref(about);
    model_free(&m);
}

/* Of format 2: what is wrong in the list of heads. */
static void test_heads_refused(void **state)
{
    (void)state;
    static const struct {
        const char *find, *put, *told;
    } cases[] = {
        {"\"needs\":[]", "\"needs\":[\"loss\"]", "instability[0].needs is not a list of no fields"},
        {"\"needs\":[\"grad_norm\"]", "\"needs\":[]", "instability[1].needs is not a list of one"},
        {"\"needs\":[\"grad_norm\"]", "\"needs\":[\"step\"]", "needs[0] (step) is no field"},
        {"\"needs\":[\"grad_norm\"]", "\"needs\":[1]", "needs[0] (not a string) is no field"},
        {"\"needs\":[\"grad_norm\"],\"booster\"", "\"needs\":[\"grad_norm\"],\"b\"",
         "heads.instability[1].booster"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char text[sizeof(two_heads) + 64], errmsg[SEISMO_ERRMSG] = "";
        const char *at = strstr(two_heads, cases[i].find);
        struct model *m = NULL;
        assert_non_null(at);
        snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - two_heads), two_heads, cases[i].put,
                 at + strlen(cases[i].find));
        int err = model_parse(text, strlen(text), "small", &m, errmsg);
        if (err != SEISMO_EMALFORMED || m || !strstr(errmsg, cases[i].told))
            fail_msg("case %zu (%s): error %d, \"%s\"", i, cases[i].put, err, errmsg);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *find, *put;
        int err;
        const char *told;
    } cases[] = {
        {"{\"format\":1", "[", SEISMO_EMALFORMED, "line 1, column"},
        {"\"format\":1", "\"format\":3", SEISMO_EVERSION, "format is not 1 to 2"},
        {"\"format\":1", "\"format\":2", SEISMO_EMALFORMED, "not a list of 1 to 4 heads"},
        {"\"name\":\"small\"", "\"name\":\"\"", SEISMO_EMALFORMED, "name"},
        {"\"created\":\"2024-06-07\"", "\"created\":1", SEISMO_EMALFORMED, "created"},
        {"\"feature_version\":3", "\"feature_version\":0", SEISMO_EVERSION, "feature_version"},
        {"loss_above_first", "loss_of_faith", SEISMO_EMALFORMED, "features[0] (loss_of_faith)"},
        {"grad_jump", "loss_above_first", SEISMO_EMALFORMED, "listed twice"},
        {",\"grad_jump\"", "", SEISMO_EMALFORMED, "2 columns, but the model lists 1"},
        {"\"instability\"", "\"instabil\"", SEISMO_EMALFORMED, "heads.instability is missing"},
        {"\"slope\":1.5", "\"slope\":-1", SEISMO_EMALFORMED, "calibration.slope"},
        {"\"intercept\":-0.25", "\"intercept\":\"0\"", SEISMO_EMALFORMED, "calibration.intercept"},
        {"\"0.05\":0.5", "\"0.05\":2", SEISMO_EMALFORMED, "budgets[\"0.05\"]"},
        {"\"default_budget\":\"0.01\"", "\"default_budget\":\"1\"", SEISMO_EMALFORMED,
         "default_budget"},
        {"\"exit\":0.2", "\"exit\":0.6", SEISMO_EMALFORMED, "exit (0.6) <= warning (0.5)"},
        {"\"warning\":0.5", "\"warning\":0.95", SEISMO_EMALFORMED, "threshold (0.9)"},
        {"\"confirm\":2", "\"lasting\":{\"confirm\":0,\"budgets\":{\"0.01\":0.6}},\"confirm\":2",
         SEISMO_EMALFORMED, "heads.instability.lasting.confirm"},
        {"\"confirm\":2", "\"lasting\":{\"confirm\":9,\"budgets\":{\"0.1\":0.6}},\"confirm\":2",
         SEISMO_EMALFORMED, "heads.instability.lasting: default_budget"},
        {"\"confirm\":2", "\"lasting\":{\"confirm\":9,\"budgets\":{\"0.01\":0.1}},\"confirm\":2",
         SEISMO_EMALFORMED, "between exit (0.2) and the threshold (0.9)"},
        {"\"confirm\":2", "\"confirm\":0", SEISMO_EMALFORMED, "heads.instability.confirm"},
        {"\"exit_confirm\":5", "\"exit_confirm\":2.5", SEISMO_EMALFORMED, "exit_confirm"},
        {"\"warmup\":12", "\"warmup\":70000", SEISMO_EMALFORMED, "warmup"},
        {"\"data\"]", "\"date\"]", SEISMO_EMALFORMED, "heads.fault.classes[1] (date)"},
        {"\"data\"]", "\"data\",\"numerics\"]", SEISMO_EMALFORMED, "`classes` 3"},
        {"multi:softprob", "multi:softmax", SEISMO_EMALFORMED, "heads.fault.booster: objective"},
        {"\"split_indices\":[1", "\"split_indices\":[2", SEISMO_EMALFORMED,
         "small: heads.instability.booster: tree 1: node 0: feature"},
        {"\"num_trees\":\"2\"", "\"num_trees\":\"5000\"", SEISMO_ETOOBIG, "at most 4096"},
        {"\"version\":[1", "\"version\":[3", SEISMO_EVERSION, "XGBoost 1.x"},
        {"\"version\":[1", "\"name\":1,\"name\":2,\"version\":[1", SEISMO_EMALFORMED, "duplicate"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char text[sizeof(good) + 64], errmsg[SEISMO_ERRMSG] = "";
        const char *at = strstr(good, cases[i].find);
        struct model *m = NULL;
        assert_non_null(at);
        snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good), good, cases[i].put,
                 at + strlen(cases[i].find));
        int err = model_parse(text, strlen(text), "small", &m, errmsg);
        if (err != cases[i].err || m || !strstr(errmsg, cases[i].told))
            fail_msg("case %zu (%s): error %d, \"%s\"", i, cases[i].put, err, errmsg);
    }
}

/* Whatever a damaged file holds: it is refused with a text, or it is a model that scores. */
static void try_bytes(const char *bytes, size_t n, int *loaded)
{
    struct model *m = NULL;
    char errmsg[SEISMO_ERRMSG] = "";
    const float x[FEATURES_N] = {1, NAN, -1};
    double parts[FEATURES_N];

    if (model_parse(bytes, n, "damaged", &m, errmsg)) {
        assert_null(m);
        assert_true(strlen(errmsg) > 10 && strlen(errmsg) < SEISMO_ERRMSG);
        return;
    }
    float score = model_score(model_margin(&m->alarm[0].head, x));
    assert_true(score >= 0 && score <= 1);
    forest_attribute(m->alarm[0].head.forest, x, 0, parts);
    json_decref(model_describe(m));
    model_free(&m);
    (*loaded)++;
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    int loaded = 0;

    for (size_t n = 0; n < strlen(good); n++) {
        char *cut = malloc(n + 1); /* its own allocation: reading past the end is seen */
        memcpy(cut, good, n);
        try_bytes(cut, n, &loaded);
        free(cut);
    }
    assert_int_equal(loaded, 0);
}

static void test_mutated(void **state)
{
    (void)state;
    const char *given = getenv("SEISMO_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 20240608;
    static const char pieces[] = "0123456789-+.eE\"[]{},: \\null\xff\x00";
    int loaded = 0;

    print_message("seed %llu (SEISMO_SEED)\n", (unsigned long long)seed);
    for (int i = 0; i < 10000; i++) {
        size_t n = strlen(good);
        char *bytes = malloc(n);
        memcpy(bytes, good, n);
        int changes = 1 + (int)(3 * simulated_uniform(&seed));
        for (int c = 0; c < changes; c++) {
            size_t at = (size_t)((double)n * simulated_uniform(&seed));
            /* Digits for digits most of the time, so that many files get past the parser. */
            bool digit = bytes[at] >= '0' && bytes[at] <= '9' && simulated_uniform(&seed) < 0.8;
            double pick = simulated_uniform(&seed);
            bytes[at] = digit ? (char)('0' + (int)(10 * pick))
                              : pieces[(size_t)(pick * (sizeof(pieces) - 1))];
        }
        try_bytes(bytes, n, &loaded);
        free(bytes);
    }
    print_message("%d of 10000 mutated files are still models\n", loaded);
    assert_in_range(loaded, 100, 9900);
}

static void test_files(void **state)
{
    (void)state;
    struct model *m = NULL;
    char errmsg[SEISMO_ERRMSG];

    assert_int_equal(model_load("/nonexistent/model.json", &m, errmsg), SEISMO_ENOTFOUND);
    assert_non_null(strstr(errmsg, "/nonexistent/model.json"));
    assert_int_equal(model_load("/", &m, errmsg), SEISMO_EIO);
    assert_int_equal(model_load("/dev/zero", &m, errmsg), SEISMO_ETOOBIG);
    assert_null(m);
}

/* The built-in model is the file in the source tree. */
static void test_builtin(void **state)
{
    (void)state;
    struct model *file = NULL;
    char errmsg[SEISMO_ERRMSG] = "";
    struct model *builtin = model_builtin(errmsg);

    if (!builtin)
        fail_msg("%s", errmsg);
    int err = model_load(SEISMO_SOURCE_ROOT "/models/seismo.model.json", &file, errmsg);
    assert_int_equal(err, 0);
    assert_true(model_id(file) == model_id(builtin));
    model_free(&file);
    model_free(&builtin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores),       cmocka_unit_test(test_describe),
        cmocka_unit_test(test_further_head), cmocka_unit_test(test_heads_refused),
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_mutated),      cmocka_unit_test(test_files),
        cmocka_unit_test(test_builtin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
