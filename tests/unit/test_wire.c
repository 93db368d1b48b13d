/* The wire's decoder and encoder: round trips, the words of refusals, and what random damage does.
 * The golden messages are test_vectors.c's. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <msgpack.h>

#include "proto/cursor.h"
#include "proto/wire.h"
#include "tests/unit/wire_whole.h"

static uint8_t buffer[SEISMO_MAX_MESSAGE + 16];
static char errmsg[SEISMO_ERRMSG];

static struct wire_buf fresh_buf(void)
{
    return (struct wire_buf){.data = buffer, .cap = sizeof buffer};
}

static struct wire_str text_of(const char *text)
{
    return (struct wire_str){text, (uint32_t)strlen(text)};
}

/* --- random numbers ----------------------------------------------------------------------------
 */

static uint64_t random_state;

static uint64_t random_next(void)
{
    /* splitmix64 */
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t random_below(uint64_t n)
{
    return random_next() % n;
}

static void random_seed(void)
{
    const char *given = getenv("SEISMO_TEST_SEED");
    random_state = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    print_message("SEISMO_TEST_SEED=%llu\n", (unsigned long long)random_state);
}

static struct seismo_row random_row(int64_t step)
{
    struct seismo_row row = {.step = step, .time = NAN};
    if (random_below(2))
        row.time = 1.7e9 + (double)random_below(1000000) / 1024;
    for (unsigned i = 0; i < SEISMO_N_VALUES; i++) {
        uint32_t bits = (uint32_t)random_next();
        float x;
        memcpy(&x, &bits, sizeof x);
        if (i == SEISMO_LOSS || random_below(3))
            row_set(&row, (enum seismo_value)i, (double)x);
    }
    return row;
}

static bool same_rows(const struct seismo_row *a, const struct seismo_row *b)
{
    return a->step == b->step && memcmp(&a->time, &b->time, sizeof a->time) == 0 &&
           a->present == b->present && memcmp(a->value, b->value, sizeof a->value) == 0;
}

/* --- messages for the tests --------------------------------------------------------------------
 */

static struct wire_hello sample_hello(void)
{
    struct wire_hello hello = {.version = SEISMO_PROTOCOL_VERSION,
                               .run = text_of("gpt2-a"),
                               .program = text_of("train.py"),
                               .session = {"\x00\xff\x10\x80", 4},
                               .rank = 2,
                               .world = 4,
                               .meta = text_of("{\"framework\": \"torch\"}")};
    wire_layout_all(&hello.layout);
    return hello;
}

static void put_sample(struct wire_buf *b, enum wire_type type)
{
    struct wire_layout all;
    struct wire_hello hello = sample_hello();
    struct wire_bye bye = {7, WIRE_FAILED, text_of("out of memory")};
    struct wire_query query = {5, text_of("steps"), text_of("{\"run\": \"a\"}")};
    struct wire_welcome welcome = {1, text_of("a#2"), 9, true, 640, 1024, 1u << 20, 64, 10};
    struct wire_error error = {text_of("malformed"), text_of("what"), text_of("do"), true, 3};
    switch (type) {
    case WIRE_HELLO:
        wire_put_hello(b, &hello);
        break;
    case WIRE_STEPS:
        wire_layout_all(&all);
        wire_put_steps_head(b, 300, 5);
        for (int i = 0; i < 5; i++) {
            struct seismo_row row = random_row(i * 100);
            wire_put_row(b, &all, &row);
        }
        break;
    case WIRE_BYE:
        wire_put_bye(b, &bye);
        break;
    case WIRE_QUERY:
        wire_put_query(b, &query);
        break;
    case WIRE_WELCOME:
        wire_put_welcome(b, &welcome);
        break;
    case WIRE_ACK:
        wire_put_ack_head(b, 70000, true, 1ll << 40, 2);
        wire_put_text(b, "{\"state\": \"unstable\"}", 21);
        wire_put_text(b, "{}", 2);
        break;
    case WIRE_ERROR:
        wire_put_error(b, &error);
        break;
    case WIRE_REPLY:
        wire_put_reply(b, 5, "{\"schema\": 1}", 13);
        break;
    case WIRE_PING:
        wire_put_ping(b);
        break;
    }
}

static const enum wire_type types[] = {WIRE_HELLO, WIRE_STEPS, WIRE_BYE,   WIRE_QUERY, WIRE_WELCOME,
                                       WIRE_ACK,   WIRE_ERROR, WIRE_REPLY, WIRE_PING};
#define N_TYPES (sizeof types / sizeof *types)

/* --- tests -------------------------------------------------------------------------------------
 */

static void test_hello(void **state)
{
    (void)state;
    struct wire_hello hello = sample_hello();
    struct wire_buf b = fresh_buf();
    struct wire_msg msg;
    wire_put_hello(&b, &hello);
    assert_int_equal(wire_decode(b.data, b.n, &msg, errmsg), 0);
    assert_int_equal(msg.type, WIRE_HELLO);
    assert_int_equal(msg.hello.version, hello.version);
    assert_int_equal(msg.hello.session.n, 4);
    assert_memory_equal(msg.hello.session.p, hello.session.p, 4);
    assert_int_equal(msg.hello.rank, 2);
    assert_int_equal(msg.hello.world, 4);
    assert_memory_equal(&msg.hello.layout, &hello.layout, 1 + SEISMO_N_FIELDS);
    assert_memory_equal(msg.hello.meta.p, hello.meta.p, hello.meta.n);
}

static void test_rows(void **state)
{
    (void)state;
    random_seed();
    for (int round = 0; round < 200; round++) {
        /* Any layout that has step and loss, in any order; what it lacks cannot come through. */
        struct wire_layout layout;
        wire_layout_all(&layout);
        for (unsigned i = layout.n - 1; i > 0; i--) {
            unsigned j = (unsigned)random_below(i + 1);
            uint8_t swap = layout.position[i];
            layout.position[i] = layout.position[j];
            layout.position[j] = swap;
        }
        struct seismo_row rows[SEISMO_MAX_WIRE_FIELDS];
        uint32_t n = (uint32_t)random_below(64);
        struct wire_buf b = fresh_buf();
        wire_put_steps_head(&b, 1 + random_below(1u << 20), n);
        for (uint32_t i = 0; i < n; i++) {
            rows[i] = random_row((int64_t)(random_next() >> random_below(64) >> 1));
            wire_put_row(&b, &layout, &rows[i]);
        }
        assert_false(b.overflow);
        struct wire_msg msg;
        struct seismo_row row;
        assert_int_equal(wire_decode(b.data, b.n, &msg, errmsg), 0);
        assert_int_equal(msg.steps.n, n);
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(wire_next_row(&msg.steps.rows, &layout, &row, errmsg), 0);
            assert_true(same_rows(&row, &rows[i]));
        }
        assert_int_equal(wire_next_row(&msg.steps.rows, &layout, &row, errmsg), SEISMO_EEOF);
        assert_int_equal(wire_next_row(&msg.steps.rows, &layout, &row, errmsg), SEISMO_EEOF);
    }
}

