/* Every option of the configuration, for config.c: where it is kept, what it may be, and its help.
 */
#ifndef SEISMO_DAEMON_CONFIG_TABLE_H
#define SEISMO_DAEMON_CONFIG_TABLE_H

#include <stdbool.h>
#include <stddef.h>

enum config_type {
    TYPE_TEXT,      /* char * */
    TYPE_ENDPOINT,  /* char *, checked */
    TYPE_ENDPOINTS, /* char *[CONFIG_MAX_ENDPOINTS + 1] */
    TYPE_COUNT,     /* uint32_t */
    TYPE_NUMBER,    /* double */
    TYPE_SPAN,      /* double, s, with a unit: 90d */
    TYPE_SIZE,      /* double, bytes, with a unit: 20G */
    TYPE_BOOL,      /* bool */
    TYPE_LEVEL,     /* int, enum log_priority */
    TYPE_SEVERITY,  /* int, enum verdict_severity */
    TYPE_STATES,    /* uint32_t, bit per enum verdict_state */
    TYPE_ARGV,      /* char *[CONFIG_MAX_ARGV + 1] */
};

struct config_option {
    const char *section, *key;
    enum config_type type;
    size_t offset; /* in struct config, or in struct config_hook for section "hook" */
    double min, max;
    const char *fallback; /* as text; NULL: none, or made by config_finish */
    bool fixed;           /* a reload cannot change it */
    const char *help;     /* lines, without the comment sign */
};

extern const struct config_option config_options[];
extern const unsigned config_options_n;

/* Words of options, NULL-terminated; the index is the value, or the bit of a state. */
extern const char *const config_states[], *const config_severities[], *const config_levels[];

#endif
