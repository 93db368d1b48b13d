#include "proto/json_text.h"

#include <errno.h>
#include <stdlib.h>

/* Whether an allocation of jansson's has failed in this thread. */
static _Thread_local bool failed;
static _Thread_local bool ever_failed;

static void *watched_malloc(size_t n)
{
    void *p = malloc(n);
    if (p == NULL)
        failed = ever_failed = true;
    return p;
}

void json_text_init(void)
{
    json_set_alloc_funcs(watched_malloc, free);
    ever_failed = false;
}

bool json_text_lost(void)
{
    return ever_failed;
}

json_t *json_text(const char *text, size_t n, size_t flags, json_error_t *error,
                  bool *ret_no_memory)
{
    failed = false;
    errno = 0;
    json_t *value = json_loadb(text, n, flags, error);
    bool no_memory = failed || (value == NULL && errno == ENOMEM);
    if (no_memory) {
        json_decref(value);
        value = NULL;
    }
    if (ret_no_memory != NULL)
        *ret_no_memory = no_memory;
    return value;
}
