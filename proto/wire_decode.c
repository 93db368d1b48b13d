#include <endian.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/cursor.h"
#include "proto/json_text.h"
#include "proto/wire.h"

_Static_assert(SEISMO_N_FIELDS <= 64, "the fields seen in a HELLO are kept in 64 bits");

/* Batch numbers are stored as SQLite integers; steps are int64 everywhere. */
#define MAX_INTEGER ((uint64_t)INT64_MAX)

/* A map whose keys are known: `required` has a bit per key, in the order of `names`. */
struct known_keys {
    const char *what;
    const char *const *names;
    unsigned n;
    uint32_t required;
};

/* The next known key of a map of which *left keys are due; unknown ones are passed over. Returns
 * its index, or -1 at the end of the map (which must then have held all that is required) and on
 * error. */
static int next_key(struct cursor *c, const struct known_keys *keys, uint32_t *left, uint32_t *seen)
{
    while (*left > 0) {
        struct cursor_value key;
        --*left;
        if (!cursor_read(c, &key))
            return -1;
        if (key.kind != CURSOR_STR) {
            cursor_fail(c, SEISMO_EMALFORMED, key.at, "the keys of %s must be strings, found %s",
                        keys->what, cursor_kind_name(key.kind));
            return -1;
        }
        for (unsigned i = 0; i < keys->n; i++) {
            if (strlen(keys->names[i]) != key.s.n || memcmp(keys->names[i], key.s.p, key.s.n) != 0)
                continue;
            if (*seen >> i & 1u) {
                cursor_fail(c, SEISMO_EMALFORMED, key.at, "%s has the key \"%s\" twice", keys->what,
                            keys->names[i]);
                return -1;
            }
            *seen |= 1u << i;
            return (int)i;
        }
        if (!cursor_skip(c))
            return -1;
    }
    for (unsigned i = 0; i < keys->n; i++) {
        if (keys->required & ~*seen & 1u << i)
            cursor_fail(c, SEISMO_EMALFORMED, c->p, "%s lacks the key \"%s\"", keys->what,
                        keys->names[i]);
    }
    return -1;
}

static bool read_u32(struct cursor *c, const char *what, uint32_t min, uint32_t *ret)
{
    uint64_t u;
    if (!cursor_uint(c, what, min, UINT32_MAX, &u))
        return false;
    *ret = (uint32_t)u;
    return true;
}

static bool read_version(struct cursor *c, uint32_t *ret)
{
    const uint8_t *at = c->p;
    if (!read_u32(c, "version", 0, ret))
        return false;
    if (*ret != SEISMO_PROTOCOL_VERSION)
        return cursor_fail(c, SEISMO_EVERSION, at,
                           "the peer speaks protocol version %" PRIu32
                           ", this side version %d; install matching versions of client and daemon",
                           *ret, SEISMO_PROTOCOL_VERSION);
    return true;
}

static bool read_session(struct cursor *c, struct wire_str *ret)
{
    struct cursor_value v;
    if (!cursor_read(c, &v))
        return false;
    if (v.kind != CURSOR_STR && v.kind != CURSOR_BIN)
        return cursor_fail(c, SEISMO_EMALFORMED, v.at,
                           "session must be bytes or a string, found %s", cursor_kind_name(v.kind));
    if (v.s.n == 0)
        return cursor_fail(c, SEISMO_EMALFORMED, v.at, "session must not be empty");
    if (v.s.n > SEISMO_MAX_SESSION)
        return cursor_fail(c, SEISMO_ETOOBIG, v.at,
                           "session has %" PRIu32 " bytes, at most %d are "
                           "allowed; 16 random bytes are enough",
                           v.s.n, SEISMO_MAX_SESSION);
    *ret = v.s;
    return true;
}

static bool read_layout(struct cursor *c, struct wire_layout *ret)
{
    const uint8_t *at = c->p;
    uint64_t seen = 0;
    uint32_t n;
    if (!cursor_array(c, "fields", SEISMO_MAX_WIRE_FIELDS, &n))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *name_at = c->p;
        struct wire_str name;
        char quoted[CURSOR_QUOTED];
        if (!cursor_str(c, "a name in fields", CURSOR_TEXT, 1, SEISMO_MAX_NAME, &name))
            return false;
        int position = seismo_field_find(name.p, name.n);
        if (position < 0)
            return cursor_fail(c, SEISMO_EFIELD, name_at,
                               "field %s, entry %" PRIu32
                               " of fields, is not known; the known names "
                               "are listed under \"Step fields\" in PROTOCOL.md",
                               cursor_quote(name, quoted), i + 1);
        if (seen >> position & 1u)
            return cursor_fail(c, SEISMO_EMALFORMED, name_at, "fields names %s twice",
                               cursor_quote(name, quoted));
        seen |= UINT64_C(1) << position;
        ret->position[i] = (uint8_t)position;
    }
    ret->n = (uint8_t)n;
    if (!(seen >> SEISMO_FIELD_STEP & 1u))
        return cursor_fail(c, SEISMO_EMALFORMED, at, "fields must name \"step\"");
    if (!(seen >> (SEISMO_FIELD_VALUE0 + SEISMO_LOSS) & 1u))
        return cursor_fail(c, SEISMO_EMALFORMED, at, "fields must name \"loss\"");
    return true;
}

