#include "daemon/zap.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

#include "daemon/log.h"

#define ENDPOINT "inproc://zeromq.zap.01"
#define KEY_BYTES 32
#define TEXT 256 /* bytes of a frame that is looked at, with a terminator */

/* The frames of a request, in order. */
enum { VERSION, REQUEST_ID, DOMAIN, ADDRESS, ROUTING_ID, MECHANISM, CREDENTIALS, FRAMES_N };

struct zap {
    pthread_t thread;
    void *socket;         /* the thread's, once it runs */
    pthread_mutex_t lock; /* of keys; held during a look-up */
    const struct keys *keys;
    struct log_limit refused; /* the thread's */
};

struct request {
    char frame[FRAMES_N][TEXT]; /* each cut to what fits, with a terminator */
    size_t size[FRAMES_N];      /* as it came */
    int n;
};

/* False once the context is terminated. */
static bool read_request(struct zap *z, struct request *r)
{
    bool more = true;
    *r = (struct request){0};
    while (more) {
        zmq_msg_t msg;
        zmq_msg_init(&msg);
        while (zmq_msg_recv(&msg, z->socket, 0) < 0) {
            if (errno != EINTR) {
                zmq_msg_close(&msg);
                return false;
            }
        }
        if (r->n < FRAMES_N) {
            size_t n = zmq_msg_size(&msg);
            r->size[r->n] = n;
            memcpy(r->frame[r->n], zmq_msg_data(&msg), n < TEXT ? n : TEXT - 1);
        }
        r->n++;
        more = zmq_msg_more(&msg);
        zmq_msg_close(&msg);
    }
    return true;
}

static double monotonic_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Whether to let the peer in; its key as text is then in `ret_user`. */
static bool judge(struct zap *z, const struct request *r, char ret_user[KEY_TEXT])
{
    char name[KEY_NAME] = "";
    bool allowed = false;
    if (r->n != FRAMES_N || strcmp(r->frame[MECHANISM], "CURVE") != 0 ||
        r->size[CREDENTIALS] != KEY_BYTES)
        return false; /* libzmq asks so for no socket of ours */
    zmq_z85_encode(ret_user, (const uint8_t *)r->frame[CREDENTIALS], KEY_BYTES);
    pthread_mutex_lock(&z->lock);
    const struct key *key = z->keys ? keys_find(z->keys, ret_user) : NULL;
    if (key) {
        memcpy(name, key->name, sizeof(name));
        allowed = strcmp(r->frame[DOMAIN], ZAP_EVENTS) != 0 || key_may_query(key);
    }
    pthread_mutex_unlock(&z->lock);
    uint32_t suppressed;
    if (!allowed && log_limit_pass(&z->refused, monotonic_now(), &suppressed)) {
        char address[96];
        log_warning(
            "security", "%s%s%s was refused at the %s socket, from %s (%u more before this one)",
            key ? "the client " : "a key that is not authorised", name,
            key ? ", which has not the role query," : "", r->frame[DOMAIN],
            log_quote(address, sizeof(address), r->frame[ADDRESS], strlen(r->frame[ADDRESS])),
            suppressed);
    }
    return allowed;
}

static bool put(struct zap *z, const char *text, size_t n, int flags)
{
    while (zmq_send(z->socket, text, n, flags) < 0)
        if (errno != EINTR)
            return false;
    return true;
}

static void *thread_main(void *arg)
{
    struct zap *z = arg;
    struct request r;
    bool going = true;
    while (going && read_request(z, &r)) {
        char user[KEY_TEXT] = "";
        bool allowed = judge(z, &r, user);
        const char *answer[] = {"1.0", NULL, allowed ? "200" : "400",
                                allowed ? "OK" : "not authorised", allowed ? user : ""};
        size_t id = r.size[REQUEST_ID] < TEXT ? r.size[REQUEST_ID] : TEXT - 1;
        for (int i = 0; going && i < 5; i++)
            going = put(z, i == 1 ? r.frame[REQUEST_ID] : answer[i],
                        i == 1 ? id : strlen(answer[i]), ZMQ_SNDMORE);
        going = going && put(z, "", 0, 0);
    }
    zmq_close(z->socket);
    return NULL;
}

int zap_new(void *zmq_ctx, struct zap **ret_zap, char errmsg[SEISMO_ERRMSG])
{
    struct zap *z = calloc(1, sizeof(*z));
    if (!z) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory for the judge of keys");
        return SEISMO_ENOMEM;
    }
    int linger = 0, rc = -1;
    z->socket = zmq_socket(zmq_ctx, ZMQ_REP);
    pthread_mutex_init(&z->lock, NULL);
    if (z->socket && zmq_setsockopt(z->socket, ZMQ_LINGER, &linger, sizeof(linger)) == 0 &&
        zmq_bind(z->socket, ENDPOINT) == 0) {
        sigset_t all, old; /* signals are for the loop */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        rc = pthread_create(&z->thread, NULL, thread_main, z);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        errno = rc;
    }
    if (rc != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot set up the judge of keys: %s", zmq_strerror(errno));
        if (z->socket)
            zmq_close(z->socket);
        pthread_mutex_destroy(&z->lock);
        free(z);
        return SEISMO_EINTERNAL;
    }
    *ret_zap = z;
    return 0;
}

void zap_set(struct zap *z, const struct keys *keys)
{
    pthread_mutex_lock(&z->lock);
    z->keys = keys;
    pthread_mutex_unlock(&z->lock);
}

void zap_free(struct zap **ref)
{
    struct zap *z = *ref;
    if (!z)
        return;
    *ref = NULL;
    pthread_join(z->thread, NULL);
    pthread_mutex_destroy(&z->lock);
    free(z);
}
