#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/reference.h"

#define MAX_DEPTH 30

/* Bytes of the header of a value and of what follows it that is not another value, and how many
 * values it holds; false for what is no msgpack or ends too early. */
static bool measure(const uint8_t *p, size_t n, size_t *ret_bytes, uint64_t *ret_values)
{
    static const uint8_t fixed[] = {
        1, 0, 1, 1, [0x0a] = 5, 9, 2, 3,  5, 9,
        2, 3, 5, 9, 3,          4, 6, 10, 18}; /* 0xc0 on; 0 is another case */
    uint8_t tag = p[0];
    size_t width = 0; /* of the length behind the tag */
    uint64_t length = 0;
    bool is_map = false, is_array = false, is_ext = false;
    *ret_values = 0;
    *ret_bytes = 1;
    if (tag < 0x80 || tag >= 0xe0)
        return true;
    if (tag < 0xa0) {
        *ret_values = tag < 0x90 ? 2u * (tag & 0x0f) : tag & 0x0fu;
        return true;
    }
    if (tag < 0xc0) {
        *ret_bytes = 1u + (tag & 0x1f);
        return *ret_bytes <= n;
    }
    if (tag == 0xc1)
        return false;
    if (tag >= 0xc4 && tag <= 0xc6) { /* bin */
        width = (size_t)1 << (tag - 0xc4);
    } else if (tag >= 0xc7 && tag <= 0xc9) {
        width = (size_t)1 << (tag - 0xc7);
        is_ext = true;
    } else if (tag >= 0xd9 && tag <= 0xdb) { /* str */
        width = (size_t)1 << (tag - 0xd9);
    } else if (tag == 0xdc || tag == 0xdd) {
        width = (size_t)2 << (tag - 0xdc);
        is_array = true;
    } else if (tag >= 0xde) {
        width = (size_t)2 << (tag - 0xde);
        is_map = true;
    } else {
        *ret_bytes = fixed[tag - 0xc0];
        return *ret_bytes <= n;
    }
    if (n < 1 + width)
        return false;
    for (size_t i = 0; i < width; i++)
        length = length << 8 | p[1 + i];
    *ret_bytes = 1 + width;
    if (is_map || is_array)
        *ret_values = is_map ? 2 * length : length;
    else
        *ret_bytes += length + is_ext;
    return *ret_bytes <= n && *ret_values <= n;
}

enum reference_shape reference_shape(const uint8_t *data, size_t n)
{
    uint64_t due[MAX_DEPTH + 1] = {1}; /* values still to come in each open container */
    int depth = 0;
    while (depth >= 0) {
        size_t bytes;
        uint64_t values;
        if (due[depth] == 0) {
            depth--;
            continue;
        }
        due[depth]--;
        if (n == 0 || !measure(data, n, &bytes, &values))
            return REFERENCE_BROKEN;
        data += bytes;
        n -= bytes;
        if (values > 0 && depth == MAX_DEPTH)
            return REFERENCE_DEEP;
        if (values > 0)
            due[++depth] = values;
    }
    return n == 0 ? REFERENCE_WHOLE : REFERENCE_BROKEN;
}

/* jansson has a UTF-8 check of its own. */
static bool is_utf8(const msgpack_object *o)
{
    if (o->via.str.size == 0)
        return true;
    json_t *string = json_stringn(o->via.str.ptr, o->via.str.size);
    json_decref(string);
    return string != NULL;
}

/* No extension types and no strings that are not UTF-8, wherever they stand. */
static bool is_clean(const msgpack_object *o)
{
    switch (o->type) {
    case MSGPACK_OBJECT_EXT:
        return false;
    case MSGPACK_OBJECT_STR:
        return is_utf8(o);
    case MSGPACK_OBJECT_ARRAY:
        for (uint32_t i = 0; i < o->via.array.size; i++) {
            if (!is_clean(&o->via.array.ptr[i]))
                return false;
        }
        return true;
    case MSGPACK_OBJECT_MAP:
        for (uint32_t i = 0; i < o->via.map.size; i++) {
            if (!is_clean(&o->via.map.ptr[i].key) || !is_clean(&o->via.map.ptr[i].val))
                return false;
        }
        return true;
    default:
        return true;
    }
}

