#include "client/cli/query_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "client/lib/credentials.h"
#include "proto/json_text.h"
#include "proto/wire.h"

#define ENDPOINT_MAX 512
#define MONITOR "inproc://monitor"
#define CERTAIN 3 /* handshakes that break off until the keys are to blame */

struct query_client {
    char endpoint[ENDPOINT_MAX];
    const char *origin; /* where the endpoint came from, for error texts */
    void *zmq, *socket, *monitor;
    uint64_t id; /* of the last request */
    bool has_keys;
    char trouble[SEISMO_ERRMSG]; /* with the keys, "" for none */
    int doubts;                  /* times that it looked so without being certain */
};

/* Connecting to the file of a socket tells at once when nobody listens, where ZeroMQ would go on
 * trying. True for endpoints of another kind. */
static bool may_listen(const char *endpoint)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = endpoint + strlen("ipc://");
    bool listens;
    int fd;

    if (strncmp(endpoint, "ipc://", strlen("ipc://")) != 0 || path[0] == '@' ||
        strlen(path) >= sizeof(address.sun_path)) {
        return true;
    }
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return true;
    }
    listens = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ||
              (errno != ENOENT && errno != ECONNREFUSED);
    close(fd);
    return listens;
}

/* ipc://$XDG_STATE_HOME/seismo/query.sock or its place below the home directory. */
static bool user_socket(char ret[ENDPOINT_MAX])
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;

    if (state != NULL && state[0] == '/') {
        n = snprintf(ret, ENDPOINT_MAX, "ipc://%s/seismo/%s", state, SEISMO_QUERY_SOCKET);
    } else if (home != NULL && home[0] == '/') {
        n = snprintf(ret, ENDPOINT_MAX, "ipc://%s/.local/state/seismo/%s", home,
                     SEISMO_QUERY_SOCKET);
    } else {
        return false;
    }
    return n < ENDPOINT_MAX && access(ret + strlen("ipc://"), F_OK) == 0;
}

static int find_endpoint(struct query_client *c, const char *endpoint, char errmsg[QUERY_ERRMSG])
{
    const char *environment = getenv("SEISMO_QUERY");

    if (endpoint != NULL) {
        c->origin = "--query";
    } else if (environment != NULL && *environment != '\0') {
        endpoint = environment;
        c->origin = "$SEISMO_QUERY";
    } else if (user_socket(c->endpoint)) {
        c->origin = "default, this user's daemon";
        return 0;
    } else {
        endpoint = SEISMO_SYSTEM_QUERY;
        c->origin = "default, the system's daemon";
    }
    if (strlen(endpoint) >= sizeof(c->endpoint)) {
        snprintf(errmsg, QUERY_ERRMSG, "the endpoint from %s is longer than %d bytes", c->origin,
                 ENDPOINT_MAX - 1);
        return SEISMO_EINVAL;
    }
    strcpy(c->endpoint, endpoint);
    return 0;
}

/* The keys, and a monitor that tells whether they fit. */
static int set_keys(struct query_client *c, char errmsg[QUERY_ERRMSG])
{
    struct credentials keys;
    char text[SEISMO_ERRMSG];
    int err = credentials_find(c->endpoint, NULL, NULL, &keys, text);

    if (err == 0) {
        c->has_keys = keys.used;
        err = credentials_apply(&keys, c->socket, text);
    }
    if (err != 0) {
        snprintf(errmsg, QUERY_ERRMSG, "%s", text);
        return SEISMO_EINVAL;
    }
    c->monitor = zmq_socket(c->zmq, ZMQ_PAIR);
    if (c->monitor == NULL ||
        zmq_socket_monitor(c->socket, MONITOR,
                           ZMQ_EVENT_HANDSHAKE_SUCCEEDED | CREDENTIALS_EVENTS) != 0 ||
        zmq_connect(c->monitor, MONITOR) != 0) {
        snprintf(errmsg, QUERY_ERRMSG, "cannot make a socket: %s", zmq_strerror(errno));
        return SEISMO_EIO;
    }
    return 0;
}

