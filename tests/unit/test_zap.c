/* Handshakes: a socket that asks for keys lets nobody in without the handler, and with it exactly
 * those whose keys are there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/auth.h"
#include "daemon/log.h"
#include "daemon/zap.h"
#include "daemon/zsock.h"

#define HEARD_MS 10000 /* for a message that has to come */
#define SILENT_MS 300  /* for one that must not */

/* libzmq hands messages from thread to thread without a lock, which ThreadSanitizer cannot see in a
 * library that was not built with it. What it calls is left out; what we do is not. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "called_from_lib:libzmq.so\n";
}

static char dir[] = "/tmp/seismo-test-zap-XXXXXX";
static char server_public[KEY_TEXT], server_secret[KEY_TEXT];
static char own_public[KEY_TEXT], own_secret[KEY_TEXT];

struct world {
    uv_loop_t loop;
    uv_timer_t timer;
    void *ctx, *peers;
    struct zsock *zsock;
    char user[KEY_TEXT]; /* of the last message */
    int heard;
};

static void on_message(void *arg, const struct zsock_msg *msg)
{
    struct world *w = arg;
    w->heard++;
    snprintf(w->user, sizeof(w->user), "%s", msg->user ? msg->user : "");
    uv_stop(&w->loop);
}

static void on_timer(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    char errmsg[SEISMO_ERRMSG];
    *state = w;
    w->ctx = zmq_ctx_new();
    w->peers = zmq_ctx_new();
    if (!w->ctx || !w->peers || uv_loop_init(&w->loop) != 0 ||
        uv_timer_init(&w->loop, &w->timer) != 0)
        return -1;
    return zsock_new(&w->loop, w->ctx, ZMQ_ROUTER, 1000, on_message, w, &w->zsock, errmsg);
}

static void end(struct world *w)
{
    zsock_close(&w->zsock, NULL, NULL);
    uv_close((uv_handle_t *)&w->timer, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    zmq_ctx_term(w->ctx);
    zmq_ctx_term(w->peers);
}

static void bind_guarded(struct world *w)
{
    char errmsg[SEISMO_ERRMSG] = "";
    zsock_guard(w->zsock, server_secret, "ingest", -1);
    if (zsock_bind(w->zsock, "tcp://127.0.0.1:*", errmsg) != 0)
        fail_msg("%s", errmsg);
}

/* Whether a peer with this pair of keys (NULL: none) is heard. */
static bool heard(struct world *w, const char *public_key, const char *secret_key, int patience)
{
    int linger = 0, before = w->heard;
    void *peer = zmq_socket(w->peers, ZMQ_DEALER);
    assert_non_null(peer);
    zmq_setsockopt(peer, ZMQ_LINGER, &linger, sizeof(linger));
    if (public_key) {
        zmq_setsockopt(peer, ZMQ_CURVE_SERVERKEY, server_public, KEY_TEXT);
        zmq_setsockopt(peer, ZMQ_CURVE_PUBLICKEY, public_key, KEY_TEXT);
        zmq_setsockopt(peer, ZMQ_CURVE_SECRETKEY, secret_key, KEY_TEXT);
    }
    assert_int_equal(zmq_connect(peer, zsock_endpoint(w->zsock)), 0);
    assert_int_equal(zmq_send(peer, "x", 1, 0), 1);
    uv_timer_start(&w->timer, on_timer, (uint64_t)patience, 0);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    uv_timer_stop(&w->timer);
    zmq_close(peer);
    return w->heard > before;
}

/* libzmq by itself would let everybody in who knows the server's public key. */
static void test_without_handler(void **state)
{
    struct world *w = *state;
    bind_guarded(w);
    assert_false(heard(w, own_public, own_secret, SILENT_MS));
    assert_false(heard(w, NULL, NULL, SILENT_MS));
    end(w);
    free(w);
}

static void test_with_handler(void **state)
{
    struct world *w = *state;
    struct zap *zap = NULL;
    struct keys *keys = NULL;
    char errmsg[SEISMO_ERRMSG] = "", other_public[KEY_TEXT], other_secret[KEY_TEXT];
    assert_int_equal(zmq_curve_keypair(other_public, other_secret), 0);
    if (zap_new(w->ctx, &zap, errmsg) != 0 || keys_load(dir, NULL, NULL, &keys, errmsg) != 0)
        fail_msg("%s", errmsg);
    bind_guarded(w);
    assert_false(heard(w, own_public, own_secret, SILENT_MS)); /* no keys hold yet */
    zap_set(zap, keys);
    assert_true(heard(w, own_public, own_secret, HEARD_MS));
    assert_string_equal(w->user, own_public);
    assert_false(heard(w, other_public, other_secret, SILENT_MS));
    assert_false(heard(w, own_public, other_secret, SILENT_MS)); /* the name without the secret */
    assert_false(heard(w, NULL, NULL, SILENT_MS));
    assert_true(heard(w, own_public, own_secret, HEARD_MS));
    zap_set(zap, NULL);
    assert_false(heard(w, own_public, own_secret, SILENT_MS));
    end(w);
    zap_free(&zap);
    assert_null(zap);
    zap_free(&zap);
    keys_free(&keys);
    free(w);
}

/* What libzmq cannot do on one socket is an error and not an open door. */
static void test_order_of_endpoints(void **state)
{
    struct world *w = *state;
    char errmsg[SEISMO_ERRMSG] = "", endpoint[64];
    bind_guarded(w);
    snprintf(endpoint, sizeof(endpoint), "ipc://%s/socket", dir);
    assert_int_equal(zsock_bind(w->zsock, endpoint, errmsg), SEISMO_EINTERNAL);
    end(w);
    free(w);
}

/* ---- keys that are exchanged while handshakes come in ---- */

#define ASKERS 2
#define ASKED 200 /* handshakes that each asker wants to see judged either way */

struct asker {
    pthread_t thread;
    void *ctx;
    const char *domain;
    atomic_int let_in, refused;
};

/* What libzmq says to the handler when a peer with our key knocks. */
static bool ask(void *socket, const char *domain)
{
    static const char *const frame[] = {"1.0", "7", NULL, "127.0.0.1", "", "CURVE"};
    uint8_t key[32];
    char status[8] = "", rest[256];
    int more = 1;
    size_t size = sizeof(more);
    for (int i = 0; i < 6; i++) {
        const char *text = frame[i] ? frame[i] : domain;
        assert_true(zmq_send(socket, text, strlen(text), ZMQ_SNDMORE) >= 0);
    }
    assert_non_null(zmq_z85_decode(key, own_public));
    assert_int_equal(zmq_send(socket, key, sizeof(key), 0), sizeof(key));
    for (int i = 0; more; i++) {
        int n =
            zmq_recv(socket, i == 2 ? status : rest, i == 2 ? sizeof(status) - 1 : sizeof(rest), 0);
        assert_true(n >= 0);
        assert_int_equal(zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size), 0);
    }
    assert_true(strcmp(status, "200") == 0 || strcmp(status, "400") == 0);
    return status[0] == '2';
}

