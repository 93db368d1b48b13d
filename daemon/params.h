/* Parameters of a query method: a table says what a method takes, one function checks a request
 * against it. Unknown names are refused with the known ones named, so that a misspelt filter never
 * silently shows everything. */
#ifndef SEISMO_DAEMON_PARAMS_H
#define SEISMO_DAEMON_PARAMS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

#define PARAMS_MAX 4

enum param_type { PARAM_TEXT, PARAM_INT, PARAM_BOOL };

struct param {
    const char *name; /* NULL ends a method's list */
    enum param_type type;
    bool required;
    int64_t min, max; /* INT: value; TEXT: bytes */
};

struct params {     /* values in the order of the method's list */
    json_t *object; /* what the texts borrow from */
    bool has[PARAMS_MAX];
    const char *text[PARAMS_MAX];
    int64_t number[PARAMS_MAX]; /* INT and BOOL */
};

/* Parses `n` bytes of JSON (none at all means {}) for `method`, whose parameters are `list`.
 * Returns 0, SEISMO_EMALFORMED, SEISMO_ETOOBIG, SEISMO_EINVAL or SEISMO_ENOMEM; on success the
 * caller calls params_close. */
int params_init(struct params *p, const char *method, const struct param list[PARAMS_MAX],
                const char *json, size_t n, char errmsg[SEISMO_ERRMSG]);
void params_close(struct params *p);

#endif
