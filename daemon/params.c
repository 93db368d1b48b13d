#include "daemon/params.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/defaults.h"
#include "proto/json_text.h"

/* "run, after, limit" or "none". */
static void known_names(const struct param *list, char *ret, size_t cap)
{
    size_t n = 0;
    ret[0] = '\0';
    for (int i = 0; i < PARAMS_MAX && list[i].name; i++) {
        n += (size_t)snprintf(ret + n, cap - n, "%s%s", i ? ", " : "", list[i].name);
    }
    if (n == 0) {
        snprintf(ret, cap, "none");
    }
}

static int find(const struct param *list, const char *name)
{
    for (int i = 0; i < PARAMS_MAX && list[i].name; i++) {
        if (strcmp(list[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static int take(struct params *p, int i, const char *method, const struct param *d,
                const json_t *value, char *errmsg)
{
    switch (d->type) {
    case PARAM_TEXT: {
        int64_t n = (int64_t)json_string_length(value);
        if (!json_is_string(value) || n < d->min || n > d->max) {
            snprintf(errmsg, SEISMO_ERRMSG,
                     "parameter '%s' of '%s' must be a string of %" PRId64 " to %" PRId64 " bytes",
                     d->name, method, d->min, d->max);
            return SEISMO_EINVAL;
        }
        p->text[i] = json_string_value(value);
        break;
    }
    case PARAM_INT:
        p->number[i] = json_integer_value(value);
        if (!json_is_integer(value) || p->number[i] < d->min || p->number[i] > d->max) {
            snprintf(errmsg, SEISMO_ERRMSG,
                     "parameter '%s' of '%s' must be an integer from %" PRId64 " to %" PRId64,
                     d->name, method, d->min, d->max);
            return SEISMO_EINVAL;
        }
        break;
    case PARAM_BOOL:
        if (!json_is_boolean(value)) {
            snprintf(errmsg, SEISMO_ERRMSG, "parameter '%s' of '%s' must be true or false", d->name,
                     method);
            return SEISMO_EINVAL;
        }
        p->number[i] = json_is_true(value);
        break;
    }
    p->has[i] = true;
    return 0;
}

/* Every key of the object against the list, then the list against what came. */
static int check(struct params *p, const char *method, const struct param *list, char *errmsg)
{
    const char *key;
    json_t *value;
    json_object_foreach (p->object, key, value) {
        int i = find(list, key);
        if (i < 0) {
            char known[128];
            known_names(list, known, sizeof known);
            snprintf(errmsg, SEISMO_ERRMSG, "unknown parameter '%.40s' of '%s'; known: %s", key,
                     method, known);
            return SEISMO_EINVAL;
        }
        if (json_is_null(value)) {
            continue; /* the same as leaving it out */
        }
        int err = take(p, i, method, &list[i], value, errmsg);
        if (err) {
            return err;
        }
    }
    for (int i = 0; i < PARAMS_MAX && list[i].name; i++) {
        if (list[i].required && !p->has[i]) {
            snprintf(errmsg, SEISMO_ERRMSG, "'%s' needs the parameter '%s'", method, list[i].name);
            return SEISMO_EINVAL;
        }
    }
    return 0;
}

int params_init(struct params *p, const char *method, const struct param list[PARAMS_MAX],
                const char *json, size_t n, char errmsg[SEISMO_ERRMSG])
{
    *p = (struct params){0};
    if (n > SEISMO_MAX_QUERY) {
        snprintf(errmsg, SEISMO_ERRMSG, "parameters of '%s' take %zu bytes; at most %d are read",
                 method, n, SEISMO_MAX_QUERY);
        return SEISMO_ETOOBIG;
    }
    if (n == 0) {
        p->object = json_object();
        if (!p->object) {
            snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
            return SEISMO_ENOMEM;
        }
    } else {
        json_error_t e;
        bool no_memory;
        p->object = json_text(json, n, JSON_REJECT_DUPLICATES, &e, &no_memory);
        if (no_memory) {
            snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
            return SEISMO_ENOMEM;
        }
        if (!p->object) {
            snprintf(errmsg, SEISMO_ERRMSG, "parameters of '%s' are not JSON: %.120s at byte %d",
                     method, e.text, e.position);
            return SEISMO_EMALFORMED;
        }
    }
    int err = 0;
    if (!json_is_object(p->object)) {
        snprintf(errmsg, SEISMO_ERRMSG, "parameters of '%s' must be one JSON object", method);
        err = SEISMO_EMALFORMED;
    } else {
        err = check(p, method, list, errmsg);
    }
    if (err) {
        params_close(p);
    }
    return err;
}

void params_close(struct params *p)
{
    json_decref(p->object);
    p->object = NULL;
}