static bool get_integer(const msgpack_object *o, uint64_t min, uint64_t max, uint64_t *ret)
{
    if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 < min || o->via.u64 > max)
        return false;
    *ret = o->via.u64;
    return true;
}

static bool get_u32(const msgpack_object *o, uint32_t min, uint32_t *ret)
{
    uint64_t u = 0;
    bool good = get_integer(o, min, UINT32_MAX, &u);
    *ret = (uint32_t)u;
    return good;
}

/* nil or an integer. */
static bool get_optional(const msgpack_object *o, bool *ret_has, uint64_t *ret)
{
    *ret_has = o->type != MSGPACK_OBJECT_NIL;
    *ret = 0;
    return !*ret_has || get_integer(o, 0, INT64_MAX, ret);
}

static bool get_last_step(const msgpack_object *o, bool *ret_has, int64_t *ret)
{
    uint64_t u;
    bool good = get_optional(o, ret_has, &u);
    *ret = (int64_t)u;
    return good;
}

static bool get_text(const msgpack_object *o, size_t min, size_t max, struct wire_str *ret)
{
    if (o->type != MSGPACK_OBJECT_STR || o->via.str.size < min || o->via.str.size > max ||
        (o->via.str.size > 0 && memchr(o->via.str.ptr, 0, o->via.str.size)))
        return false;
    *ret = (struct wire_str){o->via.str.ptr, o->via.str.size};
    return true;
}

/* Without U+0000-U+001F and U+007F-U+009F. */
static bool get_name(const msgpack_object *o, size_t max, struct wire_str *ret)
{
    if (!get_text(o, 1, max, ret))
        return false;
    for (uint32_t i = 0; i < ret->n; i++) {
        uint8_t a = (uint8_t)ret->p[i], b = i + 1 < ret->n ? (uint8_t)ret->p[i + 1] : 0;
        if (a < 0x20 || a == 0x7f || (a == 0xc2 && b < 0xa0))
            return false;
    }
    return true;
}

static bool is_word(const msgpack_object *o, const char *word)
{
    return o->type == MSGPACK_OBJECT_STR && o->via.str.size == strlen(word) &&
           memcmp(o->via.str.ptr, word, strlen(word)) == 0;
}

/* The value of a key that stands there at most once. */
static bool find(const msgpack_object *map, const char *key, const msgpack_object **ret)
{
    *ret = NULL;
    for (uint32_t i = 0; i < map->via.map.size; i++) {
        if (!is_word(&map->via.map.ptr[i].key, key))
            continue;
        if (*ret)
            return false;
        *ret = &map->via.map.ptr[i].val;
    }
    return true;
}

/* All keys are strings; value[i] of key[i], the first `required` of which must be there. */
static bool get_map(const msgpack_object *o, const char *const *key, int n, int required,
                    const msgpack_object **value)
{
    if (o->type != MSGPACK_OBJECT_MAP)
        return false;
    for (uint32_t i = 0; i < o->via.map.size; i++) {
        if (o->via.map.ptr[i].key.type != MSGPACK_OBJECT_STR)
            return false;
    }
    for (int i = 0; i < n; i++) {
        if (!find(o, key[i], &value[i]) || (i < required && !value[i]))
            return false;
    }
    return true;
}

static bool get_fields(const msgpack_object *o, struct wire_layout *ret)
{
    bool seen[SEISMO_N_FIELDS] = {false};
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size > SEISMO_MAX_WIRE_FIELDS)
        return false;
    for (uint32_t i = 0; i < o->via.array.size; i++) {
        int position = 0;
        while (position < SEISMO_N_FIELDS &&
               !is_word(&o->via.array.ptr[i], seismo_field_name(position)))
            position++;
        if (position == SEISMO_N_FIELDS || seen[position])
            return false;
        seen[position] = true;
        ret->position[i] = (uint8_t)position;
    }
    ret->n = (uint8_t)o->via.array.size;
    return seen[SEISMO_FIELD_STEP] && seen[SEISMO_FIELD_VALUE0 + SEISMO_LOSS];
}

