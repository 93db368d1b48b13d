/* Memory that runs out under proto/ and models/: at every allocation in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <unistd.h>
#include <zlib.h>

#include "models/model.h"
#include "proto/json_text.h"
#include "proto/trace.h"
#include "proto/wire.h"
#include "tests/unit/fail_alloc.h"
#include "tests/unit/small_model.h"

static const char small[] = SMALL_MODEL("small");
static char plain_path[64], gzip_path[64], model_path[64];

/* Every failure is called by its name, so that nobody looks for a damaged file. */
static void out_of_memory(const char *what, const struct fail_result *result)
{
    if (result->err != SEISMO_ENOMEM || strstr(result->errmsg, "memory") == NULL)
        fail_msg("%s: memory is out, and it says %d: %s", what, result->err, result->errmsg);
}

static void write_file(char path[64], const char *text, bool gzip)
{
    snprintf(path, 64, "/tmp/seismo-nomem-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    gzFile file = gzdopen(fd, gzip ? "wb" : "wbT");
    assert_int_equal(gzwrite(file, text, (unsigned)strlen(text)), strlen(text));
    assert_int_equal(gzclose(file), Z_OK);
}

static int set_up(void **state)
{
    static const char trace[] =
        "{\"run\": \"a\", \"program\": \"b\", \"params\": {\"lr\": 0.5}}\n"
        "{\"step\": 0, \"time\": 1.5, \"loss\": 1, \"grad_norm\": \"inf\"}\n"
        "{\"step\": 1, \"loss\": 0.5, \"extra\": [1, 2]}\n";
    (void)state;
    json_text_init();
    write_file(plain_path, trace, false);
    write_file(gzip_path, trace, true);
    write_file(model_path, small, false);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(plain_path);
    unlink(gzip_path);
    unlink(model_path);
    return 0;
}

/* ---- proto ---- */

static void read_trace(const char *path, struct fail_result *ret)
{
    struct trace_reader *reader = NULL;
    struct seismo_row row;
    ret->err = trace_reader_new(path, &reader, ret->errmsg);
    if (ret->err != 0)
        return;
    int rows = 0;
    while ((ret->err = trace_reader_next(reader, &row, ret->errmsg)) == 0)
        rows++;
    if (ret->err == SEISMO_EEOF) {
        assert_int_equal(rows, 2);
        ret->err = 0;
    }
    trace_reader_free(&reader);
}

static void read_plain(struct fail_result *ret)
{
    read_trace(plain_path, ret);
}

static void read_gzip(struct fail_result *ret)
{
    read_trace(gzip_path, ret);
}

static void test_trace(void **state)
{
    (void)state;
    assert_true(fail_each("plain trace", 0, read_plain, out_of_memory) > 20);
    assert_true(fail_each("gzip trace", 0, read_gzip, out_of_memory) > 20);
}

static void row_json(struct fail_result *ret)
{
    struct seismo_row row = {.step = 3, .time = 5};
    row_set(&row, SEISMO_LOSS, 1);
    row_set(&row, SEISMO_LR, (double)INFINITY);
    json_t *object = trace_row_json(&row);
    if (object == NULL) {
        ret->err = SEISMO_ENOMEM;
        snprintf(ret->errmsg, sizeof ret->errmsg, "memory");
    } else {
        assert_int_equal(json_object_size(object), 4);
    }
    json_decref(object);
}

static void test_row_json(void **state)
{
    (void)state;
    assert_true(fail_each("row as JSON", 0, row_json, out_of_memory) > 5);
}

/* What a text is lacking and what memory is lacking are told apart, for the text and for good. */
static void json(struct fail_result *ret)
{
    static const char text[] = "{\"a\": [1, \"b\"]}";
    bool no_memory = true;
    json_text_init();
    json_t *value = json_text(text, sizeof text - 1, 0, NULL, &no_memory);
    assert_int_equal(value == NULL, no_memory);
    assert_int_equal(json_text_lost(), no_memory);
    if (no_memory) {
        ret->err = SEISMO_ENOMEM;
        snprintf(ret->errmsg, sizeof ret->errmsg, "memory");
    }
    json_decref(value);
}

static void test_json(void **state)
{
    bool no_memory = true;
    (void)state;
    assert_true(fail_each("JSON", 0, json, out_of_memory) > 5);
    json_text_init();
    assert_null(json_text("{\"a\": [1,", 9, 0, NULL, &no_memory));
    assert_false(no_memory);
    assert_false(json_text_lost());
}

/* All messages; only HELLO's metadata takes memory. */
static void wire(struct fail_result *ret)
{
    static const char meta[] = "{\"a\": [1, {\"b\": \"c\"}]}";
    uint8_t data[1024];
    struct wire_msg m;
    struct wire_buf b = {.data = data, .cap = sizeof data};
    struct wire_hello hello = {.version = SEISMO_PROTOCOL_VERSION,
                               .run = {"run", 3},
                               .program = {"p", 1},
                               .session = {"s", 1},
                               .world = 1,
                               .meta = {meta, sizeof meta - 1}};
    wire_layout_all(&hello.layout);
    wire_put_hello(&b, &hello);
    assert_false(b.overflow);
    ret->err = wire_decode(data, b.n, &m, ret->errmsg);
    if (ret->err != 0)
        return;
    struct seismo_row row = {.step = 1}, again;
    row_set(&row, SEISMO_LOSS, 1);
    b.n = 0;
    wire_put_steps_head(&b, 1, 1);
    wire_put_row(&b, &hello.layout, &row);
    assert_int_equal(wire_decode(data, b.n, &m, ret->errmsg), 0);
    assert_int_equal(wire_next_row(&m.steps.rows, &hello.layout, &again, ret->errmsg), 0);
    b.n = 0;
    wire_put_reply(&b, 1, meta, sizeof meta - 1);
    assert_int_equal(wire_decode(data, b.n, &m, ret->errmsg), 0);
}

static void test_wire(void **state)
{
    (void)state;
    assert_true(fail_each("wire", 0, wire, out_of_memory) > 5);
}

/* ---- models ---- */

static void use(struct model *m, struct fail_result *ret)
{
    struct detector d;
    struct detector_result result;
    struct seismo_row row = {.step = 1};
    row_set(&row, SEISMO_LOSS, 1);
    detector_init(&d);
    detector_step(&d, m, &row, &result);
    json_t *about = model_describe(m);
    if (about == NULL) {
        ret->err = SEISMO_ENOMEM;
        snprintf(ret->errmsg, sizeof ret->errmsg, "memory");
    }
    json_decref(about);
    model_free(&m);
}

static void parse(struct fail_result *ret)
{
    struct model *m = NULL;
    ret->err = model_parse(small, strlen(small), "small", &m, ret->errmsg);
    if (ret->err == 0)
        use(m, ret);
}

static void load(struct fail_result *ret)
{
    struct model *m = NULL;
    ret->err = model_load(model_path, &m, ret->errmsg);
    if (ret->err == 0)
        use(m, ret);
}

static void builtin(struct fail_result *ret)
{
    struct model *m = model_builtin(ret->errmsg);
    if (m == NULL)
        ret->err = SEISMO_ENOMEM;
    else
        use(m, ret);
}

static void test_model(void **state)
{
    (void)state;
    assert_true(fail_each("model", 0, parse, out_of_memory) > 100);
    assert_true(fail_each("model file", 0, load, out_of_memory) > 100);
    assert_true(fail_each("built-in model", 10, builtin, out_of_memory) > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_trace),
                                       cmocka_unit_test(test_row_json), cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_wire), cmocka_unit_test(test_model)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
