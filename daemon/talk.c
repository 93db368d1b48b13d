#include "daemon/talk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENVELOPE 64 /* bytes of an ACK around its verdicts, more than it needs */

double talk_now(const struct ingest *i)
{
    return i->ops.now(i->arg);
}

struct wire_buf talk_buffer(struct ingest *i)
{
    return (struct wire_buf){.data = i->out, .cap = sizeof(i->out)};
}

int talk_say(struct ingest *i, struct session *s, const struct wire_buf *b)
{
    int rc = i->ops.send(i->arg, s->peer, s->peer_n, b->data, b->n);
    if (rc == 0)
        s->spoken_at = talk_now(i);
    else if (rc == SEISMO_EUNREACHABLE)
        s->gone = true;
    return rc;
}

int talk_ping(struct ingest *i, struct session *s)
{
    struct wire_buf b = talk_buffer(i);
    wire_put_ping(&b);
    return talk_say(i, s, &b);
}

static const char *hint_of(int err)
{
    switch (err) {
    case SEISMO_EMALFORMED:
        return "nothing of this message was stored; compare its encoding with PROTOCOL.md";
    case SEISMO_ETOOBIG:
        return "nothing of this message was stored; send less at once, WELCOME names the limits";
    case SEISMO_EVERSION:
        return "use a client and a daemon of the same protocol version";
    case SEISMO_EFIELD:
        return "leave the field out or correct its name; PROTOCOL.md lists all of them";
    case SEISMO_EHELLO:
        return "send HELLO, wait for WELCOME, and send again what comes after its last_batch";
    case SEISMO_EORDER:
        return "go back to the first batch that is not acknowledged";
    case SEISMO_EDENIED:
        return "ask whoever keeps the daemon for a role in its directory of clients";
    case SEISMO_EINVAL:
        return "begin another run with a HELLO that has a new session";
    case SEISMO_EBUSY:
        return "wait a moment, then send this message again and what follows it";
    default:
        return "try again later; the daemon's log says more";
    }
}

/* The length of `text` without a character that was cut in its middle. */
static uint32_t whole_characters(const char *text)
{
    size_t n = strlen(text), back = 0;
    while (back < n && back < 4 && ((uint8_t)text[n - 1 - back] & 0xc0) == 0x80)
        back++;
    if (back == n)
        return (uint32_t)n;
    uint8_t lead = (uint8_t)text[n - 1 - back];
    size_t due = lead < 0xc0 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    return (uint32_t)(due == back ? n : n - 1 - back);
}

/* For the log and the counters: what a peer is told, or would be. `s` is NULL for one that has no
 * session. */
static void note(struct ingest *i, const struct session *s, int err, const char *text)
{
    i->stats.errors++;
    uint32_t suppressed;
    if (!log_limit_pass(&i->errors, talk_now(i), &suppressed))
        return;
    char name[96] = "", quoted[320];
    bool named = s && s->name[0];
    if (named)
        log_quote(name, sizeof(name), s->name, strlen(s->name));
    log_warning("ingest", "%s%s: %s: %s (%u more complaints before this one)",
                named ? "run " : "a peer without a run", name, seismo_errname(err),
                log_quote(quoted, sizeof(quoted), text, strlen(text)), suppressed);
}

static struct wire_buf error_message(struct ingest *i, int err, uint64_t ref, const char *text)
{
    const char *code = seismo_errname(err), *hint = hint_of(err);
    struct wire_error e = {.code = {code, (uint32_t)strlen(code)},
                           .text = {text, whole_characters(text)},
                           .hint = {hint, (uint32_t)strlen(hint)},
                           .has_ref = ref != 0,
                           .ref = ref};
    struct wire_buf b = talk_buffer(i);
    wire_put_error(&b, &e);
    return b;
}

void talk_complain(struct ingest *i, struct session *s, int err, uint64_t ref, const char *text)
{
    note(i, s, err, text);
    if (!rate_take(&s->errors, LIMIT_ERROR_BURST, LIMIT_ERROR_RATE, talk_now(i)))
        return;
    struct wire_buf b = error_message(i, err, ref, text);
    talk_say(i, s, &b);
}