static bool read_meta(struct cursor *c, struct wire_str *ret)
{
    const uint8_t *at = c->p;
    if (!cursor_str(c, "meta", CURSOR_TEXT, 0, SEISMO_MAX_META, ret))
        return false;
    json_error_t error;
    bool no_memory;
    json_t *object = json_text(ret->p, ret->n, JSON_REJECT_DUPLICATES, &error, &no_memory);
    bool parsed = object != NULL, good = json_is_object(object);
    json_decref(object);
    if (no_memory)
        return cursor_fail(c, SEISMO_ENOMEM, at, "no memory to check meta");
    if (!parsed)
        return cursor_fail(c, SEISMO_EMALFORMED, at,
                           "meta must be a JSON object as text; it is not JSON at its character %d",
                           error.position);
    return good || cursor_fail(c, SEISMO_EMALFORMED, at, "meta must be a JSON object as text");
}

static bool read_hello(struct cursor *c, struct wire_hello *h)
{
    static const char *const names[] = {"version", "run",   "program", "session", "fields",
                                        "rank",    "world", "meta",    "next"};
    static const struct known_keys keys = {"HELLO", names, 9, 0x1f};
    uint32_t left, seen = 0;
    int key;

    *h = (struct wire_hello){.world = 1, .meta = {"{}", 2}};
    if (!cursor_map(c, "HELLO", &left))
        return false;
    const uint8_t *rank_at = c->p;
    while ((key = next_key(c, &keys, &left, &seen)) >= 0) {
        switch (key) {
        case 0:
            read_version(c, &h->version);
            break;
        case 1:
            cursor_str(c, "run", CURSOR_NAME, 1, SEISMO_MAX_NAME, &h->run);
            break;
        case 2:
            cursor_str(c, "program", CURSOR_NAME, 1, SEISMO_MAX_NAME, &h->program);
            break;
        case 3:
            read_session(c, &h->session);
            break;
        case 4:
            read_layout(c, &h->layout);
            break;
        case 5:
            rank_at = c->p;
            read_u32(c, "rank", 0, &h->rank);
            break;
        case 6:
            read_u32(c, "world", 1, &h->world);
            break;
        case 7:
            read_meta(c, &h->meta);
            break;
        case 8:
            cursor_uint(c, "next", 1, MAX_INTEGER, &h->next);
            break;
        }
    }
    if (c->err == 0 && h->rank >= h->world)
        cursor_fail(c, SEISMO_EMALFORMED, rank_at,
                    "rank %" PRIu32 " must be below world, which is %" PRIu32, h->rank, h->world);
    return c->err == 0;
}

static bool read_steps(struct cursor *c, struct wire_steps *s)
{
    return cursor_uint(c, "batch", 1, MAX_INTEGER, &s->batch) &&
           cursor_array(c, "rows", SEISMO_MAX_ROWS, &s->n);
}

static bool read_bye(struct cursor *c, struct wire_bye *b)
{
    static const char *const outcomes[] = {"finished", "failed", "aborted"};
    struct wire_str outcome;
    if (!cursor_uint(c, "batch", 1, MAX_INTEGER, &b->batch))
        return false;
    const uint8_t *at = c->p;
    if (!cursor_str(c, "outcome", CURSOR_TEXT, 1, SEISMO_MAX_TEXT, &outcome))
        return false;
    unsigned i = 0;
    while (i < 3 &&
           (strlen(outcomes[i]) != outcome.n || memcmp(outcomes[i], outcome.p, outcome.n) != 0))
        i++;
    if (i == 3) {
        char quoted[CURSOR_QUOTED];
        return cursor_fail(c, SEISMO_EMALFORMED, at,
                           "outcome must be finished, failed or aborted, found %s",
                           cursor_quote(outcome, quoted));
    }
    b->outcome = (enum wire_outcome)i;
    return cursor_str(c, "text", CURSOR_TEXT, 0, SEISMO_MAX_TEXT, &b->text);
}

