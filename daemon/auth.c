#include "daemon/auth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "daemon/keys.h"
#include "daemon/log.h"
#include "daemon/zap.h"

struct auth {
    bool curve;
    char secret[KEY_TEXT]; /* the daemon's */
    int64_t group;         /* of socket files, -1: none */
    struct keys *keys;     /* NULL without curve */
    struct zap *zap;       /* likewise */
    uint64_t loaded, seen; /* fingerprints: of `keys`, and of the last look */
    bool again;            /* it was wanted, and could not be done */
};

static int read_server_key(const struct config *config, struct keyfile *ret,
                           char errmsg[SEISMO_ERRMSG])
{
    char why[SEISMO_ERRMSG];
    int err = keyfile_read(config->server_key, KEYFILE_SECRET, ret, why);
    if (err == 0 && !zmq_has("curve")) {
        snprintf(why, sizeof(why), "this libzmq was built without CURVE; keys cannot be used");
        err = SEISMO_ECONFIG;
    }
    if (err != 0)
        snprintf(errmsg, SEISMO_ERRMSG, "server_key: %.240s", why);
    return err;
}

int auth_check(const struct config *config, char errmsg[SEISMO_ERRMSG])
{
    struct keyfile server;
    struct keys *keys = NULL;
    char why[SEISMO_ERRMSG];
    if (!config->server_key)
        return 0;
    int err = read_server_key(config, &server, errmsg);
    explicit_bzero(&server, sizeof(server));
    if (err == 0 && (err = keys_load(config->clients, NULL, NULL, &keys, why)) != 0)
        snprintf(errmsg, SEISMO_ERRMSG, "clients: %.240s", why);
    keys_free(&keys);
    return err;
}

int auth_new(const struct config *config, void *zmq_ctx, struct auth **ret_auth,
             char errmsg[SEISMO_ERRMSG])
{
    struct keyfile server;
    char why[SEISMO_ERRMSG];
    struct auth *a = calloc(1, sizeof(*a));
    if (!a) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory for the keys");
        return SEISMO_ENOMEM;
    }
    a->group = config->socket_gid;
    int err = 0;
    if (config->server_key) {
        a->curve = true;
        err = read_server_key(config, &server, errmsg);
        if (err == 0)
            memcpy(a->secret, server.key, sizeof(a->secret));
        explicit_bzero(&server, sizeof(server));
        a->loaded = a->seen = keys_fingerprint(config->clients);
        if (err == 0 && (err = keys_load(config->clients, NULL, NULL, &a->keys, why)) != 0)
            snprintf(errmsg, SEISMO_ERRMSG, "clients: %.240s", why);
        if (err == 0)
            err = zap_new(zmq_ctx, &a->zap, errmsg);
        if (err == 0)
            zap_set(a->zap, a->keys);
    }
    if (err != 0) {
        auth_free(&a);
        return err;
    }
    *ret_auth = a;
    return 0;
}

void auth_free(struct auth **ref)
{
    struct auth *a = *ref;
    if (!a)
        return;
    *ref = NULL;
    zap_free(&a->zap);
    keys_free(&a->keys);
    explicit_bzero(a->secret, sizeof(a->secret));
    free(a);
}

void auth_guard(const struct auth *a, struct zsock *z, const char *domain)
{
    zsock_guard(z, a->curve ? a->secret : NULL, domain, a->group);
}

bool auth_may(const struct auth *a, const char *user, enum auth_wish wish, const char *run,
              size_t run_n, char errmsg[SEISMO_ERRMSG])
{
    if (!user || !a->curve)
        return true;
    const struct key *key = keys_find(a->keys, user);
    char quoted[160];
    if (!key) {
        snprintf(errmsg, SEISMO_ERRMSG, "the key of this connection is not authorised (any more)");
        return false;
    }
    switch (wish) {
    case AUTH_CONNECT:
        return true;
    case AUTH_PUSH:
        if (key_may_push(key, run, run_n))
            return true;
        log_quote(quoted, sizeof(quoted), run, run_n);
        snprintf(errmsg, SEISMO_ERRMSG,
                 key->n_prefixes > 0 ? "client \"%s\" may not push the run %s: its roles allow "
                                       "other beginnings of the name"
                                     : "client \"%s\" may not push the run %s, nor any other one: "
                                       "it lacks the role push",
                 key->name, quoted);
        return false;
    case AUTH_QUERY:
        if (key_may_query(key))
            return true;
        snprintf(errmsg, SEISMO_ERRMSG, "client \"%s\" may not ask: it lacks the role query",
                 key->name);
        return false;
    case AUTH_ADMIN:
        if (key->admin)
            return true;
        snprintf(errmsg, SEISMO_ERRMSG,
                 "client \"%s\" may not change anything: it lacks the role admin", key->name);
        return false;
    }
    return false;
}

static void on_bad_file(void *arg, const char *why)
{
    (void)arg;
    log_error("security", "kept out: %s", why);
}

bool auth_reload(struct auth *a, const char *dir, bool *ret_lost_query)
{
    struct keys *fresh = NULL;
    char errmsg[SEISMO_ERRMSG];
    if (!a->curve)
        return false;
    uint64_t fingerprint = keys_fingerprint(dir);
    a->loaded = a->seen = fingerprint; /* also of a failure, which is not repeated every second */
    if (keys_load(dir, on_bad_file, NULL, &fresh, errmsg) != 0) {
        if (!a->again)
            log_error("security", "the clients' keys stay as they were until it can be done: %s",
                      errmsg);
        a->again = true;
        return false;
    }
    a->again = false;
    zap_set(a->zap, fresh);
    *ret_lost_query = keys_lost_query(a->keys, fresh);
    keys_free(&a->keys);
    a->keys = fresh;
    log_info("security", "%u clients are authorised", keys_count(fresh));
    return true;
}

bool auth_tick(struct auth *a, const char *dir)
{
    if (!a->curve)
        return false;
    uint64_t now = keys_fingerprint(dir);
    bool settled = now == a->seen;
    a->seen = now;
    return a->again || (settled && now != a->loaded);
}
