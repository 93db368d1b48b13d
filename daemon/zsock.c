#include "daemon/zsock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/doorman.h"
#include "daemon/log.h"

/* libzmq 4.3 has the option, but its header shows it only with the draft interfaces. */
#ifndef ZMQ_ZAP_ENFORCE_DOMAIN
#define ZMQ_ZAP_ENFORCE_DOMAIN 93
#endif

#define RETRY_MS 20 /* between attempts to send to a peer that had no room, and to bind again */
#define REOPEN_PATIENCE 250 /* attempts to bind again before it is worth a message */

struct outgoing {
    struct outgoing *next;
    size_t head_n, n; /* bytes; head_n == 0: no head */
    uint8_t bytes[];  /* head, then data */
};

/* A socket file of ours; libzmq leaves it behind. */
struct socket_file {
    struct socket_file *next;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* A bound endpoint that talks CURVE. */
struct guarded {
    struct guarded *next;
    bool open; /* false between unbinding and binding again */
    char endpoint[256];
};

struct zsock {
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    uv_timer_t retry;
    int handles; /* that libuv has not let go of */
    void *socket;
    int type;
    zsock_recv recv;
    void *arg;
    bool paused, closing;
    bool reopening; /* an endpoint waits to be bound again */
    uint32_t reopen_tries;
    size_t max_message;
    struct outgoing *queue, **queue_end;
    uint32_t queued;
    size_t queued_bytes;
    struct socket_file *files;
    const char *secret, *domain; /* see zsock_guard */
    int64_t group;
    struct guarded *guarded;
    struct doorman *doorman; /* or NULL */
    void (*closed)(void *arg);
    void *closed_arg;
    char endpoint[256];
};

static int events(struct zsock *z)
{
    int bits;
    size_t size = sizeof(bits);
    while (zmq_getsockopt(z->socket, ZMQ_EVENTS, &bits, &size) != 0)
        if (errno != EINTR)
            return 0;
    return bits;
}

static int try_send(struct zsock *z, const void *head, size_t head_n, const void *data, size_t n)
{
    if (head_n && zmq_send(z->socket, head, head_n, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        goto fail;
    while (zmq_send(z->socket, data, n, ZMQ_DONTWAIT) < 0)
        if (errno != EINTR) /* the head is out already, so the message has to be finished */
            goto fail;
    return 0;
fail:
    switch (errno) {
    case EAGAIN:
    case EINTR:
        return SEISMO_EBUSY;
    case EHOSTUNREACH:
        return SEISMO_EUNREACHABLE;
    case ENOMEM:
        return SEISMO_ENOMEM;
    default:
        return SEISMO_EINTERNAL;
    }
}

/* Messages to the same peer that stand before `end` in the queue and have to go first. */
static uint32_t waiting(const struct zsock *z, const struct outgoing *end, const void *head,
                        size_t head_n)
{
    uint32_t n = 0;
    for (const struct outgoing *o = z->queue; o != end; o = o->next)
        n += o->head_n == head_n && (head_n == 0 || memcmp(o->bytes, head, head_n) == 0);
    return n;
}

static void on_retry(uv_timer_t *timer)
{
    (void)timer; /* It wakes the loop; on_check does the work. */
}

/* ---- endpoints that ask for keys ---- */

static int set_int(struct zsock *z, int option, int value)
{
    return zmq_setsockopt(z->socket, option, &value, sizeof(value));
}

void zsock_guard(struct zsock *z, const char *secret, const char *domain, int64_t group)
{
    z->secret = secret;
    z->domain = domain;
    z->group = group;
}

/* For the next bind; each endpoint keeps what it was bound with. There is no way back, as libzmq
 * does not unset the domain. The domain is enforced, because otherwise libzmq lets everybody in
 * where no handler answers. */
static bool set_curve(struct zsock *z)
{
    return set_int(z, ZMQ_CURVE_SERVER, 1) == 0 &&
           zmq_setsockopt(z->socket, ZMQ_CURVE_SECRETKEY, z->secret, strlen(z->secret)) == 0 &&
           zmq_setsockopt(z->socket, ZMQ_ZAP_DOMAIN, z->domain, strlen(z->domain)) == 0 &&
           set_int(z, ZMQ_ZAP_ENFORCE_DOMAIN, 1) == 0;
}

static int own_guarded(struct zsock *z, char errmsg[SEISMO_ERRMSG])
{
    struct guarded *g = malloc(sizeof(*g));
    if (!g) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory for an endpoint");
        return SEISMO_ENOMEM;
    }
    *g = (struct guarded){.next = z->guarded, .open = true};
    snprintf(g->endpoint, sizeof(g->endpoint), "%s", z->endpoint);
    z->guarded = g;
    return 0;
}

/* libzmq lets go of a port in its own thread, a moment after it was told to. */
static void bind_again(struct zsock *z)
{
    bool left = false;
    for (struct guarded *g = z->guarded; g; g = g->next) {
        if (g->open)
            continue;
        set_int(z, ZMQ_IPV6, strchr(g->endpoint, '[') != NULL);
        g->open = zmq_bind(z->socket, g->endpoint) == 0;
        left = left || !g->open;
    }
    z->reopening = left;
    if (!left && !z->queue)
        uv_timer_stop(&z->retry);
    if (left && ++z->reopen_tries == REOPEN_PATIENCE)
        log_error("security", "a port that was left for a moment has been taken by somebody else; "
                              "it is tried again until it is free");
}

void zsock_reopen(struct zsock *z)
{
    for (struct guarded *g = z->guarded; g; g = g->next)
        if (g->open && zmq_unbind(z->socket, g->endpoint) == 0) {
            g->open = false;
            z->reopening = true;
            z->reopen_tries = 0;
            if (z->doorman)
                doorman_forget_tcp(z->doorman);
        }
    if (z->reopening && !uv_is_active((uv_handle_t *)&z->retry))
        uv_timer_start(&z->retry, on_retry, RETRY_MS, RETRY_MS);
}

/* ---- messages ---- */

static void flush(struct zsock *z)
{
    struct outgoing **at = &z->queue;
    while (*at) {
        struct outgoing *o = *at;
        if (waiting(z, o, o->bytes, o->head_n) > 0 ||
            try_send(z, o->bytes, o->head_n, o->bytes + o->head_n, o->n) == SEISMO_EBUSY) {
            at = &o->next;
            continue;
        }
        *at = o->next;
        z->queued--;
        z->queued_bytes -= o->head_n + o->n;
        free(o);
    }
    z->queue_end = at;
    if (!z->queue && !z->reopening)
        uv_timer_stop(&z->retry);
}

static void receive_one(struct zsock *z, zmq_msg_t *frame)
{
    struct zsock_msg msg = {.peer = NULL};
    bool router = z->type == ZMQ_ROUTER;
    zmq_msg_t rest;
    zmq_msg_init(&rest);
    bool more = true;
    for (int i = 0; more; i++) {
        zmq_msg_t *into = i < 2 ? &frame[i] : &rest;
        if (i > 0 && zmq_msg_recv(into, z->socket, ZMQ_DONTWAIT) < 0)
            break; /* libzmq hands over whole messages, so this is its own failure */
        more = zmq_msg_more(into);
        msg.frames = i + !router;
    }
    if (router) {
        msg.peer = zmq_msg_data(&frame[0]);
        msg.peer_n = zmq_msg_size(&frame[0]);
    }
    if (msg.frames > 0) {
        msg.data = zmq_msg_data(&frame[router]);
        msg.n = zmq_msg_size(&frame[router]);
        msg.user = z->guarded ? zmq_msg_gets(&frame[router], "User-Id") : NULL;
        msg.origin = msg.user ? msg.user : zmq_msg_gets(&frame[router], "Peer-Address");
        if (z->doorman)
            doorman_whole(z->doorman, zmq_msg_get(&frame[router], ZMQ_SRCFD));
        z->recv(z->arg, &msg);
    }
    zmq_msg_close(&rest);
}

static void receive(struct zsock *z)
{
    if (!(events(z) & ZMQ_POLLIN))
        return;
    for (int i = 0; i < ZSOCK_BURST && !z->paused && !z->closing; i++) {
        zmq_msg_t frame[2];
        zmq_msg_init(&frame[0]);
        zmq_msg_init(&frame[1]);
        bool got = zmq_msg_recv(&frame[0], z->socket, ZMQ_DONTWAIT) >= 0;
        if (got)
            receive_one(z, frame);
        zmq_msg_close(&frame[0]);
        zmq_msg_close(&frame[1]);
        if (!got)
            break;
    }
}

static void on_poll(uv_poll_t *poll, int status, int bits)
{
    (void)poll; /* It wakes the loop; on_check does the work. */
    (void)status;
    (void)bits;
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* It keeps the loop from sleeping while there is something to do. */
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct zsock *z = prepare->data;
    /* A ROUTER says POLLOUT when any peer has room, which would spin while another one has none;
     * for it the signal of the file descriptor and the retry timer do. */
    int wanted = (z->recv && !z->paused ? ZMQ_POLLIN : 0) |
                 (z->queue && z->type != ZMQ_ROUTER ? ZMQ_POLLOUT : 0);
    if (events(z) & wanted)
        uv_idle_start(&z->idle, on_idle);
    else
        uv_idle_stop(&z->idle);
}

static void on_check(uv_check_t *check)
{
    struct zsock *z = check->data;
    if (z->reopening && !z->closing)
        bind_again(z);
    if (z->queue)
        flush(z);
    if (z->recv && !z->paused)
        receive(z);
}

static int set_options(struct zsock *z, size_t max_message)
{
    int64_t max = (int64_t)max_message;
    bool router = z->type == ZMQ_ROUTER;
    int out = router ? ZSOCK_SNDHWM : ZSOCK_HWM;
    /* A PAIR listens to a socket's monitor, which must never have to wait. */
    int in = router ? ZSOCK_RCVHWM : z->type == ZMQ_PAIR ? 0 : ZSOCK_HWM;
    if (zmq_setsockopt(z->socket, ZMQ_MAXMSGSIZE, &max, sizeof(max)) != 0 ||
        set_int(z, ZMQ_SNDHWM, out) != 0 || set_int(z, ZMQ_RCVHWM, in) != 0 ||
        set_int(z, ZMQ_LINGER, ZSOCK_LINGER) != 0 || set_int(z, ZMQ_BACKLOG, 1024) != 0 ||
        set_int(z, ZMQ_HEARTBEAT_IVL, ZSOCK_HEARTBEAT) != 0 ||
        set_int(z, ZMQ_HANDSHAKE_IVL, ZSOCK_HANDSHAKE_MS) != 0)
        return -1;
    return router ? set_int(z, ZMQ_ROUTER_MANDATORY, 1) : 0;
}

int zsock_new(uv_loop_t *loop, void *zmq_ctx, int type, size_t max_message, zsock_recv recv,
              void *arg, struct zsock **ret_zsock, char errmsg[SEISMO_ERRMSG])
{
    struct zsock *z = calloc(1, sizeof(*z));
    if (!z) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory for a socket");
        return SEISMO_ENOMEM;
    }
    z->type = type;
    z->max_message = max_message;
    z->recv = recv;
    z->arg = arg;
    z->queue_end = &z->queue;
    z->group = -1;
    z->socket = zmq_socket(zmq_ctx, type);
    int fd, rc = 0;
    size_t size = sizeof(fd);
    if (!z->socket || set_options(z, max_message) != 0 ||
        zmq_getsockopt(z->socket, ZMQ_FD, &fd, &size) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot make a ZeroMQ socket: %s", zmq_strerror(errno));
        goto fail;
    }
    rc = uv_poll_init(loop, &z->poll, fd);
    if (rc != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot watch a ZeroMQ socket: %s", uv_strerror(rc));
        goto fail;
    }
    uv_prepare_init(loop, &z->prepare);
    uv_check_init(loop, &z->check);
    uv_idle_init(loop, &z->idle);
    uv_timer_init(loop, &z->retry);
    z->handles = 5;
    z->poll.data = z->prepare.data = z->check.data = z->idle.data = z->retry.data = z;
    uv_poll_start(&z->poll, UV_READABLE, on_poll);
    uv_prepare_start(&z->prepare, on_prepare);
    uv_check_start(&z->check, on_check);
    *ret_zsock = z;
    return 0;
fail:
    if (z->socket)
        zmq_close(z->socket);
    free(z);
    return SEISMO_EINTERNAL;
}

/* libzmq deletes whatever lies at the path before it binds, so look first. */
static int check_ipc(const char *path, char errmsg[SEISMO_ERRMSG])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "ipc://%.120s…: a socket path has at most %zu bytes; choose a shorter one", path,
                 sizeof(address.sun_path) - 1);
        return SEISMO_ETOOBIG;
    }
    struct stat st;
    if (lstat(path, &st) != 0)
        return 0; /* nothing there; what else is wrong, bind says */
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "ipc://%s: the file is not a socket; remove it or choose another path", path);
        return SEISMO_EINVAL;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return 0;
    bool alive = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno == EAGAIN;
    close(fd);
    if (alive) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "ipc://%s: another process listens there; stop it or choose another path", path);
        return SEISMO_EINVAL;
    }
    return 0;
}

