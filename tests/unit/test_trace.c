/* Recorded traces: what is read back is what was written, and what is damaged is said to be. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "proto/trace.h"

#define HEADER "{\"run\": \"r\", \"program\": \"p.py\", \"seed\": 3}\n"

static char directory[] = "/tmp/seismo-trace-XXXXXX";
static char path[64];
static char errmsg[SEISMO_ERRMSG];

static void write_bytes(const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void write_text(const char *text)
{
    write_bytes(text, strlen(text));
}

/* Reads all of the file at `path`; returns the error that ended it, 0 at a proper end. */
static int read_all(unsigned *ret_rows, struct seismo_row *ret_last)
{
    struct trace_reader *reader = NULL;
    struct seismo_row row;
    *ret_rows = 0;
    errmsg[0] = '\0';
    int err = trace_reader_new(path, &reader, errmsg);
    if (err != 0) {
        assert_null(reader);
        return err;
    }
    while ((err = trace_reader_next(reader, &row, errmsg)) == 0) {
        ++*ret_rows;
        *ret_last = row;
    }
    trace_reader_free(&reader);
    assert_null(reader);
    return err == SEISMO_EEOF ? 0 : err;
}

static struct seismo_row read_one(const char *line)
{
    char text[512];
    unsigned rows;
    struct seismo_row row;
    snprintf(text, sizeof text, HEADER "%s\n", line);
    write_text(text);
    if (read_all(&rows, &row) != 0)
        fail_msg("%s", errmsg);
    assert_int_equal(rows, 1);
    return row;
}

static void expect_refusal(const char *text, int want, unsigned want_rows, const char *words)
{
    unsigned rows;
    struct seismo_row row;
    char all[512];
    write_text(text);
    int err = read_all(&rows, &row);
    if (err != want)
        fail_msg("%s: %s instead of %s: %s", text, seismo_strerror(err), seismo_strerror(want),
                 errmsg);
    assert_int_equal(rows, want_rows);
    snprintf(all, sizeof all, "%s:%s", path, words);
    if (strncmp(errmsg, all, strlen(all)) != 0)
        fail_msg("\"%s\" does not begin with \"%s\"", errmsg, all);
}

static void test_header(void **state)
{
    (void)state;
    struct trace_reader *reader;
    write_text(HEADER);
    assert_int_equal(trace_reader_new(path, &reader, errmsg), 0);
    const json_t *header = trace_reader_header(reader);
    assert_string_equal(json_string_value(json_object_get(header, "run")), "r");
    assert_int_equal(json_integer_value(json_object_get(header, "seed")), 3);
    struct seismo_row row;
    assert_int_equal(trace_reader_next(reader, &row, errmsg), SEISMO_EEOF);
    assert_int_equal(trace_reader_next(reader, &row, errmsg), SEISMO_EEOF);
    assert_true(trace_reader_progress(reader) == 1);
    trace_reader_free(&reader);
    trace_reader_free(&reader); /* a second time does no harm */

    expect_refusal("", SEISMO_EMALFORMED, 0, "1: the file is empty");
    expect_refusal("\n\n", SEISMO_EMALFORMED, 0, "3: the file is empty");
    expect_refusal("{\"step\": 1, \"loss\": 2}\n", SEISMO_EMALFORMED, 0,
                   "1: the header lacks \"run\"");
    expect_refusal("{\"run\": \"r\"}\n", SEISMO_EMALFORMED, 0, "1: the header lacks \"program\"");
    expect_refusal("{\"run\": 7, \"program\": \"p\"}\n", SEISMO_EMALFORMED, 0,
                   "1: \"run\" must be a string");
    expect_refusal("{\"run\": \"\", \"program\": \"p\"}\n", SEISMO_EMALFORMED, 0,
                   "1: \"run\" must have 1 to 128 bytes");
    expect_refusal("{\"run\": \"a\\u001bb\", \"program\": \"p\"}\n", SEISMO_EMALFORMED, 0,
                   "1: \"run\" must have 1 to 128 bytes and no control characters");
    expect_refusal("[]\n", SEISMO_EMALFORMED, 0, "1: the line must be a JSON object");
    expect_refusal("step,loss\n1,2\n", SEISMO_EMALFORMED, 0, "1: the line is not JSON");
}