static void read_monitor(struct query_client *c)
{
    struct {
        uint16_t event;
        uint32_t value;
    } __attribute__((packed)) frame;
    char address[256];

    while (zmq_recv(c->monitor, &frame, sizeof(frame), ZMQ_DONTWAIT) == sizeof(frame)) {
        zmq_recv(c->monitor, address, sizeof(address), 0);
        if (!credentials_trouble(c->has_keys, c->endpoint, frame.event, frame.value, c->trouble)) {
            c->trouble[0] = '\0';
            c->doubts = 0;
        } else {
            /* A connection that breaks may also be a daemon that is stopping. */
            c->doubts += frame.event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL ? 1 : CERTAIN;
        }
    }
}

int query_client_new(const char *endpoint, struct query_client **ret_client,
                     char errmsg[QUERY_ERRMSG])
{
    struct query_client *c = calloc(1, sizeof(*c));
    int64_t max_message = SEISMO_MAX_MESSAGE;
    int linger = 0, err;

    if (c == NULL) {
        snprintf(errmsg, QUERY_ERRMSG, "out of memory");
        return SEISMO_ENOMEM;
    }
    err = find_endpoint(c, endpoint, errmsg);
    if (err != 0) {
        goto fail;
    }
    c->zmq = zmq_ctx_new();
    c->socket = c->zmq != NULL ? zmq_socket(c->zmq, ZMQ_DEALER) : NULL;
    if (c->socket == NULL) {
        snprintf(errmsg, QUERY_ERRMSG, "cannot make a socket: %s", zmq_strerror(errno));
        err = SEISMO_EIO;
        goto fail;
    }
    zmq_setsockopt(c->socket, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_setsockopt(c->socket, ZMQ_MAXMSGSIZE, &max_message, sizeof(max_message));
    err = set_keys(c, errmsg);
    if (err != 0) {
        goto fail;
    }
    if (zmq_connect(c->socket, c->endpoint) != 0) {
        snprintf(
            errmsg, QUERY_ERRMSG,
            "cannot connect to \"%s\" (from %s): %s; an endpoint looks like " SEISMO_SYSTEM_QUERY,
            c->endpoint, c->origin, zmq_strerror(errno));
        err = SEISMO_EINVAL;
        goto fail;
    }
    *ret_client = c;
    return 0;

fail:
    query_client_free(&c);
    return err;
}

void query_client_free(struct query_client **client)
{
    struct query_client *c = *client;

    *client = NULL;
    if (c == NULL) {
        return;
    }
    if (c->monitor != NULL) {
        zmq_close(c->monitor);
    }
    if (c->socket != NULL) {
        zmq_close(c->socket);
    }
    if (c->zmq != NULL) {
        zmq_ctx_term(c->zmq);
    }
    free(c);
}

static int unreachable(const struct query_client *c, const char *how, char errmsg[QUERY_ERRMSG])
{
    snprintf(errmsg, QUERY_ERRMSG,
             "%s at %s (%s); is the daemon running? Start it with `seismod` or `systemctl start "
             "seismod`, or say where it is with --query or SEISMO_QUERY",
             how, c->endpoint, c->origin);
    return SEISMO_EUNREACHABLE;
}

static int send_request(struct query_client *c, const char *method, json_t *params,
                        char errmsg[QUERY_ERRMSG])
{
    static uint8_t data[SEISMO_MAX_QUERY + 256];
    struct wire_buf b = {.data = data, .cap = sizeof(data)};
    char *text = json_dumps(params, JSON_COMPACT);
    struct wire_query query;

    json_decref(params);
    if (text == NULL) {
        snprintf(errmsg, QUERY_ERRMSG, "the request cannot be written: is an argument not UTF-8?");
        return SEISMO_EINVAL;
    }
    query = (struct wire_query){
        .id = ++c->id,
        .method = {method, (uint32_t)strlen(method)},
        .params = {text, (uint32_t)strlen(text)},
    };
    wire_put_query(&b, &query);
    free(text);
    if (b.overflow) {
        snprintf(errmsg, QUERY_ERRMSG, "the request is longer than %d bytes", SEISMO_MAX_QUERY);
        return SEISMO_ETOOBIG;
    }
    if (c->trouble[0] != '\0') { /* ZeroMQ has given up; the keys may fit by now */
        zmq_disconnect(c->socket, c->endpoint);
        zmq_connect(c->socket, c->endpoint);
        c->trouble[0] = '\0';
        c->doubts = 0;
    }
    if (!may_listen(c->endpoint) || zmq_send(c->socket, b.data, b.n, ZMQ_DONTWAIT) < 0) {
        return unreachable(c, "nobody listens", errmsg);
    }
    return 0;
}

#define NOT_YET 1 /* nothing has come, or something that answers another request */

static int read_reply(const struct query_client *c, const void *data, size_t n, json_t **ret_body,
                      char errmsg[QUERY_ERRMSG])
{
    char decode_errmsg[SEISMO_ERRMSG];
    struct wire_msg msg;
    json_t *body;
    bool no_memory;
    int err = wire_decode(data, n, &msg, decode_errmsg);

    if (err != 0) {
        snprintf(errmsg, QUERY_ERRMSG,
                 "the answer from %s is not the protocol of this program (%s): is it a query "
                 "socket of seismod, of the same version as seismo (%s)?",
                 c->endpoint, decode_errmsg, SEISMO_VERSION);
        return SEISMO_EVERSION;
    }
    if (msg.type == WIRE_ERROR && (!msg.error.has_ref || msg.error.ref == c->id)) {
        const struct wire_error *e = &msg.error;

        snprintf(errmsg, QUERY_ERRMSG, "%.*s%s%.*s", (int)e->text.n, e->text.p,
                 e->hint.n > 0 ? "; " : "", (int)e->hint.n, e->hint.p);
#define X(constant, value, name, text)                                              \
    if (e->code.n == sizeof(name) - 1 && memcmp(e->code.p, name, e->code.n) == 0) { \
        return constant;                                                            \
    }
        SEISMO_ERR_MAP(X)
#undef X
        return SEISMO_EINTERNAL;
    }
    if (msg.type != WIRE_REPLY || msg.reply.id != c->id) {
        return NOT_YET;
    }
    body = json_text(msg.reply.body.p, msg.reply.body.n, 0, NULL, &no_memory);
    if (no_memory) {
        snprintf(errmsg, QUERY_ERRMSG, "out of memory for the answer of %zu bytes",
                 (size_t)msg.reply.body.n);
        return SEISMO_ENOMEM;
    }
    if (json_integer_value(json_object_get(body, "schema")) != 1) {
        snprintf(errmsg, QUERY_ERRMSG,
                 "seismod at %s answers in a form that this seismo (%s) does not know; install the "
                 "same version of both",
                 c->endpoint, SEISMO_VERSION);
        json_decref(body);
        return SEISMO_EVERSION;
    }
    *ret_body = body;
    return 0;
}

static double monotonic_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int query_client_call(struct query_client *c, const char *method, json_t *params, json_t **ret_body,
                      char errmsg[QUERY_ERRMSG])
{
    double deadline = monotonic_now() + QUERY_TIMEOUT;
    int err = send_request(c, method, params, errmsg);
    zmq_msg_t msg;

    if (err != 0) {
        return err;
    }
    zmq_msg_init(&msg);
    do {
        zmq_pollitem_t items[] = {{.socket = c->socket, .events = ZMQ_POLLIN},
                                  {.socket = c->monitor, .events = ZMQ_POLLIN}};
        double left = deadline - monotonic_now();

        if (left > 0) {
            zmq_poll(items, 2, (long)(left * 1000) + 1); /* a signal ends it early, which is fine */
        }
        read_monitor(c);
        if (c->trouble[0] != '\0' && (c->doubts >= CERTAIN || left <= 0)) {
            snprintf(errmsg, QUERY_ERRMSG, "%s", c->trouble);
            err = SEISMO_EDENIED;
        } else if (left <= 0) {
            err = unreachable(c, "no answer within 5 s from seismod", errmsg);
        } else if (zmq_msg_recv(&msg, c->socket, ZMQ_DONTWAIT) >= 0) {
            err = read_reply(c, zmq_msg_data(&msg), zmq_msg_size(&msg), ret_body, errmsg);
        } else {
            err = NOT_YET;
        }
    } while (err == NOT_YET);
    zmq_msg_close(&msg);
    return err;
}
