/* Text made fit for a terminal, its width, and tables of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/table.h"

static void assert_escaped(const char *text, const char *wanted)
{
    char *escaped = term_escape(text);

    assert_non_null(escaped);
    assert_string_equal(escaped, wanted);
    free(escaped);
}

static void test_escape(void **state)
{
    (void)state;
    assert_escaped("", "");
    assert_escaped("plain text, 100 %", "plain text, 100 %");
    assert_escaped("é 日本 😀", "é 日本 😀");
    assert_escaped("\033[2J\a\n\r\t\177", "\\x1b[2J\\x07\\x0a\\x0d\\x09\\x7f");
    assert_escaped("\xc2\x9b"
                   "31m",
                   "\\xc2\\x9b31m");                            /* CSI as one C1 control */
    assert_escaped("a\xff\xc3", "a\\xff\\xc3");                 /* never valid; cut short */
    assert_escaped("\xc0\xaf", "\\xc0\\xaf");                   /* '/' in too many bytes */
    assert_escaped("\xed\xa0\x80", "\\xed\\xa0\\x80");          /* half of a surrogate pair */
    assert_escaped("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"); /* beyond U+10FFFF */
    assert_escaped("ab\u202e"
                   "cd\u2066\u2028",
                   "ab\\u{202e}cd\\u{2066}\\u{2028}");
}

static void test_columns(void **state)
{
    (void)state;
    assert_int_equal(term_columns(""), 0);
    assert_int_equal(term_columns("abc"), 3);
    assert_int_equal(term_columns("é…"), 2);
    assert_int_equal(term_columns("日本"), 4);
    assert_int_equal(term_columns("e\u0301"), 1); /* combining accent */
    assert_int_equal(term_fit("日本x", 3), strlen("日"));
    assert_int_equal(term_fit("日本x", 5), strlen("日本x"));
    assert_int_equal(term_fit("abc", 0), 0);
}

/* What a table looks like on the given terminal. */
static char *written(const struct table *t, const struct term *term)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    assert_non_null(f);
    table_write(t, term, f);
    fclose(f);
    return text;
}

static const char *const head[] = {"NAME", ">N", "END", NULL};

static void test_table(void **state)
{
    const struct term pipe = {.utf8 = true, .width = 80};
    struct table *t = table_new(head);
    char *text;

    (void)state;
    table_cell(t, COLOUR_RED, "日本");
    table_print(t, "%d", 7);
    table_cell(t, COLOUR_NONE, "a\nb");
    table_cell(t, COLOUR_NONE, "x");
    table_print(t, "%d", 1234);
    table_cell(t, COLOUR_NONE, "");
    text = written(t, &pipe);
    assert_string_equal(text, "NAME     N  END\n"
                              "日本     7  a\\x0ab\n"
                              "x     1234  \n");
    free(text);
    table_free(&t);
    assert_null(t);
}

static void test_table_is_cut_on_a_terminal_only(void **state)
{
    const struct term tty = {.tty = true, .utf8 = true, .width = 20}, pipe = {.width = 20};
    struct table *t = table_new(head);
    char *text;

    (void)state;
    table_cell(t, COLOUR_NONE, "a name of thirty characters xx");
    table_cell(t, COLOUR_NONE, "1");
    table_cell(t, COLOUR_NONE, "end");
    text = written(t, &tty);
    assert_string_equal(text, "NAME          N  END\n"
                              "a name of t…  1  end\n");
    free(text);
    text = written(t, &pipe);
    assert_non_null(strstr(text, "a name of thirty characters xx  1  end\n"));
    free(text);
    table_free(&t);
}

static void test_colour(void **state)
{
    const struct term colour = {.tty = true, .colour = true, .utf8 = true, .width = 80};
    const struct term none = {.tty = true, .utf8 = true, .width = 80};

    (void)state;
    assert_string_equal(term_on(&colour, COLOUR_RED), "\033[31m");
    assert_string_equal(term_off(&colour, COLOUR_RED), "\033[0m");
    assert_string_equal(term_on(&colour, COLOUR_NONE), "");
    assert_string_equal(term_off(&colour, COLOUR_NONE), "");
    assert_string_equal(term_on(&none, COLOUR_RED), "");
    assert_string_equal(term_off(&none, COLOUR_RED), "");
}

static int setup(void **state)
{
    struct term t;

    (void)state;
    term_init(&t, stdout); /* for the locale that widths depend on */
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escape), cmocka_unit_test(test_columns),
        cmocka_unit_test(test_table),  cmocka_unit_test(test_table_is_cut_on_a_terminal_only),
        cmocka_unit_test(test_colour),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
