#include <math.h>
#include <string.h>

#include "daemon/aside.h"
#include "daemon/log.h"
#include "daemon/work.h"

#define BACKOFF_MIN 0.02 /* s between attempts to write a group */
#define BACKOFF_MAX 2.0
#define LOOK_AGAIN 60.0 /* s until the files are read again that the disk could not read */

void work_publish(struct worker *w)
{
    w->counts.runs = runs_count(w->runs);
    pthread_mutex_lock(&w->lock);
    w->stats = w->counts;
    pthread_mutex_unlock(&w->lock);
}

/* What SQLite calls damaged: is it, or can the disk not be read? Then `error` says so. */
static void look_for_damage(struct worker *w, char error[SEISMO_ERRMSG])
{
    double now = w->clock();
    if (w->counts.storage_damaged) {
        return;
    }
    if (!w->unreadable[0] || fabs(now - w->looked) >= LOOK_AGAIN) {
        char why[SEISMO_ERRMSG];
        int found = aside_look(store_path(w->store), why);
        if (found == SEISMO_EIO && !w->unreadable[0]) {
            log_error("store", "no damage: %s", why);
        }
        snprintf(w->unreadable, sizeof w->unreadable, "%s", found == SEISMO_EIO ? why : "");
        w->looked = now;
        w->counts.storage_damaged = found == SEISMO_ECORRUPT;
        if (w->counts.storage_damaged) {
            aside_ask(store_path(w->store));
        }
    }
    if (w->unreadable[0]) {
        memcpy(error, w->unreadable, SEISMO_ERRMSG);
    }
}

static void note_failure(struct worker *w, int err)
{
    char error[SEISMO_ERRMSG];
    memcpy(error, store_error(w->store), sizeof error);
    if (!w->counts.storage_failing) {
        log_error("store", "cannot write, steps are held back: %s", error);
        w->counts.storage_since = w->clock();
    }
    w->counts.storage_failing = true;
    if (err == SEISMO_ECORRUPT) {
        look_for_damage(w, error);
    }
    /* The other counters wait for the commit. */
    pthread_mutex_lock(&w->lock);
    w->stats.storage_failing = true;
    w->stats.storage_since = w->counts.storage_since;
    w->stats.storage_damaged = w->counts.storage_damaged;
    memcpy(w->stats.storage_error, error, SEISMO_ERRMSG);
    pthread_mutex_unlock(&w->lock);
}

static void note_success(struct worker *w)
{
    if (w->counts.storage_failing) {
        log_info("store", "writing again");
    }
    w->counts.storage_failing = false;
    w->unreadable[0] = 0;
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
