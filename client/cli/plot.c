#include "client/cli/plot.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/words.h"

#define LOG_SPAN 100.0 /* max/min from which a logarithmic axis is clearer */

/* The area of the curve: dots in cells, and the mapping of values onto them. */
struct canvas {
    const struct term *term;
    int columns, lines; /* cells */
    int sub_x, sub_y;   /* dots of a cell */
    uint8_t *dots;      /* a bit per dot; cells line by line from the top */
    bool *bad;          /* a column holds a value that is not finite */
    double x0, x1, y0, y1;
    bool log;
};

static void extend(double y, double *lo, double *hi)
{
    if (isfinite(y)) {
        *lo = fmin(*lo, y);
        *hi = fmax(*hi, y);
    }
}

/* Ends of the vertical axis. False when there is no finite value. */
static bool scale_y(struct canvas *c, const struct plot *p)
{
    double lo = INFINITY, hi = -INFINITY;

    for (size_t i = 0; i < p->n; i++) {
        extend(p->y[i], &lo, &hi);
        if (p->high != NULL) {
            extend(p->high[i], &lo, &hi);
        }
    }
    if (lo > hi) {
        return false;
    }
    c->log = p->may_log && lo > 0 && hi / lo >= LOG_SPAN;
    if (lo == hi) { /* a constant lies in the middle */
        double margin = lo != 0 ? fabs(lo) * 0.1 : 1;

        lo -= margin;
        hi += margin;
    }
    c->y0 = isnan(p->y0) ? lo : p->y0;
    c->y1 = isnan(p->y1) ? hi : p->y1;
    if (c->log) {
        c->y0 = log10(c->y0);
        c->y1 = log10(c->y1);
    }
    return true;
}

static int dot_x(const struct canvas *c, double x)
{
    double share = c->x1 > c->x0 ? (x - c->x0) / (c->x1 - c->x0) : 0;

    return (int)lround(fmin(fmax(share, 0), 1) * (c->columns * c->sub_x - 1));
}

static int dot_y(const struct canvas *c, double y)
{
    double v = c->log ? log10(y) : y;
    double share = (v - c->y0) / (c->y1 - c->y0);

    return (int)lround((1 - fmin(fmax(share, 0), 1)) * (c->lines * c->sub_y - 1));
}

static void set_dot(struct canvas *c, int x, int y)
{
    /* Bits of the braille block U+2800, by column and row of the cell. */
    static const uint8_t braille[2][4] = {{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}};
    int column = x / c->sub_x, line = y / c->sub_y;

    if (column >= 0 && column < c->columns && line >= 0 && line < c->lines) {
        c->dots[line * c->columns + column] |=
            c->sub_x == 2 ? braille[x % 2][y % 4] : (uint8_t)(1u << (y % 2));
    }
}

static void draw_line(struct canvas *c, int x0, int y0, int x1, int y1)
{
    int steps = abs(x1 - x0) > abs(y1 - y0) ? abs(x1 - x0) : abs(y1 - y0);

    for (int i = 0; i <= steps; i++) {
        double share = steps > 0 ? (double)i / steps : 0;

        set_dot(c, x0 + (int)lround(share * (x1 - x0)), y0 + (int)lround(share * (y1 - y0)));
    }
}

static void draw_curve(struct canvas *c, const struct plot *p)
{
    int last_x = -1, last_y = -1, last_bad = -1;

    for (size_t i = 0; i < p->n; i++) {
        int x = dot_x(c, p->x[i]), column = x / c->sub_x, y;

        if (isinf(p->y[i]) || (p->high != NULL && isinf(p->high[i]))) {
            for (int j = last_bad >= 0 ? last_bad : column; j <= column; j++) {
                c->bad[j] = true;
            }
        }
        if (isinf(p->y[i])) {
            last_bad = column;
            last_x = -1; /* the curve is interrupted */
            continue;
        }
        if (isnan(p->y[i])) {
            continue;
        }
        y = dot_y(c, p->y[i]);
        draw_line(c, last_x < 0 ? x : last_x, last_x < 0 ? y : last_y, x, y);
        if (p->high != NULL && isfinite(p->high[i])) {
            draw_line(c, x, y, x, dot_y(c, p->high[i]));
        }
        last_x = x;
        last_y = y;
        last_bad = -1;
    }
}

/* The number at a line of the axis; empty between the labelled ones. */
static void axis_label(const struct canvas *c, int line, char ret[WORDS_MAX])
{
    bool labelled = line == 0 || line == c->lines - 1 || (c->lines >= 5 && line == c->lines / 2);
    double share = c->lines > 1 ? 1 - (double)line / (c->lines - 1) : 0;
    double v = c->y0 + share * (c->y1 - c->y0);

    ret[0] = '\0';
    if (labelled) {
        snprintf(ret, WORDS_MAX, "%.3g", c->log ? pow(10, v) : v);
    }
}

static void write_dots(const struct canvas *c, uint8_t dots, FILE *out)
{
    static const char ascii[] = {' ', '\'', '.', ':'};

    if (c->sub_x == 1) {
        fputc(ascii[dots & 3], out);
        return;
    }
    fputc(0xe2, out); /* U+2800 + dots in UTF-8 */
    fputc(0xa0 | dots >> 6, out);
    fputc(0x80 | (dots & 0x3f), out);
}

/* The mark whose column this is, the weightiest, or NULL. */
static const struct plot_mark *mark_at(const struct canvas *c, const struct plot *p, int column,
                                       bool only_lines)
{
    for (size_t i = p->n_marks; i > 0; i--) {
        const struct plot_mark *m = &p->marks[i - 1];

        if (dot_x(c, m->x) / c->sub_x == column && (m->line || !only_lines)) {
            return m;
        }
    }
    return NULL;
}

