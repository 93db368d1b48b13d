#include <math.h>
#include <msgpack.h>
#include <string.h>

#include "proto/wire.h"

static int put_bytes(void *data, const char *bytes, size_t n)
{
    struct wire_buf *b = data;
    if (b->overflow || n > b->cap - b->n) {
        b->overflow = true;
        return -1;
    }
    if (n > 0) { /* an empty string may come without an address */
        memcpy(b->data + b->n, bytes, n);
        b->n += n;
    }
    return 0;
}

static msgpack_packer packer_on(struct wire_buf *b)
{
    msgpack_packer pk;
    msgpack_packer_init(&pk, b, put_bytes);
    return pk;
}

/* A message of `n` entries, of which the first is its type. */
static msgpack_packer put_head(struct wire_buf *b, enum wire_type type, size_t n)
{
    msgpack_packer pk = packer_on(b);
    msgpack_pack_array(&pk, n);
    msgpack_pack_uint32(&pk, type);
    return pk;
}

static void put_str(msgpack_packer *pk, struct wire_str s)
{
    msgpack_pack_str_with_body(pk, s.p, s.n);
}

static void put_word(msgpack_packer *pk, const char *word)
{
    msgpack_pack_str_with_body(pk, word, strlen(word));
}

static void put_optional(msgpack_packer *pk, bool has, uint64_t u)
{
    if (has)
        msgpack_pack_uint64(pk, u);
    else
        msgpack_pack_nil(pk);
}

void wire_put_hello(struct wire_buf *b, const struct wire_hello *hello)
{
    msgpack_packer pk = put_head(b, WIRE_HELLO, 2);
    msgpack_pack_map(&pk, hello->next ? 9 : 8);
    put_word(&pk, "version"); /* first, so that another version is refused before anything else */
    msgpack_pack_uint32(&pk, hello->version);
    put_word(&pk, "run");
    put_str(&pk, hello->run);
    put_word(&pk, "program");
    put_str(&pk, hello->program);
    put_word(&pk, "session");
    msgpack_pack_bin_with_body(&pk, hello->session.p, hello->session.n);
    put_word(&pk, "rank");
    msgpack_pack_uint32(&pk, hello->rank);
    put_word(&pk, "world");
    msgpack_pack_uint32(&pk, hello->world);
    put_word(&pk, "fields");
    msgpack_pack_array(&pk, hello->layout.n);
    for (unsigned i = 0; i < hello->layout.n; i++)
        put_word(&pk, seismo_field_name(hello->layout.position[i]));
    put_word(&pk, "meta");
    put_str(&pk, hello->meta);
    if (hello->next) {
        put_word(&pk, "next");
        msgpack_pack_uint64(&pk, hello->next);
    }
}

void wire_put_steps_head(struct wire_buf *b, uint64_t batch, uint32_t n_rows)
{
    msgpack_packer pk = put_head(b, WIRE_STEPS, 3);
    msgpack_pack_uint64(&pk, batch);
    msgpack_pack_array(&pk, n_rows);
}

void wire_put_row(struct wire_buf *b, const struct wire_layout *layout,
                  const struct seismo_row *row)
{
    msgpack_packer pk = packer_on(b);
    msgpack_pack_array(&pk, layout->n);
    for (unsigned i = 0; i < layout->n; i++) {
        unsigned position = layout->position[i];
        enum seismo_value v = (enum seismo_value)(position - SEISMO_FIELD_VALUE0);
        if (position == SEISMO_FIELD_STEP)
            msgpack_pack_int64(&pk, row->step);
        else if (position == SEISMO_FIELD_TIME && !isnan(row->time))
            msgpack_pack_double(&pk, row->time);
        else if (position != SEISMO_FIELD_TIME && row_has(row, v))
            msgpack_pack_float(&pk, row->value[v]);
        else
            msgpack_pack_nil(&pk);
    }
}

void wire_put_bye(struct wire_buf *b, const struct wire_bye *bye)
{
    static const char *const outcomes[] = {
        [WIRE_FINISHED] = "finished", [WIRE_FAILED] = "failed", [WIRE_ABORTED] = "aborted"};
    msgpack_packer pk = put_head(b, WIRE_BYE, 4);
    msgpack_pack_uint64(&pk, bye->batch);
    put_word(&pk, outcomes[bye->outcome]);
    put_str(&pk, bye->text);
}

void wire_put_query(struct wire_buf *b, const struct wire_query *query)
{
    msgpack_packer pk = put_head(b, WIRE_QUERY, 4);
    msgpack_pack_uint64(&pk, query->id);
    put_str(&pk, query->method);
    put_str(&pk, query->params);
}

void wire_put_welcome(struct wire_buf *b, const struct wire_welcome *welcome)
{
    msgpack_packer pk = put_head(b, WIRE_WELCOME, 2);
    msgpack_pack_map(&pk, 8);
    put_word(&pk, "version");
    msgpack_pack_uint32(&pk, welcome->version);
    put_word(&pk, "run");
    put_str(&pk, welcome->run);
    put_word(&pk, "last_batch");
    msgpack_pack_uint64(&pk, welcome->last_batch);
    put_word(&pk, "last_step");
    put_optional(&pk, welcome->has_step, (uint64_t)welcome->last_step);
    put_word(&pk, "max_rows");
    msgpack_pack_uint32(&pk, welcome->max_rows);
    put_word(&pk, "max_bytes");
    msgpack_pack_uint32(&pk, welcome->max_bytes);
    put_word(&pk, "max_unacked");
    msgpack_pack_uint32(&pk, welcome->max_unacked);
    put_word(&pk, "probe_every");
    msgpack_pack_uint32(&pk, welcome->probe_every);
}

void wire_put_ack_head(struct wire_buf *b, uint64_t batch, bool has_step, int64_t last_step,
                       uint32_t n_verdicts)
{
    msgpack_packer pk = put_head(b, WIRE_ACK, 4);
    msgpack_pack_uint64(&pk, batch);
    put_optional(&pk, has_step, (uint64_t)last_step);
    msgpack_pack_array(&pk, n_verdicts);
}

void wire_put_text(struct wire_buf *b, const char *text, size_t n)
{
    msgpack_packer pk = packer_on(b);
    msgpack_pack_str_with_body(&pk, text, n);
}

void wire_put_error(struct wire_buf *b, const struct wire_error *error)
{
    msgpack_packer pk = put_head(b, WIRE_ERROR, 5);
    put_str(&pk, error->code);
    put_str(&pk, error->text);
    put_str(&pk, error->hint);
    put_optional(&pk, error->has_ref, error->ref);
}

void wire_put_reply(struct wire_buf *b, uint64_t id, const char *json, size_t n)
{
    msgpack_packer pk = put_head(b, WIRE_REPLY, 3);
    msgpack_pack_uint64(&pk, id);
    msgpack_pack_str_with_body(&pk, json, n);
}

void wire_put_ping(struct wire_buf *b)
{
    put_head(b, WIRE_PING, 1);
}
