/* Configuration: `key = value` lines in sections, table-driven (config.c), validated with file:line.
 * Immutable once loaded; a reload makes a new one. */
#ifndef SEISMO_DAEMON_CONFIG_H
#define SEISMO_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/err.h"

#define CONFIG_MAX_ENDPOINTS 8
#define CONFIG_MAX_HOOKS 16
#define CONFIG_MAX_ARGV 32

struct config_hook {           /* [hook NAME] */
    char name[64];
    char *argv[CONFIG_MAX_ARGV + 1]; /* NULL-terminated */
    int min_severity;          /* enum verdict_severity; default critical */
    uint32_t states;           /* bit per enum verdict_state; default: unstable, mismatch, silent, ended (lost or failed only) */
    double timeout;            /* s */
};

struct config {
    char *path; /* file it came from, or NULL */
    /* [seismod] */
    char *data;
    char *ingest[CONFIG_MAX_ENDPOINTS + 1]; /* NULL-terminated */
    char *query, *events;
    char *model; /* file, or NULL: the one built in */
    int log_level;
    uint32_t probe_every;   /* hint to clients, steps */
    /* [store] */
    double commit_interval; /* s; default 0.010 */
    uint32_t commit_rows;   /* default 8192 */
    bool synchronous_full;
    /* [runs] */
    double lost_after;      /* s without a peer before a run ends as lost; default 60 */
    double silent_factor;   /* a run is silent after this many of its own longest usual gaps */
    double silent_min;      /* s, lower bound */
    struct config_hook hook[CONFIG_MAX_HOOKS];
    uint32_t n_hooks;
};

/* Defaults, then the file (NULL: none). Command-line options override by config_set. */
int config_new(const char *path, struct config **ret_config, char errmsg[SEISMO_ERRMSG]);
int config_set(struct config *c, const char *section, const char *key, const char *value, char errmsg[SEISMO_ERRMSG]);
/* Fill in what depends on other keys (socket paths below `data`) and check the whole. */
int config_finish(struct config *c, char errmsg[SEISMO_ERRMSG]);
void config_print(const struct config *c, FILE *out); /* in the file's own syntax */
void config_free(struct config **c);

#endif