static bool read_query(struct cursor *c, struct wire_query *q)
{
    return cursor_uint(c, "id", 0, MAX_INTEGER, &q->id) &&
           cursor_str(c, "method", CURSOR_NAME, 1, WIRE_MAX_METHOD, &q->method) &&
           cursor_str(c, "params", CURSOR_TEXT, 0, SEISMO_MAX_QUERY, &q->params);
}

/* An integer, or nil for "none". */
static bool read_optional(struct cursor *c, const char *what, bool *ret_has, uint64_t *ret)
{
    if (c->err == 0 && c->p < c->end && *c->p == 0xc0) {
        *ret_has = false;
        *ret = 0;
        return cursor_skip(c);
    }
    *ret_has = true;
    return cursor_uint(c, what, 0, MAX_INTEGER, ret);
}

static bool read_last_step(struct cursor *c, bool *ret_has, int64_t *ret)
{
    uint64_t u;
    if (!read_optional(c, "last_step", ret_has, &u))
        return false;
    *ret = (int64_t)u;
    return true;
}

static bool read_welcome(struct cursor *c, struct wire_welcome *w)
{
    static const char *const names[] = {"version",   "run",         "last_batch", "max_rows",
                                        "max_bytes", "max_unacked", "last_step",  "probe_every"};
    static const struct known_keys keys = {"WELCOME", names, 8, 0x3f};
    uint32_t left, seen = 0;
    int key;

    *w = (struct wire_welcome){0};
    if (!cursor_map(c, "WELCOME", &left))
        return false;
    while ((key = next_key(c, &keys, &left, &seen)) >= 0) {
        switch (key) {
        case 0:
            read_version(c, &w->version);
            break;
        case 1:
            cursor_str(c, "run", CURSOR_NAME, 1, WIRE_MAX_SHOWN_RUN, &w->run);
            break;
        case 2:
            cursor_uint(c, "last_batch", 0, MAX_INTEGER, &w->last_batch);
            break;
        case 3:
            read_u32(c, "max_rows", 1, &w->max_rows);
            break;
        case 4:
            read_u32(c, "max_bytes", 1, &w->max_bytes);
            break;
        case 5:
            read_u32(c, "max_unacked", 1, &w->max_unacked);
            break;
        case 6:
            read_last_step(c, &w->has_step, &w->last_step);
            break;
        case 7:
            read_u32(c, "probe_every", 0, &w->probe_every);
            break;
        }
    }
    return c->err == 0;
}

static bool read_ack(struct cursor *c, struct wire_ack *a)
{
    return cursor_uint(c, "batch", 0, MAX_INTEGER, &a->batch) &&
           read_last_step(c, &a->has_step, &a->last_step) &&
           cursor_array(c, "verdicts", UINT32_MAX, &a->n);
}

static bool read_error(struct cursor *c, struct wire_error *e)
{
    return cursor_str(c, "code", CURSOR_NAME, 1, WIRE_MAX_METHOD, &e->code) &&
           cursor_str(c, "text", CURSOR_TEXT, 0, SEISMO_MAX_TEXT, &e->text) &&
           cursor_str(c, "hint", CURSOR_TEXT, 0, SEISMO_MAX_TEXT, &e->hint) &&
           read_optional(c, "ref", &e->has_ref, &e->ref);
}

static bool read_reply(struct cursor *c, struct wire_reply *r)
{
    return cursor_uint(c, "id", 0, MAX_INTEGER, &r->id) &&
           cursor_str(c, "body", CURSOR_TEXT, 0, SEISMO_MAX_MESSAGE, &r->body);
}

/* Length of the array that is a message of this type, or 0 when there is no such type. */
static uint32_t message_length(uint64_t type)
{
    switch (type) {
    case WIRE_PING:
        return 1;
    case WIRE_HELLO:
    case WIRE_WELCOME:
        return 2;
    case WIRE_STEPS:
    case WIRE_REPLY:
        return 3;
    case WIRE_BYE:
    case WIRE_QUERY:
    case WIRE_ACK:
        return 4;
    case WIRE_ERROR:
        return 5;
    default:
        return 0;
    }
}

static struct wire_rows rows_from(const struct cursor *c, uint32_t n)
{
    return (struct wire_rows){.p = c->p, .end = c->end, .base = c->base, .left = n, .n = n};
}

