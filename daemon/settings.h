/* What the worker takes from the configuration: a copy, because a reload replaces the
 * configuration at any moment and from another thread. */
#ifndef SEISMO_DAEMON_SETTINGS_H
#define SEISMO_DAEMON_SETTINGS_H

#include "daemon/config.h"

struct settings_hook {
    char name[64];
    int min_severity; /* enum verdict_severity */
    uint32_t states;  /* bit per enum verdict_state */
};

struct settings {
    double commit_interval;           /* s */
    uint32_t commit_rows;             /* rows of a group */
    double lost_after;                /* s */
    uint32_t max_runs;                /* that go on or have a peer */
    double silent_factor, silent_min; /* gaps; s */
    double retain;                    /* s, 0: for ever */
    double retain_size;               /* bytes, 0: any */
    uint32_t n_hooks;
    struct settings_hook hook[CONFIG_MAX_HOOKS];
};

#endif
