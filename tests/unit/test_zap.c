/* Handshakes: a socket that asks for keys lets nobody in without the handler, and with it exactly
 * those whose keys are there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/log.h"
#include "daemon/zap.h"
#include "daemon/zsock.h"

#define HEARD_MS 10000 /* for a message that has to come */
#define SILENT_MS 300  /* for one that must not */

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

static int make_keys(void **state)
{
    (void)state;
    char path[64];
    if (!mkdtemp(dir) || zmq_curve_keypair(server_public, server_secret) != 0 ||
        zmq_curve_keypair(own_public, own_secret) != 0)
        return -1;
    snprintf(path, sizeof(path), "%s/own.pub", dir);
    FILE *file = fopen(path, "w");
    if (!file || fprintf(file, "public = %s\nroles = query\n", own_public) < 0)
        return -1;
    return fclose(file);
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
    };
    log_set_level(LOG_ERROR); /* the refusals are provoked */
    return cmocka_run_group_tests(tests, make_keys, remove_keys);
}