static void read_message(struct cursor *c, struct wire_msg *msg)
{
    uint32_t n;
    uint64_t type;
    if (!cursor_array(c, "a message", UINT32_MAX, &n))
        return;
    if (n == 0) {
        cursor_fail(c, SEISMO_EMALFORMED, c->base, "a message must not be an empty array");
        return;
    }
    const uint8_t *at = c->p;
    if (!cursor_uint(c, "message type", 0, UINT32_MAX, &type))
        return;
    uint32_t length = message_length(type);
    if (length == 0) {
        cursor_fail(c, SEISMO_EMALFORMED, at,
                    "there is no message type %" PRIu64 " in protocol version %d", type,
                    SEISMO_PROTOCOL_VERSION);
        return;
    }
    if (n != length) {
        cursor_fail(c, SEISMO_EMALFORMED, c->base,
                    "a message of type %" PRIu64 " has %" PRIu32 " entries, found %" PRIu32, type,
                    length, n);
        return;
    }
    msg->type = (enum wire_type)type;
    switch (msg->type) {
    case WIRE_HELLO:
        read_hello(c, &msg->hello);
        break;
    case WIRE_STEPS:
        if (read_steps(c, &msg->steps))
            msg->steps.rows = rows_from(c, msg->steps.n);
        return; /* The end is checked behind the last row. */
    case WIRE_BYE:
        read_bye(c, &msg->bye);
        break;
    case WIRE_QUERY:
        read_query(c, &msg->query);
        break;
    case WIRE_WELCOME:
        read_welcome(c, &msg->welcome);
        break;
    case WIRE_ACK:
        if (read_ack(c, &msg->ack))
            msg->ack.cursor = rows_from(c, msg->ack.n);
        return; /* The end is checked behind the last text. */
    case WIRE_ERROR:
        read_error(c, &msg->error);
        break;
    case WIRE_REPLY:
        read_reply(c, &msg->reply);
        break;
    case WIRE_PING:
        break;
    }
    cursor_end(c);
}

int wire_decode(const void *data, size_t n, struct wire_msg *ret, char errmsg[SEISMO_ERRMSG])
{
    if (n == 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "byte 0: the message is empty");
        return SEISMO_EMALFORMED;
    }
    if (n > SEISMO_MAX_MESSAGE) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "the message has %zu bytes, at most %u are allowed; split it", n,
                 SEISMO_MAX_MESSAGE);
        return SEISMO_ETOOBIG;
    }
    struct cursor c;
    struct wire_msg msg;
    cursor_init(&c, data, n, errmsg);
    read_message(&c, &msg);
    if (c.err == 0)
        *ret = msg;
    return c.err;
}

/* The cursor on what is left of a list. */
static struct cursor rows_cursor(const struct wire_rows *rows, char *errmsg)
{
    return (struct cursor){
        .p = rows->p, .end = rows->end, .base = rows->base, .owed = rows->left, .errmsg = errmsg};
}

static bool read_step(struct cursor *c, int64_t *ret)
{
    const uint8_t *at = c->p;
    struct cursor_value v;
    if (!cursor_read(c, &v))
        return false;
    if (v.kind == CURSOR_UINT && v.u <= MAX_INTEGER) {
        *ret = (int64_t)v.u;
        return true;
    }
    return cursor_fail(c, SEISMO_EMALFORMED, at,
                       "an integer from 0 to 2^63-1 must stand here, found %s",
                       v.kind == CURSOR_UINT ? "a larger one" : cursor_kind_name(v.kind));
}

static bool read_time(struct cursor *c, double *ret)
{
    struct cursor_value v;
    if (!cursor_read(c, &v))
        return false;
    double time = v.kind == CURSOR_FLOAT  ? v.d
                  : v.kind == CURSOR_UINT ? (double)v.u
                  : v.kind == CURSOR_INT  ? (double)v.i
                                          : NAN;
    if (v.kind != CURSOR_NIL && !(fabs(time) <= SEISMO_MAX_TIME)) {
        bool number = v.kind == CURSOR_FLOAT || v.kind == CURSOR_UINT || v.kind == CURSOR_INT;
        return cursor_fail(c, SEISMO_EMALFORMED, v.at,
                           "seconds since the epoch or nil must stand here, found %s",
                           number ? "a number not within 10^15" : cursor_kind_name(v.kind));
    }
    *ret = time;
    return true;
}

/* Nearly every value is a float or nil: read it here, for less than half of the general reader's
 * cost. Returns false, with nothing read, when it is something else or is not all there. */
