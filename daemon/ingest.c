#include "daemon/ingest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/session.h"

#define ASK_INTERVAL 1.0 /* s between two hello_required, or two out_of_order for one gap */
#define ENVELOPE 64      /* bytes of an ACK around its verdicts, more than it needs */

struct ingest {
    struct ingest_ops ops;
    void *arg;
    uint32_t probe_every;
    struct session_table *sessions;
    struct session *dirty; /* an ACK is due */
    struct ingest_stats stats;
    struct log_limit errors, full, gone;
    uint8_t out[LIMIT_ACK_BYTES];
};

struct ingest *ingest_new(const struct ingest_ops *ops, void *arg, uint32_t probe_every)
{
    struct ingest *i = calloc(1, sizeof(*i));
    if (!i)
        return NULL;
    i->ops = *ops;
    i->arg = arg;
    i->probe_every = probe_every;
    i->sessions = session_table_new();
    if (!i->sessions)
        ingest_free(&i);
    return i;
}

void ingest_free(struct ingest **ref)
{
    struct ingest *i = *ref;
    if (!i)
        return;
    *ref = NULL;
    session_table_free(&i->sessions);
    free(i);
}

static double now(const struct ingest *i)
{
    return i->ops.now(i->arg);
}

/* ---- to the peer ---- */

static struct wire_buf buffer(struct ingest *i)
{
    return (struct wire_buf){.data = i->out, .cap = sizeof(i->out)};
}

/* A peer that cannot be reached is only marked here, so that no caller loses its session under its
 * hands; ingest_tick draws the consequences. */
static int say(struct ingest *i, struct session *s, const struct wire_buf *b)
{
    int rc = i->ops.send(i->arg, s->peer, s->peer_n, b->data, b->n);
    if (rc == 0)
        s->spoken_at = now(i);
    else if (rc == SEISMO_EUNREACHABLE)
        s->gone = true;
    return rc;
}

static int ping(struct ingest *i, struct session *s)
{
    struct wire_buf b = buffer(i);
    wire_put_ping(&b);
    return say(i, s, &b);
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
    case SEISMO_EINVAL:
        return "begin another run with a HELLO that has a new session";
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

static bool may_complain(struct ingest *i, struct session *s)
{
    double t = now(i);
    s->errors += (t - s->errors_at) * LIMIT_ERROR_RATE;
    s->errors_at = t;
    if (s->errors > LIMIT_ERROR_BURST)
        s->errors = LIMIT_ERROR_BURST;
    if (s->errors < 1)
        return false;
    s->errors -= 1;
    return true;
}

/* Tells the peer and the log what is wrong with a message; `ref` is its batch, 0 for none. */
static void complain(struct ingest *i, struct session *s, int err, uint64_t ref, const char *text)
{
    i->stats.errors++;
    uint32_t suppressed;
    if (log_limit_pass(&i->errors, now(i), &suppressed)) {
        char name[96] = "", quoted[320];
        if (s->name[0])
            log_quote(name, sizeof(name), s->name, strlen(s->name));
        log_warning("ingest", "%s%s: %s: %s (%u more complaints before this one)",
                    s->name[0] ? "run " : "a peer without a run", name, seismo_errname(err),
                    log_quote(quoted, sizeof(quoted), text, strlen(text)), suppressed);
    }
    if (!may_complain(i, s))
        return;
    const char *code = seismo_errname(err), *hint = hint_of(err);
    struct wire_error e = {.code = {code, (uint32_t)strlen(code)},
                           .text = {text, whole_characters(text)},
                           .hint = {hint, (uint32_t)strlen(hint)},
                           .has_ref = ref != 0,
                           .ref = ref};
    struct wire_buf b = buffer(i);
    wire_put_error(&b, &e);
    say(i, s, &b);
}

static void ask_hello(struct ingest *i, struct session *s, uint64_t ref)
{
    double t = now(i);
    if (t - s->asked_at < ASK_INTERVAL)
        return;
    s->asked_at = t;
    complain(i, s, SEISMO_EHELLO, ref, "this connection has no session");
}

static void mark_dirty(struct ingest *i, struct session *s)
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

static void unmark_dirty(struct ingest *i, struct session *s)
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

static void send_ack(struct ingest *i, struct session *s)
{
    do {
        uint32_t n = 0;
        size_t bytes = ENVELOPE;
        const struct news *news = s->news;
        for (; news && bytes + strlen(news->json) + 5 <= sizeof(i->out); news = news->next) {
            bytes += strlen(news->json) + 5;
            n++;
        }
        struct wire_buf b = buffer(i);
        wire_put_ack_head(&b, s->committed, s->has_step, s->last_step, n);
        news = s->news;
        for (uint32_t k = 0; k < n; k++, news = news->next)
            wire_put_text(&b, news->json, strlen(news->json));
        int rc = say(i, s, &b);
        if (rc != 0) {
            if (rc != SEISMO_EUNREACHABLE)
                mark_dirty(i, s); /* the next flush tries again */
            return;
        }
        while (n-- > 0)
            drop_news(s);
    } while (s->news);
}

/* Takes the news. A verdict that finds too many before it pushes the oldest out: a client that does
 * not read still finds them in the database. */
static void add_news(struct ingest *i, struct session *s, struct news *n)
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
    mark_dirty(i, s);
}

