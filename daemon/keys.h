/* The clients that may use the daemon from elsewhere: a directory with one file NAME.pub for each,
 * which holds the public key and the roles.
 *
 *     roles = push team-a/ team-b/, query
 *
 *   push PREFIX…   stream runs whose names begin with one of the prefixes; "*" is every run
 *   query          ask, and hear the events
 *   admin          the same, and everything that changes what is stored (label, …)
 *
 * Invariant: immutable once loaded; a key stands for one client. No text that comes from here holds
 * a key. */
#ifndef SEISMO_DAEMON_KEYS_H
#define SEISMO_DAEMON_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/keyfile.h"

#define KEY_NAME 64        /* bytes of a client's name with its terminator */
#define KEYS_MAX 4096      /* files of a directory */
#define KEY_MAX_PREFIX 128 /* prefixes of a client */

struct key {
    char public_key[KEY_TEXT];
    char name[KEY_NAME]; /* of its file, without .pub */
    bool query, admin;
    uint32_t n_prefixes;
    char *prefixes; /* n_prefixes texts, each with its terminator */
};

struct keys;

/* With `complain` NULL the first thing that is wrong makes it fail. Otherwise a file that is wrong
 * and those beyond KEYS_MAX are left out, a directory that is missing, cannot be read or can be
 * written by everybody counts as empty, and `complain` is told why; only want of memory or
 * descriptors is a failure. SEISMO_ENOTFOUND, SEISMO_ECONFIG, SEISMO_EIO, SEISMO_ENOMEM. */
int keys_load(const char *dir, void (*complain)(void *arg, const char *why), void *arg,
              struct keys **ret_keys, char errmsg[SEISMO_ERRMSG]);
void keys_free(struct keys **k);

/* NULL when no client has this public key. Borrowed from `k`. */
const struct key *keys_find(const struct keys *k, const char *public_key);
uint32_t keys_count(const struct keys *k);

bool key_may_push(const struct key *key, const char *run, size_t n);
bool key_may_query(const struct key *key);

/* Whether somebody who could hear the events cannot any more. */
bool keys_lost_query(const struct keys *before, const struct keys *after);

/* A number that changes when the directory's mode or a file of it does; 0 when it cannot be read. */
uint64_t keys_fingerprint(const char *dir);

#endif