static inline bool read_float_fast(struct cursor *c, enum seismo_value i, struct seismo_row *row)
{
    size_t left = (size_t)(c->end - c->p);
    if (left >= 9 && c->p[0] == 0xcb) {
        uint64_t bits;
        double d;
        memcpy(&bits, c->p + 1, sizeof bits);
        bits = be64toh(bits);
        memcpy(&d, &bits, sizeof d);
        row->value[i] = (float)d;
        row->present |= 1u << i;
        c->p += 9;
    } else if (left >= 5 && c->p[0] == 0xca) {
        uint32_t bits;
        memcpy(&bits, c->p + 1, sizeof bits);
        bits = be32toh(bits);
        memcpy(&row->value[i], &bits, sizeof bits);
        row->present |= 1u << i;
        c->p += 5;
    } else if (left >= 1 && c->p[0] == 0xc0) {
        c->p += 1;
    } else {
        return false;
    }
    c->owed--;
    return true;
}

/* Rounds to float32, once: integers directly, so that no double lies in between. */
static bool read_value(struct cursor *c, enum seismo_value i, struct seismo_row *row)
{
    struct cursor_value v;
    if (read_float_fast(c, i, row))
        return true;
    if (!cursor_read(c, &v))
        return false;
    switch (v.kind) { /* nil and floats have been read above */
    case CURSOR_UINT:
        row->value[i] = (float)v.u;
        break;
    case CURSOR_INT:
        row->value[i] = (float)v.i;
        break;
    default:
        return cursor_fail(c, SEISMO_EMALFORMED, v.at, "a number or nil must stand here, found %s",
                           cursor_kind_name(v.kind));
    }
    row->present |= 1u << i;
    return true;
}

static void read_row(struct cursor *c, const struct wire_layout *layout, struct seismo_row *row,
                     const char **ret_field)
{
    const uint8_t *at = c->p;
    uint32_t n;
    if (!cursor_array(c, "a row", UINT32_MAX, &n))
        return;
    if (n != layout->n) {
        cursor_fail(c, SEISMO_EMALFORMED, at,
                    "HELLO named %u fields, found %" PRIu32 " values; send nil for what is absent",
                    layout->n, n);
        return;
    }
    *row = (struct seismo_row){.time = NAN};
    for (unsigned i = 0; i < layout->n; i++) {
        unsigned position = layout->position[i];
        bool good;
        if (position == SEISMO_FIELD_STEP)
            good = read_step(c, &row->step);
        else if (position == SEISMO_FIELD_TIME)
            good = read_time(c, &row->time);
        else
            good = read_value(c, (enum seismo_value)(position - SEISMO_FIELD_VALUE0), row);
        if (!good) {
            *ret_field = seismo_field_name((int)position);
            return;
        }
    }
    if (!row_has(row, SEISMO_LOSS)) {
        *ret_field = seismo_field_name(SEISMO_FIELD_VALUE0 + SEISMO_LOSS);
        cursor_fail(c, SEISMO_EMALFORMED, at,
                    "a row must have a loss; send NaN if it is not a number");
    }
}

int wire_next_row(struct wire_rows *rows, const struct wire_layout *layout, struct seismo_row *ret,
                  char errmsg[SEISMO_ERRMSG])
{
    char what[SEISMO_ERRMSG];
    struct cursor c = rows_cursor(rows, what);
    if (rows->left == 0) {
        if (cursor_end(&c))
            return SEISMO_EEOF;
        memcpy(errmsg, what, SEISMO_ERRMSG);
        return c.err;
    }
    struct seismo_row row;
    const char *field = NULL;
    read_row(&c, layout, &row, &field);
    if (c.err != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "row %" PRIu32 " of %" PRIu32 "%s%s, %.200s",
                 rows->n - rows->left + 1, rows->n, field != NULL ? ", field " : "",
                 field != NULL ? field : "", what);
        return c.err;
    }
    rows->p = c.p;
    rows->left--;
    *ret = row;
    return 0;
}

int wire_next_text(struct wire_rows *cursor, struct wire_str *ret, char errmsg[SEISMO_ERRMSG])
{
    struct cursor c = rows_cursor(cursor, errmsg);
    if (cursor->left == 0)
        return cursor_end(&c) ? SEISMO_EEOF : c.err;
    if (!cursor_str(&c, "a verdict", CURSOR_TEXT, 0, SEISMO_MAX_MESSAGE, ret))
        return c.err;
    cursor->p = c.p;
    cursor->left--;
    return 0;
}

void wire_layout_all(struct wire_layout *ret)
{
    ret->n = SEISMO_N_FIELDS;
    for (int i = 0; i < SEISMO_N_FIELDS; i++)
        ret->position[i] = (uint8_t)i;
}