/* ---- sessions ---- */

static void forget(struct ingest *i, struct session *s)
{
    unmark_dirty(i, s);
    session_remove(i->sessions, s);
}

static struct session *meet(struct ingest *i, const void *peer, size_t n)
{
    struct session *s = session_add(i->sessions, peer, n);
    if (!s) {
        /* Those without a run make room first. */
        uint32_t at = 0;
        struct session *other;
        while ((other = session_next(i->sessions, &at))) {
            if (other->state == SESSION_STRANGER || other->state == SESSION_CLOSED) {
                forget(i, other);
                s = session_add(i->sessions, peer, n);
                break;
            }
        }
    }
    if (!s)
        return NULL;
    s->spoken_at = s->errors_at = now(i);
    s->errors = LIMIT_ERROR_BURST;
    s->asked_at = s->gap_at = now(i) - 2 * ASK_INTERVAL;
    return s;
}

static void detach(struct ingest *i, uint64_t owner, int64_t run_id)
{
    struct job *job = job_new(JOB_DETACH, 0);
    if (!job) {
        log_error("ingest", "no memory to note that a client is gone; its run becomes silent");
        return;
    }
    job->owner = owner;
    job->run_id = run_id;
    i->ops.submit(i->arg, job);
}

/* The session's peer cannot be reached any more, or begins another session. While the session is
 * still OPENING its run is not known; on_abandoned detaches it then. */
static void leave(struct ingest *i, struct session *s)
{
    if (s->state == SESSION_OPEN) {
        uint32_t suppressed;
        char run[96];
        if (log_limit_pass(&i->gone, now(i), &suppressed))
            log_info("ingest", "run %s: its client is gone without a farewell (%u more before it)",
                     log_quote(run, sizeof(run), s->run, strlen(s->run)), suppressed);
        detach(i, s->owner, s->run_id);
    }
    forget(i, s);
}

static bool same_id(const struct session *s, const struct wire_hello *hello)
{
    return s->id_n == hello->session.n && memcmp(s->id, hello->session.p, s->id_n) == 0;
}

static bool same_name(const struct session *s, const struct wire_hello *hello)
{
    return s->rank == hello->rank && strlen(s->name) == hello->run.n &&
           memcmp(s->name, hello->run.p, hello->run.n) == 0;
}

/* Looks at the other sessions: one with the same id is this client before it reconnected; one with
 * the same name may be a job that died, which the worker must know before it opens the run. */
static void look_around(struct ingest *i, struct session *s, const struct wire_hello *hello)
{
    uint32_t at = 0;
    struct session *other;
    while ((other = session_next(i->sessions, &at))) {
        if (other == s || other->state == SESSION_STRANGER)
            continue;
        if (same_id(other, hello)) {
            s->told = other->told;
            forget(i, other);
        } else if (same_name(other, hello) && other->state == SESSION_OPEN) {
            ping(i, other);
            if (other->gone)
                leave(i, other);
        }
    }
}

