#include "daemon/ingest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/talk.h"

struct ingest *ingest_new(const struct ingest_ops *ops, void *arg, uint32_t probe_every,
                          const struct limits *limits)
{
    static const struct limits defaults = LIMITS_DEFAULT;
    struct ingest *i = calloc(1, sizeof(*i));
    if (!i)
        return NULL;
    i->ops = *ops;
    i->arg = arg;
    i->probe_every = probe_every;
    i->limits = limits ? *limits : defaults;
    i->strangers = rate_full(LIMIT_STRANGER_BURST, ops->now(arg));
    i->sessions = session_table_new(i->limits.peers);
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

void ingest_limit(struct ingest *i, const struct limits *limits)
{
    struct limits fresh = *limits;
    fresh.query_peers = i->limits.query_peers;
    fresh.unacked = i->limits.unacked;
    fresh.message_bytes = i->limits.message_bytes;
    i->limits = fresh;
    session_table_limit(i->sessions, fresh.peers);
}

const struct limits *ingest_limits(const struct ingest *i)
{
    return &i->limits;
}

/* ---- sessions ---- */

static void forget(struct ingest *i, struct session *s)
{
    talk_unmark_dirty(i, s);
    session_remove(i->sessions, s);
}

/* FNV-1a; 0 is nobody. */
static uint64_t hash_origin(const char *origin)
{
    uint64_t h = UINT64_C(14695981039346656037);
    if (!origin || !*origin)
        return 0;
    for (; *origin; origin++)
        h = (h ^ (uint8_t)*origin) * UINT64_C(1099511628211);
    return h ? h : 1;
}

/* `user` is "" for none. */
static struct session *meet(struct ingest *i, const void *peer, size_t n, const char *user,
                            const char *origin)
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
    double t = talk_now(i);
    snprintf(s->user, sizeof(s->user), "%s", user);
    s->spoken_at = t;
    s->errors = rate_full(LIMIT_ERROR_BURST, t);
    s->hellos = rate_full(LIMIT_HELLO_BURST, t);
    s->runs = rate_full(i->limits.runs_per_peer, t);
    s->origin = hash_origin(user[0] ? user : origin);
    s->asked_at = s->gap_at = t - 2 * TALK_ASK_INTERVAL;
    return s;
}

static void detach(struct ingest *i, uint64_t owner, int64_t run_id, struct lane *lane)
{
    struct job *job = job_new(JOB_DETACH, 0);
    if (!job) {
        log_error("ingest", "no memory to note that a client is gone; its run becomes silent");
        return;
    }
    job->owner = owner;
    job->run_id = run_id;
    job->lane = lane;
    i->ops.submit(i->arg, job);
}

/* The session's peer cannot be reached any more, or begins another session. While the session is
 * still OPENING its run is not known; on_abandoned detaches it then. `lane` is where the worker
 * hears of it. */
static void leave(struct ingest *i, struct session *s, struct lane *lane)
{
    if (s->state == SESSION_OPEN) {
        uint32_t suppressed;
        char run[96];
        if (log_limit_pass(&i->gone, talk_now(i), &suppressed))
            log_info("ingest", "run %s: its client is gone without a farewell (%u more before it)",
                     log_quote(run, sizeof(run), s->run, strlen(s->run)), suppressed);
        detach(i, s->owner, s->run_id, lane);
    }
    forget(i, s);
}

/* Asks `may` on behalf of the session's user, for the run when one is given. */
static bool may(struct ingest *i, const struct session *s, const char *run, size_t n,
                char errmsg[SEISMO_ERRMSG])
{
    return !i->ops.may || i->ops.may(i->arg, s->user[0] ? s->user : NULL, run, n, errmsg);
}

static bool same_name(const struct session *s, const char *run, size_t n, uint32_t rank)
{
    return s->rank == rank && strlen(s->name) == n && memcmp(s->name, run, n) == 0;
}

static bool same_id(const struct session *s, const void *id, size_t n)
{
    return s->id_n == n && memcmp(s->id, id, n) == 0;
}

/* Whether the HELLO is one of this session. The worker knows a run by the client's id, the name and
 * the rank: a client that says its id and another name begins another session. */
static bool same_session(const struct session *s, const struct wire_hello *hello)
{
    return same_id(s, hello->session.p, hello->session.n) &&
           same_name(s, hello->run.p, hello->run.n, hello->rank);
}

/* What this session has waiting goes behind what the other one has, so that the worker hears of
 * both in the order in which they were here. */
static void follow(struct session *s, struct session *other)
{
    struct lane *lane = s->lane;
    s->lane = other->lane;
    other->lane = lane;
}

