/* A table of text with aligned columns, printed whole. */
#ifndef SEISMO_CLIENT_CLI_TABLE_H
#define SEISMO_CLIENT_CLI_TABLE_H

#include "client/cli/term.h"

struct table;

/* `head`: NULL-terminated column titles; one that starts with '>' is aligned to the right.
 * Borrowed. NULL when out of memory. */
struct table *table_new(const char *const *head);
void table_free(struct table **table);

/* The next cell of the current row, from left to right, row by row. The text is copied, escaped
 * (term_escape). A cell that cannot be stored for want of memory comes out empty. */
void table_cell(struct table *t, enum colour colour, const char *text);
__attribute__((format(printf, 2, 3))) void table_print(struct table *t, const char *format, ...);

/* Writes head and rows. On a TTY a table too wide for it has its widest text column cut, with an
 * ellipsis. */
void table_write(const struct table *t, const struct term *term, FILE *out);

#endif