/* A message of one row [step, loss], the loss as given. */
static int decode_loss(const uint8_t *loss, size_t n, float *ret)
{
    static const struct wire_layout layout = {
        2, {SEISMO_FIELD_STEP, SEISMO_FIELD_VALUE0 + SEISMO_LOSS}};
    uint8_t data[32] = {0x93, 2, 1, 0x91, 0x92, 7};
    struct wire_msg msg;
    struct seismo_row row;
    memcpy(data + 6, loss, n);
    int err = wire_decode(data, 6 + n, &msg, errmsg);
    if (err == 0)
        err = wire_next_row(&msg.steps.rows, &layout, &row, errmsg);
    if (err == 0)
        *ret = row.value[SEISMO_LOSS];
    return err;
}

static void test_rounding(void **state)
{
    (void)state;
    static const double samples[] = {0.0,       -0.0,       0.1,     1.0 / 3,      1e-50, -1e-46,
                                     1e39,      -1e300,     FLT_MAX, 3.4028236e38, NAN,   INFINITY,
                                     -INFINITY, 16777217.0, DBL_MIN, DBL_MAX};
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        uint8_t loss[9] = {0xcb};
        uint64_t bits;
        memcpy(&bits, &samples[i], sizeof bits);
        for (int k = 0; k < 8; k++)
            loss[1 + k] = (uint8_t)(bits >> (56 - 8 * k));
        float got, want = (float)samples[i];
        assert_int_equal(decode_loss(loss, 9, &got), 0);
        assert_true(isnan(want) ? isnan(got) : memcmp(&got, &want, sizeof got) == 0);
    }
}

