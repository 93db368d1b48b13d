#include "client/lib/client.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "client/lib/credentials.h"
#include "client/lib/link.h"
#include "proto/json_text.h"

/* The public header stands alone, so the compiler checks here that it follows the one list of
 * fields. */
#define SEISMO_VALUE(constant, name, unit, meaning)                    \
    _Static_assert((int)SEISMO_FIELD_##name == (int)SEISMO_##constant, \
                   "seismo.h and fields.def differ at " #name);
#include "proto/fields.def"
_Static_assert((int)SEISMO_FIELDS == (int)SEISMO_N_VALUES, "seismo.h lacks a field of fields.def");
_Static_assert(SEISMO_N_VALUES <= SEISMO_MAX_FIELDS, "struct seismo_step is too small");

#define DEFAULT_RING 65536
#define MAX_RING (1u << 24)
#define DEFAULT_CLOSE_TIMEOUT 5.0
#define CLOSE_GRACE 1.0    /* s that the thread may take beyond its own deadline */
#define RECONNECT_MAX 2000 /* ms between attempts to connect, at most */
#define HEARTBEAT 30000    /* ms; finds a connection whose other end is gone without a word */
#define MONITOR "inproc://monitor"
#define KEYS_RETRY 5.0 /* s before trying a daemon again that the keys did not fit */

struct seismo {
    struct ring ring;
    struct link link; /* the thread's, but for its atomics and what its lock guards */
    void *zmq, *socket, *monitor;
    char endpoint[512];
    bool has_keys;
    atomic_bool shaken;  /* the handshake has succeeded */
    double reconnect_at; /* s; infinite: ZeroMQ connects by itself */
    int event;           /* eventfd: wakes the thread */
    pthread_t thread;
    unsigned generation;       /* of forks at seismo_open */
    double close_timeout;      /* s */
    char *spool;               /* directory, or NULL */
    enum wire_outcome outcome; /* written before `closing` */
    _Atomic bool closing;
    _Atomic uint64_t wake_at; /* rows in the ring that are worth waking the thread for */
    _Atomic uint64_t steps, invalid;
    _Atomic bool left; /* by the thread or by seismo_close, whoever is first; the other one frees */
};

/* Counts forks seen by the child, so that a handle knows that its thread stayed behind. It has to
 * be global, as pthread_atfork takes no context. */
static atomic_uint fork_generation;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void count_fork(void)
{
    atomic_fetch_add(&fork_generation, 1);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, count_fork);
}

static bool is_mine(const struct seismo *run)
{
    return run != NULL &&
           run->generation == atomic_load_explicit(&fork_generation, memory_order_relaxed);
}

static double monotonic_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double epoch_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- the library's thread ---- */

/* Not before the handshake has been heard of, so that there is one HELLO on each connection. */
static bool send_now(void *arg, const void *data, size_t n)
{
    struct seismo *run = arg;

    return run->shaken && zmq_send(run->socket, data, n, ZMQ_DONTWAIT) >= 0;
}

/* While it sends, ZeroMQ looks no more than about once a millisecond whether connections have come
 * or gone; asked for its events it looks always. Otherwise HELLO could find no connection yet, or
 * go to the one before, and nothing would tell us. */
static void notice_connections(struct seismo *run)
{
    int events;
    size_t size = sizeof(events);

    zmq_getsockopt(run->socket, ZMQ_EVENTS, &events, &size);
}

static void read_monitor(struct seismo *run, double now)
{
    struct {
        uint16_t event;
        uint32_t value;
    } __attribute__((packed)) frame;
    char address[256], text[SEISMO_ERRMSG];

    while (zmq_recv(run->monitor, &frame, sizeof(frame), ZMQ_DONTWAIT) == sizeof(frame)) {
        zmq_recv(run->monitor, address, sizeof(address), 0);
        if (frame.event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
            run->shaken = true;
            notice_connections(run);
            link_connected(&run->link, now);
        } else if (frame.event == ZMQ_EVENT_DISCONNECTED && run->shaken) {
            run->shaken = false;
            link_disconnected(&run->link);
        } else if (credentials_trouble(run->has_keys, run->endpoint, frame.event, frame.value,
                                       text)) {
            link_barred(&run->link, text);
            if (frame.event != ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) {
                run->reconnect_at = now + KEYS_RETRY;
            }
        }
    }
}