void talk_refuse(struct ingest *i, struct session *s, int err, uint64_t ref, const char *limit,
                 uint32_t value, const char *what)
{
    char text[SEISMO_ERRMSG];
    snprintf(text, sizeof(text), "%s: [limits] %s is %" PRIu32, what, limit, value);
    i->stats.refused++;
    if (ref != 0 && err == SEISMO_EBUSY) {
        /* The batches behind this one come too early now, which is no news to their peer. */
        s->gap = s->received + 1;
        s->gap_at = talk_now(i);
    }
    talk_complain(i, s, err, ref, text);
}

void talk_ask_hello(struct ingest *i, struct session *s, uint64_t ref)
{
    double t = talk_now(i);
    if (t - s->asked_at < TALK_ASK_INTERVAL)
        return;
    s->asked_at = t;
    talk_complain(i, s, SEISMO_EHELLO, ref, "this connection has no session");
}

void talk_mark_dirty(struct ingest *i, struct session *s)
{
    if (s->dirty)
        return;
    s->dirty = true;
    s->dirty_prev = NULL;
    s->dirty_next = i->dirty;
    if (i->dirty)
        i->dirty->dirty_prev = s;
    i->dirty = s;
}

void talk_unmark_dirty(struct ingest *i, struct session *s)
{
    if (!s->dirty)
        return;
    s->dirty = false;
    if (s->dirty_prev)
        s->dirty_prev->dirty_next = s->dirty_next;
    else
        i->dirty = s->dirty_next;
    if (s->dirty_next)
        s->dirty_next->dirty_prev = s->dirty_prev;
}

static void drop_news(struct session *s)
{
    struct news *n = s->news;
    s->news = n->next;
    s->n_news--;
    free(n->json);
    free(n);
}

void talk_ack(struct ingest *i, struct session *s)
{
    do {
        uint32_t n = 0;
        size_t bytes = ENVELOPE;
        const struct news *news = s->news;
        for (; news && bytes + strlen(news->json) + 5 <= sizeof(i->out); news = news->next) {
            bytes += strlen(news->json) + 5;
            n++;
        }
        struct wire_buf b = talk_buffer(i);
        wire_put_ack_head(&b, s->committed, s->has_step, s->last_step, n);
        news = s->news;
        for (uint32_t k = 0; k < n; k++, news = news->next)
            wire_put_text(&b, news->json, strlen(news->json));
        int rc = talk_say(i, s, &b);
        if (rc != 0) {
            if (rc != SEISMO_EUNREACHABLE)
                talk_mark_dirty(i, s); /* the next flush tries again */
            return;
        }
        while (n-- > 0)
            drop_news(s);
    } while (s->news);
}

void talk_news(struct ingest *i, struct session *s, struct news *n)
{
    if (strlen(n->json) > LIMIT_ACK_BYTES / 2) {
        free(n->json);
        free(n);
        return;
    }
    if (s->n_news == LIMIT_SESSION_VERDICTS)
        drop_news(s);
    struct news **end = &s->news;
    while (*end)
        end = &(*end)->next;
    n->next = NULL;
    *end = n;
    s->n_news++;
    talk_mark_dirty(i, s);
}

void talk_turn_away(struct ingest *i, const struct zsock_msg *msg)
{
    char text[SEISMO_ERRMSG];
    int err = session_table_is_full(i->sessions) ? SEISMO_EBUSY : SEISMO_ENOMEM;
    if (err == SEISMO_EBUSY)
        snprintf(text, sizeof(text), "as many peers as may: [limits] peers is %" PRIu32,
                 i->limits.peers);
    else
        snprintf(text, sizeof(text), "no memory for another peer");
    i->stats.refused++;
    note(i, NULL, err, text);
    if (!rate_take(&i->strangers, LIMIT_STRANGER_BURST, LIMIT_STRANGER_RATE, talk_now(i)))
        return;
    struct wire_buf b = error_message(i, SEISMO_EBUSY, 0, text);
    i->ops.send(i->arg, msg->peer, msg->peer_n, b.data, b.n);
}