static void test_rows(void **state)
{
    (void)state;
    struct seismo_row row = read_one("{\"step\": 7, \"loss\": 0.1, \"unknown\": [1]}");
    assert_int_equal(row.step, 7);
    assert_true(isnan(row.time));
    assert_int_equal(row.present, 1u << SEISMO_LOSS);
    assert_true(row.value[SEISMO_LOSS] == 0.1f);

    row = read_one("{\"step\": 0, \"time\": 1700000000.25, \"loss\": \"NaN\", \"lr\": \"-inf\","
                   " \"grad_norm\": \"INF\", \"grad_nonfinite\": 16777217, \"val_acc\": 1e300}");
    assert_true(row.time == 1700000000.25);
    assert_true(isnan(row.value[SEISMO_LOSS]));
    assert_true(row.value[SEISMO_LR] == -INFINITY);
    assert_true(row.value[SEISMO_GRAD_NORM] == INFINITY);
    assert_true(row.value[SEISMO_GRAD_NONFINITE] == 16777216.0f);
    assert_true(row.value[SEISMO_VAL_ACC] == INFINITY);

    /* Blank lines, CRLF and a last line without an end are all right; steps may go back. */
    unsigned rows;
    write_text(HEADER "\r\n{\"step\": 5, \"loss\": 1}\r\n \n{\"step\": 2, \"loss\": 3}");
    assert_int_equal(read_all(&rows, &row), 0);
    assert_int_equal(rows, 2);
    assert_int_equal(row.step, 2);
}

static void test_bad_rows(void **state)
{
    (void)state;
#define GOOD "{\"step\": 1, \"loss\": 1}\n"
    expect_refusal(HEADER GOOD "{\"loss\": 1}\n", SEISMO_EMALFORMED, 1, "3: \"step\" is missing");
    expect_refusal(HEADER "{\"step\": 1.0, \"loss\": 1}\n", SEISMO_EMALFORMED, 0,
                   "2: \"step\" must be an integer >= 0, found a real number");
    expect_refusal(HEADER "{\"step\": -1, \"loss\": 1}\n", SEISMO_EMALFORMED, 0,
                   "2: \"step\" must be an integer >= 0, found a negative one");
    expect_refusal(HEADER "{\"step\": 1}\n", SEISMO_EMALFORMED, 0, "2: \"loss\" is missing");
    expect_refusal(HEADER "{\"step\": 1, \"loss\": null}\n", SEISMO_EMALFORMED, 0,
                   "2: \"loss\" must be a number, \"nan\", \"inf\" or \"-inf\", found null (leave");
    expect_refusal(HEADER "{\"step\": 1, \"loss\": true}\n", SEISMO_EMALFORMED, 0,
                   "2: \"loss\" must be a number");
    expect_refusal(HEADER "{\"step\": 1, \"loss\": 1, \"lr\": \"0.1\"}\n", SEISMO_EMALFORMED, 0,
                   "2: \"lr\" must be a number");
    expect_refusal(HEADER "{\"step\": 1, \"loss\": 1, \"time\": \"nan\"}\n", SEISMO_EMALFORMED, 0,
                   "2: \"time\" must be seconds");
    expect_refusal(HEADER "{\"step\": 1, \"loss\": 1, \"loss\": 2}\n", SEISMO_EMALFORMED, 0,
                   "2: the line is not JSON");
    expect_refusal(HEADER "{\"step\": 1, \"loss\": NaN}\n", SEISMO_EMALFORMED, 0,
                   "2: NaN and Infinity are not JSON; write the strings \"nan\"");
    expect_refusal(HEADER "{\"step\": 1, \"loss\": Infinity}\n", SEISMO_EMALFORMED, 0,
                   "2: NaN and Infinity are not JSON");
    expect_refusal(HEADER "{\"step\": 1, \"loss\": -Infinity}\n", SEISMO_EMALFORMED, 0,
                   "2: NaN and Infinity are not JSON");
    expect_refusal(HEADER GOOD "{\"step\": 1, \"lo", SEISMO_ECORRUPT, 1,
                   "3: the last line is cut short");
    expect_refusal(HEADER "{\"step\": 1, \"lo\n" GOOD, SEISMO_EMALFORMED, 0,
                   "2: the line is not JSON from its byte");
}