/* After a handshake that failed for good ZeroMQ would never try again, while somebody may put the
 * keys right. */
static void reconnect(struct seismo *run, double now)
{
    if (now < run->reconnect_at) {
        return;
    }
    run->reconnect_at = INFINITY;
    zmq_disconnect(run->socket, run->endpoint);
    zmq_connect(run->socket, run->endpoint);
}

static void read_socket(struct seismo *run, double now)
{
    zmq_msg_t msg;

    zmq_msg_init(&msg);
    while (zmq_msg_recv(&msg, run->socket, ZMQ_DONTWAIT) >= 0) {
        link_receive(&run->link, zmq_msg_data(&msg), zmq_msg_size(&msg), now);
    }
    zmq_msg_close(&msg);
}

/* Sleeps until a message, an event or `timeout` (negative: none) comes, or the ring holds `rows`.
 */
static void wait_for_work(struct seismo *run, uint64_t rows, double timeout)
{
    zmq_pollitem_t items[] = {
        {.socket = run->socket, .events = ZMQ_POLLIN},
        {.socket = run->monitor, .events = ZMQ_POLLIN},
        {.fd = run->event, .events = ZMQ_POLLIN},
    };
    uint64_t count;

    /* Sequentially consistent, like the pusher's look at wake_at after its row: either it sees the
     * new value or we see its row. */
    atomic_store(&run->wake_at, rows);
    if (ring_count(&run->ring) < rows) {
        zmq_poll(items, 3, timeout < 0 ? -1 : (long)ceil(timeout * 1000));
    }
    atomic_store(&run->wake_at, LINK_NEVER);
    if (read(run->event, &count, sizeof(count)) < 0) {
        /* Nobody woke us; the descriptor does not block. */
    }
}

static void transport_close(struct seismo *run)
{
    if (run->monitor != NULL) {
        zmq_close(run->monitor);
    }
    if (run->socket != NULL) {
        zmq_close(run->socket);
    }
    if (run->zmq != NULL) {
        zmq_ctx_term(run->zmq);
    }
}

/* Once the thread, if there ever was one, has ended. */
static void free_handle(struct seismo *run)
{
    if (run->event >= 0) {
        close(run->event);
    }
    link_close(&run->link);
    ring_close(&run->ring);
    free(run->spool);
    free(run);
}

static void *thread_main(void *arg)
{
    struct seismo *run = arg;
    double deadline = INFINITY;

    if (run->spool != NULL) {
        link_spool(&run->link, run->spool); /* here, because files may be slow */
    }
    for (;;) {
        double timeout, now = monotonic_now();
        uint64_t rows;

        if (atomic_load(&run->closing) && isinf(deadline)) {
            deadline = now + run->close_timeout;
            link_finish(&run->link, run->outcome);
        }
        read_monitor(run, now);
        reconnect(run, now);
        read_socket(run, now);
        link_run(&run->link, now);
        if (isfinite(deadline) && (link_done(&run->link) || now >= deadline)) {
            break;
        }
        rows = link_wake(&run->link, now, &timeout);
        if (isfinite(deadline) && (timeout < 0 || timeout > deadline - now)) {
            timeout = deadline - now;
        }
        if (isfinite(run->reconnect_at) && (timeout < 0 || timeout > run->reconnect_at - now)) {
            timeout = run->reconnect_at - now;
        }
        wait_for_work(run, rows, timeout);
    }
    /* Here and not in seismo_close, because ZeroMQ may take long over it (a name server that does
     * not answer), for which seismo_close does not wait. */
    transport_close(run);
    if (atomic_exchange(&run->left, true)) {
        free_handle(run);
    }
    return NULL;
}

/* ---- opening ---- */

static int fail(char errmsg[SEISMO_ERRMSG], const char *what)
{
    snprintf(errmsg, SEISMO_ERRMSG, "seismo_open: %s", what);
    return SEISMO_EINVAL;
}

/* The first of the three that is there and not empty. */
static const char *first_of(const char *a, const char *b, const char *c)
{
    return a != NULL && *a != '\0' ? a : b != NULL && *b != '\0' ? b : c;
}

