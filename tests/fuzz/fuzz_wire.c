/* The wire decoder against msgpack-c.
 *
 * The first byte chooses the layout of rows, the rest is a message. What our decoder accepts,
 * msgpack-c must read as the same values; and what msgpack-c reads and reference.c finds to be a
 * message by PROTOCOL.md, our decoder must accept. What is accepted is encoded and decoded again.
 */
#include <msgpack.h>
#include <string.h>

#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/reference.h"

/* n fields: step and loss, then the others in canonical order, all of it perhaps backwards. */
static struct wire_layout layout_of(uint8_t choice)
{
    struct wire_layout all, layout = {.n = (uint8_t)(2 + (choice & 0x7f) % (SEISMO_N_FIELDS - 1))};
    wire_layout_all(&all);
    all.position[SEISMO_FIELD_TIME] = SEISMO_FIELD_VALUE0 + SEISMO_LOSS;
    all.position[SEISMO_FIELD_VALUE0 + SEISMO_LOSS] = SEISMO_FIELD_TIME;
    for (int i = 0; i < layout.n; i++)
        layout.position[choice & 0x80 ? layout.n - 1 - i : i] = all.position[i];
    return layout;
}

/* One that is counted but never sent back. */
static void check_error(int err, const char *errmsg)
{
    FUZZ_CHECK(err == SEISMO_EMALFORMED || err == SEISMO_ETOOBIG || err == SEISMO_EVERSION ||
                   err == SEISMO_EFIELD,
               "error %d is not the decoder's", err);
    fuzz_check_errmsg(errmsg, SEISMO_ERRMSG);
}

/* Our decoder over the whole message, rows and texts with it. */
static int decode(const uint8_t *data, size_t n, const struct wire_layout *layout,
                  struct reference *ret)
{
    char errmsg[SEISMO_ERRMSG];
    memset(errmsg, 0, sizeof errmsg);
    int err = wire_decode(data, n, &ret->msg, errmsg);
    ret->n = 0;
    if (err == 0 && ret->msg.type == WIRE_STEPS) {
        struct wire_rows rows = ret->msg.steps.rows;
        struct seismo_row row;
        while ((err = wire_next_row(&rows, layout, &row, errmsg)) == 0)
            ret->row[ret->n++] = row;
    } else if (err == 0 && ret->msg.type == WIRE_ACK) {
        struct wire_rows texts = ret->msg.ack.cursor;
        struct wire_str text;
        while ((err = wire_next_text(&texts, &text, errmsg)) == 0) {
            if (ret->n < REFERENCE_MAX)
                ret->text[ret->n] = text;
            ret->n++;
        }
    }
    if (err == SEISMO_EEOF)
        err = 0;
    if (err != 0)
        check_error(err, errmsg);
    return err;
}

static void encode(struct wire_buf *b, const struct reference *r, const struct wire_layout *layout)
{
    const struct wire_msg *m = &r->msg;
    switch (m->type) {
    case WIRE_HELLO:
        wire_put_hello(b, &m->hello);
        break;
    case WIRE_STEPS:
        wire_put_steps_head(b, m->steps.batch, r->n);
        for (uint32_t i = 0; i < r->n; i++)
            wire_put_row(b, layout, &r->row[i]);
        break;
    case WIRE_BYE:
        wire_put_bye(b, &m->bye);
        break;
    case WIRE_QUERY:
        wire_put_query(b, &m->query);
        break;
    case WIRE_WELCOME:
        wire_put_welcome(b, &m->welcome);
        break;
    case WIRE_ACK:
        wire_put_ack_head(b, m->ack.batch, m->ack.has_step, m->ack.last_step, r->n);
        for (uint32_t i = 0; i < r->n; i++)
            wire_put_text(b, r->text[i].p, r->text[i].n);
        break;
    case WIRE_ERROR:
        wire_put_error(b, &m->error);
        break;
    case WIRE_REPLY:
        wire_put_reply(b, m->reply.id, m->reply.body.p, m->reply.body.n);
        break;
    case WIRE_PING:
        wire_put_ping(b);
        break;
    }
}

static void check_encoder(const struct reference *r, size_t n, const struct wire_layout *layout,
                          uint8_t choice)
{
    static struct reference again;
    /* A number of one byte becomes a float of five; HELLO's defaults are written out. */
    size_t cap = 9 * n + 256;
    struct wire_buf b = {.data = malloc(cap), .cap = cap};
    encode(&b, r, layout);
    FUZZ_CHECK(!b.overflow, "%zu bytes became more than %zu", n, cap);
    if (b.n <= SEISMO_MAX_MESSAGE) {
        FUZZ_CHECK(decode(b.data, b.n, layout, &again) == 0, "what we encode we refuse");
        reference_same(r, &again);
    }
    struct wire_buf small = {.cap = b.n * choice / 256};
    small.data = malloc(small.cap + 1);
    encode(&small, r, layout);
    FUZZ_CHECK(small.overflow && small.n <= small.cap, "%zu bytes in %zu", small.n, small.cap);
    FUZZ_CHECK(memcmp(small.data, b.data, small.n) == 0, "cut short, the encoding differs");
    free(small.data);
    free(b.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct reference ours, theirs;
    if (n < 1)
        return 0;
    struct wire_layout layout = layout_of(data[0]);
    uint8_t choice = data[0];
    data++;
    n--;
    int err = decode(data, n, &layout, &ours);
    enum reference_shape shape = reference_shape(data, n);
    if (shape == REFERENCE_DEEP)
        return 0; /* msgpack-c gives up at a depth of 32 */
    if (shape == REFERENCE_BROKEN) {
        FUZZ_CHECK(err != 0, "the bytes are not one msgpack value, and were accepted");
        return 0;
    }
    msgpack_unpacked tree;
    msgpack_unpacked_init(&tree);
    size_t used = 0;
    msgpack_unpack_return rc = msgpack_unpack_next(&tree, (const char *)data, n, &used);
    FUZZ_CHECK(rc == MSGPACK_UNPACK_SUCCESS && used == n, "msgpack-c stops with %d at %zu", (int)rc,
               used);
    bool good = reference_decode(&tree.data, n, &layout, &theirs);
    FUZZ_CHECK(good == (err == 0), "%s, and our decoder says %d",
               good ? "a message by PROTOCOL.md" : "no message by PROTOCOL.md", err);
    if (good) {
        reference_same(&theirs, &ours);
        check_encoder(&ours, n, &layout, choice);
    }
    msgpack_unpacked_destroy(&tree);
    return 0;
}
