/* A cursor over one msgpack message from somebody who need not mean well.
 *
 * It allocates nothing, does not recurse and never looks past the end. Invariant: `owed` is the
 * number of values that the headers read so far still promise; each takes at least a byte, so a
 * message that owes more than it has bytes left is refused at once, and no declared length is ever
 * believed. Errors are sticky: after the first one every call returns false and changes nothing, so
 * a caller may read a whole message and look at `err` once. */
#ifndef SEISMO_PROTO_CURSOR_H
#define SEISMO_PROTO_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "proto/wire.h"

struct cursor {
    const uint8_t *p, *end; /* what is left to read */
    const uint8_t *base;    /* first byte of the message: offsets in error texts count from it */
    uint64_t owed;          /* values still due */
    int err;                /* 0 or the first error */
    char *errmsg;           /* SEISMO_ERRMSG bytes, written with the first error */
};

enum cursor_kind {
    CURSOR_NIL,
    CURSOR_BOOL,
    CURSOR_UINT, /* an integer >= 0, however it was written */
    CURSOR_INT,  /* an integer < 0 */
    CURSOR_FLOAT,
    CURSOR_STR, /* valid UTF-8 */
    CURSOR_BIN,
    CURSOR_ARRAY, /* its n values follow */
    CURSOR_MAP,   /* its n keys and n values follow, in turns */
};

struct cursor_value {
    enum cursor_kind kind;
    const uint8_t *at; /* its first byte */
    union {
        bool b;
        uint64_t u;
        int64_t i;
        double d;
        struct wire_str s; /* STR, BIN: borrowed from the message */
        uint32_t n;        /* ARRAY, MAP */
    };
};

enum cursor_text {
    CURSOR_TEXT, /* anything but NUL */
    CURSOR_NAME, /* no control characters: shown in terminals, used in topics */
};

/* A message of which one value is due. `errmsg` is borrowed. */
void cursor_init(struct cursor *c, const void *data, size_t n, char *errmsg);

/* Record an error found at `at`, unless there was one before; returns false. */
bool cursor_fail(struct cursor *c, int err, const uint8_t *at, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The next value, or the header of the next container. */
bool cursor_read(struct cursor *c, struct cursor_value *ret);

/* Read a value that must be of this kind and within these bounds; `what` names it in the error
 * text. */
bool cursor_uint(struct cursor *c, const char *what, uint64_t min, uint64_t max, uint64_t *ret);
bool cursor_str(struct cursor *c, const char *what, enum cursor_text text, uint32_t min,
                uint32_t max, struct wire_str *ret);
bool cursor_array(struct cursor *c, const char *what, uint32_t max, uint32_t *ret_n);
bool cursor_map(struct cursor *c, const char *what, uint32_t *ret_n);

/* Pass over one value with all that it holds. */
bool cursor_skip(struct cursor *c);

/* Nothing is owed; nothing may be left either. */
bool cursor_end(struct cursor *c);

/* "a string", for error texts. */
const char *cursor_kind_name(enum cursor_kind kind);

/* Between bounds, in ASCII, quoted: how peer data appears in error texts. Returns `buf`. */
#define CURSOR_QUOTED 64
const char *cursor_quote(struct wire_str s, char buf[CURSOR_QUOTED]);

#endif
