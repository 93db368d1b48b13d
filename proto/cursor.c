#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/cursor.h"

void cursor_init(struct cursor *c, const void *data, size_t n, char *errmsg)
{
    *c = (struct cursor){.p = data, .base = data, .owed = 1, .errmsg = errmsg};
    c->end = c->p + n;
}

bool cursor_fail(struct cursor *c, int err, const uint8_t *at, const char *format, ...)
{
    if (c->err != 0)
        return false;
    c->err = err;
    int n = snprintf(c->errmsg, SEISMO_ERRMSG, "byte %zu: ", (size_t)(at - c->base));
    va_list args;
    va_start(args, format);
    vsnprintf(c->errmsg + n, SEISMO_ERRMSG - (size_t)n, format, args);
    va_end(args);
    return false;
}

const char *cursor_kind_name(enum cursor_kind kind)
{
    static const char *const names[] = {
        [CURSOR_NIL] = "nil",           [CURSOR_BOOL] = "a boolean",
        [CURSOR_UINT] = "an integer",   [CURSOR_INT] = "a negative integer",
        [CURSOR_FLOAT] = "a float",     [CURSOR_STR] = "a string",
        [CURSOR_BIN] = "a byte string", [CURSOR_ARRAY] = "an array",
        [CURSOR_MAP] = "a map",
    };
    return names[kind];
}

const char *cursor_quote(struct wire_str s, char buf[CURSOR_QUOTED])
{
    size_t n = 0;
    buf[n++] = '"';
    /* Room stays for one escape, the dots, the closing quote and the NUL. */
    for (uint32_t i = 0; i < s.n; i++) {
        unsigned char ch = (unsigned char)s.p[i];
        if (n + 4 + 3 + 2 > CURSOR_QUOTED) {
            memcpy(buf + n, "...", 3);
            n += 3;
            break;
        }
        if (ch < 0x20 || ch > 0x7e || ch == '"' || ch == '\\')
            n += (size_t)sprintf(buf + n, "\\x%02x", ch);
        else
            buf[n++] = (char)ch;
    }
    buf[n++] = '"';
    buf[n] = '\0';
    return buf;
}

static void truncated(struct cursor *c, const uint8_t *at)
{
    cursor_fail(c, SEISMO_EMALFORMED, at,
                "the message ends in the middle of a value (%zu bytes in all); send it whole",
                (size_t)(c->end - c->base));
}

/* A big-endian integer of `width` bytes that belongs to the value at `at`. */
static inline bool take(struct cursor *c, const uint8_t *at, unsigned width, uint64_t *ret)
{
    if ((size_t)(c->end - c->p) < width) {
        truncated(c, at);
        return false;
    }
    uint64_t u = 0;
    for (unsigned i = 0; i < width; i++)
        u = u << 8 | c->p[i];
    c->p += width;
    *ret = u;
    return true;
}

/* Length of the UTF-8 sequence at s (of n bytes), or 0 when there is none: overlong forms,
 * surrogates and what lies above U+10FFFF are none (Unicode 15, table 3-7). */
static uint32_t utf8_sequence(const uint8_t *s, uint32_t n)
{
    uint8_t low = 0x80, high = 0xbf;
    uint32_t length;
    if (s[0] < 0x80) {
        return 1;
    } else if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        length = 2;
    } else if (s[0] >= 0xe0 && s[0] <= 0xef) {
        length = 3;
        if (s[0] == 0xe0)
            low = 0xa0;
        if (s[0] == 0xed)
            high = 0x9f;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        length = 4;
        if (s[0] == 0xf0)
            low = 0x90;
        if (s[0] == 0xf4)
            high = 0x8f;
    } else {
        return 0;
    }
    if (length > n || s[1] < low || s[1] > high)
        return 0;
    for (uint32_t i = 2; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    return length;
}

/* Offset of the first byte that is not UTF-8, or n. */
static uint32_t utf8_span(const uint8_t *s, uint32_t n)
{
    uint32_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= sizeof eight) {
            memcpy(&eight, s + i, sizeof eight);
            if ((eight & UINT64_C(0x8080808080808080)) == 0) {
                i += sizeof eight;
                continue;
            }
        }
        uint32_t length = utf8_sequence(s + i, n - i);
        if (length == 0)
            return i;
        i += length;
    }
    return n;
}

