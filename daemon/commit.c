#include <math.h>
#include <string.h>

#include "daemon/aside.h"
#include "daemon/log.h"
#include "daemon/work.h"

#define BACKOFF_MIN 0.02 /* s between attempts to write a group */
#define BACKOFF_MAX 2.0

void work_publish(struct worker *w)
{
    w->counts.runs = runs_count(w->runs);
    pthread_mutex_lock(&w->lock);
    w->stats = w->counts;
    pthread_mutex_unlock(&w->lock);
}

static void note_failure(struct worker *w, int err)
{
    if (!w->counts.storage_failing) {
        log_error("store", "cannot write, steps are held back: %s", store_error(w->store));
        w->counts.storage_since = w->clock();
    }
    w->counts.storage_failing = true;
    if (err == SEISMO_ECORRUPT && !w->counts.storage_damaged) {
        char why[SEISMO_ERRMSG];
        w->counts.storage_damaged = aside_is_damaged(store_path(w->store), why);
        if (w->counts.storage_damaged) {
            aside_ask(store_path(w->store));
        }
    }
    /* The other counters wait for the commit. */
    pthread_mutex_lock(&w->lock);
    w->stats.storage_failing = true;
    w->stats.storage_since = w->counts.storage_since;
    w->stats.storage_damaged = w->counts.storage_damaged;
    memcpy(w->stats.storage_error, store_error(w->store), SEISMO_ERRMSG);
    pthread_mutex_unlock(&w->lock);
}

static void note_success(struct worker *w)
{
    if (w->counts.storage_failing) {
        log_info("store", "writing again");
    }
    w->counts.storage_failing = false;
}

bool work_insist(struct worker *w, int (*attempt)(struct worker *w, void *arg), void *arg)
{
    int err;
    for (double backoff = BACKOFF_MIN; (err = attempt(w, arg)) != 0;
         backoff = fmin(2 * backoff, BACKOFF_MAX)) {
        note_failure(w, err);
        if (queue_wait(&w->queue, QUEUE_NOTHING, backoff)) {
            w->abandoned = true;
            return false;
        }
    }
    note_success(w);
    return true;
}

static int write_group(struct worker *w, void *arg)
{
    (void)arg;
    return group_write(w->group, w->store, w->clock());
}

bool work_commit(struct worker *w)
{
    if (group_is_empty(w->group)) {
        return true;
    }
    if (!work_insist(w, write_group, NULL)) {
        return false;
    }
    w->counts.commits++;
    struct job *jobs = group_done(w->group, w->runs);
    work_publish(w);
    if (jobs && queue_give(&w->queue, jobs)) {
        w->wake(w->wake_arg);
    }
    return true;
}