static bool get_session(const msgpack_object *o, struct wire_str *ret)
{
    if (o->type == MSGPACK_OBJECT_STR)
        *ret = (struct wire_str){o->via.str.ptr, o->via.str.size};
    else if (o->type == MSGPACK_OBJECT_BIN)
        *ret = (struct wire_str){o->via.bin.ptr, o->via.bin.size};
    else
        return false;
    return ret->n >= 1 && ret->n <= SEISMO_MAX_SESSION;
}

static bool get_meta(const msgpack_object *o, struct wire_str *ret)
{
    json_error_t error;
    if (!get_text(o, 0, SEISMO_MAX_META, ret))
        return false;
    json_t *object = json_loadb(ret->p, ret->n, JSON_REJECT_DUPLICATES, &error);
    bool good = json_is_object(object);
    json_decref(object);
    return good;
}

static bool get_hello(const msgpack_object *o, struct wire_hello *ret)
{
    static const char *const key[] = {"version", "run",   "program", "session", "fields",
                                      "rank",    "world", "meta",    "next"};
    const msgpack_object *v[9];
    *ret = (struct wire_hello){.world = 1, .meta = {"{}", 2}};
    return get_map(o, key, 9, 5, v) && get_u32(v[0], 0, &ret->version) &&
           ret->version == SEISMO_PROTOCOL_VERSION && get_name(v[1], SEISMO_MAX_NAME, &ret->run) &&
           get_name(v[2], SEISMO_MAX_NAME, &ret->program) && get_session(v[3], &ret->session) &&
           get_fields(v[4], &ret->layout) && (!v[5] || get_u32(v[5], 0, &ret->rank)) &&
           (!v[6] || get_u32(v[6], 1, &ret->world)) && ret->rank < ret->world &&
           (!v[7] || get_meta(v[7], &ret->meta)) &&
           (!v[8] || get_integer(v[8], 1, INT64_MAX, &ret->next));
}

static bool get_welcome(const msgpack_object *o, struct wire_welcome *ret)
{
    static const char *const key[] = {"version",   "run",         "last_batch", "max_rows",
                                      "max_bytes", "max_unacked", "last_step",  "probe_every"};
    const msgpack_object *v[8];
    memset(ret, 0, sizeof *ret);
    return get_map(o, key, 8, 6, v) && get_u32(v[0], 0, &ret->version) &&
           ret->version == SEISMO_PROTOCOL_VERSION &&
           get_name(v[1], WIRE_MAX_SHOWN_RUN, &ret->run) &&
           get_integer(v[2], 0, INT64_MAX, &ret->last_batch) && get_u32(v[3], 1, &ret->max_rows) &&
           get_u32(v[4], 1, &ret->max_bytes) && get_u32(v[5], 1, &ret->max_unacked) &&
           (!v[6] || get_last_step(v[6], &ret->has_step, &ret->last_step)) &&
           (!v[7] || get_u32(v[7], 0, &ret->probe_every));
}

/* A measurement, rounded to float32 once; nil is none. */
static bool get_value(const msgpack_object *o, enum seismo_value i, struct seismo_row *row)
{
    switch (o->type) {
    case MSGPACK_OBJECT_NIL:
        return true;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        row->value[i] = (float)o->via.u64;
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        row->value[i] = (float)o->via.i64;
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        row->value[i] = (float)o->via.f64;
        break;
    default:
        return false;
    }
    row->present |= 1u << i;
    return true;
}

static bool get_time(const msgpack_object *o, double *ret)
{
    switch (o->type) {
    case MSGPACK_OBJECT_NIL:
        return true;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        *ret = (double)o->via.u64;
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        *ret = (double)o->via.i64;
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        *ret = o->via.f64;
        break;
    default:
        return false;
    }
    return *ret >= -1e15 && *ret <= 1e15;
}

