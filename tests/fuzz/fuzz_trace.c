/* The reader of recorded traces, plain and gzip.
 *
 * The first byte chooses. Even: the rest is a file as it stands, plain or gzip. Odd: the rest is
 * text, read plain and again through gzip, which must give the same rows and the same errors; with
 * the byte above 1 the gzip file is cut or damaged at a place that the byte chooses, and its rows
 * must then be the first ones of the others. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <zlib.h>

#include "proto/trace.h"
#include "proto/wire.h"
#include "tests/fuzz/memory_file.h"

#define MAX_EVENTS 4096

/* What reading a file gave: rows, refused lines (err), the end. */
struct event {
    int err;
    struct seismo_row row;
    char errmsg[SEISMO_ERRMSG];
};

struct outcome {
    bool has_header;
    int n;
    struct event event[MAX_EVENTS];
};

static struct memory_file file;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    memory_file_open(&file, "trace");
    return 0;
}

/* To the bit, for -0 is not 0; but any NaN is as good as another. */
static bool same_number(double a, double b)
{
    return isnan(a) ? isnan(b) : memcmp(&a, &b, sizeof a) == 0;
}

static bool same_row(const struct seismo_row *a, const struct seismo_row *b)
{
    if (a->step != b->step || a->present != b->present || !same_number(a->time, b->time))
        return false;
    for (int i = 0; i < SEISMO_N_VALUES; i++) {
        if (!same_number((double)a->value[i], (double)b->value[i]))
            return false;
    }
    return true;
}

/* A row that was accepted is whole, and writing it loses nothing. */
static void check_row(const struct seismo_row *row)
{
    struct seismo_row again;
    char text[TRACE_MAX_ROW], errmsg[SEISMO_ERRMSG];
    FUZZ_CHECK(row->step >= 0 && row_has(row, SEISMO_LOSS) && row->present >> SEISMO_N_VALUES == 0,
               "step %" PRId64 ", present %x", row->step, row->present);
    size_t n = trace_row_print(row, text);
    FUZZ_CHECK(n < sizeof text && n == strlen(text), "a row of %zu bytes", n);
    json_error_t error;
    json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    FUZZ_CHECK(trace_row_from_json(object, &again, errmsg) == 0, "%s: %s", text, errmsg);
    FUZZ_CHECK(same_row(row, &again), "not what was written: %s", text);
    json_decref(object);
    object = trace_row_json(row);
    FUZZ_CHECK(trace_row_from_json(object, &again, errmsg) == 0, "%s: %s", text, errmsg);
    FUZZ_CHECK(same_row(row, &again), "not what was made into JSON: %s", text);
    json_decref(object);
}

static void check_error(int err, const char *errmsg)
{
    FUZZ_CHECK(err == SEISMO_EMALFORMED || err == SEISMO_ETOOBIG || err == SEISMO_ECORRUPT,
               "error %d", err);
    fuzz_check_errmsg(errmsg, SEISMO_ERRMSG);
}

static struct event *add(struct outcome *o, int err)
{
    FUZZ_CHECK(o->n < MAX_EVENTS, "more lines than the file can have");
    struct event *e = &o->event[o->n++];
    memset(e, 0, sizeof *e);
    e->err = err;
    return e;
}

static void read_file(const uint8_t *data, size_t n, struct outcome *ret)
{
    struct trace_reader *reader = NULL;
    struct seismo_row row;
    char errmsg[SEISMO_ERRMSG];
    ret->n = 0;
    memory_file_write(&file, data, n);
    int err = trace_reader_new(file.path, &reader, errmsg);
    ret->has_header = err == 0;
    while (err == 0) {
        err = trace_reader_next(reader, &row, errmsg);
        double progress = trace_reader_progress(reader);
        FUZZ_CHECK(progress >= -1 && progress <= 1, "progress %g", progress);
        if (err == 0) {
            check_row(&row);
            add(ret, 0)->row = row;
        } else if (err == SEISMO_EMALFORMED && ret->n < MAX_EVENTS - 1) {
            check_error(err, errmsg);
            memcpy(add(ret, err)->errmsg, errmsg, strlen(errmsg));
            err = 0;
        }
    }
    if (err != SEISMO_EEOF) {
        check_error(err, errmsg);
        memcpy(add(ret, err)->errmsg, errmsg, strlen(errmsg));
    }
    trace_reader_free(&reader);
}