/* Looks at the other sessions: the same one is this client before it reconnected; one with the same
 * name may be a job that died, which the worker must know before it opens the run. */
static void look_around(struct ingest *i, struct session *s, const struct wire_hello *hello)
{
    uint32_t at = 0;
    struct session *other;
    while ((other = session_next(i->sessions, &at))) {
        if (other == s || other->state == SESSION_STRANGER)
            continue;
        if (same_session(other, hello) && strcmp(other->user, s->user) == 0) {
            s->told = other->told;
            follow(s, other);
            forget(i, other);
        } else if (same_name(other, hello->run.p, hello->run.n, hello->rank) &&
                   other->state == SESSION_OPEN) {
            talk_ping(i, other);
            if (other->gone) {
                if (other->lane->first)
                    follow(s, other);
                leave(i, other, s->lane);
            }
        }
    }
}

/* The connection begins another session. */
static struct session *begin_again(struct ingest *i, struct session *s)
{
    uint8_t peer[LIMIT_PEER_ID];
    char user[sizeof(s->user)];
    size_t peer_n = s->peer_n;
    struct rate errors = s->errors, hellos = s->hellos, runs = s->runs;
    uint64_t origin = s->origin;
    struct lane *lane = s->lane;
    memcpy(peer, s->peer, peer_n);
    memcpy(user, s->user, sizeof(user));
    s->lane = NULL;
    leave(i, s, lane);
    s = meet(i, peer, peer_n, user, NULL);
    if (!s) {
        lane_leave(&lane);
        return NULL;
    }
    lane_leave(&s->lane);
    s->lane = lane;
    s->errors = errors;
    s->hellos = hellos;
    s->runs = runs;
    s->origin = origin;
    return s;
}

static uint32_t runs_from(const struct ingest *i, uint64_t origin)
{
    uint32_t at = 0, n = 0;
    const struct session *s;
    while ((s = session_next(i->sessions, &at)))
        n += s->origin == origin && (s->state == SESSION_OPENING || s->state == SESSION_OPEN);
    return n;
}

/* Whether the peer may say this HELLO now; answers when it may not. */
static bool may_open(struct ingest *i, struct session *s, const struct wire_hello *hello)
{
    bool again = s->state != SESSION_STRANGER && same_session(s, hello);
    char errmsg[SEISMO_ERRMSG];
    if (!may(i, s, hello->run.p, hello->run.n, errmsg))
        talk_complain(i, s, SEISMO_EDENIED, 0, errmsg);
    else if (!rate_take(&s->hellos, LIMIT_HELLO_BURST, LIMIT_HELLO_RATE, talk_now(i)))
        talk_refuse(i, s, SEISMO_EBUSY, 0, "HELLOs at once", LIMIT_HELLO_BURST, "too many HELLOs");
    else if (hello->layout.n > i->limits.fields)
        talk_refuse(i, s, SEISMO_ETOOBIG, 0, TALK_LIMIT(i, fields), "too many fields");
    else if (hello->meta.n > i->limits.metadata_bytes)
        talk_refuse(i, s, SEISMO_ETOOBIG, 0, TALK_LIMIT(i, metadata_bytes),
                    "the metadata is too long");
    else if (!again && !rate_take(&s->runs, i->limits.runs_per_peer, LIMIT_RUN_REFILL, talk_now(i)))
        talk_refuse(i, s, SEISMO_EBUSY, 0, TALK_LIMIT(i, runs_per_peer),
                    "too many runs of one connection");
    else if (!again && s->origin && runs_from(i, s->origin) >= i->limits.runs_per_address)
        talk_refuse(i, s, SEISMO_EBUSY, 0, TALK_LIMIT(i, runs_per_address),
                    "too many runs of one address");
    else
        return true;
    return false;
}

static void on_hello(struct ingest *i, struct session *s, const struct wire_hello *hello)
{
    if (s->state == SESSION_OPENING && same_session(s, hello))
        return; /* its WELCOME is under way */
    if (!may_open(i, s, hello))
        return;
    /* Also after a session that the worker does not hold any more: its ACKs may still be due. */
    if (s->id_n > 0 && !same_session(s, hello))
        s = begin_again(i, s);
    if (!s)
        return; /* out of memory: the client asks again */
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
    s->next = hello->next;
    job->owner = s->owner;
    job->lane = s->lane;
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
        talk_ask_hello(i, s, batch);
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
        talk_ack(i, s);
        return false;
    }
    if (batch <= s->received)
        return false; /* under way; the commit acknowledges it */
    if (s->state != SESSION_OPEN) {
        talk_complain(i, s, SEISMO_EINVAL, batch, "the run has ended with BYE");
        return false;
    }
    if (batch == s->received + 1 || (s->any_batch && batch <= s->first_max))
        return true;
    double t = talk_now(i);
    if (s->gap != s->received + 1 || t - s->gap_at >= TALK_ASK_INTERVAL) {
        char text[SEISMO_ERRMSG];
        snprintf(text, sizeof(text), "batch %" PRIu64 " came, batch %" PRIu64 " is due", batch,
                 s->received + 1);
        s->gap = s->received + 1;
        s->gap_at = t;
        talk_complain(i, s, SEISMO_EORDER, batch, text);
    }
    return false;
}