static void test_goes_on(void **state)
{
    (void)state;
    struct trace_reader *reader;
    struct seismo_row row;
    write_text(HEADER "{\"step\": 1}\n{\"step\": 2, \"loss\": 1}\n");
    assert_int_equal(trace_reader_new(path, &reader, errmsg), 0);
    assert_int_equal(trace_reader_next(reader, &row, errmsg), SEISMO_EMALFORMED);
    assert_int_equal(trace_reader_next(reader, &row, errmsg), 0);
    assert_int_equal(row.step, 2);
    trace_reader_free(&reader);
}

static void test_long_lines(void **state)
{
    (void)state;
    unsigned rows;
    struct seismo_row row;
    size_t n = TRACE_MAX_LINE + 100;
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, ' ', n);
    memcpy(text, HEADER, strlen(HEADER));

    /* A line of exactly the limit is read, one of a byte more is not. */
    static const char row_text[] = "{\"step\": 3, \"loss\": 1}";
    size_t end = strlen(HEADER) + TRACE_MAX_LINE;
    memcpy(text + end - strlen(row_text), row_text, strlen(row_text));
    text[end] = '\n';
    write_bytes(text, end + 1);
    assert_int_equal(read_all(&rows, &row), 0);
    assert_int_equal(rows, 1);
    text[end] = ' ';
    text[end + 1] = '\n';
    write_bytes(text, end + 2);
    assert_int_equal(read_all(&rows, &row), SEISMO_ETOOBIG);
    assert_non_null(strstr(errmsg, ":2: the line is longer than 1048576 bytes"));
    free(text);
}

static size_t read_file(uint8_t *data, size_t cap)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(data, 1, cap, f);
    assert_int_equal(fclose(f), 0);
    return n;
}

static void test_gzip(void **state)
{
    (void)state;
    enum { ROWS = 3000 };
    gzFile gz = gzopen(path, "wb");
    assert_non_null(gz);
    gzputs(gz, HEADER);
    for (int i = 0; i < ROWS; i++)
        gzprintf(gz, "{\"step\": %d, \"loss\": %g}\n", i, sin(i));
    assert_int_equal(gzclose(gz), Z_OK);

    unsigned rows;
    struct seismo_row row;
    assert_int_equal(read_all(&rows, &row), 0);
    assert_int_equal(rows, ROWS);
    assert_int_equal(row.step, ROWS - 1);

    static uint8_t whole[1 << 18];
    size_t n = read_file(whole, sizeof whole);
    assert_true(n > 1000 && n < sizeof whole);
    unsigned before = 0;
    for (size_t cut = 200; cut < n; cut += n / 23) {
        write_bytes(whole, cut);
        assert_int_equal(read_all(&rows, &row), SEISMO_ECORRUPT);
        assert_non_null(strstr(errmsg, "the gzip data ends too early"));
        /* What came before the cut has been read. */
        assert_true(rows >= before && rows < ROWS);
        before = rows;
    }
    assert_true(before > ROWS / 2);

    whole[n - 6] ^= 1; /* the checksum at the end */
    write_bytes(whole, n);
    assert_int_equal(read_all(&rows, &row), SEISMO_ECORRUPT);
    assert_non_null(strstr(errmsg, "the gzip data is damaged"));
}

static void test_progress(void **state)
{
    (void)state;
    struct trace_reader *reader;
    struct seismo_row row;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(HEADER, f);
    for (int i = 0; i < 20000; i++)
        fprintf(f, "{\"step\": %d, \"loss\": 1}\n", i);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(trace_reader_new(path, &reader, errmsg), 0);
    double last = trace_reader_progress(reader);
    assert_true(last >= 0 && last < 0.1);
    while (trace_reader_next(reader, &row, errmsg) == 0) {
        double now = trace_reader_progress(reader);
        assert_true(now >= last && now <= 1);
        last = now;
    }
    assert_true(last == 1);
    trace_reader_free(&reader);
}

