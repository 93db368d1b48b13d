/* The keys with which a client reaches a daemon over TCP that asks for some: the daemon's public
 * key and the client's own secret one, from files or the environment.
 *
 *   SEISMO_SERVER_KEY_FILE   file of the daemon's public key (server.pub)
 *   SEISMO_KEY_FILE          file of the client's secret key (NAME.key)
 *   SEISMO_SERVER_KEY, SEISMO_KEY   the keys themselves, where there is no file
 *
 * Socket files (ipc://) are used without keys, whatever is set. No error text holds a key. */
#ifndef SEISMO_CLIENT_LIB_CREDENTIALS_H
#define SEISMO_CLIENT_LIB_CREDENTIALS_H

#include <stdint.h>
#include <zmq.h>

#include "proto/keyfile.h"

/* Events of a socket's monitor that credentials_trouble understands. */
#define CREDENTIALS_EVENTS                                                        \
    (ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | \
     ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)

struct credentials {
    bool used; /* false: there are none, or the endpoint needs none */
    char server_key[KEY_TEXT], public_key[KEY_TEXT], secret_key[KEY_TEXT];
};

/* The files from the arguments where they are not NULL, else what the environment says. When there
 * is nothing at all, or `endpoint` is not TCP, `used` is false. SEISMO_ENOTFOUND, SEISMO_EIO,
 * SEISMO_EINVAL. */
int credentials_find(const char *endpoint, const char *server_key_file, const char *key_file,
                     struct credentials *ret, char errmsg[SEISMO_ERRMSG]);

/* Sets them on a socket that is not connected yet, and wipes them. */
int credentials_apply(struct credentials *c, void *socket, char errmsg[SEISMO_ERRMSG]);

/* Whether this event of a socket to `endpoint` says that the keys do not fit; errmsg has it in
 * words. After all of them but NO_DETAIL libzmq gives the endpoint up: disconnect it and connect it
 * again to try once more. */
bool credentials_trouble(bool used, const char *endpoint, uint16_t event, uint32_t value,
                         char errmsg[SEISMO_ERRMSG]);

#endif