/* Whether there is room for a batch of `rows` rows; answers when there is not. */
static bool has_room(struct ingest *i, struct session *s, uint64_t batch, uint32_t rows)
{
    uint64_t bytes = rows * sizeof(struct seismo_row);
    if (s->pending >= i->limits.unacked) {
        talk_refuse(i, s, SEISMO_EBUSY, batch, TALK_LIMIT(i, unacked),
                    "too many batches wait for a commit");
        return false;
    }
    /* Alone a batch is always taken. */
    if (i->ops.allowance && s->lane->bytes > 0 &&
        s->lane->bytes + bytes > i->ops.allowance(i->arg)) {
        bool own = s->lane->bytes + bytes > i->limits.peer_queued_bytes;
        if (own)
            talk_refuse(i, s, SEISMO_EBUSY, batch, TALK_LIMIT(i, peer_queued_bytes),
                        "too much of this connection waits to be scored");
        else
            talk_refuse(i, s, SEISMO_EBUSY, batch, TALK_LIMIT(i, queued_bytes),
                        "too much waits to be scored");
        return false;
    }
    return true;
}

/* When the worker may have `rows` more steps of this session, s: at once as long as it is within a
 * second's worth of its rate. */
static double pace(const struct ingest *i, struct session *s, uint32_t rows)
{
    double t = talk_now(i);
    if (s->paced < t)
        s->paced = t;
    double due = s->paced - 1;
    s->paced += rows / (double)i->limits.steps_per_second;
    return due;
}

static void take(struct ingest *i, struct session *s, struct job *job, uint64_t batch)
{
    job->owner = s->owner;
    job->lane = s->lane;
    job->run_id = s->run_id;
    job->batch = batch;
    s->received = batch;
    s->any_batch = false;
    s->pending++;
    i->ops.submit(i->arg, job);
}

static void on_steps(struct ingest *i, struct session *s, const struct wire_steps *steps)
{
    if (!in_sequence(i, s, steps->batch) || !has_room(i, s, steps->batch, steps->n))
        return;
    struct job *job = job_new(JOB_STEPS, steps->n);
    if (!job) {
        /* Not no_memory: a client gives a batch up that is refused, and keeps one that is not
         * taken. */
        talk_complain(i, s, SEISMO_EBUSY, steps->batch, "no memory for the batch");
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
        talk_complain(i, s, rc, steps->batch, errmsg);
        return;
    }
    job->steps.n = n;
    job->due = pace(i, s, n);
    take(i, s, job, steps->batch);
}

