#include "daemon/outbox.h"

#include <string.h>

#include "proto/json_text.h"

static int hook_find(const struct settings *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_hooks; i++) {
        if (strcmp(s->hook[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static enum condition condition_of(enum verdict_state state)
{
    return state == STATE_SILENT  ? CONDITION_SILENT
           : state == STATE_ENDED ? CONDITION_ENDED
                                  : CONDITION_DETECTOR;
}

struct note { /* where alerts of one verdict go */
    struct group *group;
    const struct settings *settings;
    struct run *run;
    struct job *job;
    double now;
    int64_t verdict_id;
    const json_t *document;
};

static void resolve(const struct note *n, enum condition condition)
{
    static const enum verdict_state fixed[] = {
        [CONDITION_SILENT] = STATE_SILENT,
        [CONDITION_ENDED] = STATE_ENDED,
    };
    struct run *run = n->run;
    enum verdict_state state =
        condition == CONDITION_DETECTOR ? run->alerted_state : fixed[condition];
    for (uint32_t i = 0; i < n->settings->n_hooks; i++) {
        if (run->alerted[condition] >> i & 1u) {
            group_alert(n->group, run, n->job, n->verdict_id, n->document, false, state,
                        n->settings->hook[i].name, n->now);
        }
    }
    run->alerted[condition] = 0;
}

static void enter(const struct note *n, const struct verdict *v)
{
    enum condition condition = condition_of(v->state);
    for (uint32_t i = 0; i < n->settings->n_hooks; i++) {
        const struct settings_hook *hook = &n->settings->hook[i];
        bool heard = n->run->alerted[condition] >> i & 1u;
        if (!heard && (int)v->severity >= hook->min_severity && hook->states >> v->state & 1u) {
            group_alert(n->group, n->run, n->job, n->verdict_id, n->document, true, v->state,
                        hook->name, n->now);
            n->run->alerted[condition] |= 1u << i;
        }
    }
}

void outbox_verdict(struct group *g, const struct settings *settings, struct run *run,
                    struct job *job, const struct verdict *v, double now)
{
    json_t *document;
    struct note n = {g, settings, run, job, now, 0, NULL};
    n.verdict_id = group_verdict(g, run, job, v, now, &document);
    n.document = document;
    switch (condition_of(v->state)) {
    case CONDITION_SILENT:
        enter(&n, v);
        break;
    case CONDITION_ENDED:
        for (int i = 0; i < CONDITIONS_N; i++) {
            resolve(&n, (enum condition)i);
        }
        if (v->severity > SEVERITY_INFO) {
            enter(&n, v);
        }
        break;
    default:
        resolve(&n, CONDITION_SILENT);
        resolve(&n, CONDITION_ENDED);
        if (run->alerted_state != v->state) {
            resolve(&n, CONDITION_DETECTOR);
            run->alerted_state = v->state;
        }
        if (v->state != STATE_HEALTHY && v->state != STATE_WARMING_UP) {
            enter(&n, v);
        }
        break;
    }
    json_decref(document);
}

static bool holds(const struct run *run, enum verdict_state state)
{
    switch (condition_of(state)) {
    case CONDITION_SILENT:
        return run->silent && !run->ended;
    case CONDITION_ENDED:
        return run->ended;
    default:
        return run->state == state && !run->ended;
    }
}

static void on_open_alert(void *arg, const struct store_alert *a)
{
    struct note *n = arg;
    int hook = hook_find(n->settings, a->hook);
    if (hook < 0) {
        return;
    }
    if (holds(n->run, a->state)) {
        n->run->alerted[condition_of(a->state)] |= 1u << hook;
        return;
    }
    /* The verdict that entered the condition is also the best that can be said of its end. */
    json_t *document = json_text(a->document, strlen(a->document), 0, NULL, NULL);
    if (document) {
        group_alert(n->group, n->run, n->job, a->verdict_id, document, false, a->state, a->hook,
                    n->now);
        json_decref(document);
    }
}

int outbox_load(struct group *g, struct store *s, const struct settings *settings, struct run *run,
                struct job *job, double now)
{
    struct note n = {g, settings, run, job, now, 0, NULL};
    memset(run->alerted, 0, sizeof run->alerted);
    run->alerted_state = run->state;
    return store_alerts_open(s, run->id, on_open_alert, &n);
}

void outbox_reconfigure(struct run *run, const struct settings *from, const struct settings *to)
{
    for (int c = 0; c < CONDITIONS_N; c++) {
        uint32_t kept = 0;
        for (uint32_t i = 0; i < from->n_hooks; i++) {
            int hook = run->alerted[c] >> i & 1u ? hook_find(to, from->hook[i].name) : -1;
            kept |= hook >= 0 ? 1u << hook : 0;
        }
        run->alerted[c] = kept;
    }
}