static bool get_row(const msgpack_object *o, const struct wire_layout *layout,
                    struct seismo_row *ret)
{
    *ret = (struct seismo_row){.time = NAN};
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size != layout->n)
        return false;
    for (unsigned i = 0; i < layout->n; i++) {
        const msgpack_object *v = &o->via.array.ptr[i];
        unsigned position = layout->position[i];
        uint64_t step = 0;
        bool good = position == SEISMO_FIELD_STEP ? get_integer(v, 0, INT64_MAX, &step)
                    : position == SEISMO_FIELD_TIME
                        ? get_time(v, &ret->time)
                        : get_value(v, (enum seismo_value)(position - SEISMO_FIELD_VALUE0), ret);
        if (!good)
            return false;
        if (position == SEISMO_FIELD_STEP)
            ret->step = (int64_t)step;
    }
    return row_has(ret, SEISMO_LOSS);
}

static bool get_steps(const msgpack_object *v, const struct wire_layout *layout,
                      struct reference *ret)
{
    if (!get_integer(&v[0], 1, INT64_MAX, &ret->msg.steps.batch) ||
        v[1].type != MSGPACK_OBJECT_ARRAY || v[1].via.array.size > SEISMO_MAX_ROWS)
        return false;
    ret->n = ret->msg.steps.n = v[1].via.array.size;
    for (uint32_t i = 0; i < ret->n; i++) {
        if (!get_row(&v[1].via.array.ptr[i], layout, &ret->row[i]))
            return false;
    }
    return true;
}

static bool get_bye(const msgpack_object *v, struct wire_bye *ret)
{
    static const char *const outcomes[] = {"finished", "failed", "aborted"};
    unsigned i = 0;
    while (i < 3 && !is_word(&v[1], outcomes[i]))
        i++;
    ret->outcome = (enum wire_outcome)i;
    return i < 3 && get_integer(&v[0], 1, INT64_MAX, &ret->batch) &&
           get_text(&v[2], 0, SEISMO_MAX_TEXT, &ret->text);
}

static bool get_ack(const msgpack_object *v, struct reference *ret)
{
    struct wire_ack *a = &ret->msg.ack;
    if (!get_integer(&v[0], 0, INT64_MAX, &a->batch) ||
        !get_last_step(&v[1], &a->has_step, &a->last_step) || v[2].type != MSGPACK_OBJECT_ARRAY)
        return false;
    ret->n = a->n = v[2].via.array.size;
    for (uint32_t i = 0; i < ret->n; i++) {
        struct wire_str text;
        if (!get_text(&v[2].via.array.ptr[i], 0, SEISMO_MAX_MESSAGE, &text))
            return false;
        if (i < REFERENCE_MAX)
            ret->text[i] = text;
    }
    return true;
}

bool reference_decode(const msgpack_object *tree, size_t n, const struct wire_layout *layout,
                      struct reference *ret)
{
    ret->n = 0;
    memset(&ret->msg, 0, sizeof ret->msg);
    uint64_t type;
    if (n > SEISMO_MAX_MESSAGE || !is_clean(tree) || tree->type != MSGPACK_OBJECT_ARRAY ||
        tree->via.array.size == 0 || !get_integer(&tree->via.array.ptr[0], 0, UINT32_MAX, &type))
        return false;
    const msgpack_object *v = tree->via.array.ptr + 1;
    uint32_t entries = tree->via.array.size;
    ret->msg.type = (enum wire_type)type;
    switch (type) {
    case WIRE_HELLO:
        return entries == 2 && get_hello(v, &ret->msg.hello);
    case WIRE_STEPS:
        return entries == 3 && get_steps(v, layout, ret);
    case WIRE_BYE:
        return entries == 4 && get_bye(v, &ret->msg.bye);
    case WIRE_QUERY:
        return entries == 4 && get_integer(&v[0], 0, INT64_MAX, &ret->msg.query.id) &&
               get_name(&v[1], WIRE_MAX_METHOD, &ret->msg.query.method) &&
               get_text(&v[2], 0, SEISMO_MAX_QUERY, &ret->msg.query.params);
    case WIRE_WELCOME:
        return entries == 2 && get_welcome(v, &ret->msg.welcome);
    case WIRE_ACK:
        return entries == 4 && get_ack(v, ret);
    case WIRE_ERROR:
        return entries == 5 && get_name(&v[0], WIRE_MAX_METHOD, &ret->msg.error.code) &&
               get_text(&v[1], 0, SEISMO_MAX_TEXT, &ret->msg.error.text) &&
               get_text(&v[2], 0, SEISMO_MAX_TEXT, &ret->msg.error.hint) &&
               get_optional(&v[3], &ret->msg.error.has_ref, &ret->msg.error.ref);
    case WIRE_REPLY:
        return entries == 3 && get_integer(&v[0], 0, INT64_MAX, &ret->msg.reply.id) &&
               get_text(&v[1], 0, SEISMO_MAX_MESSAGE, &ret->msg.reply.body);
    case WIRE_PING:
        return entries == 1;
    default:
        return false;
    }
}