static bool read_bytes(struct cursor *c, struct cursor_value *v, enum cursor_kind kind, uint64_t n)
{
    if ((size_t)(c->end - c->p) < n) {
        truncated(c, v->at);
        return false;
    }
    v->kind = kind;
    v->s = (struct wire_str){(const char *)c->p, (uint32_t)n};
    if (kind == CURSOR_STR) {
        uint32_t good = utf8_span(c->p, v->s.n);
        if (good < v->s.n)
            return cursor_fail(c, SEISMO_EMALFORMED, c->p + good,
                               "a string must be UTF-8; send other bytes as bin");
    }
    c->p += n;
    return true;
}

static bool read_container(struct cursor *c, struct cursor_value *v, enum cursor_kind kind,
                           uint64_t n)
{
    v->kind = kind;
    v->n = (uint32_t)n;
    c->owed += kind == CURSOR_MAP ? 2 * n : n;
    if (c->owed > (size_t)(c->end - c->p))
        return cursor_fail(c, SEISMO_EMALFORMED, v->at,
                           "%s of %" PRIu64
                           " entries cannot fit into the %zu bytes left; the message "
                           "is cut short or its length wrong",
                           cursor_kind_name(kind), n, (size_t)(c->end - c->p));
    return true;
}

static bool read_float(struct cursor *c, struct cursor_value *v, unsigned width)
{
    uint64_t bits;
    if (!take(c, v->at, width, &bits))
        return false;
    v->kind = CURSOR_FLOAT;
    if (width == 4) {
        uint32_t bits32 = (uint32_t)bits;
        float f;
        memcpy(&f, &bits32, sizeof f);
        v->d = (double)f;
    } else {
        memcpy(&v->d, &bits, sizeof v->d);
    }
    return true;
}

static bool read_signed(struct cursor *c, struct cursor_value *v, unsigned width)
{
    uint64_t bits;
    if (!take(c, v->at, width, &bits))
        return false;
    unsigned unused = 64 - 8 * width;
    int64_t i = (int64_t)(bits << unused) >> unused;
    v->kind = i < 0 ? CURSOR_INT : CURSOR_UINT;
    v->i = i;
    return true;
}

static bool read_unsigned(struct cursor *c, struct cursor_value *v, unsigned width)
{
    v->kind = CURSOR_UINT;
    return take(c, v->at, width, &v->u);
}

bool cursor_read(struct cursor *c, struct cursor_value *ret)
{
    if (c->err != 0)
        return false;
    assert(c->owed > 0);
    if (c->p == c->end) {
        truncated(c, c->p);
        return false;
    }
    ret->at = c->p;
    uint8_t tag = *c->p++;
    uint64_t n;
    c->owed--;

    if (tag < 0x80) {
        ret->kind = CURSOR_UINT;
        ret->u = tag;
        return true;
    }
    if (tag >= 0xe0) {
        ret->kind = CURSOR_INT;
        ret->i = (int8_t)tag;
        return true;
    }
    if (tag < 0x90)
        return read_container(c, ret, CURSOR_MAP, tag & 0x0f);
    if (tag < 0xa0)
        return read_container(c, ret, CURSOR_ARRAY, tag & 0x0f);
    if (tag < 0xc0)
        return read_bytes(c, ret, CURSOR_STR, tag & 0x1f);

    switch (tag) {
    case 0xc0:
        ret->kind = CURSOR_NIL;
        return true;
    case 0xc2:
    case 0xc3:
        ret->kind = CURSOR_BOOL;
        ret->b = tag & 1;
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return take(c, ret->at, 1u << (tag - 0xc4), &n) && read_bytes(c, ret, CURSOR_BIN, n);
    case 0xca:
        return read_float(c, ret, 4);
    case 0xcb:
        return read_float(c, ret, 8);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return read_unsigned(c, ret, 1u << (tag - 0xcc));
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return read_signed(c, ret, 1u << (tag - 0xd0));
    case 0xd9:
    case 0xda:
    case 0xdb:
        return take(c, ret->at, 1u << (tag - 0xd9), &n) && read_bytes(c, ret, CURSOR_STR, n);
    case 0xdc:
    case 0xdd:
        return take(c, ret->at, 2u << (tag - 0xdc), &n) && read_container(c, ret, CURSOR_ARRAY, n);
    case 0xde:
    case 0xdf:
        return take(c, ret->at, 2u << (tag - 0xde), &n) && read_container(c, ret, CURSOR_MAP, n);
    case 0xc1:
        return cursor_fail(c, SEISMO_EMALFORMED, ret->at, "0xc1 is not msgpack");
    default:
        return cursor_fail(c, SEISMO_EMALFORMED, ret->at,
                           "extension types (0x%02x) have no place in this protocol", tag);
    }
}

