#include "client/lib/link.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "client/lib/heard.h"
#include "proto/text.h"

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
    l->spool.fd = -1;
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

/* Nothing is left that the daemon has not acknowledged, but for what is in the ring. */
static bool is_settled(const struct link *l)
{
    return l->n_batches == 0 && !l->has_pending && !spool_unread(&l->spool);
}

void link_close(struct link *l)
{
    if (l->spool.fd >= 0) {
        spool_close(&l->spool, l->bye_done && is_settled(l));
    }
    pthread_mutex_destroy(&l->lock);
    free(l->pending);
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
        char shown[2 * SEISMO_ERRMSG];

        fprintf(stderr, "seismo: %s\n", text_escape(shown, sizeof(shown), text, strlen(text)));
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

static struct wire_hello hello_of(const struct link_identity *id)
{
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
    return hello;
}

/* Of the first batch that is not acknowledged, or else of the next one. What is still in the file,
 * and what it did not take, have their numbers already. */
static uint64_t first_number(const struct link *l)
{
    return l->n_batches > 0 ? batch_at(l, 0)->number
                            : l->next_number - l->has_pending - l->spool.unread;
}

static void greet(struct link *l, double now)
{
    struct wire_buf b = {.data = l->message, .cap = LINK_MESSAGE};
    struct wire_hello hello = hello_of(&l->identity);

    hello.next = first_number(l);
    wire_put_hello(&b, &hello);
    /* Whether it could be sent or not, the next try is due when the connection comes (back) or
     * after LINK_PATIENCE. */
    l->greeted = send_message(l, &b) || l->greeted;
    l->state = LINK_GREETING;
    l->greeted_at = now;
    l->n_sent = 0;
    atomic_store(&l->connected, false);
}

void link_connected(struct link *l, double now)
{
    l->barred = false;
    if (l->state != LINK_IDLE) {
        greet(l, now);
    }
}

void link_barred(struct link *l, const char *text)
{
    l->barred = true;
    note(l, "%s", text);
}

void link_disconnected(struct link *l)
{
    atomic_store(&l->connected, false);
    if (l->state != LINK_IDLE) {
        note(l, "connection to the daemon lost; it is tried again, steps are kept meanwhile");
    }
}

static void note_spool(struct link *l, const char *what)
{
    atomic_fetch_add(&l->spool_errors, 1);
    note(l, "spool %.100s: %s: %s; steps are kept in memory", l->spool.path, what, strerror(errno));
}

void link_spool(struct link *l, const char *dir)
{
    char errmsg[SEISMO_ERRMSG];
    struct wire_hello hello = hello_of(&l->identity);

    l->pending = calloc(1, sizeof(*l->pending));
    if (l->pending == NULL ||
        spool_open(&l->spool, dir, &hello, l->identity.session, errmsg) != 0) {
        atomic_fetch_add(&l->spool_errors, 1);
        note(l, "%s", l->pending == NULL ? "no spool: out of memory" : errmsg);
        return;
    }
    l->next_number = l->spool.last + 1;
    l->settled = l->spool.acked;
    atomic_store(&l->inherited, l->spool.inherited_rows);
    atomic_store(&l->spooled, l->spool.inherited_rows);
}

/* In this order, so that seismo_stats counts no row twice. */
static void batch_acknowledged(struct link *l, const struct link_batch *batch)
{
    if (batch->spool_end > 0) {
        atomic_fetch_sub(&l->spooled, batch->n);
    }
    atomic_fetch_add(&l->acknowledged, batch->n);
}

/* Batches up to and including `number` are settled. */
static void settle(struct link *l, uint64_t number, double now)
{
    uint64_t end = 0;

    l->settled = number > l->settled ? number : l->settled;
    while (l->n_batches > 0 && batch_at(l, 0)->number <= number) {
        struct link_batch *batch = batch_at(l, 0);

        batch_acknowledged(l, batch);
        end = batch->spool_end > 0 ? batch->spool_end : end;
        l->bye_done = l->bye_done || batch->bye;
        l->first = (l->first + 1) % LINK_WINDOW;
        l->n_batches--;
        l->n_sent -= l->n_sent > 0;
        l->progress_at = now;
        l->barrier = 0;
    }
    uint64_t local = (uint64_t)((int64_t)l->settled - l->spool_shift);
    if (spool_settle(&l->spool, local, end, is_settled(l)) != 0) {
        note_spool(l, "cannot note what is acknowledged");
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
    uint64_t down = first_number(l) - 1;
    for (uint32_t i = 0; i < l->n_batches; i++) {
        batch_at(l, i)->number -= down;
    }
    l->next_number -= down;
    if (l->has_pending) {
        l->pending->number -= down;
    }
    l->spool_shift -= (int64_t)down;
    l->settled = 0;
    l->anew = true;
    l->greeted = false;
    greet(l, now);
}

static void on_welcome(struct link *l, const struct wire_welcome *w, double now)
{
    if (!l->greeted || (l->state != LINK_GREETING && l->state != LINK_REFUSED)) {
        return; /* the answer to a HELLO that was repeated */
    }
    if (l->anew && w->last_batch > 0) {
        return; /* nothing of this session can be stored: it is about the one before */
    }
    if (w->last_batch + 1 < first_number(l)) {
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
    if (w->max_bytes / LINK_ROW_BYTES < l->max_rows) {
        l->max_rows = w->max_bytes >= LINK_ROW_BYTES ? w->max_bytes / LINK_ROW_BYTES : 1;
    }
    l->state = LINK_OPEN;
    l->anew = false;
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

    if (!l->anew) { /* else it counts the batches of the session before */
        settle(l, ack->batch, now);
    }
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
    if (batch->spool_end > 0) {
        atomic_fetch_sub(&l->spooled, batch->n);
    }
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
    if (code == SEISMO_EDENIED) { /* for now: what is here is kept, and offered again */
        l->state = LINK_REFUSED;
        l->greeted_at = now;
        atomic_store(&l->connected, false);
    } else if (i < l->n_batches) {
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
           (ring_count(l->ring) == 0 && is_settled(l) && (l->bye_done || silent));
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
    batch->spool_end = 0;
    return batch;
}

/* Whether it is time to take a batch out of the ring. */
static bool is_due(struct link *l, double now)
{
    uint64_t waiting = ring_count(l->ring);

    return waiting >= l->max_rows ||
           (waiting > 0 && (atomic_load(&l->hurry) || now - l->filled_at >= LINK_DELAY));
}

static bool bye_is_due(struct link *l)
{
    return l->closing && !l->bye_made && l->next_number > 1 && ring_count(l->ring) == 0;
}

static void pop_rows(struct link *l, struct link_batch *batch)
{
    while (batch->n < l->max_rows && ring_pop(l->ring, &batch->rows[batch->n])) {
        batch->n++;
    }
}

/* Rows from the ring into batches, as far as the window allows. */
static void fill(struct link *l, double now)
{
    while (l->n_batches < l->window && is_due(l, now)) {
        struct link_batch *batch = add_batch(l, now);

        pop_rows(l, batch);
        if (batch->n == 0) { /* its row is still being written */
            l->n_batches--;
            l->next_number--;
            break;
        }
        l->filled_at = now;
    }
    if (l->n_batches < l->window && bye_is_due(l)) {
        add_batch(l, now)->bye = true;
        l->bye_made = true;
    }
}

static struct wire_buf encode_batch(struct link *l, const struct link_batch *batch, uint64_t number)
{
    struct wire_buf b = {.data = l->message, .cap = LINK_MESSAGE};
    struct wire_layout layout;
    char text[128] = "";

    if (batch->bye) {
        uint64_t dropped = atomic_load(&l->dropped), rejected = atomic_load(&l->rejected);
        struct wire_bye bye = {.batch = number, .outcome = l->outcome};

        if (dropped + rejected > 0) {
            snprintf(text, sizeof(text),
                     "the client dropped %llu steps (ring full), the daemon refused %llu",
                     (unsigned long long)dropped, (unsigned long long)rejected);
        }
        bye.text = (struct wire_str){text, (uint32_t)strlen(text)};
        wire_put_bye(&b, &bye);
    } else {
        wire_layout_all(&layout);
        wire_put_steps_head(&b, number, batch->n);
        for (uint32_t i = 0; i < batch->n; i++) {
            wire_put_row(&b, &layout, &batch->rows[i]);
        }
    }
    return b;
}

/* ---- by way of the spool ---- */

/* The number of a batch in the file. */
static uint64_t local_number(const struct link *l, uint64_t number)
{
    return (uint64_t)((int64_t)number - l->spool_shift);
}

/* Rows from the ring into the file, whatever the daemon does. */
static void spool_rows(struct link *l, double now)
{
    struct link_batch *batch = l->pending;

    while (spool_ready(&l->spool) && !l->has_pending && (is_due(l, now) || bye_is_due(l))) {
        *batch = (struct link_batch){.number = l->next_number, .bye = bye_is_due(l)};
        if (!batch->bye) {
            pop_rows(l, batch);
            l->filled_at = now;
        }
        if (batch->n == 0 && !batch->bye) {
            break; /* its row is still being written */
        }
        struct wire_buf b = encode_batch(l, batch, local_number(l, batch->number));
        l->next_number++;
        l->bye_made = l->bye_made || batch->bye;
        if (spool_append(&l->spool, local_number(l, batch->number), b.data, b.n) != 0) {
            note_spool(l, "cannot write");
            l->has_pending = true;
        } else {
            atomic_fetch_add(&l->spooled, batch->n);
        }
    }
}

/* The next batch of the file. False: it cannot be read. */
static bool read_batch(struct link *l, struct link_batch *batch, char errmsg[SEISMO_ERRMSG])
{
    struct wire_layout layout;
    struct wire_msg m;

    int err = spool_next(&l->spool, &m, &batch->spool_end, errmsg);
    if (err == 0 && m.type == WIRE_BYE) {
        /* The job of an earlier process goes on: its farewell is void, its number is not. */
        batch->bye = batch->spool_end > l->spool.inherited_until;
        batch->number = (uint64_t)((int64_t)m.bye.batch + l->spool_shift);
    } else if (err == 0) {
        wire_layout_all(&layout);
        batch->number = (uint64_t)((int64_t)m.steps.batch + l->spool_shift);
        while (batch->n < LINK_ROWS && err == 0) {
            err = wire_next_row(&m.steps.rows, &layout, &batch->rows[batch->n], errmsg);
            batch->n += err == 0;
        }
    }
    return err == 0 || err == SEISMO_EEOF;
}

/* What is in the file and not in the window cannot be read back: it is lost, and its numbers go to
 * what comes next. */
static void lose_unread(struct link *l, const char *errmsg)
{
    uint64_t lost = atomic_load(&l->spooled);

    for (uint32_t i = 0; i < l->n_batches; i++) {
        lost -= batch_at(l, i)->spool_end > 0 ? batch_at(l, i)->n : 0;
    }
    atomic_fetch_sub(&l->spooled, lost);
    atomic_fetch_add(&l->dropped, lost);
    atomic_fetch_add(&l->spool_errors, 1);
    note(l, "%s; %llu steps are lost", errmsg, (unsigned long long)lost);
    spool_skip(&l->spool);
    l->next_number = (l->n_batches > 0 ? batch_at(l, l->n_batches - 1)->number : l->settled) + 1;
    if (l->has_pending) {
        l->pending->number = l->next_number++;
    }
}

/* A batch that the file did not take goes when all that the file has is acknowledged and taken
 * away: the next process would use its number again. */
static void cut_spool(struct link *l)
{
    if (!l->spool.failed || spool_is_bare(&l->spool) || spool_unread(&l->spool)) {
        return;
    }
    for (uint32_t i = 0; i < l->n_batches; i++) {
        if (batch_at(l, i)->spool_end > 0) {
            return;
        }
    }
    if (spool_cut(&l->spool) != 0) {
        note_spool(l, "cannot take away what is acknowledged");
    }
}

/* Batches from the file into the window; behind them the one that the file did not take. */
static void load(struct link *l, double now)
{
    while (l->n_batches < l->window &&
           (spool_unread(&l->spool) || (l->has_pending && spool_is_bare(&l->spool)))) {
        char errmsg[SEISMO_ERRMSG] = "";
        uint64_t next_number = l->next_number;
        struct link_batch *batch = add_batch(l, now);

        l->next_number = next_number;
        if (!spool_unread(&l->spool)) {
            *batch = *l->pending;
            l->has_pending = false;
        } else if (!read_batch(l, batch, errmsg)) {
            l->n_batches--;
            lose_unread(l, errmsg);
        } else if (batch->number <= l->settled) {
            l->n_batches--;
            batch_acknowledged(l, batch);
        }
    }
}

static bool send_batch(struct link *l, const struct link_batch *batch)
{
    struct wire_buf b = encode_batch(l, batch, batch->number);

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

/* Whether rows go from the ring into the window, past the file. */
static bool bypasses_spool(const struct link *l)
{
    return l->spool.fd < 0 || (l->spool.failed && !l->has_pending && spool_is_bare(&l->spool));
}

void link_run(struct link *l, double now)
{
    if (l->spool.fd >= 0) {
        spool_rows(l, now);
        cut_spool(l);
        load(l, now);
    }
    switch (l->state) {
    case LINK_IDLE:
        if (ring_count(l->ring) > 0 || l->n_batches > 0) {
            greet(l, now);
        }
        break;
    case LINK_GREETING:
        if (now - l->greeted_at >= LINK_PATIENCE) {
            if (!l->barred) {
                note(l, "no answer from the daemon; is seismod running?");
            }
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
        if (bypasses_spool(l)) {
            fill(l, now);
        }
        send_pending(l, now);
        break;
    }
}

/* Seconds until the state wants attention for itself; infinite: never. */
static double patience(const struct link *l, double now)
{
    switch (l->state) {
    case LINK_GREETING:
        return l->greeted_at + LINK_PATIENCE - now;
    case LINK_REFUSED:
        return l->greeted_at + LINK_REFUSED_RETRY - now;
    case LINK_OPEN:
        if (l->n_batches > 0) {
            double left = l->progress_at + LINK_PATIENCE - now;
            return l->n_sent < l->n_batches ? fmin(left, LINK_BUSY_RETRY) : left;
        }
        return INFINITY;
    default:
        return INFINITY;
    }
}

uint64_t link_wake(const struct link *l, double now, double *ret_timeout)
{
    double since_fill = now - l->filled_at, timeout = patience(l, now);
    bool spools = spool_ready(&l->spool) && !l->has_pending;
    bool takes = spools || (l->state == LINK_OPEN && l->n_batches < l->window && bypasses_spool(l));
    uint64_t rows = LINK_NEVER;

    if (l->state == LINK_IDLE) {
        rows = 1;
    } else if (takes && since_fill < LINK_DELAY) {
        timeout = fmin(timeout, LINK_DELAY - since_fill);
        rows = l->max_rows;
    } else if (takes) {
        rows = 1;
    }
    *ret_timeout = isfinite(timeout) ? fmax(timeout, 0) : -1;
    return rows;
}
