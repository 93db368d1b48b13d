/* Key files: one key of a daemon or a client, as CURVE of ZeroMQ has them.
 *
 * A file is lines of `name = value`, with comments behind '#' at the beginning of a line. NAME.key
 * has `secret`; NAME.pub has `public` and, where a daemon authorises it, `roles`. Keys are 40
 * characters of Z85.
 *
 * No error text ever holds a key, nor any other part of a file's contents. */
#ifndef SEISMO_PROTO_KEYFILE_H
#define SEISMO_PROTO_KEYFILE_H

#include <stdbool.h>

#include "proto/err.h"

#define KEY_TEXT 41        /* bytes of a key with its terminator */
#define KEYFILE_MAX 4096   /* bytes of a file */
#define KEYFILE_ROLES 2048 /* bytes of the list of roles with its terminator */

enum keyfile_kind { KEYFILE_PUBLIC, KEYFILE_SECRET };

struct keyfile {
    enum keyfile_kind kind;
    char key[KEY_TEXT];
    char roles[KEYFILE_ROLES]; /* "" when there is no such line */
};

/* Whether this is a key by its form. */
bool keyfile_is_key(const char *text);

/* Reads a file that must hold a key of this kind. A secret must not be open to others, nor may
 * others write a public key. SEISMO_ENOTFOUND, SEISMO_EIO, SEISMO_EINVAL. */
int keyfile_read(const char *path, enum keyfile_kind kind, struct keyfile *ret,
                 char errmsg[SEISMO_ERRMSG]);

/* Makes a new file, mode 0600 for a secret and 0644 for a public key, and never replaces one that
 * is there. `comment` is whole lines that begin with '#'. SEISMO_EINVAL: there is such a file.
 * SEISMO_EIO. */
int keyfile_write(const char *path, enum keyfile_kind kind, const char *comment, const char *key,
                  char errmsg[SEISMO_ERRMSG]);

#endif
