#include "daemon/query.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/limits.h"
#include "daemon/log.h"
#include "daemon/reader.h"
#include "proto/wire.h"

#define ENVELOPE 64     /* bytes of a REPLY around its body */
#define ANSWERS_AHEAD 2 /* of up to a megabyte, in libzmq for each peer, where memory is scarce */
/* Bytes of a message beyond which the connection is closed; below it the peer is told. */
#define HARD_BYTES (2 * SEISMO_MAX_QUERY)

/* One query, from its message to its answer. */
struct request {
    struct request *next;
    struct query *q;
    uv_work_t work;
    struct reader *reader; /* while it is being read for */
    uint8_t peer[LIMIT_PEER_ID];
    size_t peer_n;
    uint64_t id; /* the client's */
    char method[65];
    char *params;
    size_t params_n;
    json_t *live;         /* `status`: what the loop knows */
    uint64_t label_token; /* of the JOB_LABEL under way */

    /* Result: of `label` the checked body, otherwise the encoded answer. */
    int err;
    char errmsg[SEISMO_ERRMSG], hint[READER_MAX_HINT];
    json_t *label;
    uint8_t *reply;
    size_t reply_n;
};

struct request_list {
    struct request *first, **end;
    uint32_t n;
};

struct query {
    uv_loop_t *loop;
    struct zsock *zsock;
    const struct model *model;
    struct query_ops ops;
    void *arg;
    struct reader *reader[QUERY_READERS];
    struct reader *idle[QUERY_READERS];
    uint32_t n_idle;
    struct request_list waiting; /* for a reader */
    struct request_list labels;  /* for the worker */
    uint64_t last_token;
    struct log_limit unsent;
    bool closing, socket_closed;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* ---- lists ---- */

static void list_init(struct request_list *l)
{
    *l = (struct request_list){.end = &l->first};
}

static void list_push(struct request_list *l, struct request *r)
{
    r->next = NULL;
    *l->end = r;
    l->end = &r->next;
    l->n++;
}

/* Takes out the request with this label token; 0 is the first one of any list. */
static struct request *list_take(struct request_list *l, uint64_t token)
{
    for (struct request **p = &l->first; *p; p = &(*p)->next) {
        struct request *r = *p;
        if (token == 0 || r->label_token == token) {
            *p = r->next;
            l->end = l->end == &r->next ? p : l->end;
            l->n--;
            return r;
        }
    }
    return NULL;
}

static void request_free(struct request *r)
{
    json_decref(r->live);
    json_decref(r->label);
    free(r->params);
    free(r->reply);
    free(r);
}

/* ---- answers ---- */

/* Parts of a peer's own strings may stand in an error text, cut in the middle of a character: what
 * is not printable UTF-8 becomes '?'. */
static struct wire_str clean(char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n;) {
        uint8_t c = (uint8_t)text[i];
        size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : 3;
        bool ok = c >= 0x20 && c != 0x7f && (c < 0x80 || (c >= 0xc2 && c < 0xf5));
        for (size_t j = 1; ok && j <= more; j++) {
            ok = i + j < n && ((uint8_t)text[i + j] & 0xc0) == 0x80;
        }
        if (!ok) {
            text[i] = '?';
            more = 0;
        }
        i += more + 1;
    }
    return (struct wire_str){text, (uint32_t)n};
}

static void send_to(struct query *q, const void *peer, size_t peer_n, const void *data, size_t n)
{
    int err = zsock_send(q->zsock, peer, peer_n, data, n);
    uint32_t suppressed;
    /* A client that has gone is no news; one that asks and never reads is. */
    if (err && err != SEISMO_EUNREACHABLE &&
        log_limit_pass(&q->unsent, (double)uv_now(q->loop) / 1000, &suppressed)) {
        log_warning("query", "an answer of %zu bytes was dropped: %s (%u more like it)", n,
                    seismo_strerror(err), suppressed);
    }
}

static void send_error(struct query *q, const void *peer, size_t peer_n, const uint64_t *id,
                       int err, char *text, char *hint)
{
    uint8_t data[SEISMO_MAX_TEXT * 2];
    struct wire_buf b = {.data = data, .cap = sizeof data};
    const char *code = seismo_errname(err);
    struct wire_error e = {.code = {code, (uint32_t)strlen(code)},
                           .text = clean(text),
                           .hint = clean(hint),
                           .has_ref = id != NULL,
                           .ref = id ? *id : 0};
    wire_put_error(&b, &e);
    send_to(q, peer, peer_n, data, b.n);
}

static void answer(struct request *r)
{
    if (r->err) {
        send_error(r->q, r->peer, r->peer_n, &r->id, r->err, r->errmsg, r->hint);
    } else {
        send_to(r->q, r->peer, r->peer_n, r->reply, r->reply_n);
    }
    request_free(r);
}

