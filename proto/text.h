/* Text that somebody else chose, on its way to a log or a terminal: UTF-8 character by character,
 * and what of it may be shown as it is. */
#ifndef SEISMO_PROTO_TEXT_H
#define SEISMO_PROTO_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_INVALID UINT32_MAX

/* The character at `p` with at most `n` >= 1 bytes, its length in *ret_n. TEXT_INVALID, of length
 * 1, for a byte that begins no valid character: overlong forms, surrogates, beyond U+10FFFF. */
uint32_t text_char(const void *p, size_t n, size_t *ret_n);

/* Neither invalid nor a control character (C0, DEL, C1), nor one that turns, breaks or hides the
 * text around it: line and paragraph separators, marks and overrides of direction, what has no
 * width, tags. */
bool text_is_plain(uint32_t c);

/* Writes `text` into `ret` with everything that is not plain as \x1b (byte by byte) or \u{202e},
 * and returns `ret`. What does not fit is cut, and ends in "…". `size` >= 16. */
char *text_escape(char *ret, size_t size, const void *text, size_t n);

/* The same for one character: at most TEXT_ESCAPED bytes, terminated; returns how many. */
#define TEXT_ESCAPED 24
size_t text_escape_char(char ret[TEXT_ESCAPED], const void *p, size_t n, size_t *ret_n);

#endif
