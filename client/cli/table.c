#include "client/cli/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COLUMNS 16
#define MIN_CUT 8 /* columns that a cut text keeps */
#define GAP 2

struct cell {
    char *text; /* escaped */
    enum colour colour;
};

struct table {
    const char *const *head;
    size_t n_columns, n_cells, room;
    struct cell *cells; /* row by row */
};

struct table *table_new(const char *const *head)
{
    struct table *t = calloc(1, sizeof(*t));

    if (t == NULL) {
        term_no_memory();
        return NULL;
    }
    t->head = head;
    while (head[t->n_columns] != NULL && t->n_columns < MAX_COLUMNS) {
        t->n_columns++;
    }
    return t;
}

void table_free(struct table **table)
{
    struct table *t = *table;

    *table = NULL;
    if (t == NULL) {
        return;
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        free(t->cells[i].text);
    }
    free(t->cells);
    free(t);
}

void table_cell(struct table *t, enum colour colour, const char *text)
{
    if (t == NULL) {
        return;
    }
    if (t->n_cells == t->room) {
        size_t room = t->room > 0 ? 2 * t->room : 64;
        struct cell *cells = realloc(t->cells, room * sizeof(*cells));

        if (cells == NULL) {
            term_no_memory();
            return;
        }
        t->cells = cells;
        t->room = room;
    }
    t->cells[t->n_cells++] = (struct cell){term_escape(text), colour};
}

void table_print(struct table *t, const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    table_cell(t, COLOUR_NONE, text);
}

static bool is_right(const char *head)
{
    return head[0] == '>';
}

static const char *cell_text(const struct cell *c)
{
    return c->text != NULL ? c->text : "";
}

/* Widths of the columns; those of text are cut where the whole is too wide for a TTY. */
static void measure(const struct table *t, const struct term *term, int *widths)
{
    int total = -GAP;

    for (size_t c = 0; c < t->n_columns; c++) {
        widths[c] = term_columns(t->head[c] + is_right(t->head[c]));
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        int width = term_columns(cell_text(&t->cells[i]));

        if (width > widths[i % t->n_columns]) {
            widths[i % t->n_columns] = width;
        }
    }
    for (size_t c = 0; c < t->n_columns; c++) {
        total += widths[c] + GAP;
    }
    while (term->tty && total > term->width) {
        size_t widest = t->n_columns;

        for (size_t c = 0; c < t->n_columns; c++) {
            if (!is_right(t->head[c]) && widths[c] > MIN_CUT &&
                (widest == t->n_columns || widths[c] > widths[widest])) {
                widest = c;
            }
        }
        if (widest == t->n_columns) {
            break;
        }
        widths[widest]--;
        total--;
    }
}

static void write_cell(const struct table *t, const struct term *term, size_t column, int width,
                       const char *text, enum colour colour, FILE *out)
{
    const char *ellipsis = term->utf8 ? "…" : "~";
    int columns = term_columns(text);
    int pad = columns < width ? width - columns : 0;
    bool right = is_right(t->head[column]), last = column + 1 == t->n_columns;

    fprintf(out, "%*s%s", right ? pad : 0, "", term_on(term, colour));
    if (columns > width) {
        size_t n = term_fit(text, width - 1);

        fprintf(out, "%.*s%s", (int)n, text, ellipsis);
        pad = width - 1 - term_columns(text) + term_columns(text + n);
    } else {
        fputs(text, out);
    }
    fprintf(out, "%s%*s", term_off(term, colour), last ? 0 : GAP + (right ? 0 : pad), "");
    if (last) {
        fputc('\n', out);
    }
}

void table_write(const struct table *t, const struct term *term, FILE *out)
{
    int widths[MAX_COLUMNS];

    if (t == NULL) {
        return;
    }
    measure(t, term, widths);
    for (size_t c = 0; c < t->n_columns; c++) {
        write_cell(t, term, c, widths[c], t->head[c] + is_right(t->head[c]), COLOUR_DIM, out);
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t c = i % t->n_columns;

        write_cell(t, term, c, widths[c], cell_text(&t->cells[i]), t->cells[i].colour, out);
    }
}
