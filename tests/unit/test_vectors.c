/* The golden messages of proto/vectors, through decoder and encoder. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/trace.h"
#include "proto/wire.h"
#include "tests/unit/wire_whole.h"

#define VECTORS SEISMO_SOURCE_ROOT "/proto/vectors/vectors.json"

struct vector {
    const char *name;
    const json_t *object;
    const json_t *message; /* NULL: must be refused */
    uint8_t *data;
    size_t n;
    struct wire_layout layout; /* empty without fields */
};

static json_t *vectors;

static const char *string_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (text == NULL)
        fail_msg("a vector lacks the string \"%s\"", key);
    return text;
}

static int64_t integer_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("a vector lacks the integer \"%s\"", key);
    return json_integer_value(value);
}

static size_t from_hex(const char *hex, uint8_t *ret)
{
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            fail_msg("not hexadecimal: %s", hex);
        ret[i] = (uint8_t)byte;
    }
    return n;
}

static struct wire_layout layout_of(const json_t *fields)
{
    struct wire_layout layout = {0};
    size_t i;
    const json_t *field;
    json_array_foreach (fields, i, field) {
        const char *name = json_string_value(field);
        int position = seismo_field_find(name, (uint32_t)strlen(name));
        assert_true(position >= 0);
        layout.position[layout.n++] = (uint8_t)position;
    }
    return layout;
}

static struct vector vector_of(const json_t *object)
{
    struct vector v = {.name = string_of(object, "name"),
                       .object = object,
                       .message = json_object_get(object, "message"),
                       .layout = layout_of(json_object_get(object, "fields"))};
    const char *hex = string_of(object, "hex");
    v.data = malloc(strlen(hex) / 2 + 1);
    assert_non_null(v.data);
    v.n = from_hex(hex, v.data);
    return v;
}

static struct wire_str str_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_string(value));
    return (struct wire_str){json_string_value(value), (uint32_t)json_string_length(value)};
}

static void assert_str(const struct vector *v, const char *key, struct wire_str got)
{
    struct wire_str want = str_of(v->message, key);
    if (want.n != got.n || memcmp(want.p, got.p, got.n) != 0)
        fail_msg("%s: %s is \"%.*s\", not \"%.*s\"", v->name, key, (int)got.n, got.p, (int)want.n,
                 want.p);
}

static void assert_integer(const struct vector *v, const char *key, uint64_t got)
{
    int64_t want = integer_of(v->message, key);
    if ((uint64_t)want != got)
        fail_msg("%s: %s is %llu, not %lld", v->name, key, (unsigned long long)got,
                 (long long)want);
}

static void assert_optional(const struct vector *v, const char *key, bool has, uint64_t got)
{
    assert_int_equal(has, !json_is_null(json_object_get(v->message, key)));
    if (has)
        assert_integer(v, key, got);
}

static void check_hello(const struct vector *v, const struct wire_hello *h)
{
    uint8_t session[SEISMO_MAX_SESSION];
    size_t n = from_hex(string_of(v->message, "session"), session);
    struct wire_layout layout = layout_of(json_object_get(v->message, "fields"));
    assert_integer(v, "version", h->version);
    assert_str(v, "run", h->run);
    assert_str(v, "program", h->program);
    assert_int_equal(n, h->session.n);
    assert_memory_equal(session, h->session.p, n);
    assert_integer(v, "rank", h->rank);
    assert_integer(v, "world", h->world);
    assert_int_equal(layout.n, h->layout.n);
    assert_memory_equal(layout.position, h->layout.position, layout.n);
    assert_str(v, "meta", h->meta);
    json_t *next = json_object_get(v->message, "next"); /* left out when HELLO lacks it */
    assert_int_equal(json_integer_value(next), h->next);
}

/* Equal to the bit, but that any NaN is as good as any other. */
static bool same_double(double a, double b)
{
    return isnan(a) ? isnan(b) : memcmp(&a, &b, sizeof a) == 0;
}

static void check_row(const struct vector *v, const json_t *want_json, const struct seismo_row *got)
{
    struct seismo_row want;
    char errmsg[SEISMO_ERRMSG];
    if (trace_row_from_json(want_json, &want, errmsg) != 0)
        fail_msg("%s: %s", v->name, errmsg);
    assert_int_equal(want.step, got->step);
    assert_true(same_double(want.time, got->time));
    assert_int_equal(want.present, got->present);
    for (int i = 0; i < SEISMO_N_VALUES; i++) {
        if (!same_double((double)want.value[i], (double)got->value[i]))
            fail_msg("%s: %s is %.9g, not %.9g", v->name,
                     seismo_field_name(SEISMO_FIELD_VALUE0 + i), (double)got->value[i],
                     (double)want.value[i]);
    }
}

static void check_steps(const struct vector *v, const struct wire_steps *s)
{
    const json_t *rows = json_object_get(v->message, "rows");
    assert_integer(v, "batch", s->batch);
    assert_int_equal(json_array_size(rows), s->n);
    struct wire_rows cursor = s->rows;
    char errmsg[SEISMO_ERRMSG];
    for (uint32_t i = 0; i < s->n; i++) {
        struct seismo_row row;
        assert_int_equal(wire_next_row(&cursor, &v->layout, &row, errmsg), 0);
        check_row(v, json_array_get(rows, i), &row);
    }
}