static void put(const struct term *term, enum colour colour, const char *glyph, FILE *out)
{
    fprintf(out, "%s%s%s", term_on(term, colour), glyph, term_off(term, colour));
}

static void write_cell(const struct canvas *c, const struct plot *p, int line, int column,
                       FILE *out)
{
    bool utf8 = c->term->utf8;
    uint8_t dots = c->dots[line * c->columns + column];
    const struct plot_mark *mark;

    if (line == 0 && c->bad[column]) {
        put(c->term, COLOUR_RED, utf8 ? "×" : "x", out);
    } else if (dots != 0) {
        fputs(term_on(c->term, p->colour), out);
        write_dots(c, dots, out);
        fputs(term_off(c->term, p->colour), out);
    } else if ((mark = mark_at(c, p, column, true)) != NULL) {
        put(c->term, mark->colour, utf8 ? "┊" : "|", out);
    } else if (!isnan(p->level) && dot_y(c, p->level) / c->sub_y == line) {
        put(c->term, COLOUR_DIM, utf8 ? "╌" : "-", out);
    } else {
        fputc(' ', out);
    }
}

static void write_axis(const struct canvas *c, const struct plot *p, FILE *out)
{
    fprintf(out, "%*s%s", PLOT_GUTTER - 1, "", c->term->utf8 ? "└" : "+");
    for (int column = 0; column < c->columns; column++) {
        const struct plot_mark *mark = mark_at(c, p, column, false);

        if (mark != NULL) {
            put(c->term, mark->colour, mark->glyph, out);
        } else {
            fputs(c->term->utf8 ? "─" : "-", out);
        }
    }
    fputc('\n', out);
}

static void write_title(const struct canvas *c, const struct plot *p, bool drawn, FILE *out)
{
    char lowest[WORDS_MAX], highest[WORDS_MAX], last[WORDS_MAX];
    double lo = INFINITY, hi = -INFINITY, end = NAN;

    fprintf(out, "%s%s%s", term_on(c->term, COLOUR_BOLD), p->title, term_off(c->term, COLOUR_BOLD));
    if (!drawn) {
        fprintf(out, "  %s\n", p->empty);
        return;
    }
    for (size_t i = 0; i < p->n; i++) {
        extend(p->y[i], &lo, &hi);
        if (p->high != NULL) {
            extend(p->high[i], &lo, &hi);
        }
        end = isnan(p->y[i]) ? end : p->y[i];
    }
    fprintf(out, "%s  %slast %s, lowest %s, highest %s%s\n", c->log ? " (log)" : "",
            term_on(c->term, COLOUR_DIM),
            isinf(end) ? "not finite" : words_number(end, false, last),
            words_number(lo, false, lowest), words_number(hi, false, highest),
            term_off(c->term, COLOUR_DIM));
}

static bool has_bad(const struct plot *p)
{
    for (size_t i = 0; i < p->n; i++) {
        if (isinf(p->y[i])) {
            return true;
        }
    }
    return false;
}

void plot_write(const struct plot *p, int width, int height, const struct term *term, FILE *out)
{
    struct canvas c = {
        .term = term,
        .columns = width - PLOT_GUTTER > 8 ? width - PLOT_GUTTER : 8,
        .lines = height > 1 ? height : 1,
        .sub_x = term->utf8 ? 2 : 1,
        .sub_y = term->utf8 ? 4 : 2,
        .x0 = p->x0,
        .x1 = p->x1,
    };
    bool finite = scale_y(&c, p), drawn = finite || has_bad(p);

    c.dots = calloc((size_t)c.columns * (size_t)c.lines, sizeof(*c.dots));
    c.bad = calloc((size_t)c.columns, sizeof(*c.bad));
    if (c.dots != NULL && c.bad != NULL) {
        write_title(&c, p, finite, out);
        if (drawn) {
            draw_curve(&c, p);
            for (int line = 0; line < c.lines; line++) {
                char label[WORDS_MAX] = "";

                if (finite) {
                    axis_label(&c, line, label);
                }
                fprintf(out, "%*s %s", PLOT_GUTTER - 2, label,
                        !term->utf8      ? "|"
                        : *label != '\0' ? "┤"
                                         : "│");
                for (int column = 0; column < c.columns; column++) {
                    write_cell(&c, p, line, column, out);
                }
                fputc('\n', out);
            }
            write_axis(&c, p, out);
        }
    } else {
        term_no_memory();
    }
    free(c.dots);
    free(c.bad);
}

void plot_write_scale(double x0, double x1, int width, FILE *out)
{
    int columns = width - PLOT_GUTTER > 8 ? width - PLOT_GUTTER : 8;
    char left[WORDS_MAX], middle[WORDS_MAX] = "", right[WORDS_MAX] = "";
    int n_left, n_middle, n_right, before;

    snprintf(left, sizeof(left), "%.0f", x0);
    if (x1 > x0) {
        snprintf(right, sizeof(right), "%.0f", x1);
        snprintf(middle, sizeof(middle), "%.0f", floor((x0 + x1) / 2));
    }
    n_left = (int)strlen(left);
    n_middle = (int)strlen(middle);
    n_right = (int)strlen(right);
    before = columns / 2 - n_middle / 2;
    if (before <= n_left || before + n_middle >= columns - n_right) {
        middle[0] = '\0'; /* no room for it */
        before = n_left;
        n_middle = 0;
    }
    fprintf(out, "%*s%s%*s%s%*s\n", PLOT_GUTTER, "", left, before - n_left, "", middle,
            columns - before - n_middle, right);
}