/* ---- comparing ---- */

#define SAME(member)                                                                 \
    FUZZ_CHECK(a->msg.member == b->msg.member, #member ": %" PRIu64 " and %" PRIu64, \
               (uint64_t)a->msg.member, (uint64_t)b->msg.member)
#define SAME_TEXT(member) same_text(#member, a->msg.member, b->msg.member)

static void same_text(const char *what, struct wire_str a, struct wire_str b)
{
    FUZZ_CHECK(a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0), "%s: \"%.*s\" and \"%.*s\"",
               what, (int)a.n, a.p, (int)b.n, b.p);
}

static void same_number(const char *what, double a, double b)
{
    FUZZ_CHECK(isnan(a) ? isnan(b) : memcmp(&a, &b, sizeof a) == 0, "%s: %.17g and %.17g", what, a,
               b);
}

static void same_row(const struct seismo_row *a, const struct seismo_row *b)
{
    FUZZ_CHECK(a->step == b->step, "step: %" PRId64 " and %" PRId64, a->step, b->step);
    FUZZ_CHECK(a->present == b->present, "present: %x and %x", a->present, b->present);
    same_number("time", a->time, b->time);
    for (int i = 0; i < SEISMO_N_VALUES; i++)
        same_number(seismo_field_name(SEISMO_FIELD_VALUE0 + i), (double)a->value[i],
                    (double)b->value[i]);
}

void reference_same(const struct reference *a, const struct reference *b)
{
    SAME(type);
    FUZZ_CHECK(a->n == b->n, "%u entries and %u", a->n, b->n);
    switch (a->msg.type) {
    case WIRE_HELLO:
        SAME(hello.version);
        SAME_TEXT(hello.run);
        SAME_TEXT(hello.program);
        SAME_TEXT(hello.session);
        SAME(hello.rank);
        SAME(hello.world);
        SAME(hello.layout.n);
        for (int i = 0; i < a->msg.hello.layout.n; i++)
            SAME(hello.layout.position[i]);
        SAME_TEXT(hello.meta);
        SAME(hello.next);
        break;
    case WIRE_STEPS:
        SAME(steps.batch);
        SAME(steps.n);
        for (uint32_t i = 0; i < a->n; i++)
            same_row(&a->row[i], &b->row[i]);
        break;
    case WIRE_BYE:
        SAME(bye.batch);
        SAME(bye.outcome);
        SAME_TEXT(bye.text);
        break;
    case WIRE_QUERY:
        SAME(query.id);
        SAME_TEXT(query.method);
        SAME_TEXT(query.params);
        break;
    case WIRE_WELCOME:
        SAME(welcome.version);
        SAME_TEXT(welcome.run);
        SAME(welcome.last_batch);
        SAME(welcome.has_step);
        SAME(welcome.last_step);
        SAME(welcome.max_rows);
        SAME(welcome.max_bytes);
        SAME(welcome.max_unacked);
        SAME(welcome.probe_every);
        break;
    case WIRE_ACK:
        SAME(ack.batch);
        SAME(ack.has_step);
        SAME(ack.last_step);
        for (uint32_t i = 0; i < a->n && i < REFERENCE_MAX; i++)
            same_text("a text", a->text[i], b->text[i]);
        break;
    case WIRE_ERROR:
        SAME_TEXT(error.code);
        SAME_TEXT(error.text);
        SAME_TEXT(error.hint);
        SAME(error.has_ref);
        SAME(error.ref);
        break;
    case WIRE_REPLY:
        SAME(reply.id);
        SAME_TEXT(reply.body);
        break;
    case WIRE_PING:
        break;
    }
}