/* Only the user may connect, or a group too, and the file goes when the socket does. The process's
 * umask keeps others out from the first moment. */
static int own_file(struct zsock *z, const char *path, char errmsg[SEISMO_ERRMSG])
{
    struct socket_file *file = malloc(sizeof(*file));
    if (!file || (z->group >= 0 && chown(path, (uid_t)-1, (gid_t)z->group) != 0) ||
        chmod(path, z->group >= 0 ? 0660 : 0600) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot set the %smode of %.140s: %s",
                 z->group >= 0 ? "group and " : "", path, strerror(errno));
        free(file);
        return SEISMO_EIO;
    }
    snprintf(file->path, sizeof(file->path), "%s", path);
    file->next = z->files;
    z->files = file;
    return 0;
}

int zsock_bind(struct zsock *z, const char *endpoint, char errmsg[SEISMO_ERRMSG])
{
    static const char ipc[] = "ipc://";
    const char *path =
        strncmp(endpoint, ipc, sizeof(ipc) - 1) == 0 ? endpoint + sizeof(ipc) - 1 : NULL;
    int rc = path ? check_ipc(path, errmsg) : 0;
    if (rc != 0)
        return rc;
    /* Only where it is asked for: it would show IPv4 addresses as IPv6 ones. */
    set_int(z, ZMQ_IPV6, strchr(endpoint, '[') != NULL);
    bool curve = z->secret && !path;
    if (!curve && z->guarded) {
        snprintf(errmsg, SEISMO_ERRMSG, "%.160s has to be bound before those that ask for keys",
                 endpoint);
        return SEISMO_EINTERNAL;
    }
    if (curve && !set_curve(z)) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot protect %.160s: %s", endpoint, zmq_strerror(errno));
        return SEISMO_EINTERNAL;
    }
    if (zmq_bind(z->socket, endpoint) != 0) {
        const char *advice = errno == EADDRINUSE
                                 ? " (is another seismod running? choose another endpoint)"
                             : errno == ENOENT && path ? " (make the directory of the socket first)"
                                                       : "";
        snprintf(errmsg, SEISMO_ERRMSG, "cannot listen on %.160s: %s%s", endpoint,
                 zmq_strerror(errno), advice);
        return SEISMO_EIO;
    }
    rc = path ? own_file(z, path, errmsg) : 0;
    if (rc != 0)
        return rc;
    size_t size = sizeof(z->endpoint);
    if (zmq_getsockopt(z->socket, ZMQ_LAST_ENDPOINT, z->endpoint, &size) != 0)
        snprintf(z->endpoint, sizeof(z->endpoint), "%s", endpoint);
    return curve ? own_guarded(z, errmsg) : 0;
}

