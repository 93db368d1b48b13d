#include "client/lib/link.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "client/lib/heard.h"

static struct link_batch *batch_at(const struct link *l, uint32_t i)
{
    return &l->batches[(l->first + i) % LINK_WINDOW];
}

static bool choose_session(struct link *l)
{
    return getrandom(l->identity.session, LINK_SESSION, 0) == LINK_SESSION;
}

int link_init(struct link *l, struct ring *ring, const struct link_identity *identity,
              bool (*send)(void *arg, const void *data, size_t n), void *arg, double now)
{
    *l = (struct link){
        .ring = ring,
        .identity = *identity,
        .send = send,
        .arg = arg,
        .next_number = 1,
        .window = LINK_WINDOW,
        .max_rows = LINK_ROWS,
        .filled_at = now - LINK_DELAY, /* the first row goes at once */
    };
    snprintf(l->run, sizeof(l->run), "%s", identity->run);
    l->batches = calloc(LINK_WINDOW, sizeof(*l->batches));
    l->message = malloc(LINK_MESSAGE);
    if (l->batches == NULL || l->message == NULL || pthread_mutex_init(&l->lock, NULL) != 0) {
        free(l->batches);
        free(l->message);
        return SEISMO_ENOMEM;
    }
    if (!choose_session(l)) {
        link_close(l);
        return SEISMO_EIO;
    }
    return 0;
}

void link_close(struct link *l)
{
    pthread_mutex_destroy(&l->lock);
    free(l->batches);
    free(l->message);
}

/* Remembers trouble for seismo_stats, and prints it once when that is wanted. */
__attribute__((format(printf, 2, 3))) static void note(struct link *l, const char *format, ...)
{
    char text[SEISMO_ERRMSG];
    bool news;
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    pthread_mutex_lock(&l->lock);
    news = strcmp(text, l->error) != 0;
    memcpy(l->error, text, sizeof(text));
    pthread_mutex_unlock(&l->lock);
    if (l->verbose && news) {
        fprintf(stderr, "seismo: %s\n", text);
    }
}

static bool send_message(struct link *l, const struct wire_buf *b)
{
    if (b->overflow) {
        note(l, "a message of this run does not fit its buffer; nothing can be sent");
        return false;
    }
    return l->send(l->arg, b->data, b->n);
}

static void greet(struct link *l, double now)
{
    struct link_identity *id = &l->identity;
    struct wire_buf b = {.data = l->message, .cap = LINK_MESSAGE};
    struct wire_hello hello = {
        .version = SEISMO_PROTOCOL_VERSION,
        .run = {id->run, (uint32_t)strlen(id->run)},
        .program = {id->program, (uint32_t)strlen(id->program)},
        .session = {(const char *)id->session, LINK_SESSION},
        .rank = id->rank,
        .world = id->world,
        .meta = {id->meta, (uint32_t)strlen(id->meta)},
    };

    wire_layout_all(&hello.layout);
    wire_put_hello(&b, &hello);
    /* Whether it could be sent or not, the next try is due when the connection comes (back) or
     * after LINK_PATIENCE. */
    send_message(l, &b);
    l->state = LINK_GREETING;
    l->greeted_at = now;
    l->n_sent = 0;
    atomic_store(&l->connected, false);
}

void link_connected(struct link *l, double now)
{
    if (l->state != LINK_IDLE) {
        greet(l, now);
    }
}

void link_disconnected(struct link *l)
{
    atomic_store(&l->connected, false);
    if (l->state != LINK_IDLE) {
        note(l, "connection to the daemon lost; it is tried again, steps are kept meanwhile");
    }
}

/* Batches up to and including `number` are settled. */
static void settle(struct link *l, uint64_t number, double now)
{
    while (l->n_batches > 0 && batch_at(l, 0)->number <= number) {
        struct link_batch *batch = batch_at(l, 0);

        atomic_fetch_add(&l->acknowledged, batch->n);
        l->bye_done = l->bye_done || batch->bye;
        l->first = (l->first + 1) % LINK_WINDOW;
        l->n_batches--;
        l->n_sent -= l->n_sent > 0;
        l->progress_at = now;
        l->barrier = 0;
    }
}

/* The daemon has lost batches that it had acknowledged (another database, a restored backup): begin
 * anew under a new session, in which what is still here counts from 1. */
static void begin_anew(struct link *l, double now)
{
    note(l,
         "the daemon no longer has what it acknowledged of run \"%s\"; going on in a new session",
         l->identity.run);
    if (!choose_session(l)) {
        return; /* the old one is tried again after LINK_PATIENCE */
    }
    for (uint32_t i = 0; i < l->n_batches; i++) {
        batch_at(l, i)->number = i + 1;
    }
    l->next_number = l->n_batches + 1;
    greet(l, now);
}