static size_t compress_text(const uint8_t *data, size_t n, uint8_t **ret)
{
    z_stream z = {.next_in = (uint8_t *)(uintptr_t)data, .avail_in = (unsigned)n};
    FUZZ_CHECK(deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK, "zlib");
    size_t cap = deflateBound(&z, n) + 64;
    *ret = malloc(cap);
    z.next_out = *ret;
    z.avail_out = (unsigned)cap;
    FUZZ_CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END, "zlib");
    size_t used = cap - z.avail_out;
    deflateEnd(&z);
    return used;
}

/* The first n events of both are the same. */
static void check_same(const struct outcome *a, const struct outcome *b, int n)
{
    for (int i = 0; i < n; i++) {
        const struct event *x = &a->event[i], *y = &b->event[i];
        FUZZ_CHECK(x->err == y->err, "%d: %s (%d) and %s (%d)", i, x->errmsg, x->err, y->errmsg,
                   y->err);
        FUZZ_CHECK(strcmp(x->errmsg, y->errmsg) == 0, "%s and %s", x->errmsg, y->errmsg);
        FUZZ_CHECK(x->err != 0 || same_row(&x->row, &y->row), "row %d differs", i);
    }
}

static bool is_blank(const uint8_t *line, size_t n)
{
    size_t i = 0;
    while (i < n && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r'))
        i++;
    return i == n;
}

/* The events are those of the lines that are not blank, in their order, and an error says which. */
static void check_lines(const uint8_t *data, size_t n, const struct outcome *o)
{
    int event = o->has_header ? -1 : 0;
    unsigned number = 1;
    for (size_t i = 0; i < n; number++) {
        const uint8_t *end = memchr(data + i, '\n', n - i);
        size_t length = end ? (size_t)(end - data) - i : n - i;
        if (!is_blank(data + i, length)) {
            char want[96];
            snprintf(want, sizeof want, "%s:%u: ", file.path, number);
            if (event >= 0 && event < o->n && o->event[event].err != 0)
                FUZZ_CHECK(strncmp(o->event[event].errmsg, want, strlen(want)) == 0, "line %u: %s",
                           number, o->event[event].errmsg);
            event++;
        }
        i += length + 1;
    }
    FUZZ_CHECK(!o->has_header || o->n <= event, "%d events of %d lines", o->n, event);
}

static void compare(const uint8_t *data, size_t n, unsigned damage)
{
    static struct outcome plain, packed;
    uint8_t *gzip = NULL;
    read_file(data, n, &plain);
    check_lines(data, n, &plain);
    size_t size = compress_text(data, n, &gzip);
    if (damage > 0 && damage % 2 == 0)
        size = 18 + (size - 18) * damage / 128;
    else if (damage > 0)
        gzip[10 + (size - 10) * damage / 128] ^= (uint8_t)(1u << damage % 8);
    read_file(gzip, size, &packed);
    free(gzip);
    if (damage == 0) {
        FUZZ_CHECK(plain.n == packed.n, "%d lines plain, %d through gzip", plain.n, packed.n);
        check_same(&plain, &packed, plain.n);
    } else if (damage % 2 == 0) {
        FUZZ_CHECK(packed.n > 0 && packed.event[packed.n - 1].err != 0,
                   "a file that is cut short is read to its end");
        check_same(&plain, &packed, packed.n - 1); /* the last one tells of the damage */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct outcome outcome;
    if (n < 1 || n > MAX_EVENTS)
        return 0;
    bool is_gzip = n >= 3 && data[1] == 0x1f && data[2] == 0x8b;
    if (data[0] % 2 == 0 || is_gzip)
        read_file(data + 1, n - 1, &outcome);
    else
        compare(data + 1, n - 1, data[0] / 2);
    return 0;
}