static void check_ack(const struct vector *v, const struct wire_ack *a)
{
    const json_t *verdicts = json_object_get(v->message, "verdicts");
    assert_integer(v, "batch", a->batch);
    assert_optional(v, "last_step", a->has_step, (uint64_t)a->last_step);
    assert_int_equal(json_array_size(verdicts), a->n);
    struct wire_rows cursor = a->cursor;
    char errmsg[SEISMO_ERRMSG];
    for (uint32_t i = 0; i < a->n; i++) {
        struct wire_str text;
        const json_t *want = json_array_get(verdicts, i);
        assert_int_equal(wire_next_text(&cursor, &text, errmsg), 0);
        assert_int_equal(text.n, json_string_length(want));
        assert_memory_equal(text.p, json_string_value(want), text.n);
    }
}

static void check_welcome(const struct vector *v, const struct wire_welcome *w)
{
    assert_integer(v, "version", w->version);
    assert_str(v, "run", w->run);
    assert_integer(v, "last_batch", w->last_batch);
    assert_optional(v, "last_step", w->has_step, (uint64_t)w->last_step);
    assert_integer(v, "max_rows", w->max_rows);
    assert_integer(v, "max_bytes", w->max_bytes);
    assert_integer(v, "max_unacked", w->max_unacked);
    assert_integer(v, "probe_every", w->probe_every);
}

static void check_message(const struct vector *v, const struct wire_msg *msg)
{
    static const char *const outcomes[] = {"finished", "failed", "aborted"};
    const char *type = string_of(v->message, "type");
    switch (msg->type) {
    case WIRE_HELLO:
        assert_string_equal(type, "HELLO");
        check_hello(v, &msg->hello);
        break;
    case WIRE_STEPS:
        assert_string_equal(type, "STEPS");
        check_steps(v, &msg->steps);
        break;
    case WIRE_BYE:
        assert_string_equal(type, "BYE");
        assert_integer(v, "batch", msg->bye.batch);
        assert_string_equal(string_of(v->message, "outcome"), outcomes[msg->bye.outcome]);
        assert_str(v, "text", msg->bye.text);
        break;
    case WIRE_QUERY:
        assert_string_equal(type, "QUERY");
        assert_integer(v, "id", msg->query.id);
        assert_str(v, "method", msg->query.method);
        assert_str(v, "params", msg->query.params);
        break;
    case WIRE_WELCOME:
        assert_string_equal(type, "WELCOME");
        check_welcome(v, &msg->welcome);
        break;
    case WIRE_ACK:
        assert_string_equal(type, "ACK");
        check_ack(v, &msg->ack);
        break;
    case WIRE_ERROR:
        assert_string_equal(type, "ERROR");
        assert_str(v, "code", msg->error.code);
        assert_str(v, "text", msg->error.text);
        assert_str(v, "hint", msg->error.hint);
        assert_optional(v, "ref", msg->error.has_ref, msg->error.ref);
        break;
    case WIRE_REPLY:
        assert_string_equal(type, "REPLY");
        assert_integer(v, "id", msg->reply.id);
        assert_str(v, "body", msg->reply.body);
        break;
    case WIRE_PING:
        assert_string_equal(type, "PING");
        break;
    }
}

static void encode(struct wire_buf *b, const struct vector *v, const struct wire_msg *msg)
{
    char errmsg[SEISMO_ERRMSG];
    struct wire_rows rows;
    struct wire_str text;
    struct seismo_row row;
    switch (msg->type) {
    case WIRE_HELLO:
        wire_put_hello(b, &msg->hello);
        break;
    case WIRE_STEPS:
        wire_put_steps_head(b, msg->steps.batch, msg->steps.n);
        rows = msg->steps.rows;
        while (wire_next_row(&rows, &v->layout, &row, errmsg) == 0)
            wire_put_row(b, &v->layout, &row);
        break;
    case WIRE_BYE:
        wire_put_bye(b, &msg->bye);
        break;
    case WIRE_QUERY:
        wire_put_query(b, &msg->query);
        break;
    case WIRE_WELCOME:
        wire_put_welcome(b, &msg->welcome);
        break;
    case WIRE_ACK:
        wire_put_ack_head(b, msg->ack.batch, msg->ack.has_step, msg->ack.last_step, msg->ack.n);
        rows = msg->ack.cursor;
        while (wire_next_text(&rows, &text, errmsg) == 0)
            wire_put_text(b, text.p, text.n);
        break;
    case WIRE_ERROR:
        wire_put_error(b, &msg->error);
        break;
    case WIRE_REPLY:
        wire_put_reply(b, msg->reply.id, msg->reply.body.p, msg->reply.body.n);
        break;
    case WIRE_PING:
        wire_put_ping(b);
        break;
    }
}