int zsock_connect(struct zsock *z, const char *endpoint, char errmsg[SEISMO_ERRMSG])
{
    if (zmq_connect(z->socket, endpoint) == 0)
        return 0;
    snprintf(errmsg, SEISMO_ERRMSG, "cannot connect to %.160s: %s", endpoint, zmq_strerror(errno));
    return SEISMO_EUNREACHABLE;
}

int zsock_limit(struct zsock *z, void *zmq_ctx, uint32_t max, const char *name,
                char errmsg[SEISMO_ERRMSG])
{
    /* What libzmq reads ahead, and a message that is coming. */
    uint64_t unfinished = (ZSOCK_RCVHWM + 2) * (uint64_t)z->max_message;
    return doorman_new(z->poll.loop, zmq_ctx, z->socket, max, name,
                       z->recv ? ZSOCK_FIRST : ZSOCK_SUBSCRIPTIONS, unfinished, &z->doorman,
                       errmsg);
}

void zsock_limit_again(struct zsock *z, uint32_t max)
{
    if (z->doorman)
        doorman_limit(z->doorman, max);
}

void zsock_spare(struct zsock *z)
{
    set_int(z, ZMQ_RCVHWM, 1);
    set_int(z, ZMQ_BACKLOG, 32);
}

void zsock_queue_ahead(struct zsock *z, int messages)
{
    set_int(z, ZMQ_SNDHWM, messages);
}

