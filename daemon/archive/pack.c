#include "daemon/archive/pack.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static_assert(SEISMO_N_VALUES < 32, "the presence mask has 32 bits");
static_assert(sizeof(float) == 4 && sizeof(double) == 8, "IEEE 754 single and double");

static uint8_t *put32(uint8_t *to, uint32_t x)
{
    x = htole32(x);
    memcpy(to, &x, sizeof x);
    return to + sizeof x;
}

static uint8_t *put64(uint8_t *to, uint64_t x)
{
    x = htole64(x);
    memcpy(to, &x, sizeof x);
    return to + sizeof x;
}

static uint32_t bits32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint64_t bits64(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

size_t pack_row(uint8_t *to, const struct seismo_row *row, float score, float curvature)
{
    uint8_t *p = put64(to, (uint64_t)row->step);
    p = put64(p, bits64(row->time));
    p = put32(p, row->present);
    p = put32(p, bits32(score));
    p = put32(p, bits32(curvature));
    for (uint32_t left = row->present; left; left &= left - 1) {
        p = put32(p, bits32(row->value[__builtin_ctz(left)]));
    }
    return (size_t)(p - to);
}

static uint32_t take32(const uint8_t **p)
{
    uint32_t x;
    memcpy(&x, *p, sizeof x);
    *p += sizeof x;
    return le32toh(x);
}

static uint64_t take64(const uint8_t **p)
{
    uint64_t x;
    memcpy(&x, *p, sizeof x);
    *p += sizeof x;
    return le64toh(x);
}

static float take_float(const uint8_t **p)
{
    uint32_t bits = take32(p);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

int64_t pack_first_step(const void *data)
{
    const uint8_t *p = data;
    return (int64_t)take64(&p);
}

void pack_cursor_init(struct pack_cursor *c, const void *data, size_t bytes, uint32_t n)
{
    const uint8_t *p = data;
    *c = (struct pack_cursor){.p = p, .end = p + bytes, .left = n, .last = -1};
}

static int corrupt(const struct pack_cursor *c, const char *what, char errmsg[SEISMO_ERRMSG])
{
    snprintf(errmsg, SEISMO_ERRMSG, "packed rows are damaged after step %" PRId64 ": %s", c->last,
             what);
    return SEISMO_ECORRUPT;
}

int pack_next(struct pack_cursor *c, struct pack_row *ret, char errmsg[SEISMO_ERRMSG])
{
    if (c->left == 0) {
        return c->p == c->end ? SEISMO_EEOF : corrupt(c, "bytes after the last row", errmsg);
    }
    if ((size_t)(c->end - c->p) < PACK_HEAD) {
        return corrupt(c, "a row is cut short", errmsg);
    }
    const uint8_t *p = c->p;
    int64_t step = (int64_t)take64(&p);
    uint64_t time = take64(&p);
    uint32_t present = take32(&p);
    if (step <= c->last) {
        return corrupt(c, "steps do not increase", errmsg);
    }
    if (present >> SEISMO_N_VALUES) {
        return corrupt(c, "unknown fields in the presence mask", errmsg);
    }
    float score = take_float(&p);
    float curvature = take_float(&p);
    if ((size_t)(c->end - p) < 4 * (size_t)__builtin_popcount(present)) {
        return corrupt(c, "a row is cut short", errmsg);
    }
    memset(ret, 0, sizeof *ret);
    ret->row.step = step;
    memcpy(&ret->row.time, &time, sizeof time);
    ret->row.present = present;
    ret->score = score;
    ret->curvature = curvature;
    for (uint32_t left = present; left; left &= left - 1) {
        ret->row.value[__builtin_ctz(left)] = take_float(&p);
    }
    c->p = p;
    c->left--;
    c->last = step;
    return 0;
}