static void on_welcome(struct link *l, const struct wire_welcome *w, double now)
{
    uint64_t oldest = l->n_batches > 0 ? batch_at(l, 0)->number : l->next_number;

    if (l->state != LINK_GREETING && l->state != LINK_REFUSED) {
        return; /* the answer to a HELLO that was repeated */
    }
    if (w->last_batch + 1 < oldest) {
        begin_anew(l, now);
        return;
    }
    pthread_mutex_lock(&l->lock);
    snprintf(l->run, sizeof(l->run), "%.*s", (int)w->run.n, w->run.p);
    l->error[0] = '\0';
    pthread_mutex_unlock(&l->lock);
    settle(l, w->last_batch, now);
    if (l->next_number <= w->last_batch) {
        l->next_number = w->last_batch + 1;
    }
    l->window = w->max_unacked >= 1 && w->max_unacked < LINK_WINDOW ? w->max_unacked : LINK_WINDOW;
    l->max_rows = w->max_rows >= 1 && w->max_rows < LINK_ROWS ? w->max_rows : LINK_ROWS;
    l->state = LINK_OPEN;
    l->n_sent = 0;
    l->barrier = 0;
    l->busy_until = now;
    l->progress_at = now;
    atomic_store(&l->connected, true);
}

static void on_ack(struct link *l, struct wire_ack *ack, double now)
{
    char errmsg[SEISMO_ERRMSG];
    struct wire_str text;

    settle(l, ack->batch, now);
    while (wire_next_text(&ack->cursor, &text, errmsg) == 0) {
        pthread_mutex_lock(&l->lock);
        if (heard_verdict(text.p, text.n, &l->verdict) == 0) {
            l->verdict.count++;
        }
        pthread_mutex_unlock(&l->lock);
    }
}

/* Index of an unacknowledged batch, or n_batches when there is none of that number. */
static uint32_t find_batch(const struct link *l, uint64_t number)
{
    uint64_t oldest = l->n_batches > 0 ? batch_at(l, 0)->number : 0;

    return number >= oldest && number - oldest < l->n_batches ? (uint32_t)(number - oldest)
                                                              : l->n_batches;
}

static void go_back(struct link *l, uint32_t i, double now)
{
    if (l->n_sent > i) {
        l->barrier = batch_at(l, l->n_sent - 1)->number;
        l->n_sent = i;
    }
    l->went_back_at = now;
}

/* The daemon cannot take this batch, ever: an empty one goes in its place, as its number must not
 * be left out. */
static void reject_batch(struct link *l, uint32_t i, double now)
{
    struct link_batch *batch = batch_at(l, i);

    atomic_fetch_add(&l->rejected, batch->n);
    l->bye_done = l->bye_done || batch->bye;
    batch->n = 0;
    batch->bye = false;
    go_back(l, i, now);
}

static void on_error(struct link *l, const struct wire_error *e, double now)
{
    uint32_t i = e->has_ref ? find_batch(l, e->ref) : l->n_batches;
    int code = SEISMO_EINTERNAL;

#define X(constant, value, name, text)                                              \
    if (e->code.n == sizeof(name) - 1 && memcmp(e->code.p, name, e->code.n) == 0) { \
        code = constant;                                                            \
    }
    SEISMO_ERR_MAP(X)
#undef X
    if (code == SEISMO_EHELLO) {
        if (l->state == LINK_OPEN) {
            greet(l, now);
        }
        return;
    }
    if (code == SEISMO_EORDER) {
        /* One lost batch makes an error of each one behind it; only the first sends us back. */
        if (l->state == LINK_OPEN && (e->ref > l->barrier || now - l->went_back_at > 1)) {
            go_back(l, 0, now);
        }
        return;
    }
    if (code == SEISMO_EBUSY) {
        l->busy_until = now + LINK_BUSY_RETRY;
        go_back(l, i, now);
        return;
    }
    note(l, "the daemon says %.*s%s%.*s", (int)e->text.n, e->text.p, e->hint.n > 0 ? "; " : "",
         (int)e->hint.n, e->hint.p);
    if (i < l->n_batches) {
        reject_batch(l, i, now);
    } else if (l->state == LINK_GREETING) {
        l->state = LINK_REFUSED;
    }
}

void link_receive(struct link *l, const void *data, size_t n, double now)
{
    char errmsg[SEISMO_ERRMSG];
    struct wire_msg msg;

    if (wire_decode(data, n, &msg, errmsg) != 0) {
        note(l, "cannot read a message of the daemon (%s); is its version the same as ours, %s?",
             errmsg, SEISMO_VERSION);
        return;
    }
    switch (msg.type) {
    case WIRE_WELCOME:
        on_welcome(l, &msg.welcome, now);
        break;
    case WIRE_ACK:
        on_ack(l, &msg.ack, now);
        break;
    case WIRE_ERROR:
        on_error(l, &msg.error, now);
        break;
    default:
        break; /* a PING asks for nothing, and the rest is not for clients */
    }
}

void link_finish(struct link *l, enum wire_outcome outcome)
{
    l->closing = true;
    atomic_store(&l->hurry, true);
    l->outcome = outcome;
}