static int check_meta(const char *meta, char errmsg[SEISMO_ERRMSG])
{
    json_error_t error;
    bool no_memory;
    json_t *object = json_text(meta, strlen(meta), 0, &error, &no_memory);
    bool good = json_is_object(object);

    json_decref(object);
    if (no_memory) {
        snprintf(errmsg, SEISMO_ERRMSG, "seismo_open: out of memory");
        return SEISMO_ENOMEM;
    }
    if (!good) {
        snprintf(errmsg, SEISMO_ERRMSG, "seismo_open: `meta` is not a JSON object: %s", error.text);
        return SEISMO_EINVAL;
    }
    return 0;
}

static int identity_init(struct link_identity *ret, const struct seismo_options *o,
                         char errmsg[SEISMO_ERRMSG])
{
    const char *program = first_of(o->program, program_invocation_short_name, "program");
    const char *meta = first_of(o->meta, "{}", NULL);
    char run_default[SEISMO_MAX_NAME + 64], date[32];
    time_t now = time(NULL);
    struct tm tm;
    const char *run;

    localtime_r(&now, &tm);
    strftime(date, sizeof(date), "%Y%m%d-%H%M%S", &tm);
    snprintf(run_default, sizeof(run_default), "%.80s-%s-%ld", program, date, (long)getpid());
    run = first_of(o->run, getenv("SEISMO_RUN"), run_default);
    if (strlen(run) > SEISMO_MAX_NAME || strlen(program) > SEISMO_MAX_NAME) {
        return fail(errmsg, "the names of run and program may have at most 128 bytes each");
    }
    if (strlen(meta) > SEISMO_MAX_META) {
        return fail(errmsg, "`meta` may have at most 8192 bytes");
    }
    ret->rank = o->rank;
    ret->world = o->world > 0 ? o->world : 1;
    if (ret->rank >= ret->world) {
        return fail(errmsg, "`rank` must be below `world`");
    }
    if (o->ring > MAX_RING) {
        return fail(errmsg, "`ring` may be at most 16777216 steps");
    }
    if (!(o->close_timeout >= 0)) {
        return fail(errmsg, "`close_timeout` must not be negative");
    }
    strcpy(ret->run, run);
    strcpy(ret->program, program);
    strcpy(ret->meta, meta);
    return check_meta(meta, errmsg);
}

/* The keys, when there are some for this endpoint. */
static int keys_init(struct seismo *run, const struct seismo_options *o, char errmsg[SEISMO_ERRMSG])
{
    struct credentials keys;
    char text[SEISMO_ERRMSG];
    int err = credentials_find(run->endpoint, o->server_key_file, o->key_file, &keys, text);

    run->has_keys = err == 0 && keys.used;
    if (err == 0) {
        err = credentials_apply(&keys, run->socket, text);
    }
    if (err != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "seismo_open: %.240s", text);
    }
    return err;
}

static int transport_init(struct seismo *run, const char *endpoint, const struct seismo_options *o,
                          char errmsg[SEISMO_ERRMSG])
{
    const struct {
        int option, value;
    } options[] = {
        {ZMQ_LINGER, 0},
        /* Messages wait for a connection in our own batches, bounded, and not in ZeroMQ's queue. */
        {ZMQ_IMMEDIATE, 1},
        {ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX},
        {ZMQ_HEARTBEAT_IVL, HEARTBEAT},
        {ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT},
    };
    int64_t max_message = SEISMO_MAX_MESSAGE;
    int err;

    run->reconnect_at = INFINITY;
    if (strlen(endpoint) >= sizeof(run->endpoint)) {
        return fail(errmsg, "the endpoint has more than 511 bytes");
    }
    strcpy(run->endpoint, endpoint);
    run->zmq = zmq_ctx_new();
    run->socket = run->zmq != NULL ? zmq_socket(run->zmq, ZMQ_DEALER) : NULL;
    run->monitor = run->socket != NULL ? zmq_socket(run->zmq, ZMQ_PAIR) : NULL;
    run->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (run->monitor == NULL || run->event < 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "seismo_open: cannot make sockets: %s",
                 zmq_strerror(errno));
        return SEISMO_EIO;
    }
    for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++) {
        zmq_setsockopt(run->socket, options[i].option, &options[i].value, sizeof(int));
    }
    zmq_setsockopt(run->socket, ZMQ_MAXMSGSIZE, &max_message, sizeof(max_message));
    err = keys_init(run, o, errmsg);
    if (err != 0) {
        return err;
    }
    if (zmq_socket_monitor(run->socket, MONITOR,
                           ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                               CREDENTIALS_EVENTS) != 0 ||
        zmq_connect(run->monitor, MONITOR) != 0 || zmq_connect(run->socket, endpoint) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "seismo_open: cannot connect to \"%.120s\": %s; give an endpoint such as %s",
                 endpoint, zmq_strerror(errno), SEISMO_DEFAULT_INGEST);
        return SEISMO_EINVAL;
    }
    return 0;
}