static void on_hello(struct ingest *i, struct session *s, const struct wire_hello *hello)
{
    if (s->state != SESSION_STRANGER && !same_id(s, hello)) {
        /* The connection begins another session. */
        uint8_t peer[LIMIT_PEER_ID];
        size_t peer_n = s->peer_n;
        memcpy(peer, s->peer, peer_n);
        leave(i, s);
        s = meet(i, peer, peer_n);
        if (!s)
            return; /* out of memory: the client asks again */
    } else if (s->state == SESSION_OPENING) {
        return; /* its WELCOME is under way */
    }
    struct job *job = job_new(JOB_OPEN, 0);
    if (!job) {
        log_error("ingest", "no memory to open a run; its client asks again");
        return;
    }
    look_around(i, s, hello);
    memcpy(s->id, hello->session.p, hello->session.n);
    s->id_n = hello->session.n;
    snprintf(s->name, sizeof(s->name), "%.*s", (int)hello->run.n, hello->run.p);
    snprintf(s->program, sizeof(s->program), "%.*s", (int)hello->program.n, hello->program.p);
    s->rank = hello->rank;
    s->layout = hello->layout;
    s->state = SESSION_OPENING;
    s->first_max = UINT64_MAX;
    job->owner = s->owner;
    memcpy(job->open.name, s->name, sizeof(s->name));
    memcpy(job->open.program, s->program, sizeof(s->program));
    memcpy(job->open.session, s->id, s->id_n);
    job->open.session_n = s->id_n;
    job->open.rank = hello->rank;
    job->open.world = hello->world;
    memcpy(job->open.meta, hello->meta.p, hello->meta.n);
    i->ops.submit(i->arg, job);
}

/* Whether this batch is the one to take now; answers when it is not. */
static bool in_sequence(struct ingest *i, struct session *s, uint64_t batch)
{
    if (s->state == SESSION_STRANGER) {
        ask_hello(i, s, batch);
        return false;
    }
    if (s->state == SESSION_OPENING) {
        /* Without WELCOME nobody knows which batch is due; on_opened asks for it again. */
        if (batch < s->first_max)
            s->first_max = batch;
        return false;
    }
    if (batch <= s->committed) {
        i->stats.duplicate_batches++;
        send_ack(i, s);
        return false;
    }
    if (batch <= s->received)
        return false; /* under way; the commit acknowledges it */
    if (s->state != SESSION_OPEN) {
        complain(i, s, SEISMO_EINVAL, batch, "the run has ended with BYE");
        return false;
    }
    if (batch == s->received + 1 || (s->any_batch && batch <= s->first_max))
        return true;
    double t = now(i);
    if (s->gap != s->received + 1 || t - s->gap_at >= ASK_INTERVAL) {
        char text[SEISMO_ERRMSG];
        snprintf(text, sizeof(text), "batch %" PRIu64 " came, batch %" PRIu64 " is due", batch,
                 s->received + 1);
        s->gap = s->received + 1;
        s->gap_at = t;
        complain(i, s, SEISMO_EORDER, batch, text);
    }
    return false;
}

static void take(struct ingest *i, struct session *s, struct job *job, uint64_t batch)
{
    job->owner = s->owner;
    job->run_id = s->run_id;
    job->batch = batch;
    s->received = batch;
    s->any_batch = false;
    i->ops.submit(i->arg, job);
}

static void on_steps(struct ingest *i, struct session *s, const struct wire_steps *steps)
{
    if (!in_sequence(i, s, steps->batch))
        return;
    struct job *job = job_new(JOB_STEPS, steps->n);
    if (!job) {
        /* Not no_memory: a client gives a batch up that is refused, and keeps one that is not
         * taken. */
        complain(i, s, SEISMO_EBUSY, steps->batch, "no memory for the batch");
        return;
    }
    char errmsg[SEISMO_ERRMSG];
    struct wire_rows rows = steps->rows;
    struct seismo_row beyond; /* the last call only finds the end */
    uint32_t n = 0;
    int rc;
    while ((rc = wire_next_row(&rows, &s->layout, n < steps->n ? &job->steps.rows[n] : &beyond,
                               errmsg)) == 0)
        n++;
    if (rc != SEISMO_EEOF) {
        job_free(&job);
        complain(i, s, rc, steps->batch, errmsg);
        return;
    }
    job->steps.n = n;
    take(i, s, job, steps->batch);
}