/* Times near the largest doubles, rounded in a document, are beyond what a reader of it takes. */
static void test_times(void **state)
{
    (void)state;
    static const struct {
        double time;
        int err;
    } cases[] = {{0, 0},
                 {-1.5, 0},
                 {1e15, 0},
                 {-1e15, 0},
                 {1.1e15, SEISMO_EMALFORMED},
                 {-DBL_MAX, SEISMO_EMALFORMED},
                 {DBL_MAX, SEISMO_EMALFORMED},
                 {INFINITY, SEISMO_EMALFORMED}};
    static const struct wire_layout layout = {
        3, {SEISMO_FIELD_STEP, SEISMO_FIELD_TIME, SEISMO_FIELD_VALUE0 + SEISMO_LOSS}};
    struct wire_msg msg;
    struct seismo_row row = {.step = 1}, got;
    row_set(&row, SEISMO_LOSS, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wire_buf b = fresh_buf();
        row.time = cases[i].time;
        wire_put_steps_head(&b, 1, 1);
        wire_put_row(&b, &layout, &row);
        assert_int_equal(wire_decode(b.data, b.n, &msg, errmsg), 0);
        assert_int_equal(wire_next_row(&msg.steps.rows, &layout, &got, errmsg), cases[i].err);
        assert_true(cases[i].err || got.time == row.time);
    }
    assert_non_null(strstr(errmsg, "field time"));
    /* An integer, too: [2, 1, [[1, 2^63, 1]]] */
    static const uint8_t integer[] = "\x93\x02\x01\x91\x93\x01\xcf\x80\0\0\0\0\0\0\0\x01";
    assert_int_equal(wire_decode(integer, sizeof integer - 1, &msg, errmsg), 0);
    assert_int_equal(wire_next_row(&msg.steps.rows, &layout, &got, errmsg), SEISMO_EMALFORMED);
}

