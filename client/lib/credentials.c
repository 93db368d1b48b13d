#include "client/lib/credentials.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *environment(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && *value != '\0' ? value : NULL;
}

/* One key: from `file`, else the file that $NAME_FILE names, else $NAME. SEISMO_ENOTFOUND without a
 * text in errmsg when it is nowhere. */
static int find_key(const char *file, const char *variable, enum keyfile_kind kind,
                    char ret[KEY_TEXT], char errmsg[SEISMO_ERRMSG])
{
    char file_variable[64];
    const char *text = environment(variable);
    struct keyfile content;
    int err;

    errmsg[0] = '\0';
    snprintf(file_variable, sizeof(file_variable), "%s_FILE", variable);
    if (file == NULL || *file == '\0') {
        file = environment(file_variable);
    }
    if (file != NULL) {
        err = keyfile_read(file, kind, &content, errmsg);
        if (err == 0) {
            memcpy(ret, content.key, KEY_TEXT);
        }
        explicit_bzero(&content, sizeof(content));
        return err;
    }
    if (text == NULL) {
        return SEISMO_ENOTFOUND;
    }
    if (!keyfile_is_key(text)) {
        snprintf(errmsg, SEISMO_ERRMSG, "$%s is no key: one has %d characters of Z85", variable,
                 KEY_TEXT - 1);
        return SEISMO_EINVAL;
    }
    memcpy(ret, text, KEY_TEXT);
    return 0;
}

static int fail(struct credentials *c, int err)
{
    explicit_bzero(c, sizeof(*c));
    return err;
}

int credentials_find(const char *endpoint, const char *server_key_file, const char *key_file,
                     struct credentials *ret, char errmsg[SEISMO_ERRMSG])
{
    struct credentials c = {.used = false};
    char text[SEISMO_ERRMSG];
    int server, own;

    *ret = c;
    if (strncmp(endpoint, "tcp://", strlen("tcp://")) != 0) {
        return 0;
    }
    server = find_key(server_key_file, "SEISMO_SERVER_KEY", KEYFILE_PUBLIC, c.server_key, text);
    if (server != 0 && *text != '\0') {
        memcpy(errmsg, text, SEISMO_ERRMSG);
        return fail(&c, server);
    }
    own = find_key(key_file, "SEISMO_KEY", KEYFILE_SECRET, c.secret_key, text);
    if (own != 0 && *text != '\0') {
        memcpy(errmsg, text, SEISMO_ERRMSG);
        return fail(&c, own);
    }
    if (server != 0 && own != 0) {
        return 0;
    }
    if (server != 0 || own != 0) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 server != 0 ? "there is a key of your own, but not the daemon's public key: set "
                               "SEISMO_SERVER_KEY_FILE to a copy of its server.pub"
                             : "there is the daemon's public key, but no secret one of your own: "
                               "set SEISMO_KEY_FILE (`seismo keygen DIR` makes one)");
        return fail(&c, SEISMO_EINVAL);
    }
    if (!zmq_has("curve") || zmq_curve_public(c.public_key, c.secret_key) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 zmq_has("curve") ? "the secret key is damaged; make a new one with `seismo keygen`"
                                  : "this libzmq was built without CURVE, so keys cannot be used");
        return fail(&c, SEISMO_EINVAL);
    }
    c.used = true;
    *ret = c;
    return fail(&c, 0);
}

int credentials_apply(struct credentials *c, void *socket, char errmsg[SEISMO_ERRMSG])
{
    int err = 0;

    if (c->used && (zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, c->server_key, KEY_TEXT) != 0 ||
                    zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, c->public_key, KEY_TEXT) != 0 ||
                    zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, c->secret_key, KEY_TEXT) != 0)) {
        snprintf(errmsg, SEISMO_ERRMSG, "the keys cannot be used: %s", zmq_strerror(errno));
        err = SEISMO_EINVAL;
    }
    explicit_bzero(c->server_key, sizeof(c->server_key));
    explicit_bzero(c->public_key, sizeof(c->public_key));
    explicit_bzero(c->secret_key, sizeof(c->secret_key));
    return err;
}

bool credentials_trouble(bool used, const char *endpoint, uint16_t event, uint32_t value,
                         char errmsg[SEISMO_ERRMSG])
{
    const char *words;

    if (!(event & CREDENTIALS_EVENTS)) {
        return false;
    }
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
        words = "does not let this client in: its public key (NAME.pub) must be among the daemon's "
                "clients";
    } else if (!used) {
        words =
            "broke off the handshake: it was stopping, asks for keys (SEISMO_SERVER_KEY_FILE and "
            "SEISMO_KEY_FILE), or is no seismod";
    } else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL &&
               value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
        words = "does not ask for keys, but SEISMO_SERVER_KEY_FILE or SEISMO_KEY_FILE gives some; "
                "unset them for this daemon";
    } else {
        words =
            "broke off the handshake: it was stopping, the server key (SEISMO_SERVER_KEY_FILE) is "
            "not its own, or it does not ask for keys";
    }
    snprintf(errmsg, SEISMO_ERRMSG, "the daemon at %.100s %s", endpoint, words);
    return true;
}
