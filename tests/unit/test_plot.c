/* Curves in characters: where the dots come to lie, and what has no dots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/plot.h"

enum { WIDTH = PLOT_GUTTER + 10, HEIGHT = 4 };

static const struct term ascii = {.width = 80}, utf8 = {.utf8 = true, .width = 80};

static const struct plot base = {
    .title = "loss",
    .x1 = 9,
    .y0 = NAN,
    .y1 = NAN,
    .level = NAN,
    .empty = "no finite value",
};

static char *drawn(struct plot p, const struct term *term)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    assert_non_null(f);
    plot_write(&p, WIDTH, HEIGHT, term, f);
    fclose(f);
    return text;
}

static void assert_drawn(struct plot p, const struct term *term, const char *wanted)
{
    char *text = drawn(p, term);

    assert_string_equal(text, wanted);
    free(text);
}

static const double steps[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};

static struct plot plot_of(const double *y, size_t n)
{
    struct plot p = base;

    p.x = steps;
    p.y = y;
    p.n = n;
    return p;
}

static void test_line(void **state)
{
    (void)state;
    assert_drawn(plot_of(steps, 10), &ascii,
                 "loss  last 9, lowest 0, highest 9\n"
                 "        9 |        .'\n"
                 "          |     .''  \n"
                 "          |  ..'     \n"
                 "        0 |.'        \n"
                 "          +----------\n");
    assert_drawn(plot_of(steps, 10), &utf8,
                 "loss  last 9, lowest 0, highest 9\n"
                 "        9 ┤       ⢀⠤⠊\n"
                 "          │     ⣀⠔⠁  \n"
                 "          │  ⢀⠔⠉     \n"
                 "        0 ┤⡠⠊⠁       \n"
                 "          └──────────\n");
}

static void test_constant_and_single_point(void **state)
{
    static const double same[] = {5, 5, 5, 5, 5, 5, 5, 5, 5, 5};
    struct plot one = plot_of(same, 1);

    (void)state;
    assert_drawn(plot_of(same, 10), &ascii,
                 "loss  last 5, lowest 5, highest 5\n"
                 "      5.5 |          \n"
                 "          |          \n"
                 "          |''''''''''\n"
                 "      4.5 |          \n"
                 "          +----------\n");
    one.x1 = 0;
    assert_drawn(one, &ascii,
                 "loss  last 5, lowest 5, highest 5\n"
                 "      5.5 |          \n"
                 "          |          \n"
                 "          |'         \n"
                 "      4.5 |          \n"
                 "          +----------\n");
}

static void test_nothing(void **state)
{
    static const double none[] = {NAN, NAN}, bad[] = {INFINITY, INFINITY};

    (void)state;
    assert_drawn(plot_of(none, 2), &ascii, "loss  no finite value\n");
    assert_drawn(plot_of(none, 0), &ascii, "loss  no finite value\n");
    assert_drawn(plot_of(bad, 2), &ascii,
                 "loss  no finite value\n"
                 "          |xx        \n"
                 "          |          \n"
                 "          |          \n"
                 "          |          \n"
                 "          +----------\n");
}

static void test_not_finite(void **state)
{
    static const double y[] = {1, 1, 0, 0, INFINITY, INFINITY, 0, 0, NAN, 1};

    (void)state;
    assert_drawn(plot_of(y, 10), &ascii,
                 "loss  last 1, lowest 0, highest 1\n"
                 "        1 |':  xx   :\n"
                 "          | :      : \n"
                 "          |  :     : \n"
                 "        0 |  :.  .:  \n"
                 "          +----------\n");
}

static void test_logarithm(void **state)
{
    static const double y[] = {1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1e3, 1e4, 1e5};
    struct plot p = plot_of(y, 10);
    char *text;

    (void)state;
    text = drawn(p, &ascii);
    assert_null(strstr(text, "(log)"));
    free(text);
    p.may_log = true;
    assert_drawn(p, &ascii,
                 "loss (log)  last 1e+05, lowest 0.0001, highest 1e+05\n"
                 "    1e+05 |        .'\n"
                 "          |     .''  \n"
                 "          |  ..'     \n"
                 "   0.0001 |.'        \n"
                 "          +----------\n");
    p = plot_of(steps, 10); /* has a zero */
    p.may_log = true;
    text = drawn(p, &ascii);
    assert_null(strstr(text, "(log)"));
    free(text);
}

static void test_marks_and_level(void **state)
{
    static const double low[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    const struct plot_mark marks[] = {
        {.x = 2, .glyph = "h"},
        {.x = 5, .glyph = "h"},
        {.x = 5, .glyph = "U", .line = true},
    };
    struct plot p = plot_of(low, 10);

    (void)state;
    p.y0 = 0;
    p.y1 = 1;
    p.level = 0.6;
    p.marks = marks;
    p.n_marks = 3;
    assert_drawn(p, &ascii,
                 "loss  last 0, lowest 0, highest 0\n"
                 "        1 |     |    \n"
                 "          |-----|----\n"
                 "          |     |    \n"
                 "        0 |..........\n"
                 "          +--h--U----\n");
}

static void test_spike_inside_a_bucket(void **state)
{
    static const double y[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
                        high[] = {0, 0, 0, 8, 0, 0, 0, 0, 0, 0};
    struct plot p = plot_of(y, 10);

    (void)state;
    p.high = high;
    assert_drawn(p, &ascii,
                 "loss  last 0, lowest 0, highest 8\n"
                 "        8 |   :      \n"
                 "          |   :      \n"
                 "          |   :      \n"
                 "        0 |...:......\n"
                 "          +----------\n");
}

static void assert_scale(double x0, double x1, int width, const char *wanted)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    assert_non_null(f);
    plot_write_scale(x0, x1, width, f);
    fclose(f);
    assert_string_equal(text, wanted);
    free(text);
}

static void test_scale(void **state)
{
    (void)state;
    assert_scale(0, 400, PLOT_GUTTER + 20, "           0        200     400\n");
    assert_scale(0, 1000000, PLOT_GUTTER + 12, "           0    1000000\n");
    assert_scale(7, 7, PLOT_GUTTER + 10, "           7         \n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_constant_and_single_point),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_logarithm),
        cmocka_unit_test(test_marks_and_level),
        cmocka_unit_test(test_spike_inside_a_bucket),
        cmocka_unit_test(test_scale),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