static void on_bye(struct ingest *i, struct session *s, const struct wire_bye *bye)
{
    if (!in_sequence(i, s, bye->batch) || !has_room(i, s, bye->batch, 0))
        return;
    struct job *job = job_new(JOB_CLOSE, 0);
    if (!job) {
        talk_complain(i, s, SEISMO_EBUSY, bye->batch, "no memory to end the run");
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
    return batch <= INT64_MAX ? batch : 0; /* no client has such a batch */
}

void ingest_receive(struct ingest *i, const struct zsock_msg *msg)
{
    i->stats.messages++;
    if (msg->peer_n < 1 || msg->peer_n > LIMIT_PEER_ID)
        return; /* libzmq makes no such routing ids */
    const char *user = msg->user ? msg->user : "";
    struct session *s = session_by_peer(i->sessions, msg->peer, msg->peer_n);
    if (s && strcmp(s->user, user) != 0) {
        /* Somebody else connected under the routing id of a client that is gone. */
        leave(i, s, s->lane);
        s = NULL;
    }
    if (!s)
        s = meet(i, msg->peer, msg->peer_n, user, msg->origin);
    if (!s) {
        talk_turn_away(i, msg);
        return;
    }
    s->gone = false;
    char errmsg[SEISMO_ERRMSG];
    if (!may(i, s, NULL, 0, errmsg)) {
        talk_complain(i, s, SEISMO_EDENIED, 0, errmsg);
        return;
    }
    if (msg->frames != 1) {
        snprintf(errmsg, sizeof(errmsg),
                 "a message is one frame, not %d; the socket must be a DEALER", msg->frames);
        talk_complain(i, s, SEISMO_EMALFORMED, 0, errmsg);
        return;
    }
    if (msg->n > i->limits.message_bytes) {
        talk_refuse(i, s, SEISMO_ETOOBIG, batch_of(msg->data, msg->n), TALK_LIMIT(i, message_bytes),
                    "the message is too long");
        return;
    }
    struct wire_msg m;
    int rc = wire_decode(msg->data, msg->n, &m, errmsg);
    if (rc == SEISMO_ENOMEM) {
        log_error("ingest", "no memory to read a HELLO; its client asks again");
        return;
    }
    if (rc != 0) {
        talk_complain(i, s, rc, batch_of(msg->data, msg->n), errmsg);
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
        talk_complain(i, s, SEISMO_EMALFORMED, 0, errmsg);
    }
}

void ingest_recheck(struct ingest *i)
{
    uint32_t at = 0;
    struct session *s;
    char errmsg[SEISMO_ERRMSG];
    while ((s = session_next(i->sessions, &at))) {
        if (s->state == SESSION_STRANGER || may(i, s, s->name, strlen(s->name), errmsg))
            continue;
        talk_complain(i, s, SEISMO_EDENIED, 0, errmsg);
        if (s->state == SESSION_OPEN)
            detach(i, s->owner, s->run_id, s->lane);
        forget(i, s);
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
            talk_complain(i, s, job->err, 0, job->errmsg);
        return;
    }
    s->state = SESSION_OPEN;
    s->run_id = job->run_id;
    s->received = s->committed = job->last_batch;
    s->has_step = job->has_step;
    s->last_step = job->last_step;
    /* When nothing of the session is stored, its client may still have had batches acknowledged, in
     * a run that another job has continued since. HELLO's `next` tells what is due then. Of a
     * client that does not say any number may come first; but none above one that came too early,
     * which would leave a gap. */
    s->any_batch = job->last_batch == 0 && s->next == 0;
    if (job->last_batch == 0 && s->next > 0)
        s->received = s->next - 1;
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
                             .max_bytes = i->limits.message_bytes,
                             .max_unacked = i->limits.unacked,
                             .probe_every = i->probe_every};
    struct wire_buf b = talk_buffer(i);
    wire_put_welcome(&b, &w);
    talk_say(i, s, &b);
    if (s->first_max > s->committed && s->first_max != UINT64_MAX)
        talk_complain(i, s, SEISMO_EORDER, s->first_max,
                      "the batch came before WELCOME and was not taken");
}

/* The session left before its run was known. Unless its client has come back under another
 * connection, the run has nobody now. */
static void on_abandoned(struct ingest *i, const struct job *job)
{
    uint32_t at = 0;
    const struct session *s;
    while ((s = session_next(i->sessions, &at)))
        if (s->state != SESSION_STRANGER && same_id(s, job->open.session, job->open.session_n) &&
            same_name(s, job->open.name, strlen(job->open.name), job->open.rank))
            return;
    if (job->err == 0)
        detach(i, job->owner, job->run_id, NULL);
}

static void on_committed(struct ingest *i, struct session *s, struct job *job)
{
    s->pending--;
    if (job->err == 0) {
        s->committed = job->last_batch;
        if (s->received < s->committed)
            s->received = s->committed;
        s->has_step = job->has_step;
        s->last_step = job->last_step;
        if (job->type == JOB_CLOSE && s->state == SESSION_CLOSING)
            s->state = SESSION_CLOSED;
        talk_mark_dirty(i, s);
        return;
    }
    if (job->err == SEISMO_EHELLO) { /* the worker does not hold the run any more */
        if (s->state != SESSION_OPENING)
            s->state = SESSION_STRANGER;
        talk_ask_hello(i, s, job->batch);
        return;
    }
    if (s->state == SESSION_CLOSING)
        s->state = SESSION_OPEN;
    if (s->received >= job->batch && s->committed < job->batch)
        s->received = job->batch - 1;
    talk_complain(i, s, job->err == SEISMO_ENOMEM ? SEISMO_EBUSY : job->err, job->batch,
                  job->errmsg);
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
            talk_news(i, to, n);
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
        talk_ack(i, s);
    }
}

void ingest_tick(struct ingest *i)
{
    ingest_flush(i);
    double t = talk_now(i);
    uint32_t at = 0;
    struct session *s;
    while ((s = session_next(i->sessions, &at))) {
        if (!s->gone && t - s->spoken_at >= LIMIT_PING_INTERVAL)
            talk_ping(i, s);
        if (s->gone)
            leave(i, s, s->lane);
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