uint32_t zsock_connections(const struct zsock *z)
{
    return z->doorman ? doorman_connections(z->doorman) : 0;
}

const char *zsock_endpoint(const struct zsock *z)
{
    return z->endpoint;
}

int zsock_send(struct zsock *z, const void *head, size_t head_n, const void *data, size_t n)
{
    uint32_t before = waiting(z, NULL, head, head_n);
    if (before == 0) {
        int rc = try_send(z, head, head_n, data, n);
        if (rc != SEISMO_EBUSY)
            return rc;
    }
    size_t bytes = head_n + n;
    if (z->queued >= ZSOCK_MAX_QUEUED || (head_n && before >= ZSOCK_MAX_QUEUED_PEER) ||
        bytes > ZSOCK_MAX_QUEUED_BYTES - z->queued_bytes)
        return SEISMO_EBUSY;
    struct outgoing *o = malloc(sizeof(*o) + bytes);
    if (!o)
        return SEISMO_ENOMEM;
    *o = (struct outgoing){.head_n = head_n, .n = n};
    if (head_n)
        memcpy(o->bytes, head, head_n);
    if (n)
        memcpy(o->bytes + head_n, data, n);
    *z->queue_end = o;
    z->queue_end = &o->next;
    z->queued++;
    z->queued_bytes += bytes;
    if (!uv_is_active((uv_handle_t *)&z->retry))
        uv_timer_start(&z->retry, on_retry, RETRY_MS, RETRY_MS);
    return 0;
}