static void on_bye(struct ingest *i, struct session *s, const struct wire_bye *bye)
{
    if (!in_sequence(i, s, bye->batch))
        return;
    struct job *job = job_new(JOB_CLOSE, 0);
    if (!job) {
        complain(i, s, SEISMO_EBUSY, bye->batch, "no memory to end the run");
        return;
    }
    job->close.outcome = bye->outcome;
    if (bye->text.n > 0)
        memcpy(job->close.text, bye->text.p, bye->text.n);
    s->state = SESSION_CLOSING;
    take(i, s, job, bye->batch);
}

/* The batch number of a STEPS or BYE message that is otherwise malformed; 0 when it has none. */
static uint64_t batch_of(const uint8_t *p, size_t n)
{
    if (n < 3 || (p[0] != 0x93 && p[0] != 0x94) || (p[1] != WIRE_STEPS && p[1] != WIRE_BYE))
        return 0;
    if (p[2] < 0x80)
        return p[2];
    if (p[2] < 0xcc || p[2] > 0xcf)
        return 0;
    size_t bytes = (size_t)1 << (p[2] - 0xcc);
    uint64_t batch = 0;
    if (n < 3 + bytes)
        return 0;
    for (size_t k = 0; k < bytes; k++)
        batch = batch << 8 | p[3 + k];
    return batch;
}

void ingest_receive(struct ingest *i, const struct zsock_msg *msg)
{
    i->stats.messages++;
    if (msg->peer_n < 1 || msg->peer_n > LIMIT_PEER_ID)
        return; /* libzmq makes no such routing ids */
    struct session *s = session_by_peer(i->sessions, msg->peer, msg->peer_n);
    if (!s)
        s = meet(i, msg->peer, msg->peer_n);
    if (!s) {
        uint32_t suppressed;
        if (log_limit_pass(&i->full, now(i), &suppressed))
            log_warning("ingest", "a new peer is ignored: %d sessions are open, or memory is out",
                        LIMIT_SESSIONS);
        return;
    }
    s->gone = false;
    char errmsg[SEISMO_ERRMSG];
    if (msg->frames != 1) {
        snprintf(errmsg, sizeof(errmsg),
                 "a message is one frame, not %d; the socket must be a DEALER", msg->frames);
        complain(i, s, SEISMO_EMALFORMED, 0, errmsg);
        return;
    }
    struct wire_msg m;
    int rc = wire_decode(msg->data, msg->n, &m, errmsg);
    if (rc != 0) {
        complain(i, s, rc, batch_of(msg->data, msg->n), errmsg);
        return;
    }
    switch (m.type) {
    case WIRE_HELLO:
        on_hello(i, s, &m.hello);
        break;
    case WIRE_STEPS:
        on_steps(i, s, &m.steps);
        break;
    case WIRE_BYE:
        on_bye(i, s, &m.bye);
        break;
    default:
        snprintf(errmsg, sizeof(errmsg),
                 "type %d does not belong here; clients send HELLO (1), STEPS (2) and BYE (3)",
                 (int)m.type);
        complain(i, s, SEISMO_EMALFORMED, 0, errmsg);
    }
}

/* ---- back from the worker ---- */

static void on_opened(struct ingest *i, struct session *s, const struct job *job)
{
    if (job->err != 0) {
        s->state = SESSION_STRANGER;
        if (job->err == SEISMO_ENOMEM) /* the client asks again */
            log_error("ingest", "a run was not opened: %s", job->errmsg);
        else
            complain(i, s, job->err, 0, job->errmsg);
        return;
    }
    s->state = SESSION_OPEN;
    s->run_id = job->run_id;
    s->received = s->committed = job->last_batch;
    s->has_step = job->has_step;
    s->last_step = job->last_step;
    /* When nothing of the session is stored, its client may still have had batches acknowledged, in
     * a run that another job has continued since. So any number may come first; but none above one
     * that came too early, which would leave a gap. */
    s->any_batch = job->last_batch == 0;
    snprintf(s->run, sizeof(s->run), "%s", job->open.ret_run);
    if (!s->told) {
        s->told = true;
        i->ops.opened(i->arg, s->run, s->program);
    }
    struct wire_welcome w = {.version = SEISMO_PROTOCOL_VERSION,
                             .run = {s->run, (uint32_t)strlen(s->run)},
                             .last_batch = s->committed,
                             .has_step = s->has_step,
                             .last_step = s->last_step,
                             .max_rows = SEISMO_MAX_ROWS,
                             .max_bytes = SEISMO_MAX_MESSAGE,
                             .max_unacked = SEISMO_MAX_UNACKED,
                             .probe_every = i->probe_every};
    struct wire_buf b = buffer(i);
    wire_put_welcome(&b, &w);
    say(i, s, &b);
    if (s->first_max > s->committed && s->first_max != UINT64_MAX)
        complain(i, s, SEISMO_EORDER, s->first_max,
                 "the batch came before WELCOME and was not taken");
}

