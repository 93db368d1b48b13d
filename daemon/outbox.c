#include "daemon/outbox.h"

#include <stdlib.h>
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

/* A hook has heard of a condition that does not hold any more. */
struct over {
    struct over *next;
    int64_t verdict_id;
    enum verdict_state state;
    int hook;
    json_t *document;
};

struct loading {
    const struct settings *settings;
    struct run *run;
    struct over *first, **end;
    bool no_memory;
};

static void on_open_alert(void *arg, const struct store_alert *a)
{
    struct loading *l = arg;
    int hook = hook_find(l->settings, a->hook);
    if (hook < 0) {
        return;
    }
    if (holds(l->run, a->state)) {
        l->run->alerted[condition_of(a->state)] |= 1u << hook;
        return;
    }
    /* The verdict that entered the condition is also the best that can be said of its end. */
    bool no_memory = false;
    json_t *document = json_text(a->document, strlen(a->document), 0, NULL, &no_memory);
    struct over *over = document ? malloc(sizeof *over) : NULL;
    if (over) {
        *over = (struct over){NULL, a->verdict_id, a->state, hook, document};
        *l->end = over;
        l->end = &over->next;
    } else {
        l->no_memory = l->no_memory || no_memory || document;
        json_decref(document);
    }
}

/* Nothing is noted in the group before all is read: on failure the caller may free the run. */
int outbox_load(struct group *g, struct store *s, const struct settings *settings, struct run *run,
                struct job *job, double now)
{
    struct loading l = {.settings = settings, .run = run, .end = &l.first};
    memset(run->alerted, 0, sizeof run->alerted);
    run->alerted_state = run->state;
    int err = store_alerts_open(s, run->id, on_open_alert, &l);
    err = !err && l.no_memory ? SEISMO_ENOMEM : err;
    for (struct over *next, *over = l.first; over; over = next) {
        next = over->next;
        if (!err) {
            group_alert(g, run, job, over->verdict_id, over->document, false, over->state,
                        settings->hook[over->hook].name, now);
        }
        json_decref(over->document);
        free(over);
    }
    return err;
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
