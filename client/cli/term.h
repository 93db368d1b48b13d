/* The terminal that output goes to: what it can show, and text made fit for it. */
#ifndef SEISMO_CLIENT_CLI_TERM_H
#define SEISMO_CLIENT_CLI_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum colour {
    COLOUR_NONE,
    COLOUR_RED,
    COLOUR_GREEN,
    COLOUR_YELLOW,
    COLOUR_MAGENTA,
    COLOUR_CYAN,
    COLOUR_DIM,
    COLOUR_BOLD,
};

struct term {
    bool tty;
    bool colour;       /* a TTY, NO_COLOR unset or empty, TERM not dumb */
    bool utf8;         /* the locale's encoding */
    int width, height; /* columns and lines; $COLUMNS and $LINES, else the window's, else 80 x 24 */
};

/* Sets the process's LC_CTYPE from the environment, and looks at `stream`. */
void term_init(struct term *ret, FILE *stream);

/* Window size again, after it may have changed. */
void term_measure(struct term *t, FILE *stream);

/* Sequences that switch a colour on and everything off; empty strings when there is no colour. */
const char *term_on(const struct term *t, enum colour colour);
const char *term_off(const struct term *t, enum colour colour);

/* What was to be shown could not be, for want of memory; whether that was so in this thread since
 * term_init. Nothing that is incomplete must pass for success. */
void term_no_memory(void);
bool term_had_no_memory(void);

/* `text` with everything that a terminal could take for a command or that would disturb the layout
 * made visible: control characters and invalid UTF-8 as \x1b, characters that change the writing
 * direction or cannot be seen as \u{202e}. All strings that come from a peer or a file go through here. The caller
 * frees it; NULL only when out of memory. */
char *term_escape(const char *text);

/* The same, written at once and without memory. */
void term_put(const char *text, FILE *f);

/* Columns that escaped UTF-8 text takes. */
int term_columns(const char *text);

/* Bytes of the longest start of `text` that fits into `columns`. */
size_t term_fit(const char *text, int columns);

#endif