bool cursor_uint(struct cursor *c, const char *what, uint64_t min, uint64_t max, uint64_t *ret)
{
    struct cursor_value v;
    if (!cursor_read(c, &v))
        return false;
    if (v.kind == CURSOR_UINT && v.u >= min && v.u <= max) {
        *ret = v.u;
        return true;
    }
    char found[32];
    if (v.kind == CURSOR_UINT)
        snprintf(found, sizeof found, "%" PRIu64, v.u);
    else if (v.kind == CURSOR_INT)
        snprintf(found, sizeof found, "%" PRId64, v.i);
    else
        snprintf(found, sizeof found, "%s", cursor_kind_name(v.kind));
    return cursor_fail(c, SEISMO_EMALFORMED, v.at,
                       "%s must be an integer from %" PRIu64 " to %" PRIu64 ", found %s", what, min,
                       max, found);
}

/* First byte of a character that this kind of text must not hold, or NULL. */
static const char *find_control(struct wire_str s, enum cursor_text text)
{
    if (text == CURSOR_TEXT)
        return memchr(s.p, 0, s.n);
    for (uint32_t i = 0; i < s.n; i++) {
        unsigned char ch = (unsigned char)s.p[i];
        /* U+0080 to U+009F, written c2 80 to c2 9f, steer terminals just as the ASCII ones do. */
        if (ch < 0x20 || ch == 0x7f || (ch == 0xc2 && (unsigned char)s.p[i + 1] < 0xa0))
            return s.p + i;
    }
    return NULL;
}

bool cursor_str(struct cursor *c, const char *what, enum cursor_text text, uint32_t min,
                uint32_t max, struct wire_str *ret)
{
    struct cursor_value v;
    if (!cursor_read(c, &v))
        return false;
    if (v.kind != CURSOR_STR)
        return cursor_fail(c, SEISMO_EMALFORMED, v.at, "%s must be a string, found %s", what,
                           cursor_kind_name(v.kind));
    if (v.s.n > max)
        return cursor_fail(c, SEISMO_ETOOBIG, v.at,
                           "%s has %" PRIu32 " bytes, at most %" PRIu32 " are allowed; shorten it",
                           what, v.s.n, max);
    if (v.s.n < min)
        return cursor_fail(c, SEISMO_EMALFORMED, v.at, "%s must not be empty", what);
    const char *control = find_control(v.s, text);
    if (control != NULL)
        return cursor_fail(c, SEISMO_EMALFORMED, (const uint8_t *)control, "%s must not contain %s",
                           what, text == CURSOR_NAME ? "control characters" : "NUL");
    *ret = v.s;
    return true;
}

bool wire_name_valid(struct wire_str name)
{
    return name.n >= 1 && name.n <= SEISMO_MAX_NAME &&
           utf8_span((const uint8_t *)name.p, name.n) == name.n &&
           find_control(name, CURSOR_NAME) == NULL;
}

bool cursor_array(struct cursor *c, const char *what, uint32_t max, uint32_t *ret_n)
{
    struct cursor_value v;
    if (!cursor_read(c, &v))
        return false;
    if (v.kind != CURSOR_ARRAY)
        return cursor_fail(c, SEISMO_EMALFORMED, v.at, "%s must be an array, found %s", what,
                           cursor_kind_name(v.kind));
    if (v.n > max)
        return cursor_fail(c, SEISMO_ETOOBIG, v.at,
                           "%s has %" PRIu32 " entries, at most %" PRIu32 " are allowed", what, v.n,
                           max);
    *ret_n = v.n;
    return true;
}

bool cursor_map(struct cursor *c, const char *what, uint32_t *ret_n)
{
    struct cursor_value v;
    if (!cursor_read(c, &v))
        return false;
    if (v.kind != CURSOR_MAP)
        return cursor_fail(c, SEISMO_EMALFORMED, v.at, "%s must be a map, found %s", what,
                           cursor_kind_name(v.kind));
    *ret_n = v.n;
    return true;
}

bool cursor_skip(struct cursor *c)
{
    uint64_t rest = c->owed - 1;
    struct cursor_value v;
    while (cursor_read(c, &v)) {
        if (c->owed == rest)
            return true;
    }
    return false;
}

bool cursor_end(struct cursor *c)
{
    if (c->err != 0)
        return false;
    assert(c->owed == 0);
    if (c->p != c->end)
        return cursor_fail(c, SEISMO_EMALFORMED, c->p,
                           "%zu bytes follow the end of the message; send one message a frame",
                           (size_t)(c->end - c->p));
    return true;
}
