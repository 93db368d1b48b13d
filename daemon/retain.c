#include "daemon/retain.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "daemon/alerts.h"
#include "daemon/log.h"
#include "daemon/work.h"

static double elapsed(const struct timespec *since)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)(t.tv_sec - since->tv_sec) + 1e-9 * (double)(t.tv_nsec - since->tv_nsec);
}

static int is_too_big(struct worker *w, bool *ret)
{
    int64_t used = 0;
    int err = w->settings.retain_size > 0 ? store_used_bytes(w->store, &used) : 0;
    *ret = w->settings.retain_size > 0 && (double)used > w->settings.retain_size;
    return err;
}

static struct store_limit limit(struct worker *w, bool for_size)
{
    char *hooks = w->retain.hooks;
    size_t size = sizeof w->retain.hooks, n = (size_t)snprintf(hooks, size, "\n");
    for (uint32_t i = 0; i < w->settings.n_hooks; i++) {
        n += (size_t)snprintf(hooks + n, size - n, "%s\n", w->settings.hook[i].name);
    }
    return (struct store_limit){
        .before = for_size ? INFINITY : w->wall - w->settings.retain,
        .attempts = ALERTS_ATTEMPTS,
        .hooks = hooks,
        .known = w->retain.known,
        .doubted = w->retain.doubted,
        .ahead = w->retain.ahead,
    };
}

/* Fills the list of runs to delete. */
static int look(struct worker *w)
{
    struct retain *r = &w->retain;
    int err = 0;
    retain_changed(r);
    if (w->settings.retain > 0 && w->interval >= r->doubt_until) {
        struct store_limit old = limit(w, false);
        err = store_expired(w->store, &old, r->run, RETAIN_RUNS, &r->n);
    }
    if (!err && r->n == 0) {
        err = is_too_big(w, &r->for_size);
    }
    if (!err && r->for_size) {
        struct store_limit any = limit(w, true);
        err = store_expired(w->store, &any, r->run, RETAIN_RUNS, &r->n);
    }
    return err;
}

/* Takes the next piece of the run away, if it may still go. */
static int piece(struct worker *w, const struct store_expired *run, bool *ret_may, bool *ret_whole)
{
    struct store_limit now = limit(w, w->retain.for_size);
    int err = store_begin(w->store);
    err = err ? err : store_still_expired(w->store, &now, run, ret_may);
    if (!err && *ret_may) {
        err = store_expire(w->store, run->id, RETAIN_CHUNKS, ret_whole);
    }
    err = err ? err : store_commit(w->store);
    if (err) {
        store_rollback(w->store);
    }
    return err;
}

/* When the list is done: fills it again, or says when to look next. */
static int next_list(struct worker *w)
{
    struct retain *r = &w->retain;
    int err = look(w);
    if (!err && r->n == 0) {
        double age = w->settings.retain > 0 ? w->settings.retain : INFINITY;
        r->next_look = w->interval + fmin(RETAIN_LOOK, age / 10);
    }
    return err;
}

/* Deletes the next piece of the run at the head of the list. */
static int advance(struct worker *w)
{
    struct retain *r = &w->retain;
    const struct store_expired *run = &r->run[r->at];
    bool too_big = true, may = false, whole = false;
    if (runs_find(w->runs, run->id)) {
        r->at++; /* a job has come back to it */
        return 0;
    }
    int err = r->for_size ? is_too_big(w, &too_big) : 0;
    if (!err && !too_big) {
        r->n = r->at = 0;
        return 0;
    }
    err = err ? err : piece(w, run, &may, &whole);
    if (!err && (whole || !may)) {
        w->counts.expired += whole;
        r->at++;
    }
    return err;
}

/* Goes on deleting until nothing is left or the budget is spent. */
static int work(struct worker *w, const struct timespec *since)
{
    struct retain *r = &w->retain;
    int err = 0;
    while (!err && elapsed(since) < RETAIN_BUDGET) {
        if (r->at < r->n) {
            err = advance(w);
        } else if (w->interval >= r->next_look) {
            err = next_list(w);
        } else {
            break;
        }
    }
    return err;
}

void retain_changed(struct retain *r)
{
    r->n = r->at = 0;
    r->for_size = false;
    r->next_look = 0;
}

void retain_clock_set(struct retain *r, double step, double interval, int64_t last_verdict)
{
    /* No less than the sum of the steps since any moment before. */
    r->ahead = fmax(r->ahead + step, 0);
    if (step > 0) {
        r->doubted = last_verdict;
        r->doubt_until = interval + RETAIN_DOUBT;
        retain_changed(r);
    }
}

void retain_tick(struct worker *w)
{
    struct retain *r = &w->retain;
    struct timespec since;
    uint64_t before = w->counts.expired;
    if (w->settings.retain <= 0 && w->settings.retain_size <= 0) {
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &since);
    int err = work(w, &since);
    if (err) {
        r->n = r->at = 0;
        r->next_look = w->interval + RETAIN_LOOK / 10;
        if (!r->failing) {
            log_warning("store", "old runs cannot be deleted: %s", store_error(w->store));
        }
    }
    r->failing = err != 0;
    if (w->counts.expired > before) {
        log_info("store", "%llu old runs deleted (retain, retain_size)",
                 (unsigned long long)(w->counts.expired - before));
        work_publish(w);
    }
}
