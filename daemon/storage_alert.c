#include "daemon/storage_alert.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "models/verdict.h"

/* The keys of a verdict, so that a hook need not tell the two apart before it reads one. */
static char *document(int64_t id, bool entered, const char *text, double now)
{
    json_t *json = json_pack(
        "{s:I, s:s, s:s, s:n, s:n, s:n, s:f, s:s, s:s, s:n, s:n, s:{s:s, s:{}},"
        " s:[{s:s, s:n, s:i, s:s}]}",
        "alert", (json_int_t)id, "event", entered ? "entered" : "resolved", "condition",
        CONFIG_STORAGE_NAME, "run", "program", "step", "time", now, "state",
        entered ? "failing" : "ok", "severity",
        verdict_severity_name(entered ? SEVERITY_CRITICAL : SEVERITY_INFO), "score", "threshold",
        "fault", "class", fault_name(FAULT_UNKNOWN), "distribution", "reasons", "feature",
        CONFIG_STORAGE_NAME, "value", "contribution", 0, "text", text);
    char *result = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(json);
    return result;
}

/* Adds an alert for each hook that wants to hear of the storage. */
static void tell(struct storage_alert *s, const struct config *config, bool entered,
                 const char *text, double now, struct alert **list)
{
    while (*list) {
        list = &(*list)->next;
    }
    for (uint32_t i = 0; i < config->n_hooks; i++) {
        const struct config_hook *hook = &config->hook[i];
        if (!(hook->states >> CONFIG_STORAGE & 1u)) {
            continue;
        }
        int64_t id = -(int64_t)(now * 1000);
        s->last_id = id < s->last_id ? id : s->last_id - 1;
        struct alert *alert = calloc(1, sizeof *alert);
        if (!alert || !(alert->json = document(s->last_id, entered, text, now))) {
            log_error("alerts", "no memory to tell hook '%s' of the storage: %s", hook->name, text);
            free(alert);
            continue;
        }
        alert->id = s->last_id;
        memcpy(alert->hook, hook->name, sizeof alert->hook);
        *list = alert;
        list = &alert->next;
    }
}

struct alert *storage_alert_look(struct storage_alert *s, const struct config *config,
                                 const struct worker_stats *w, double now)
{
    struct alert *list = NULL;
    char text[2 * SEISMO_ERRMSG];
    if (w->set_aside_now && !s->said) {
        s->said = true;
        snprintf(text, sizeof text, "the database was damaged and has been set aside as %s",
                 w->set_aside);
        tell(s, config, true, text, now, &list);
        tell(s, config, false, "the daemon goes on with an empty database", now, &list);
    }
    bool failing =
        w->storage_failing &&
        (s->entered || now - w->storage_since >= STORAGE_ALERT_AFTER || now < w->storage_since);
    if (failing && !s->entered) {
        snprintf(text, sizeof text, "steps are held back and not acknowledged: %s",
                 w->storage_error);
        tell(s, config, true, text, now, &list);
    } else if (s->entered && !failing) {
        tell(s, config, false, "steps are stored and acknowledged again", now, &list);
    }
    s->entered = failing;
    return list;
}
