/* What of somebody else's text is shown as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"

static const char *escape(const char *text, size_t n)
{
    static char shown[256];
    memset(shown, 'z', sizeof(shown));
    return text_escape(shown, sizeof(shown), text, n);
}

#define EXPECT(text, expected) assert_string_equal(escape(text, sizeof(text) - 1), expected)

static void test_plain_stays(void **state)
{
    (void)state;
    EXPECT("", "");
    EXPECT("gpt2-a \"quoted\" \\ 'x'; DROP TABLE runs; -- %s%n $(id) `id` ../../etc",
           "gpt2-a \"quoted\" \\ 'x'; DROP TABLE runs; -- %s%n $(id) `id` ../../etc");
    EXPECT("größe Обучение 訓練 🔥", "größe Обучение 訓練 🔥");
}

static void test_what_is_escaped(void **state)
{
    (void)state;
    EXPECT("\x1b]0;title\a\n\r\t\b\x7f", "\\x1b]0;title\\x07\\x0a\\x0d\\x09\\x08\\x7f");
    EXPECT("a\0b", "a\\x00b");
    EXPECT("\xc2\x9b"
           "31m",
           "\\xc2\\x9b31m"); /* CSI as one character */
    EXPECT("\xe2\x80\xae"
           "evil",
           "\\u{202e}evil"); /* right to left */
    EXPECT("\xe2\x81\xa6\xe2\x80\x8b\xef\xbb\xbf\xc2\xad", "\\u{2066}\\u{200b}\\u{feff}\\u{ad}");
    EXPECT("\xe2\x80\xa8\xe2\x80\xa9", "\\u{2028}\\u{2029}"); /* separators */
    EXPECT("\xf3\xa0\x81\xa1", "\\u{e0061}");                 /* a tag */
    EXPECT("\xc0\xaf\xe0\x80\xaf\xf0\x80\x80\xaf",            /* overlong / */
           "\\xc0\\xaf\\xe0\\x80\\xaf\\xf0\\x80\\x80\\xaf");
    EXPECT("\xed\xa0\x80\xf4\x90\x80\x80\xff", "\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80\\xff");
    EXPECT("cut \xe8\xa8", "cut \\xe8\\xa8");
}

/* For random bytes: what comes out is plain, valid, within its bounds, and the same when escaped
 * again but for nothing. */
static void test_random(void **state)
{
    (void)state;
    const char *given = getenv("SEISMO_TEST_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)(uintptr_t)&given;
    print_message("seed %u\n", seed);
    for (int i = 0; i < 20000; i++) {
        char text[40], shown[64], again[512];
        size_t n = (size_t)rand_r(&seed) % sizeof(text), size = 16 + (size_t)rand_r(&seed) % 48;
        for (size_t k = 0; k < n; k++)
            text[k] = (char)(rand_r(&seed) >> 5);
        memset(shown, 'z', sizeof(shown));
        text_escape(shown, size, text, n);
        size_t length = strnlen(shown, size);
        assert_true(length < size);
        for (size_t k = size; k < sizeof(shown); k++)
            assert_int_equal(shown[k], 'z');
        size_t step;
        for (size_t k = 0; k < length; k += step)
            assert_true(text_is_plain(text_char(shown + k, length - k, &step)));
        assert_string_equal(text_escape(again, sizeof(again), shown, length), shown);
    }
}

static void test_cut(void **state)
{
    (void)state;
    char shown[16];
    assert_string_equal(text_escape(shown, sizeof(shown), "123456789012", 12), "123456789012");
    assert_string_equal(text_escape(shown, sizeof(shown), "1234567890123", 13), "123456789012…");
    assert_string_equal(text_escape(shown, sizeof(shown), "12345678\n", 9), "12345678\\x0a");
    assert_string_equal(text_escape(shown, sizeof(shown), "123456789\n", 10), "123456789…");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_stays),
        cmocka_unit_test(test_what_is_escaped),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
