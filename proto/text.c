#include "proto/text.h"

#include <stdio.h>
#include <string.h>

uint32_t text_char(const void *data, size_t n, size_t *ret_n)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t *p = data;
    size_t length = p[0] < 0x80       ? 1
                    : p[0] >> 5 == 6  ? 2
                    : p[0] >> 4 == 14 ? 3
                    : p[0] >> 3 == 30 ? 4
                                      : 0;
    *ret_n = 1;
    if (length == 1)
        return p[0];
    if (length == 0 || length > n)
        return TEXT_INVALID;
    uint32_t c = p[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (p[i] >> 6 != 2)
            return TEXT_INVALID;
        c = c << 6 | (p[i] & 0x3fu);
    }
    if (c < smallest[length] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return TEXT_INVALID;
    *ret_n = length;
    return c;
}

bool text_is_plain(uint32_t c)
{
    static const struct {
        uint32_t first, last;
    } hidden[] = {
        {0x00, 0x1f},
        {0x7f, 0x9f}, /* controls */
        {0xad, 0xad},
        {0x61c, 0x61c}, /* soft hyphen; Arabic letter mark */
        {0x180e, 0x180e},
        {0x200b, 0x200f}, /* no width; marks of direction */
        {0x2028, 0x202e},
        {0x2060, 0x206f}, /* separators, embeddings; joiners, isolates */
        {0xfeff, 0xfeff},
        {0xfff9, 0xfffb}, /* byte order mark; annotations */
        {0xe0000, 0xe007f},
        {0xe0100, 0xe01ef}, /* tags; variation selectors */
        {0x110000, TEXT_INVALID},
    };
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        if (c >= hidden[i].first && c <= hidden[i].last)
            return false;
    return true;
}

size_t text_escape_char(char ret[TEXT_ESCAPED], const void *p, size_t n, size_t *ret_n)
{
    uint32_t c = text_char(p, n, ret_n);
    size_t out = 0;
    if (text_is_plain(c)) {
        memcpy(ret, p, *ret_n);
        ret[*ret_n] = '\0';
        return *ret_n;
    }
    if (c != TEXT_INVALID && c > 0x9f)
        return (size_t)snprintf(ret, TEXT_ESCAPED, "\\u{%x}", (unsigned)c);
    for (size_t i = 0; i < *ret_n; i++)
        out += (size_t)snprintf(ret + out, TEXT_ESCAPED - out, "\\x%02x", ((const uint8_t *)p)[i]);
    return out;
}

char *text_escape(char *ret, size_t size, const void *text, size_t n)
{
    static const char cut[] = "…";
    const uint8_t *p = text;
    size_t out = 0, room = size - sizeof(cut), step;
    for (size_t i = 0; i < n; i += step) {
        char shown[TEXT_ESCAPED];
        size_t length = text_escape_char(shown, p + i, n - i, &step);
        if (out + length > room) {
            memcpy(ret + out, cut, sizeof(cut));
            return ret;
        }
        memcpy(ret + out, shown, length);
        out += length;
    }
    ret[out] = '\0';
    return ret;
}
