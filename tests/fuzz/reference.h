/* A second decoder of the protocol, written from PROTOCOL.md over msgpack-c's tree: what proto/wire
 * is compared with. Slow and simple. */
#ifndef SEISMO_TESTS_FUZZ_REFERENCE_H
#define SEISMO_TESTS_FUZZ_REFERENCE_H

#include <msgpack.h>
#include <stdbool.h>

#include "proto/wire.h"

#define REFERENCE_MAX (1 << 16) /* texts of an ACK that are compared */

/* A message with the rows of STEPS or the texts of ACK. */
struct reference {
    struct wire_msg msg;
    uint32_t n;
    struct seismo_row row[SEISMO_MAX_ROWS];
    struct wire_str text[REFERENCE_MAX];
};

enum reference_shape {
    REFERENCE_WHOLE,  /* one msgpack value, and nothing else */
    REFERENCE_BROKEN, /* not so; msgpack-c is not asked, because it believes every length */
    REFERENCE_DEEP,   /* nested deeper than msgpack-c goes */
};

enum reference_shape reference_shape(const uint8_t *data, size_t n);

/* Whether the tree, which was read from `n` bytes, is a message. `ret` borrows from it. */
bool reference_decode(const msgpack_object *tree, size_t n, const struct wire_layout *layout,
                      struct reference *ret);

/* Aborts when the two differ. Any NaN is as good as another. */
void reference_same(const struct reference *a, const struct reference *b);

#endif