static void expect_refusal(const void *data, size_t n, int want, const char *words)
{
    struct wire_layout all;
    struct wire_msg msg;
    void *copy = NULL;
    wire_layout_all(&all);
    errmsg[0] = '\0';
    int err = wire_whole(data, n, &all, &msg, &copy, errmsg);
    if (err != want)
        fail_msg("%s instead of %s: %s", seismo_strerror(err), seismo_strerror(want), errmsg);
    if (strstr(errmsg, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", errmsg, words);
}

static void test_words(void **state)
{
    (void)state;
    struct wire_hello hello = sample_hello();
    struct wire_buf b = fresh_buf();
    hello.version = 7;
    wire_put_hello(&b, &hello);
    expect_refusal(b.data, b.n, SEISMO_EVERSION, "version 7, this side version 1");

    /* [1, {"fields": ["st\x07p"]}] */
    static const uint8_t unknown[] = "\x92\x01\x81\xa6"
                                     "fields"
                                     "\x91\xa4"
                                     "st\x07p";
    expect_refusal(unknown, sizeof unknown - 1, SEISMO_EFIELD,
                   "byte 11: field \"st\\x07p\", entry 1 of fields, is not known");

    static const struct wire_layout layout = {3,
                                              {SEISMO_FIELD_STEP, SEISMO_FIELD_VALUE0 + SEISMO_LOSS,
                                               SEISMO_FIELD_VALUE0 + SEISMO_ACT_RMS}};
    static const uint8_t bad_row[] = "\x93\x02\x01\x92\x93\x01\x02\x03\x93\x02\x03\xa1x";
    struct wire_msg msg;
    struct seismo_row row = {.step = 99};
    assert_int_equal(wire_decode(bad_row, sizeof bad_row - 1, &msg, errmsg), 0);
    assert_int_equal(wire_next_row(&msg.steps.rows, &layout, &row, errmsg), 0);
    row.step = 99;
    for (int again = 0; again < 2; again++) {
        assert_int_equal(wire_next_row(&msg.steps.rows, &layout, &row, errmsg), SEISMO_EMALFORMED);
        assert_string_equal(errmsg, "row 2 of 2, field act_rms, byte 11: a number or nil must "
                                    "stand here, found a string");
    }
    assert_int_equal(row.step, 99); /* outputs are written on success only */

    expect_refusal("\x93\x02\x01\x91\x92\x01\x02", 7, SEISMO_EMALFORMED,
                   "HELLO named 26 fields, found 2 values");
    expect_refusal("\xdd\xff\xff\xff\xff", 5, SEISMO_EMALFORMED,
                   "4294967295 entries cannot fit into the 0 bytes left");
    expect_refusal("\x91\x15\xc0", 3, SEISMO_EMALFORMED, "byte 2: 1 bytes follow");
    memset(buffer, 0xc0, sizeof buffer);
    expect_refusal(buffer, SEISMO_MAX_MESSAGE + 1, SEISMO_ETOOBIG, "at most 1048576");
}

/* However long and strange a name, what is said about it is whole, short and plain ASCII. */
static void test_quote(void **state)
{
    (void)state;
    char quoted[CURSOR_QUOTED], name[200];
    memset(name, 0xff, sizeof name);
    for (uint32_t n = 0; n <= sizeof name; n++) {
        cursor_quote((struct wire_str){name, n}, quoted);
        size_t length = strlen(quoted);
        assert_true(length >= 2 && length < sizeof quoted);
        assert_true(quoted[0] == '"' && quoted[length - 1] == '"');
        assert_int_equal(strspn(quoted, "\"\\xf."), length);
    }
    assert_string_equal(cursor_quote(text_of("a\"b"), quoted), "\"a\\x22b\"");
}

static void test_names(void **state)
{
    (void)state;
    char name[SEISMO_MAX_NAME + 1];
    memset(name, 'x', sizeof name);
    assert_true(wire_name_valid((struct wire_str){name, SEISMO_MAX_NAME}));
    assert_false(wire_name_valid((struct wire_str){name, SEISMO_MAX_NAME + 1}));
    assert_false(wire_name_valid((struct wire_str){name, 0}));
    assert_true(wire_name_valid(text_of("größe/模型 1")));
    assert_false(wire_name_valid(text_of("tab\there")));
    assert_false(wire_name_valid(text_of("\x1b[31m")));
    assert_false(wire_name_valid(text_of("\xc2\x9b"
                                         "31m")));
    assert_false(wire_name_valid(text_of("\xff")));
}

/* What fits into the buffer is written, what does not sets `overflow` and harms nothing. */
static void test_overflow(void **state)
{
    (void)state;
    for (size_t t = 0; t < N_TYPES; t++) {
        struct wire_buf whole = fresh_buf();
        random_state = 1; /* the same rows each time */
        put_sample(&whole, types[t]);
        for (size_t cap = 0; cap <= whole.n; cap++) {
            uint8_t *data = malloc(cap > 0 ? cap : 1);
            assert_non_null(data);
            struct wire_buf b = {.data = data, .cap = cap};
            random_state = 1;
            put_sample(&b, types[t]);
            assert_true(b.n <= cap);
            assert_int_equal(b.overflow, cap < whole.n);
            free(data);
        }
    }
}

/* Whether msgpack-c reads the bytes as exactly one value. */
static bool oracle_accepts(const uint8_t *data, size_t n, bool *ret_gave_up)
{
    msgpack_unpacked unpacked;
    size_t end = 0;
    msgpack_unpacked_init(&unpacked);
    msgpack_unpack_return got = msgpack_unpack_next(&unpacked, (const char *)data, n, &end);
    msgpack_unpacked_destroy(&unpacked);
    *ret_gave_up = got == MSGPACK_UNPACK_NOMEM_ERROR; /* deeper than its stack */
    return got == MSGPACK_UNPACK_SUCCESS && end == n;
}

/* The cursor takes for one value what msgpack-c takes for one, but for strings that are not UTF-8
 * and extensions, which have no place here. */
static void check_well_formed(const uint8_t *data, size_t n)
{
    struct cursor c;
    bool gave_up;
    errmsg[0] = '\0';
    cursor_init(&c, data, n, errmsg);
    bool accepted = cursor_skip(&c) && cursor_end(&c);
    assert_int_equal(accepted, c.err == 0);
    /* msgpack-c allocates what a header promises, so it is not asked where the cursor has seen that
     * the bytes cannot hold it: that is a refusal by arithmetic. */
    if (strstr(errmsg, "cannot fit") || strstr(errmsg, "UTF-8") || strstr(errmsg, "extension"))
        return;
    bool oracle = oracle_accepts(data, n, &gave_up);
    if (accepted != oracle && !gave_up) {
        for (size_t i = 0; i < n; i++)
            print_message("%02x", data[i]);
        fail_msg("\ncursor %s, msgpack-c %s: %s", accepted ? "accepts" : "refuses",
                 oracle ? "accepts" : "refuses", errmsg);
    }
}

/* Bytes that look like headers come more often than chance would have them. */
static uint8_t random_byte(void)
{
    static const uint8_t tags[] = {0x80, 0x81, 0x90, 0x91, 0x93, 0xa0, 0xa1, 0xbf, 0xc0, 0xc1,
                                   0xc2, 0xc4, 0xc5, 0xc6, 0xc7, 0xca, 0xcb, 0xcc, 0xcd, 0xce,
                                   0xcf, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd8, 0xd9, 0xda, 0xdb,
                                   0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xff, 0x7f, 0x00};
    return random_below(2) ? tags[random_below(sizeof tags)] : (uint8_t)random_next();
}

static size_t mutate(uint8_t *data, size_t n, size_t cap)
{
    for (uint64_t k = 1 + random_below(4); k > 0 && n > 0; k--) {
        size_t at = (size_t)random_below(n);
        size_t length = (size_t)random_below(n - at < 8 ? n - at : 8);
        switch (random_below(5)) {
        case 0:
            data[at] ^= (uint8_t)(1u << random_below(8));
            break;
        case 1:
            data[at] = random_byte();
            break;
        case 2: /* a piece falls out */
            memmove(data + at, data + at + length, n - at - length);
            n -= length;
            break;
        case 3: /* a piece comes twice */
            if (n + length > cap)
                break;
            memmove(data + at + length, data + at, n - at);
            n += length;
            break;
        case 4:
            n = at;
            break;
        }
    }
    return n;
}

static void test_mutations(void **state)
{
    (void)state;
    random_seed();
    struct wire_layout all;
    unsigned accepted = 0, refused = 0;
    wire_layout_all(&all);
    for (int round = 0; round < 60000; round++) {
        struct wire_buf b = {.data = buffer, .cap = 4096};
        put_sample(&b, types[random_below(N_TYPES)]);
        assert_false(b.overflow);
        size_t n = mutate(buffer, b.n, 4096);
        check_well_formed(buffer, n);

        struct wire_msg msg;
        void *copy = NULL;
        bool gave_up;
        errmsg[0] = '\0';
        int err = wire_whole(buffer, n, &all, &msg, &copy, errmsg);
        if (err == 0) {
            if (!oracle_accepts(buffer, n, &gave_up))
                assert_true(gave_up);
            free(copy);
            accepted++;
        } else {
            assert_true(err == SEISMO_EMALFORMED || err == SEISMO_ETOOBIG ||
                        err == SEISMO_EVERSION || err == SEISMO_EFIELD);
            assert_true(strlen(errmsg) > 0);
            refused++;
        }
    }
    /* Both ways are gone often, or the test tests nothing. */
    assert_true(accepted > 1000 && refused > 1000);
}

/* Random bytes against the oracle alone: there is hardly ever a message among them. */
static void test_noise(void **state)
{
    (void)state;
    random_seed();
    for (int round = 0; round < 60000; round++) {
        size_t n = 1 + (size_t)random_below(48);
        for (size_t i = 0; i < n; i++)
            buffer[i] = random_byte();
        check_well_formed(buffer, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),     cmocka_unit_test(test_rows),
        cmocka_unit_test(test_rounding),  cmocka_unit_test(test_times),
        cmocka_unit_test(test_words),     cmocka_unit_test(test_quote),
        cmocka_unit_test(test_names),     cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_mutations), cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
