/* Packed rows and snapshots, as they lie in the database.
 *
 * The first byte chooses. Rows: a byte with their number, then the rows; what is accepted is
 * packed again into the same bytes, and cut anywhere it is refused. A snapshot: restored into a
 * detector, it must be refused, or give the same bytes again and score rows. */
#include <math.h>
#include <string.h>

#include "daemon/archive/pack.h"
#include "models/detector.h"
#include "models/model.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/small_model.h"

static struct model *model;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    char errmsg[SEISMO_ERRMSG];
    int err =
        model_parse(SMALL_MODEL("small"), strlen(SMALL_MODEL("small")), "small", &model, errmsg);
    FUZZ_CHECK(err == 0, "%s", errmsg);
    return 0;
}

/* The number of rows when all is accepted, else -1. */
static int unpack(const uint8_t *data, size_t bytes, uint32_t n, uint8_t *again)
{
    struct pack_cursor c;
    struct pack_row row;
    char errmsg[SEISMO_ERRMSG];
    int64_t last = -1;
    size_t used = 0;
    int rows = 0, err;
    pack_cursor_init(&c, data, bytes, n);
    while ((err = pack_next(&c, &row, errmsg)) == 0) {
        FUZZ_CHECK(row.row.step > last, "steps go back");
        last = row.row.step;
        used += pack_row(again + used, &row.row, row.score, row.curvature);
        for (int i = 0; i < SEISMO_N_VALUES; i++)
            FUZZ_CHECK(row_has(&row.row, (enum seismo_value)i) || row.row.value[i] == 0.0F,
                       "a value that is absent");
        rows++;
    }
    if (err == SEISMO_EEOF) {
        FUZZ_CHECK(used == bytes && (uint32_t)rows == n, "%zu bytes of %zu", used, bytes);
        FUZZ_CHECK(bytes == 0 || memcmp(again, data, bytes) == 0, "packed again, the bytes differ");
        return rows;
    }
    FUZZ_CHECK(err == SEISMO_ECORRUPT, "error %d", err);
    fuzz_check_errmsg(errmsg, sizeof errmsg);
    return -1;
}

static void try_rows(const uint8_t *data, size_t bytes, uint32_t n)
{
    uint8_t *again = malloc((size_t)n * PACK_MAX + 1);
    int rows = unpack(data, bytes, n, again);
    if (rows > 0) {
        FUZZ_CHECK(unpack(data, bytes, n - 1, again) < 0, "a row too many was accepted");
        /* In memory of exactly its size, so that a sanitizer sees a read past the end. */
        uint8_t *cut = malloc(bytes - 1);
        memcpy(cut, data, bytes - 1);
        FUZZ_CHECK(unpack(cut, bytes - 1, n, again) < 0, "a byte too few was accepted");
        free(cut);
    }
    free(again);
}

static void try_snapshot(const uint8_t *data, size_t n)
{
    struct detector d;
    struct detector_result result;
    uint8_t again[DETECTOR_SNAPSHOT_MAX];
    int err = detector_restore(&d, model, data, n);
    FUZZ_CHECK(err == 0 || err == SEISMO_EVERSION || err == SEISMO_ECORRUPT, "error %d", err);
    if (err != 0)
        return;
    FUZZ_CHECK(detector_snapshot(&d, model, again) == n && memcmp(again, data, n) == 0,
               "the snapshot of what was restored differs");
    for (int i = 0; i < 64; i++) {
        struct seismo_row row = {.step = d.step + 1, .time = NAN};
        if (d.step == INT64_MAX)
            break;
        row_set(&row, SEISMO_LOSS, i % 9 ? 1.0 / (i + 1) : (double)INFINITY);
        row_set(&row, SEISMO_GRAD_NORM, i % 7 ? i : (double)NAN);
        detector_step(&d, model, &row, &result);
        FUZZ_CHECK(result.score >= 0.0F && result.score <= 1.0F, "score %g", (double)result.score);
    }
}

/* The checksum stops nearly every mutation. So that what is behind it is reached, the input is also
 * taken as changes (offset, byte) to a state that then gets a checksum which is right. */
static void try_patched(const uint8_t *data, size_t n)
{
    struct detector d;
    struct detector_result result;
    uint8_t bytes[sizeof d], snapshot[DETECTOR_SNAPSHOT_MAX];
    detector_init(&d);
    for (int i = 0; i < 40; i++) {
        struct seismo_row row = {.step = i, .time = NAN};
        row_set(&row, SEISMO_LOSS, 2.0 / (i + 1));
        detector_step(&d, model, &row, &result);
    }
    memcpy(bytes, &d, sizeof bytes);
    for (; n >= 3; data += 3, n -= 3)
        bytes[(data[0] << 8 | data[1]) % sizeof bytes] = data[2];
    memcpy(&d, bytes, sizeof bytes);
    size_t size = detector_snapshot(&d, model, snapshot);
    try_snapshot(snapshot, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    if (data[0] < 0x80)
        try_rows(data + 2, n - 2, data[0] == 0 ? data[1] : data[1] % 8u);
    else if (data[0] < 0xc0)
        try_snapshot(data + 1, n - 1);
    else
        try_patched(data + 1, n - 1);
    return 0;
}
