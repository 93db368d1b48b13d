/* The model loader. A model that is accepted scores rows: its walk has no checks of its own, so
 * whatever the loader lets through is run here. */
#include <math.h>
#include <string.h>

#include "models/model.h"
#include "tests/fuzz/fuzz.h"

static void make_row(int i, struct seismo_row *ret)
{
    static const double odd[] = {0.0,        -1.0, 1e-38, 1e38, (double)INFINITY, (double)-INFINITY,
                                 (double)NAN};
    *ret = (struct seismo_row){.step = i, .time = NAN};
    row_set(ret, SEISMO_LOSS, i % 5 == 4 ? odd[i / 5 % 7] : 3.0 / (i + 1));
    /* One field after the other, so that each instability head is in charge of some rows. */
    for (int v = SEISMO_LR; v < SEISMO_N_VALUES && v < i; v++) {
        if ((i + v) % 3 != 0)
            row_set(ret, (enum seismo_value)v, (i + v) % 11 == 0 ? odd[(i + v) % 7] : 0.1 * i + v);
    }
}

static void run(const struct model *m)
{
    struct detector d;
    struct detector_result result;
    detector_init(&d);
    for (int i = 0; i < 60; i++) {
        struct seismo_row row;
        make_row(i, &row);
        detector_step(&d, m, &row, &result);
        FUZZ_CHECK(result.score >= 0.0F && result.score <= 1.0F, "score %g", (double)result.score);
        FUZZ_CHECK(result.n_verdicts <= DETECTOR_MAX_VERDICTS, "%d verdicts", result.n_verdicts);
    }
    struct verdict_reason reason[FEATURES_N];
    float bias, margin;
    int n = detector_explain(&d, m, reason, FEATURES_N, &bias, &margin);
    FUZZ_CHECK(n >= 0 && n <= FEATURES_N, "%d reasons", n);
    uint8_t snapshot[DETECTOR_SNAPSHOT_MAX];
    size_t size = detector_snapshot(&d, m, snapshot);
    FUZZ_CHECK(detector_restore(&d, m, snapshot, size) == 0, "the snapshot is refused");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model *m = NULL;
    char errmsg[SEISMO_ERRMSG];
    int err = model_parse((const char *)data, n, "model", &m, errmsg);
    if (err != 0) {
        FUZZ_CHECK(m == NULL, "an error, and a model");
        FUZZ_CHECK(err == SEISMO_EMALFORMED || err == SEISMO_ETOOBIG || err == SEISMO_EVERSION,
                   "error %d", err);
        fuzz_check_errmsg(errmsg, sizeof errmsg);
        return 0;
    }
    run(m);
    json_t *about = model_describe(m);
    FUZZ_CHECK(json_is_object(about), "no description");
    json_decref(about);
    model_free(&m);
    return 0;
}