/* ---- reading, in the thread pool ---- */

static int out_of_memory(struct request *r)
{
    snprintf(r->errmsg, sizeof r->errmsg, "out of memory");
    return SEISMO_ENOMEM;
}

/* Adds to the database's part of `status` what the loop knew when it was asked. */
static int merge_live(struct request *r, json_t *body)
{
    json_t *storage = json_object_get(body, "storage");
    if (json_object_update(storage, json_object_get(r->live, "storage")) < 0 ||
        json_object_set(r->live, "storage", storage) < 0 || json_object_update(body, r->live) < 0) {
        return out_of_memory(r);
    }
    return 0;
}

static int encode_reply(struct request *r, const json_t *body)
{
    size_t n = json_dumpb(body, NULL, 0, READER_DUMP);
    char *text = malloc(n);
    r->reply = malloc(n + ENVELOPE);
    if (n == 0 || !text || !r->reply) {
        free(text);
        return out_of_memory(r);
    }
    json_dumpb(body, text, n, READER_DUMP);
    struct wire_buf b = {.data = r->reply, .cap = n + ENVELOPE};
    wire_put_reply(&b, r->id, text, n);
    r->reply_n = b.n;
    free(text);
    if (b.overflow || b.n > SEISMO_MAX_MESSAGE) {
        snprintf(r->errmsg, sizeof r->errmsg, "the answer to '%s' takes %zu bytes; at most %u fit",
                 r->method, n, SEISMO_MAX_MESSAGE);
        snprintf(r->hint, sizeof r->hint, "ask for less with a limit");
        return SEISMO_ETOOBIG;
    }
    return 0;
}

static void on_work(uv_work_t *work)
{
    struct request *r = work->data;
    json_t *body = NULL;
    r->err = reader_query(r->reader, r->method, r->params, r->params_n, &body, r->errmsg, r->hint);
    if (!r->err && strcmp(r->method, "label") == 0) {
        r->label = body;
        return;
    }
    if (!r->err && r->live) {
        r->err = merge_live(r, body);
    }
    if (!r->err) {
        r->err = encode_reply(r, body);
    }
    json_decref(body);
}

/* ---- the loop's side ---- */

static void maybe_closed(struct query *q)
{
    if (!q->socket_closed || q->n_idle < QUERY_READERS) {
        return;
    }
    for (int i = 0; i < QUERY_READERS; i++) {
        reader_free(&q->reader[i]);
    }
    void (*closed)(void *) = q->closed;
    void *arg = q->closed_arg;
    free(q);
    closed(arg);
}

static void on_after_work(uv_work_t *work, int status);

/* Gives waiting requests to idle readers, and takes more from the socket when there is room. */
static void pump(struct query *q)
{
    while (q->n_idle > 0 && q->waiting.first) {
        struct request *r = list_take(&q->waiting, 0);
        r->reader = q->idle[--q->n_idle];
        r->work.data = r;
        uv_queue_work(q->loop, &r->work, on_work, on_after_work);
    }
    zsock_pause(q->zsock, q->waiting.n + QUERY_READERS - q->n_idle >= QUERY_MAX_REQUESTS);
}

/* The label is checked: the worker writes it. */
static int submit_label(struct request *r)
{
    struct query *q = r->q;
    struct job *job = q->labels.n < QUERY_MAX_LABELS ? job_new(JOB_LABEL, 0) : NULL;
    int err = SEISMO_EBUSY;
    if (job) {
        const json_t *run = json_object_get(r->label, "run");
        job->owner = r->label_token = ++q->last_token;
        snprintf(job->label.run, sizeof job->label.run, "%s",
                 json_string_value(json_object_get(run, "run")));
        snprintf(job->label.outcome, sizeof job->label.outcome, "%s",
                 json_string_value(json_object_get(r->label, "outcome")));
        err = q->ops.submit(q->arg, job);
    }
    if (err) {
        job_free(&job);
        snprintf(r->errmsg, sizeof r->errmsg,
                 "the label was not stored: the daemon's queue is full");
        snprintf(r->hint, sizeof r->hint,
                 "try again in a second; `seismo status` shows the storage");
        return err;
    }
    list_push(&q->labels, r);
    return 0;
}

static void on_after_work(uv_work_t *work, int status)
{
    (void)status; /* never cancelled: closing interrupts the readers instead */
    struct request *r = work->data;
    struct query *q = r->q;
    q->idle[q->n_idle++] = r->reader;
    if (q->closing) {
        request_free(r);
        maybe_closed(q);
        return;
    }
    if (r->label) {
        r->err = submit_label(r);
    }
    if (r->err || !r->label) {
        answer(r);
    }
    pump(q);
}

