/* Decode a message with every row and text in it, as a daemon or client does. */
#ifndef SEISMO_TESTS_WIRE_WHOLE_H
#define SEISMO_TESTS_WIRE_WHOLE_H

#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

/* The message lies in memory of exactly its size, so that a sanitizer sees a read past its end.
 * `ret` borrows from it: free *ret_copy when done. */
static inline int wire_whole(const void *data, size_t n, const struct wire_layout *layout,
                             struct wire_msg *ret, void **ret_copy, char *errmsg)
{
    void *copy = malloc(n > 0 ? n : 1);
    if (copy == NULL)
        abort();
    if (n > 0)
        memcpy(copy, data, n);
    int err = wire_decode(copy, n, ret, errmsg);
    if (err == 0 && ret->type == WIRE_STEPS) {
        struct wire_rows rows = ret->steps.rows;
        struct seismo_row row;
        while ((err = wire_next_row(&rows, layout, &row, errmsg)) == 0)
            continue;
    } else if (err == 0 && ret->type == WIRE_ACK) {
        struct wire_rows texts = ret->ack.cursor;
        struct wire_str text;
        while ((err = wire_next_text(&texts, &text, errmsg)) == 0)
            continue;
    }
    if (err == SEISMO_EEOF)
        err = 0;
    if (err == 0)
        *ret_copy = copy;
    else
        free(copy);
    return err;
}

#endif