static void test_unreadable(void **state)
{
    (void)state;
    struct trace_reader *reader;
    char missing[300];
    memset(missing, 'x', sizeof missing);
    memcpy(missing, "/nowhere/", 9);
    memcpy(missing + sizeof missing - 7, ".jsonl", 6);
    missing[sizeof missing - 1] = '\0';
    assert_int_equal(trace_reader_new(missing, &reader, errmsg), SEISMO_ENOTFOUND);
    assert_non_null(strstr(errmsg, "xxx.jsonl: cannot open: No such file"));
    assert_int_equal(trace_reader_new("/nowhere/trace", &reader, errmsg), SEISMO_ENOTFOUND);
    assert_string_equal(errmsg, "/nowhere/trace: cannot open: No such file or directory");
    assert_int_equal(trace_reader_new(directory, &reader, errmsg), SEISMO_EIO);
    assert_non_null(strstr(errmsg, "Is a directory"));
}

static void test_stdin(void **state)
{
    (void)state;
    struct trace_reader *reader;
    struct seismo_row row;
    write_text(HEADER "{\"step\": 1, \"loss\": 2}\n{}\n");
    assert_non_null(freopen(path, "r", stdin));
    assert_int_equal(trace_reader_new("-", &reader, errmsg), 0);
    assert_int_equal(trace_reader_next(reader, &row, errmsg), 0);
    assert_true(trace_reader_progress(reader) == -1);
    assert_int_equal(trace_reader_next(reader, &row, errmsg), SEISMO_EMALFORMED);
    assert_non_null(strstr(errmsg, "stdin:3: "));
    trace_reader_free(&reader);
}

/* Both ways of writing a row read back as the same bits. */
static void test_round_trip(void **state)
{
    (void)state;
    static const float samples[] = {0.1f,  -0.0f, 1e-45f,   3.4028235e38f, 1.0f / 3, 16777216.0f,
                                    1e10f, NAN,   INFINITY, -INFINITY,     -1.5f,    0.0f};
    enum { N = sizeof samples / sizeof *samples };
    for (unsigned round = 0; round < 3 * N; round++) {
        struct seismo_row row = {.step = INT64_MAX - round, .time = NAN}, again;
        if (round % 3 > 0)
            row.time = round % 3 == 1 ? 1700000000.1234567 : -0.1;
        for (unsigned i = 0; i < SEISMO_N_VALUES; i++) {
            if (i == SEISMO_LOSS || (i + round) % 5 != 0)
                row_set(&row, (enum seismo_value)i, (double)samples[(i + round) % N]);
        }
        char text[TRACE_MAX_ROW];
        size_t n = trace_row_print(&row, text);
        assert_int_equal(n, strlen(text));
        json_t *printed = json_loads(text, 0, NULL), *made = trace_row_json(&row);
        char *dumped = json_dumps(made, JSON_REAL_PRECISION(17));
        json_t *loaded = json_loads(dumped, 0, NULL);
        const json_t *ways[] = {printed, made, loaded};
        for (int w = 0; w < 3; w++) {
            if (trace_row_from_json(ways[w], &again, errmsg) != 0)
                fail_msg("%s", errmsg);
            assert_int_equal(again.step, row.step);
            assert_memory_equal(&again.time, &row.time, sizeof row.time);
            assert_int_equal(again.present, row.present);
            assert_memory_equal(again.value, row.value, sizeof row.value);
        }
        json_decref(printed);
        json_decref(made);
        json_decref(loaded);
        free(dumped);
    }
}

/* The longest row there is fits the buffer. */
static void test_longest_row(void **state)
{
    (void)state;
    struct seismo_row row = {.step = INT64_MAX, .time = -1.2345678901234567e-300};
    char text[TRACE_MAX_ROW];
    for (unsigned i = 0; i < SEISMO_N_VALUES; i++)
        row_set(&row, (enum seismo_value)i, -1.23456789e-38);
    assert_true(trace_row_print(&row, text) < sizeof text);
    assert_int_equal(text[strlen(text) - 1], '}');
}

static int make_directory(void **state)
{
    (void)state;
    if (mkdtemp(directory) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/trace", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),      cmocka_unit_test(test_rows),
        cmocka_unit_test(test_bad_rows),    cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_long_lines),  cmocka_unit_test(test_gzip),
        cmocka_unit_test(test_progress),    cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_stdin),       cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_longest_row),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
