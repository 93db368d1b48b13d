#include "daemon/runs.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BUCKETS 64 /* lists of an empty table; a power of two */

struct runs {
    uint32_t n, mask;
    struct run **by_id, **by_name;
};

const char *run_outcome_name(enum run_outcome outcome)
{
    static const char *const name[] = {
#define X(constant, text) text,
        RUN_OUTCOME_MAP(X)
#undef X
    };
    return name[outcome];
}

static uint32_t hash_name(const char *name, uint32_t rank)
{
    uint32_t h = 2166136261u ^ rank;
    for (; *name; name++) {
        h = (h ^ (uint8_t)*name) * 16777619u;
    }
    return h ^ h >> 15;
}

/* Ids are handed out one after the other, so their low bits spread by themselves. */
static struct run **list_by_id(const struct runs *t, int64_t id)
{
    return &t->by_id[(uint32_t)id & t->mask];
}

static struct run **list_by_name(const struct runs *t, const char *name, uint32_t rank)
{
    return &t->by_name[hash_name(name, rank) & t->mask];
}

static bool allocate(struct runs *t, uint32_t lists)
{
    t->by_id = calloc(lists, sizeof(struct run *));
    t->by_name = calloc(lists, sizeof(struct run *));
    t->mask = lists - 1;
    return t->by_id && t->by_name;
}

struct runs *runs_new(void)
{
    struct runs *t = calloc(1, sizeof *t);
    if (t && !allocate(t, FIRST_BUCKETS)) {
        runs_free(&t);
    }
    return t;
}

void runs_free(struct runs **runs)
{
    struct runs *t = *runs;
    if (!t) {
        return;
    }
    *runs = NULL;
    for (uint32_t i = 0; t->by_id && i <= t->mask; i++) {
        for (struct run *next, *run = t->by_id[i]; run; run = next) {
            next = run->next_by_id;
            free(run);
        }
    }
    free(t->by_id);
    free(t->by_name);
    free(t);
}

static void link_run(struct runs *t, struct run *run)
{
    struct run **list = list_by_id(t, run->id);
    run->next_by_id = *list;
    *list = run;
    list = list_by_name(t, run->name, run->rank);
    run->next_by_name = *list;
    *list = run;
}

/* Without memory for more lists the table goes on with longer ones. */
static void grow(struct runs *t)
{
    struct runs bigger = {0};
    if (!allocate(&bigger, 2 * (t->mask + 1))) {
        free(bigger.by_id);
        free(bigger.by_name);
        return;
    }
    for (uint32_t i = 0; i <= t->mask; i++) {
        for (struct run *next, *run = t->by_id[i]; run; run = next) {
            next = run->next_by_id;
            link_run(&bigger, run);
        }
    }
    free(t->by_id);
    free(t->by_name);
    bigger.n = t->n;
    *t = bigger;
}

void runs_add(struct runs *t, struct run *run)
{
    if (t->n > t->mask) {
        grow(t);
    }
    link_run(t, run);
    t->n++;
}

void runs_remove(struct runs *t, struct run *run)
{
    struct run **at = list_by_id(t, run->id);
    while (*at != run) {
        at = &(*at)->next_by_id;
    }
    *at = run->next_by_id;
    at = list_by_name(t, run->name, run->rank);
    while (*at != run) {
        at = &(*at)->next_by_name;
    }
    *at = run->next_by_name;
    t->n--;
    free(run);
}

struct run *runs_find(const struct runs *t, int64_t id)
{
    struct run *run = *list_by_id(t, id);
    while (run && run->id != id) {
        run = run->next_by_id;
    }
    return run;
}

struct run *runs_find_name(const struct runs *t, const char *name, uint32_t rank,
                           const struct run *after)
{
    struct run *run = after ? after->next_by_name : *list_by_name(t, name, rank);
    while (run && (run->rank != rank || strcmp(run->name, name) != 0)) {
        run = run->next_by_name;
    }
    return run;
}

struct run *runs_next(const struct runs *t, const struct run *after)
{
    if (after && after->next_by_id) {
        return after->next_by_id;
    }
    for (uint32_t i = after ? ((uint32_t)after->id & t->mask) + 1 : 0; i <= t->mask; i++) {
        if (t->by_id[i]) {
            return t->by_id[i];
        }
    }
    return NULL;
}

uint32_t runs_count(const struct runs *t)
{
    return t->n;
}

enum verdict_state run_shown_state(const struct run *run)
{
    return run->ended ? STATE_ENDED : run->silent ? STATE_SILENT : run->state;
}

enum verdict_severity run_shown_severity(const struct run *run)
{
    if (run->ended) {
        bool well = run->outcome == OUTCOME_FINISHED || run->outcome == OUTCOME_ABORTED;
        return well ? SEVERITY_INFO : SEVERITY_WARNING;
    }
    return run->silent ? SEVERITY_WARNING : run->severity;
}

void rhythm_arrival(struct rhythm *r, double now, const struct settings *s)
{
    float gap = (float)(now - r->last);
    float most = 2.0f * (float)rhythm_allowance(r, s);
    r->last = now;
    /* The first gap is not usual: it is the one in which the job compiles and fills its caches. */
    if (r->n++ == 0) {
        return;
    }
    /* A pause longer than ever counts, but only so far: a job that was stopped for a night has not
     * got a new rhythm, whereas a validation is known from then on. */
    gap = gap < most ? gap : most;
    r->mean = r->n == 2 ? gap : r->mean + 0.1f * (gap - r->mean);
    r->longest -= gap / RHYTHM_MEMORY;
    r->longest = fmaxf(fmaxf(r->longest, r->mean), gap);
}

double rhythm_allowance(const struct rhythm *r, const struct settings *s)
{
    /* With few gaps known nothing is usual yet. */
    double usual = r->n < 8 ? fmax(r->longest, s->silent_min) : r->longest;
    return fmax(s->silent_min, s->silent_factor * usual);
}