uint32_t zsock_queued(const struct zsock *z)
{
    return z->queued;
}

void zsock_pause(struct zsock *z, bool paused)
{
    z->paused = paused;
}

static void on_close(uv_handle_t *handle)
{
    struct zsock *z = handle->data;
    if (--z->handles > 0)
        return;
    /* Whatever still waits gets its last chance; libzmq's own queues go on for the linger time. */
    flush(z);
    while (z->files) {
        struct socket_file *file = z->files;
        z->files = file->next;
        unlink(file->path);
        free(file);
    }
    while (z->guarded) {
        struct guarded *g = z->guarded;
        z->guarded = g->next;
        free(g);
    }
    zmq_close(z->socket);
    while (z->queue) {
        struct outgoing *o = z->queue;
        z->queue = o->next;
        free(o);
    }
    if (z->closed)
        z->closed(z->closed_arg);
    free(z);
}

void zsock_close(struct zsock **ref, void (*closed)(void *arg), void *arg)
{
    struct zsock *z = *ref;
    if (!z)
        return;
    *ref = NULL;
    doorman_close(&z->doorman);
    z->closing = true;
    z->closed = closed;
    z->closed_arg = arg;
    uv_poll_stop(&z->poll);
    uv_close((uv_handle_t *)&z->poll, on_close);
    uv_close((uv_handle_t *)&z->prepare, on_close);
    uv_close((uv_handle_t *)&z->check, on_close);
    uv_close((uv_handle_t *)&z->idle, on_close);
    uv_close((uv_handle_t *)&z->retry, on_close);
}