void query_label_done(struct query *q, const struct job *job)
{
    struct request *r = job->owner ? list_take(&q->labels, job->owner) : NULL;
    if (!r) {
        return;
    }
    if (job->err) {
        r->err = job->err;
        snprintf(r->errmsg, sizeof r->errmsg, "%s", job->errmsg);
        answer(r);
        return;
    }
    /* The answer is the run as it stands now, read like any other. */
    json_t *params = json_pack("{s:s}", "run", job->label.run);
    free(r->params);
    r->params = params ? json_dumps(params, JSON_COMPACT) : NULL;
    json_decref(params);
    json_decref(r->label);
    r->label = NULL;
    if (!r->params) {
        r->err = out_of_memory(r);
        answer(r);
        return;
    }
    r->params_n = strlen(r->params);
    snprintf(r->method, sizeof r->method, "run");
    list_push(&q->waiting, r);
    pump(q);
}

static json_t *limits_json(const struct limits *limits)
{
    static const struct limits none;
    const struct limits *l = limits ? limits : &none;
    json_t *object = json_object();
#define X(name, fallback, least, most, fixed, help) \
    json_object_set_new(object, #name, json_integer(l->name));
    LIMITS_MAP(X)
#undef X
    return object;
}

/* NULL: no bound is known. */
static json_t *memory_json(const struct memory *m)
{
    if (!m || m->bytes == 0) {
        return json_null();
    }
    return json_pack("{s:I, s:s, s:I}", "bytes", (json_int_t)m->bytes, "source", m->source, "peers",
                     (json_int_t)memory_peers(m));
}

static json_t *live_json(struct query *q)
{
    struct query_live live = {0};
    q->ops.live(q->arg, &live);
    const struct worker_stats *w = &live.worker;
    char model_hex[17];
    snprintf(model_hex, sizeof model_hex, "%016" PRIx64, model_id(q->model));
    json_t *ingest = json_array();
    for (int i = 0; live.ingest && live.ingest[i]; i++) {
        json_array_append_new(ingest, json_string(live.ingest[i]));
    }
    json_t *body = json_pack(
        "{s:s, s:i, s:f, s:f, s:{s:s, s:s}, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:I, s:I},"
        " s:{s:b, s:o, s:o, s:s?, s:s}, s:{s:b, s:I, s:b}, s:{s:b, s:b}, s:{s:o, s:s?, s:s?}}",
        "version", SEISMO_VERSION, "pid", (int)getpid(), "started", live.started, "uptime",
        q->ops.clock() - live.started, "model", "name", model_name(q->model), "id", model_hex,
        "peers", (json_int_t)live.peers, "steps", (json_int_t)w->steps, "batches",
        (json_int_t)w->batches, "commits", (json_int_t)w->commits, "verdicts",
        (json_int_t)w->verdicts, "superseded", (json_int_t)w->superseded, "duplicate_batches",
        (json_int_t)w->duplicate_batches, "expired", (json_int_t)w->expired, "queued", "jobs",
        (json_int_t)w->queued_jobs, "rows", (json_int_t)w->queued_rows, "storage", "ok",
        !w->storage_failing, "error",
        w->storage_failing ? json_string(w->storage_error) : json_null(), "since",
        w->storage_failing ? json_real(w->storage_since) : json_null(), "set_aside",
        w->set_aside[0] ? w->set_aside : NULL, "synchronous",
        w->synchronous_full ? "full" : "normal", "alerts", "ok", !live.hooks_lost, "waiting",
        (json_int_t)live.alerts, "more", live.alerts_behind, "sandbox", "files", live.sandbox_files,
        "calls", live.sandbox_calls, "endpoints", "ingest", ingest, "query", live.query, "events",
        live.events);
    if (json_object_set_new(body, "connections", json_integer(live.connections)) < 0 ||
        json_object_set_new(body, "refused", json_integer((json_int_t)live.refused)) < 0 ||
        json_object_set_new(body, "limits", limits_json(live.limits)) < 0 ||
        json_object_set_new(body, "memory", memory_json(live.memory)) < 0) {
        json_decref(body);
        return NULL;
    }
    return body;
}

static struct request *request_new(struct query *q, const struct zsock_msg *msg,
                                   const struct wire_query *wire)
{
    struct request *r = calloc(1, sizeof *r);
    if (!r) {
        return NULL;
    }
    r->q = q;
    r->id = wire->id;
    r->peer_n = msg->peer_n;
    memcpy(r->peer, msg->peer, msg->peer_n);
    memcpy(r->method, wire->method.p, wire->method.n);
    r->params = malloc(wire->params.n + 1);
    r->params_n = wire->params.n;
    bool status = strcmp(r->method, "status") == 0;
    r->live = status ? live_json(q) : NULL;
    if (!r->params || (status && !r->live)) {
        request_free(r);
        return NULL;
    }
    memcpy(r->params, wire->params.p, wire->params.n);
    return r;
}

/* Methods that change nothing; whatever else there is, or will be, is for admins. */
static bool only_reads(const struct wire_str *method)
{
    static const char *const names[] = {"status",   "runs",    "run",  "series",
                                        "verdicts", "explain", "steps"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i]) == method->n && memcmp(names[i], method->p, method->n) == 0) {
            return true;
        }
    }
    return false;
}

