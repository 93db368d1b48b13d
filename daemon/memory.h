/* How much memory the daemon may take, and how many peers fit into it.
 *
 * The bound is the tightest of the memory cgroups that the process is in (its own and all above it;
 * memory.max and memory.high of version 2, memory.limit_in_bytes of version 1), RLIMIT_AS and
 * RLIMIT_DATA. Beyond it the daemon would be killed, so limits that the configuration leaves open
 * are lowered until the peers fit: those beyond are told so, instead of everybody losing the
 * daemon. What peers take is measured by tests/fault/crowd. */
#ifndef SEISMO_DAEMON_MEMORY_H
#define SEISMO_DAEMON_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/config.h"

struct memory {
    uint64_t bytes;      /* the bound, 0: none was found */
    uint64_t base, peer; /* bytes of it that the daemon itself takes, and each peer */
    char source[192];    /* what sets it, for people: a file's path or a resource limit's name */
};

/* Looks for the bound. `root` is put before the paths of files: "" but for tests. */
void memory_find(const char *root, struct memory *ret);

/* What memory_find does with each bound: takes it when fewer peers fit than into the one that `m`
 * has. False: not taken. */
bool memory_tighter(struct memory *m, uint64_t bytes, uint64_t base, uint64_t peer,
                    const char *source);

/* How many peers fit, at least 1; UINT32_MAX without a bound. */
uint32_t memory_peers(const struct memory *m);

/* Lowers those of `limits` (taken from `config`) that the configuration does not set and that are
 * too much. True when memory is scarce: fewer peers fit than may come by default. */
bool memory_fit(const struct memory *m, const struct config *config, struct limits *limits);

/* Tells the log what was lowered, and warns of what is configured and does not fit. */
void memory_log(const struct memory *m, const struct config *config, const struct limits *limits);

#endif