static void *ask_on(void *arg)
{
    struct asker *a = arg;
    void *socket = zmq_socket(a->ctx, ZMQ_REQ);
    int linger = 0;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
    assert_int_equal(zmq_connect(socket, "inproc://zeromq.zap.01"), 0);
    while (a->let_in < ASKED || a->refused < ASKED)
        atomic_fetch_add(ask(socket, a->domain) ? &a->let_in : &a->refused, 1);
    zmq_close(socket);
    return NULL;
}

static bool satisfied(const struct asker *a)
{
    return a->let_in >= ASKED && a->refused >= ASKED;
}

static void write_file(const char *name, const char *format, const char *text)
{
    char path[64];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    if (!file || fprintf(file, format, text) < 0 || fclose(file) != 0)
        fail_msg("cannot write %s", path);
}

static void test_keys_exchanged_meanwhile(void **state)
{
    static const char *const roles[] = {"public = %s\nroles = query\n",
                                        "public = %s\nroles = push a/\n", NULL};
    char server[64], path[64], errmsg[SEISMO_ERRMSG] = "";
    struct config config = {.server_key = server, .clients = dir, .socket_gid = -1};
    struct asker asker[ASKERS] = {{.domain = "ingest"}, {.domain = ZAP_EVENTS}};
    struct auth *auth = NULL;
    void *ctx = zmq_ctx_new();
    (void)state;
    snprintf(server, sizeof(server), "%s/server.key", dir);
    write_file("server.key", "secret = %s\n", server_secret);
    assert_int_equal(chmod(server, 0600), 0);
    if (auth_new(&config, ctx, &auth, errmsg) != 0)
        fail_msg("%s", errmsg);
    for (int i = 0; i < ASKERS; i++) {
        asker[i].ctx = ctx;
        assert_int_equal(pthread_create(&asker[i].thread, NULL, ask_on, &asker[i]), 0);
    }
    for (int i = 0; !satisfied(&asker[0]) || !satisfied(&asker[1]); i = (i + 1) % 3) {
        bool lost;
        snprintf(path, sizeof(path), "%s/own.pub", dir);
        unlink(path);
        if (roles[i])
            write_file("own.pub", roles[i], own_public);
        assert_true(auth_reload(auth, dir, &lost));
        assert_int_equal(auth_may(auth, own_public, AUTH_QUERY, NULL, 0, errmsg), i == 0);
        usleep(200);
    }
    for (int i = 0; i < ASKERS; i++)
        pthread_join(asker[i].thread, NULL);
    zmq_ctx_term(ctx);
    auth_free(&auth);
    unlink(server);
}

static int make_keys(void **state)
{
    (void)state;
    if (!mkdtemp(dir) || zmq_curve_keypair(server_public, server_secret) != 0 ||
        zmq_curve_keypair(own_public, own_secret) != 0)
        return -1;
    write_file("own.pub", "public = %s\nroles = query\n", own_public);
    return 0;
}

static int remove_keys(void **state)
{
    (void)state;
    char path[64];
    snprintf(path, sizeof(path), "%s/own.pub", dir);
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_without_handler, set_up),
        cmocka_unit_test_setup(test_with_handler, set_up),
        cmocka_unit_test_setup(test_order_of_endpoints, set_up),
        cmocka_unit_test(test_keys_exchanged_meanwhile),
    };
    log_set_level(LOG_ERROR); /* the refusals are provoked */
    return cmocka_run_group_tests(tests, make_keys, remove_keys);
}