static void on_message(void *arg, const struct zsock_msg *msg)
{
    struct query *q = arg;
    char errmsg[SEISMO_ERRMSG];
    char hint[] = "send [4, id, method, params] as one msgpack frame; see PROTOCOL.md";
    if (msg->peer_n > LIMIT_PEER_ID) {
        return; /* libzmq makes none that long */
    }
    struct wire_msg wire;
    int err = SEISMO_EMALFORMED;
    if (msg->frames != 1) {
        snprintf(errmsg, sizeof errmsg, "a query is one frame; %d came", msg->frames);
    } else {
        err = wire_decode(msg->data, msg->n, &wire, errmsg);
    }
    if (!err && wire.type != WIRE_QUERY) {
        snprintf(errmsg, sizeof errmsg, "only QUERY (4) is answered here; type %d came",
                 (int)wire.type);
        err = SEISMO_EMALFORMED;
    }
    if (err) {
        send_error(q, msg->peer, msg->peer_n, NULL, err, errmsg, hint);
        return;
    }
    if (q->ops.may && !q->ops.may(q->arg, msg->user, !only_reads(&wire.query.method), errmsg)) {
        char ask[] = "ask whoever keeps the daemon for the role in its directory of clients";
        send_error(q, msg->peer, msg->peer_n, &wire.query.id, SEISMO_EDENIED, errmsg, ask);
        return;
    }
    struct request *r = request_new(q, msg, &wire.query);
    if (!r) {
        char none[] = "";
        snprintf(errmsg, sizeof errmsg, "out of memory");
        send_error(q, msg->peer, msg->peer_n, &wire.query.id, SEISMO_ENOMEM, errmsg, none);
        return;
    }
    list_push(&q->waiting, r);
    pump(q);
}

/* ---- life ---- */

int query_new(uv_loop_t *loop, void *zmq_ctx, const char *endpoint, const char *path,
              const struct model *model, const struct query_ops *ops, void *arg,
              struct query **ret_query, char errmsg[SEISMO_ERRMSG])
{
    struct query *q = calloc(1, sizeof *q);
    if (!q) {
        snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
        return SEISMO_ENOMEM;
    }
    q->loop = loop;
    q->model = model;
    q->ops = *ops;
    q->arg = arg;
    list_init(&q->waiting);
    list_init(&q->labels);
    int err = 0;
    for (int i = 0; !err && i < QUERY_READERS; i++) {
        err = reader_new(path, model, &q->reader[i], errmsg);
        q->idle[i] = q->reader[i];
    }
    q->n_idle = QUERY_READERS;
    if (!err) {
        err = zsock_new(loop, zmq_ctx, ZMQ_ROUTER, HARD_BYTES, on_message, q, &q->zsock, errmsg);
    }
    if (!err && ops->scarce) {
        zsock_queue_ahead(q->zsock, ANSWERS_AHEAD);
    }
    if (!err && ops->guard) {
        ops->guard(arg, q->zsock);
    }
    if (!err) {
        err = zsock_limit(q->zsock, zmq_ctx, ops->peers, "query_peers", errmsg);
    }
    if (!err) {
        err = zsock_bind(q->zsock, endpoint, errmsg);
    }
    if (err) {
        for (int i = 0; i < QUERY_READERS; i++) {
            reader_free(&q->reader[i]);
        }
        zsock_close(&q->zsock, NULL, NULL); /* frees itself on the loop */
        free(q);
        return err;
    }
    *ret_query = q;
    return 0;
}

const char *query_endpoint(const struct query *q)
{
    return zsock_endpoint(q->zsock);
}

static void on_socket_closed(void *arg)
{
    struct query *q = arg;
    q->socket_closed = true;
    maybe_closed(q);
}

void query_close(struct query *q, void (*closed)(void *arg), void *arg)
{
    q->closing = true;
    q->closed = closed;
    q->closed_arg = arg;
    struct request *r;
    while ((r = list_take(&q->waiting, 0)) || (r = list_take(&q->labels, 0))) {
        request_free(r);
    }
    for (int i = 0; i < QUERY_READERS; i++) {
        reader_interrupt(q->reader[i]);
    }
    zsock_close(&q->zsock, on_socket_closed, q);
}