static int thread_start(struct seismo *run, char errmsg[SEISMO_ERRMSG])
{
    sigset_t all, old;
    int err;

    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&run->thread, NULL, thread_main, run);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "seismo_open: cannot start a thread: %s", strerror(err));
        return SEISMO_EIO;
    }
    return 0;
}

struct seismo *seismo_open(const struct seismo_options *options, char errmsg[SEISMO_ERRMSG])
{
    const struct seismo_options none = {0};
    const struct seismo_options *o = options != NULL ? options : &none;
    const char *ingest = first_of(o->ingest, getenv("SEISMO_INGEST"), SEISMO_DEFAULT_INGEST);
    const char *spool = first_of(o->spool, getenv("SEISMO_SPOOL"), NULL);
    char unwanted[SEISMO_ERRMSG];
    char *text = errmsg != NULL ? errmsg : unwanted;
    struct link_identity *identity = calloc(1, sizeof(*identity));
    struct seismo *run = calloc(1, sizeof(*run));

    if (run == NULL || identity == NULL) {
        fail(text, "out of memory");
        goto fail;
    }
    run->event = -1;
    if (identity_init(identity, o, text) != 0) {
        goto fail;
    }
    if (ring_init(&run->ring, o->ring > 0 ? o->ring : DEFAULT_RING) != 0) {
        fail(text, "out of memory for the ring of steps");
        goto fail;
    }
    if (link_init(&run->link, &run->ring, identity, send_now, run, monotonic_now()) != 0) {
        ring_close(&run->ring);
        fail(text, "out of memory or of random numbers");
        goto fail;
    }
    run->link.verbose = o->verbose;
    if (spool != NULL && (run->spool = strdup(spool)) == NULL) {
        free_handle(run);
        run = NULL;
        fail(text, "out of memory");
        goto fail;
    }
    run->close_timeout = o->close_timeout > 0 ? o->close_timeout : DEFAULT_CLOSE_TIMEOUT;
    atomic_init(&run->wake_at, LINK_NEVER);
    pthread_once(&fork_once, watch_forks);
    run->generation = atomic_load(&fork_generation);
    if (transport_init(run, ingest, o, text) != 0 || thread_start(run, text) != 0) {
        transport_close(run);
        free_handle(run);
        run = NULL;
        goto fail;
    }
    free(identity);
    return run;

fail:
    if (o->verbose) {
        fprintf(stderr, "seismo: %s; this run goes unwatched\n", text);
    }
    free(identity);
    free(run);
    return NULL;
}

/* ---- what the training loop calls ---- */

static void wake_thread(struct seismo *run)
{
    uint64_t one = 1;

    if (write(run->event, &one, sizeof(one)) < 0) {
        /* The counter is full: the thread has been woken often enough. */
    }
}

static void row_pushed(struct seismo *run)
{
    uint64_t wake_at = atomic_load(&run->wake_at);

    atomic_fetch_add_explicit(&run->steps, 1, memory_order_relaxed);
    if (wake_at != LINK_NEVER && ring_count(&run->ring) >= wake_at &&
        atomic_exchange(&run->wake_at, LINK_NEVER) != LINK_NEVER) {
        wake_thread(run);
    }
}

/* A clock that the daemon would not take says nothing. */
static double plausible(double time)
{
    return fabs(time) <= SEISMO_MAX_TIME ? time : NAN;
}