bool link_done(const struct link *l)
{
    bool silent = l->next_number == 1; /* a run without a step is never announced */

    return l->state == LINK_REFUSED ||
           (ring_count(l->ring) == 0 && l->n_batches == 0 && (l->bye_done || silent));
}

static struct link_batch *add_batch(struct link *l, double now)
{
    struct link_batch *batch = batch_at(l, l->n_batches);

    if (l->n_batches == 0) {
        l->progress_at = now;
    }
    l->n_batches++;
    batch->number = l->next_number++;
    batch->n = 0;
    batch->bye = false;
    batch->sent = false;
    return batch;
}

/* Rows from the ring into batches, as far as the window allows. */
static void fill(struct link *l, double now)
{
    while (l->n_batches < l->window) {
        uint64_t waiting = ring_count(l->ring);
        struct link_batch *batch;

        if (waiting == 0 ||
            (waiting < l->max_rows && !atomic_load(&l->hurry) && now - l->filled_at < LINK_DELAY)) {
            break;
        }
        batch = add_batch(l, now);
        while (batch->n < l->max_rows && ring_pop(l->ring, &batch->rows[batch->n])) {
            batch->n++;
        }
        if (batch->n == 0) { /* its row is still being written */
            l->n_batches--;
            l->next_number--;
            break;
        }
        l->filled_at = now;
    }
    if (l->closing && !l->bye_made && l->next_number > 1 && l->n_batches < l->window &&
        ring_count(l->ring) == 0) {
        add_batch(l, now)->bye = true;
        l->bye_made = true;
    }
}

static bool send_batch(struct link *l, const struct link_batch *batch)
{
    struct wire_buf b = {.data = l->message, .cap = LINK_MESSAGE};
    struct wire_layout layout;
    char text[128] = "";

    if (batch->bye) {
        uint64_t dropped = atomic_load(&l->dropped), rejected = atomic_load(&l->rejected);
        struct wire_bye bye = {.batch = batch->number, .outcome = l->outcome};

        if (dropped + rejected > 0) {
            snprintf(text, sizeof(text),
                     "the client dropped %llu steps (ring full), the daemon refused %llu",
                     (unsigned long long)dropped, (unsigned long long)rejected);
        }
        bye.text = (struct wire_str){text, (uint32_t)strlen(text)};
        wire_put_bye(&b, &bye);
    } else {
        wire_layout_all(&layout);
        wire_put_steps_head(&b, batch->number, batch->n);
        for (uint32_t i = 0; i < batch->n; i++) {
            wire_put_row(&b, &layout, &batch->rows[i]);
        }
    }
    return send_message(l, &b);
}

static void send_pending(struct link *l, double now)
{
    while (l->n_sent < l->n_batches && now >= l->busy_until) {
        struct link_batch *batch = batch_at(l, l->n_sent);

        if (!send_batch(l, batch)) {
            return;
        }
        atomic_fetch_add(&l->retransmitted, batch->sent);
        batch->sent = true;
        l->n_sent++;
    }
}

void link_run(struct link *l, double now)
{
    switch (l->state) {
    case LINK_IDLE:
        if (ring_count(l->ring) > 0) {
            greet(l, now);
        }
        break;
    case LINK_GREETING:
        if (now - l->greeted_at >= LINK_PATIENCE) {
            note(l, "no answer from the daemon; is seismod running?");
            greet(l, now);
        }
        break;
    case LINK_REFUSED:
        if (now - l->greeted_at >= LINK_REFUSED_RETRY) {
            greet(l, now);
        }
        break;
    case LINK_OPEN:
        if (l->n_batches > 0 && now - l->progress_at >= LINK_PATIENCE) {
            note(l, "the daemon has acknowledged nothing for %.0f s", LINK_PATIENCE);
            greet(l, now);
            break;
        }
        fill(l, now);
        send_pending(l, now);
        break;
    }
}

uint64_t link_wake(const struct link *l, double now, double *ret_timeout)
{
    double since_fill = now - l->filled_at;
    double until_patience = l->n_batches > 0 ? l->progress_at + LINK_PATIENCE - now : INFINITY;

    *ret_timeout = -1;
    switch (l->state) {
    case LINK_IDLE:
        return 1;
    case LINK_GREETING:
        *ret_timeout = fmax(l->greeted_at + LINK_PATIENCE - now, 0);
        return LINK_NEVER;
    case LINK_REFUSED:
        *ret_timeout = fmax(l->greeted_at + LINK_REFUSED_RETRY - now, 0);
        return LINK_NEVER;
    case LINK_OPEN:
        break;
    }
    if (l->n_sent < l->n_batches) {
        until_patience = fmin(until_patience, LINK_BUSY_RETRY);
    }
    if (l->n_batches < l->window && since_fill < LINK_DELAY) {
        *ret_timeout = fmax(fmin(until_patience, LINK_DELAY - since_fill), 0);
        return l->max_rows;
    }
    if (isfinite(until_patience)) {
        *ret_timeout = fmax(until_patience, 0);
    }
    return l->n_batches < l->window ? 1 : LINK_NEVER;
}
