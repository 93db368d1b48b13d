/* A curve drawn with characters: braille dots in UTF-8 (2 x 4 to a character), else plain ASCII
 * (1 x 2). */
#ifndef SEISMO_CLIENT_CLI_PLOT_H
#define SEISMO_CLIENT_CLI_PLOT_H

#include "client/cli/term.h"

#define PLOT_GUTTER 11 /* columns left of the curve: the axis and its numbers */

struct plot_mark {
    double x;
    const char *glyph; /* one column */
    enum colour colour;
    bool line; /* also a thin line through the plot */
};

struct plot {
    const char *title;
    const double *x;    /* increasing */
    const double *y;    /* NaN: nothing there; infinite: marked at the top as not finite */
    const double *high; /* or NULL: the curve is drawn up to here too, as y */
    size_t n;
    double x0, x1; /* ends of the axis, x0 <= x1 */
    double y0, y1; /* ends of the axis; NaN: from the data */
    double level;  /* dashed line, NaN: none */
    bool may_log;  /* use a logarithmic axis when the data are positive and span two decades */
    enum colour colour;
    const struct plot_mark *marks; /* by increasing weight: a later one covers an earlier one */
    size_t n_marks;
    const char *empty; /* said when there is nothing to draw */
};

/* Writes a title line, `height` lines of plot and the axis with its marks, all `width` columns wide
 * at most. */
void plot_write(const struct plot *p, int width, int height, const struct term *term, FILE *out);

/* The line of numbers below the last axis. */
void plot_write_scale(double x0, double x1, int width, FILE *out);

#endif
