/* Packed rows: bit-exact there and back, and nothing damaged is believed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/archive/pack.h"

static uint64_t seed;

static uint32_t rnd(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}

static int set_seed(void **state)
{
    (void)state;
    const char *given = getenv("SEISMO_SEED");
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    print_message("SEISMO_SEED=%llu\n", (unsigned long long)seed);
    return 0;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Any bits at all: NaN payloads, infinities and subnormal numbers among them. */
static struct pack_row random_row(int64_t step)
{
    struct pack_row r = {.row = {.step = step}};
    uint64_t time = (uint64_t)rnd() << 32 | rnd();
    memcpy(&r.row.time, &time, sizeof time);
    r.row.present = rnd() & ((1u << SEISMO_N_VALUES) - 1);
    for (int i = 0; i < SEISMO_N_VALUES; i++) {
        if (r.row.present >> i & 1u) {
            r.row.value[i] = float_of(rnd());
        }
    }
    r.score = float_of(rnd());
    r.curvature = float_of(rnd());
    return r;
}

static void rows_come_back_bit_for_bit(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        static uint8_t bytes[64 * PACK_MAX];
        struct pack_row rows[64];
        uint32_t n = rnd() % 64 + 1;
        size_t size = 0;
        int64_t step = rnd() % 3;
        for (uint32_t i = 0; i < n; i++, step += 1 + rnd() % 5) {
            rows[i] = random_row(step);
            size_t one = pack_row(bytes + size, &rows[i].row, rows[i].score, rows[i].curvature);
            assert_int_equal(one, PACK_HEAD + 4 * (size_t)__builtin_popcount(rows[i].row.present));
            size += one;
        }
        assert_int_equal(pack_first_step(bytes), rows[0].row.step);
        struct pack_cursor c;
        struct pack_row got;
        char errmsg[SEISMO_ERRMSG];
        pack_cursor_init(&c, bytes, size, n);
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(pack_next(&c, &got, errmsg), 0);
            assert_memory_equal(&got, &rows[i], sizeof got);
        }
        assert_int_equal(pack_next(&c, &got, errmsg), SEISMO_EEOF);
        assert_int_equal(pack_next(&c, &got, errmsg), SEISMO_EEOF);
    }
}

/* The layout is a file format, so its bytes are spelled out once. */
static void layout_is_little_endian_without_padding(void **state)
{
    (void)state;
    struct seismo_row row = {.step = 0x0102030405060708, .time = 1.0};
    row_set(&row, SEISMO_LOSS, 1.0);
    row_set(&row, SEISMO_VAL_ACC, 2.0);
    static const uint8_t expected[] = {
        8,    7, 6, 5, 4, 3,    2, 1, 0,    0,    0, 0, 0,    0,    0xf0, 0x3f, 1, 0,
        0x80, 0, 0, 0, 0, 0x3f, 0, 0, 0x80, 0xbf, 0, 0, 0x80, 0x3f, 0,    0,    0, 0x40,
    };
    uint8_t bytes[PACK_MAX];
    assert_int_equal(pack_row(bytes, &row, 0.5f, -1.0f), sizeof expected);
    assert_memory_equal(bytes, expected, sizeof expected);
}

static int decode(const uint8_t *bytes, size_t size, uint32_t n)
{
    /* A copy of exactly this size, so that a sanitizer sees every read beyond the end. */
    uint8_t *copy = malloc(size ? size : 1);
    if (size) {
        memcpy(copy, bytes, size);
    }
    struct pack_cursor c;
    struct pack_row row;
    char errmsg[SEISMO_ERRMSG] = "";
    pack_cursor_init(&c, copy, size, n);
    int err;
    while ((err = pack_next(&c, &row, errmsg)) == 0) {
        assert_true(row.row.step >= 0);
        assert_int_equal(row.row.present >> SEISMO_N_VALUES, 0);
    }
    if (err != SEISMO_EEOF) {
        assert_int_equal(err, SEISMO_ECORRUPT);
        assert_non_null(strstr(errmsg, "after step"));
    }
    free(copy);
    return err;
}

static void damage_is_found(void **state)
{
    (void)state;
    uint8_t bytes[3 * PACK_MAX];
    size_t size = 0, at[4] = {0};
    for (int i = 0; i < 3; i++) {
        struct pack_row r = random_row(10 + i);
        size += pack_row(bytes + size, &r.row, r.score, r.curvature);
        at[i + 1] = size;
    }
    assert_int_equal(decode(bytes, size, 3), SEISMO_EEOF);
    for (size_t cut = 0; cut < size; cut++) {
        assert_int_equal(decode(bytes, cut, 3), SEISMO_ECORRUPT);
    }
    assert_int_equal(decode(bytes, size, 2), SEISMO_ECORRUPT); /* bytes after the last row */
    assert_int_equal(decode(bytes, size, 4), SEISMO_ECORRUPT);
    assert_int_equal(decode(NULL, 0, 0), SEISMO_EEOF);

    uint8_t bad[sizeof bytes];
    memcpy(bad, bytes, size);
    bad[at[1]] = 10; /* the step of the row before */
    assert_int_equal(decode(bad, size, 3), SEISMO_ECORRUPT);
    memcpy(bad, bytes, size);
    bad[at[1] + 7] = 0x80; /* a negative step */
    assert_int_equal(decode(bad, size, 3), SEISMO_ECORRUPT);
    memcpy(bad, bytes, size);
    bad[at[1] + 19] = 1; /* a field that does not exist */
    assert_int_equal(decode(bad, size, 3), SEISMO_ECORRUPT);
}

static void noise_is_survived(void **state)
{
    (void)state;
    for (int round = 0; round < 20000; round++) {
        uint8_t noise[160];
        size_t size = rnd() % sizeof noise;
        for (size_t i = 0; i < size; i++) {
            noise[i] = rnd() % 3 ? 0 : (uint8_t)rnd();
        }
        decode(noise, size, rnd() % 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_bit_for_bit),
        cmocka_unit_test(layout_is_little_endian_without_padding),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(noise_is_survived),
    };
    return cmocka_run_group_tests_name("pack", tests, set_seed, NULL);
}
