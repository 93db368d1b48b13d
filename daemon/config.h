/* Configuration: `key = value` lines in sections, table-driven (config.c), validated with
 * file:line.
 *
 * A value comes from the defaults, the file, or the command line; the later one wins. Immutable
 * once finished; a reload makes a new one. A section is [seismod], [security], [store], [runs],
 * [limits] or [hook NAME]. */
#ifndef SEISMO_DAEMON_CONFIG_H
#define SEISMO_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/limits.h"
#include "models/verdict.h"
#include "proto/err.h"

#define CONFIG_MAX_ENDPOINTS 8
#define CONFIG_MAX_HOOKS 16
#define CONFIG_MAX_ARGV 32
#define CONFIG_MAX_HOOK_NAME 32   /* bytes */
#define CONFIG_MIN_RETAIN 60      /* s; below, a client that was cut off could not come back */
#define CONFIG_MIN_SIZE (1 << 20) /* bytes */

/* What a hook can hear of besides the states of runs: the daemon's own storage. */
#define CONFIG_STORAGE STATES_N /* bit of config_hook.states */
#define CONFIG_STORAGE_NAME "storage"

struct config_hook { /* [hook NAME] */
    char name[64];
    char *argv[CONFIG_MAX_ARGV + 1]; /* NULL-terminated */
    int min_severity;                /* enum verdict_severity; default critical */
    uint32_t states; /* bit per enum verdict_state, and CONFIG_STORAGE; default: unstable, mismatch,
                        silent, ended (lost or failed only), storage */
    double timeout;  /* s */
    uint64_t given;  /* of config.c: bit per option that the file has set */
};

enum config_source { CONFIG_DEFAULT, CONFIG_FILE, CONFIG_COMMAND_LINE, CONFIG_SOURCES_N };

struct config {
    char *path; /* file it came from, or NULL */
    /* [seismod] */
    char *data;
    char *ingest[CONFIG_MAX_ENDPOINTS + 1]; /* NULL-terminated */
    char *query, *events;
    char *model;          /* file, or NULL: the one built in */
    int log_level;        /* enum log_priority */
    double budget;        /* of false alarms, a share of healthy runs */
    uint32_t probe_every; /* hint to clients, steps */
    /* [security] */
    char *server_key;   /* file of the daemon's secret key, or NULL: TCP is for loopback only */
    char *clients;      /* directory of the clients' keys, or NULL */
    char *socket_group; /* that may use the socket files, or NULL: the daemon's user alone */
    int64_t socket_gid; /* its number, made by config_look_up; -1: none */
    bool sandbox;
    /* [store] */
    double commit_interval; /* s; default 0.010 */
    uint32_t commit_rows;   /* default 8192 */
    bool synchronous_full;
    double retain;      /* s after its end that a run is kept; 0: for ever */
    double retain_size; /* bytes of data above which the oldest runs go; 0: any */
    /* [runs] */
    double lost_after;    /* s without a peer before a run ends as lost; default 60 */
    double silent_factor; /* a run is silent after this many of its own longest usual gaps */
    double silent_min;    /* s, lower bound */
    struct limits limits; /* [limits] */
    struct config_hook hook[CONFIG_MAX_HOOKS];
    uint32_t n_hooks;

    enum config_source source;        /* of config.c: where values come from now */
    uint64_t given[CONFIG_SOURCES_N]; /* of config.c: bit per option set from there */
};

/* Defaults, then the file (NULL: none). SEISMO_ECONFIG names file, line, key and what is expected.
 * Command-line options override by config_set; config_finish completes it. */
int config_new(const char *path, struct config **ret_config, char errmsg[SEISMO_ERRMSG]);

/* One value from the command line. A list (ingest) replaces the file's and grows with each call. */
int config_set(struct config *c, const char *section, const char *key, const char *value,
               char errmsg[SEISMO_ERRMSG]);

/* Fill in what depends on the environment and on other keys (data directory, socket paths below it)
 * and check the whole. */
int config_finish(struct config *c, char errmsg[SEISMO_ERRMSG]);

/* Fill in what only the system's data bases know. At the start alone: whoever is asked for a group
 * may load libraries and connect to servers, which the sandbox forbids later, and what is looked
 * up does not change while the daemon runs. */
int config_look_up(struct config *c, char errmsg[SEISMO_ERRMSG]);

/* Whether the file or the command line sets the key. */
bool config_is_given(const struct config *c, const char *section, const char *key);

/* In the file's own syntax, every key with its help as a comment. */
void config_print(const struct config *c, FILE *out);

/* The name of a key that differs between the two and that a reload cannot change; NULL when there
 * is none. `*ret_at` is where to go on (start with 0), so that a loop finds all of them. */
const char *config_fixed_change(const struct config *before, const struct config *after,
                                unsigned *ret_at);

void config_free(struct config **c);

#endif