void seismo_step(struct seismo *run, const struct seismo_step *step)
{
    struct seismo_row row = {.step = step->step, .time = step->time, .present = step->present};
    unsigned dropped;

    if (!is_mine(run)) {
        return;
    }
    /* Fields that a later header may have appended are not known here. */
    row.present &= (uint32_t)((UINT64_C(1) << SEISMO_N_VALUES) - 1);
    if (row.step < 0 || !row_has(&row, SEISMO_LOSS)) {
        atomic_fetch_add_explicit(&run->steps, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&run->invalid, 1, memory_order_relaxed);
        return;
    }
    row.time = row.time == 0 ? epoch_now() : plausible(row.time);
    memcpy(row.value, step->value, sizeof(row.value));
    dropped = ring_push(&run->ring, &row);
    if (dropped > 0) {
        atomic_fetch_add(&run->link.dropped, dropped);
    }
    row_pushed(run);
}

bool client_offer(struct seismo *run, const struct seismo_row *row)
{
    struct seismo_row said = *row;

    said.time = plausible(row->time);
    if (!ring_offer(&run->ring, &said)) {
        return false;
    }
    row_pushed(run);
    return true;
}

void client_hurry(struct seismo *run)
{
    atomic_store(&run->link.hurry, true);
    wake_thread(run);
}

bool client_connected(struct seismo *run)
{
    return atomic_load(&run->shaken);
}

void client_give_up(struct seismo *run)
{
    run->close_timeout = 0; /* read by the thread after `closing` */
}

bool client_refused(struct seismo *run)
{
    return atomic_load(&run->link.state) == LINK_REFUSED;
}

bool seismo_verdict(struct seismo *run, struct seismo_verdict *ret)
{
    bool heard;

    if (!is_mine(run)) {
        return false;
    }
    pthread_mutex_lock(&run->link.lock);
    heard = run->link.verdict.count > 0;
    if (heard) {
        *ret = run->link.verdict;
    }
    pthread_mutex_unlock(&run->link.lock);
    return heard;
}

void seismo_stats(struct seismo *run, struct seismo_stats *ret)
{
    uint64_t settled;

    memset(ret, 0, sizeof(*ret));
    if (!is_mine(run)) {
        return;
    }
    ret->acknowledged = atomic_load(&run->link.acknowledged);
    ret->dropped = atomic_load(&run->link.dropped);
    ret->rejected = atomic_load(&run->link.rejected) + atomic_load(&run->invalid);
    ret->retransmitted = atomic_load(&run->link.retransmitted);
    ret->spooled = atomic_load(&run->link.spooled);
    ret->spool_errors = atomic_load(&run->link.spool_errors);
    ret->connected = atomic_load(&run->link.connected);
    /* Last, so that it counts at least what the others do. */
    ret->steps = atomic_load(&run->steps) + atomic_load(&run->link.inherited);
    settled = ret->acknowledged + ret->dropped + ret->rejected;
    ret->waiting = ret->steps > settled ? ret->steps - settled : 0;
    pthread_mutex_lock(&run->link.lock);
    snprintf(ret->run, sizeof(ret->run), "%s", run->link.run);
    snprintf(ret->error, sizeof(ret->error), "%s", run->link.error);
    pthread_mutex_unlock(&run->link.lock);
}

bool seismo_close(struct seismo **handle, enum seismo_outcome outcome)
{
    struct seismo *run = *handle;
    struct seismo_stats stats;
    bool joined;
    double end;

    *handle = NULL;
    if (!is_mine(run)) {
        /* In a child of fork() the memory and the descriptors are left to the end of the process:
         * ZeroMQ's thread, which alone could give them back, runs in the parent. */
        return false;
    }
    run->outcome = outcome == SEISMO_FINISHED ? WIRE_FINISHED
                   : outcome == SEISMO_FAILED ? WIRE_FAILED
                                              : WIRE_ABORTED;
    atomic_store(&run->closing, true);
    wake_thread(run);
    end = monotonic_now() + run->close_timeout + CLOSE_GRACE;
    /* A clock that jumps must not matter; ThreadSanitizer does not know pthread_clockjoin_np. */
    while (!(joined = pthread_tryjoin_np(run->thread, NULL) == 0) && monotonic_now() < end) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    seismo_stats(run, &stats);
    if (!joined) {
        pthread_detach(run->thread);
    }
    if (atomic_exchange(&run->left, true)) {
        free_handle(run);
    }
    return joined && stats.waiting == 0;
}