/* The session left before its run was known. Unless its client has come back under another
 * connection, the run has nobody now. */
static void on_abandoned(struct ingest *i, const struct job *job)
{
    uint32_t at = 0;
    const struct session *s;
    while ((s = session_next(i->sessions, &at)))
        if (s->id_n == job->open.session_n && memcmp(s->id, job->open.session, s->id_n) == 0)
            return;
    if (job->err == 0)
        detach(i, job->owner, job->run_id);
}

static void on_committed(struct ingest *i, struct session *s, struct job *job)
{
    if (job->err == 0) {
        s->committed = job->last_batch;
        if (s->received < s->committed)
            s->received = s->committed;
        s->has_step = job->has_step;
        s->last_step = job->last_step;
        if (job->type == JOB_CLOSE && s->state == SESSION_CLOSING)
            s->state = SESSION_CLOSED;
        mark_dirty(i, s);
        return;
    }
    if (job->err == SEISMO_EHELLO) { /* the worker does not hold the run any more */
        if (s->state != SESSION_OPENING)
            s->state = SESSION_STRANGER;
        ask_hello(i, s, job->batch);
        return;
    }
    if (s->state == SESSION_CLOSING)
        s->state = SESSION_OPEN;
    if (s->received >= job->batch && s->committed < job->batch)
        s->received = job->batch - 1;
    complain(i, s, job->err == SEISMO_ENOMEM ? SEISMO_EBUSY : job->err, job->batch, job->errmsg);
}

static struct session *attached_to(struct ingest *i, int64_t run_id)
{
    uint32_t at = 0;
    struct session *s;
    while ((s = session_next(i->sessions, &at)))
        if (s->run_id == run_id && s->state == SESSION_OPEN)
            return s;
    return NULL;
}

void ingest_done(struct ingest *i, struct job *job)
{
    struct session *s = session_by_owner(i->sessions, job->owner);
    if (job->type == JOB_OPEN && s)
        on_opened(i, s, job);
    else if (job->type == JOB_OPEN)
        on_abandoned(i, job);
    else if (s && (job->type == JOB_STEPS || job->type == JOB_CLOSE))
        on_committed(i, s, job);
    while (job->news) {
        struct news *n = job->news;
        job->news = n->next;
        struct session *to = s && s->run_id == n->run_id ? s : attached_to(i, n->run_id);
        if (to) {
            add_news(i, to, n);
        } else {
            free(n->json);
            free(n);
        }
    }
}

void ingest_flush(struct ingest *i)
{
    struct session *s = i->dirty, *next;
    i->dirty = NULL; /* send_ack puts those back that have to wait */
    for (; s; s = next) {
        next = s->dirty_next;
        s->dirty = false;
        send_ack(i, s);
    }
}

void ingest_tick(struct ingest *i)
{
    ingest_flush(i);
    double t = now(i);
    uint32_t at = 0;
    struct session *s;
    while ((s = session_next(i->sessions, &at))) {
        if (!s->gone && t - s->spoken_at >= LIMIT_PING_INTERVAL)
            ping(i, s);
        if (s->gone)
            leave(i, s);
    }
}

void ingest_stats(const struct ingest *i, struct ingest_stats *ret)
{
    *ret = i->stats;
    uint32_t at = 0;
    const struct session *s;
    while ((s = session_next(i->sessions, &at)))
        ret->attached += s->state == SESSION_OPEN;
}