/* The encoder writes measurements as float32, so of STEPS it makes the other canonical form. */
static bool encoder_makes(const struct vector *v)
{
    bool steps = strcmp(string_of(v->message, "type"), "STEPS") == 0;
    bool floats = json_object_get(v->object, "canonical_float32") != NULL;
    bool canonical = json_object_get(v->object, "canonical") != NULL;
    bool empty = steps && json_array_size(json_object_get(v->message, "rows")) == 0;
    return steps && !empty ? floats : canonical;
}

static void for_each(void (*check)(const struct vector *, unsigned *), unsigned at_least)
{
    unsigned count = 0;
    size_t i;
    const json_t *object;
    json_array_foreach (vectors, i, object) {
        struct vector v = vector_of(object);
        check(&v, &count);
        free(v.data);
    }
    /* Nobody notices when a list of vectors shrinks to nothing, unless somebody counts. */
    assert_true(count >= at_least);
}

static void check_valid(const struct vector *v, unsigned *count)
{
    if (v->message == NULL)
        return;
    struct wire_msg msg;
    void *copy = NULL;
    char errmsg[SEISMO_ERRMSG];
    if (wire_whole(v->data, v->n, &v->layout, &msg, &copy, errmsg) != 0)
        fail_msg("%s: refused: %s", v->name, errmsg);
    check_message(v, &msg);
    free(copy);
    ++*count;
}

static void check_prefixes(const struct vector *v, unsigned *count)
{
    if (v->message == NULL)
        return;
    for (size_t n = 0; n < v->n; n++) {
        struct wire_msg msg;
        void *copy = NULL;
        char errmsg[SEISMO_ERRMSG];
        int err = wire_whole(v->data, n, &v->layout, &msg, &copy, errmsg);
        if (err != SEISMO_EMALFORMED)
            fail_msg("%s: %zu bytes of %zu: %s", v->name, n, v->n, seismo_strerror(err));
        ++*count;
    }
}

static void check_invalid(const struct vector *v, unsigned *count)
{
    if (v->message != NULL)
        return;
    struct wire_msg msg;
    void *copy = NULL;
    char errmsg[SEISMO_ERRMSG] = "";
    int err = wire_whole(v->data, v->n, &v->layout, &msg, &copy, errmsg);
    if (err == 0)
        fail_msg("%s: accepted", v->name);
    if (strcmp(seismo_errname(err), string_of(v->object, "error")) != 0)
        fail_msg("%s: refused as %s, not %s: %s", v->name, seismo_errname(err),
                 string_of(v->object, "error"), errmsg);
    unsigned place;
    if (sscanf(errmsg, "byte %u: ", &place) != 1 && sscanf(errmsg, "row %u of ", &place) != 1)
        fail_msg("%s: the error does not say where: %s", v->name, errmsg);
    ++*count;
}

static void check_encoder(const struct vector *v, unsigned *count)
{
    if (v->message == NULL || !encoder_makes(v))
        return;
    struct wire_msg msg;
    void *copy = NULL;
    char errmsg[SEISMO_ERRMSG];
    assert_int_equal(wire_whole(v->data, v->n, &v->layout, &msg, &copy, errmsg), 0);
    uint8_t *data = malloc(v->n);
    assert_non_null(data);
    struct wire_buf b = {.data = data, .cap = v->n};
    encode(&b, v, &msg);
    if (b.overflow || b.n != v->n || memcmp(b.data, v->data, v->n) != 0)
        fail_msg("%s: the encoder makes other bytes", v->name);
    /* One byte less does not fit, whatever is put when. */
    b = (struct wire_buf){.data = data, .cap = v->n - 1};
    encode(&b, v, &msg);
    assert_true(b.overflow);
    free(data);
    free(copy);
    ++*count;
}

static void test_valid(void **state)
{
    (void)state;
    for_each(check_valid, 50);
}

static void test_prefixes(void **state)
{
    (void)state;
    for_each(check_prefixes, 5000);
}

static void test_invalid(void **state)
{
    (void)state;
    for_each(check_invalid, 150);
}

static void test_encoder(void **state)
{
    (void)state;
    for_each(check_encoder, 25);
}

/* Every type of message has a vector that is read and written. */
static void test_types(void **state)
{
    (void)state;
    static const char *const types[] = {"HELLO", "STEPS", "BYE",   "QUERY", "WELCOME",
                                        "ACK",   "ERROR", "REPLY", "PING"};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        unsigned found = 0;
        size_t i;
        const json_t *object;
        json_array_foreach (vectors, i, object) {
            struct vector v = vector_of(object);
            if (v.message != NULL && strcmp(string_of(v.message, "type"), types[t]) == 0)
                found += encoder_makes(&v);
            free(v.data);
        }
        assert_true(found > 0);
    }
}

static int load(void **state)
{
    (void)state;
    json_error_t error;
    vectors = json_load_file(VECTORS, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_array(vectors)) {
        fprintf(stderr, "%s:%d: %s\n", VECTORS, error.line, error.text);
        return -1;
    }
    return 0;
}

static int unload(void **state)
{
    (void)state;
    json_decref(vectors);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),   cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_invalid), cmocka_unit_test(test_encoder),
        cmocka_unit_test(test_types),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
