#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/alerts.h"
#include "daemon/log.h"
#include "daemon/outbox.h"
#include "daemon/work.h"

#define TICK 1.0       /* s between looks at who is silent or lost */
#define CLOCK_STEP 2.0 /* s that the interval clock advances at most from one look to the next */

static void settings_init(struct settings *s, const struct config *config)
{
    *s = (struct settings){
        .commit_interval = config->commit_interval,
        .commit_rows = config->commit_rows,
        .lost_after = config->lost_after,
        .max_runs = config->limits.runs,
        .silent_factor = config->silent_factor,
        .silent_min = config->silent_min,
        .retain = config->retain,
        .retain_size = config->retain_size,
        .n_hooks = config->n_hooks,
    };
    for (uint32_t i = 0; i < config->n_hooks; i++) {
        memcpy(s->hook[i].name, config->hook[i].name, sizeof s->hook[i].name);
        s->hook[i].min_severity = config->hook[i].min_severity;
        s->hook[i].states = config->hook[i].states;
    }
}

static double seconds(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static double monotonic(void)
{
    return seconds(CLOCK_MONOTONIC);
}

/* With the time that the machine was suspended. */
static double boottime(void)
{
    return seconds(CLOCK_BOOTTIME);
}

/* Intervals are what is left of the wall clock's differences when they are kept within what can
 * have passed since the last look, which is at most a second while all is well. So neither a clock
 * that is set, nor a suspended machine, nor a disk that stood still makes every run silent. */
static void advance_clock(struct worker *w)
{
    double wall = w->clock(), boot = boottime();
    double step = (wall - w->wall) - (boot - w->boot);
    w->interval += fmin(fmax(wall - w->wall, 0), CLOCK_STEP);
    w->wall = wall;
    w->boot = boot;
    if (fabs(step) > CLOCK_STEP) {
        retain_clock_set(&w->retain, step, w->interval, group_last_verdict(w->group));
    }
}

/* ---- alerts that wait in the table ---- */

struct undelivered {
    struct alert **end;
    uint32_t n;
    bool no_memory;
};

static void on_undelivered(void *arg, const struct store_alert *a)
{
    struct undelivered *u = arg;
    struct alert *alert = u->no_memory ? NULL : calloc(1, sizeof *alert);
    if (!alert || !(alert->json = strdup(a->document))) {
        u->no_memory = true; /* it stays there, and so do those after it */
        free(alert);
        return;
    }
    alert->id = a->id;
    snprintf(alert->hook, sizeof alert->hook, "%s", a->hook);
    *u->end = alert;
    u->end = &alert->next;
    u->n++;
}

static int read_undelivered(struct worker *w, struct job *job, int64_t after, uint32_t most,
                            bool *ret_all)
{
    struct undelivered u = {.end = &job->alerts};
    int err = store_alerts_undelivered(w->store, ALERTS_ATTEMPTS, after, most, on_undelivered, &u);
    *ret_all = !err && !u.no_memory && u.n < most;
    return err;
}

/* All that was committed is given back before it, and nothing else is in the table. */
static bool read_outbox(struct worker *w, struct job *job)
{
    if (!work_commit(w)) {
        return false;
    }
    job->err = read_undelivered(w, job, job->outbox.after, job->outbox.most, &job->outbox.ret_all);
    if (job->err) {
        memcpy(job->errmsg, store_error(w->store), sizeof job->errmsg);
    }
    return true;
}

/* ---- the thread ---- */

/* Does one job in memory; it is then part of the group. False when the worker gave up. */
static bool do_job(struct worker *w, struct job *job)
{
    bool full = group_new_runs(w->group) >= GROUP_MAX_NEW || group_cuts(w->group) >= GROUP_MAX_CUTS;
    bool ok = !full || work_commit(w);
    switch (job->type) {
    case JOB_OPEN:
        work_open(w, job);
        break;
    case JOB_STEPS:
        ok = ok && work_steps(w, job);
        break;
    case JOB_CLOSE:
        work_close(w, job);
        break;
    case JOB_DETACH:
        work_detach(w, job);
        break;
    case JOB_OUTBOX:
        ok = ok && read_outbox(w, job);
        break;
    case JOB_LABEL:
    case JOB_ALERT:
    case JOB_NEWS:
        break; /* all there is to do is writing */
    }
    group_add_job(w->group, job);
    return ok;
}

static void take_settings(struct worker *w)
{
    struct settings next;
    pthread_mutex_lock(&w->lock);
    bool changed = w->has_next_settings;
    next = w->next_settings;
    w->has_next_settings = false;
    pthread_mutex_unlock(&w->lock);
    if (changed) {
        for (struct run *run = NULL; (run = runs_next(w->runs, run));) {
            outbox_reconfigure(run, &w->settings, &next);
        }
        if (next.retain != w->settings.retain || next.retain_size != w->settings.retain_size) {
            retain_changed(&w->retain);
        }
        w->settings = next;
    }
}

static bool do_jobs(struct worker *w, struct job *list)
{
    bool ok = true;
    for (struct job *next; list; list = next) {
        next = list->next;
        if (ok) {
            ok = do_job(w, list);
        } else {
            job_free(&list);
        }
    }
    return ok && work_commit(w);
}

static void *worker_thread(void *arg)
{
    struct worker *w = arg;
    double last_commit = -INFINITY, last_tick = monotonic();
    bool stopped = !work_commit(w);
    while (!w->abandoned) {
        double now = monotonic();
        stopped = queue_wait(&w->queue, 0, fmax(last_tick + TICK - now, 0));
        /* Commits keep their distance, which makes groups under load; a lone job after a pause does
         * not wait. */
        now = monotonic();
        double rest = last_commit + w->settings.commit_interval - now;
        if (!stopped && rest > 0) {
            stopped = queue_wait(&w->queue, w->settings.commit_rows, rest);
            now = monotonic();
        }
        take_settings(w);
        advance_clock(w);
        bool ticked = false;
        if (now >= last_tick + TICK) {
            last_tick = now;
            work_tick(w);
            ticked = true;
        }
        struct job *list = queue_take(&w->queue, w->settings.commit_rows);
        if (!list && stopped) {
            break;
        }
        if (list) {
            last_commit = now;
        }
        if (do_jobs(w, list) && ticked && !stopped) {
            retain_tick(w);
        }
    }
    return NULL;
}

/* ---- from outside ---- */

/* Every run that goes on, and the alerts that nobody has heard of yet. */
static int restore_all(struct worker *w)
{
    struct job *job = job_new(JOB_NEWS, 0);
    if (!job) {
        return SEISMO_ENOMEM;
    }
    int64_t *ids = NULL;
    size_t n = 0;
    int err = store_begin(w->store);
    /* One more than are taken, so that it is known that there are more. */
    bool all;
    err = err ? err : read_undelivered(w, job, 0, ALERTS_MOST + 1, &all);
    err = err ? err : store_run_ids(w->store, NULL, 0, &ids, &n);
    for (size_t i = 0; !err && i < n; i++) {
        struct run *run;
        err = work_load_run(w, ids[i], job, &run);
    }
    free(ids);
    err = err ? err : store_commit(w->store);
    if (!err && (job->alerts || job->news)) {
        group_add_job(w->group, job);
    } else {
        job_free(&job);
    }
    if (!err && n > 0) {
        log_info("store", "restored %zu runs that go on", n);
    }
    return err;
}

static void close_all(struct worker *w)
{
    group_free(&w->group);
    runs_free(&w->runs);
    store_free(&w->store);
}

/* The database, and what goes on in it. */
static int open_all(struct worker *w, const struct config *config, const char *path,
                    char errmsg[SEISMO_ERRMSG])
{
    int err = store_new(path, config->synchronous_full, &w->store, errmsg);
    if (err) {
        return err;
    }
    int64_t last_verdict, last_alert;
    err = store_last_ids(w->store, &w->last_run, &last_verdict, &last_alert);
    if (err) {
        memcpy(errmsg, store_error(w->store), SEISMO_ERRMSG);
        return err;
    }
    w->retain.known = last_verdict;
    w->runs = runs_new();
    w->group = group_new(w->model, last_verdict, last_alert);
    err = w->runs && w->group ? restore_all(w) : SEISMO_ENOMEM;
    if (err) {
        snprintf(errmsg, SEISMO_ERRMSG, "restoring the runs: %.230s",
                 err == SEISMO_ENOMEM ? "out of memory" : store_error(w->store));
    }
    return err;
}

/* Opening failed with `err`: when the cause is that pages are damaged, and nothing else, the
 * database is set aside, so that the daemon can start with a new one. Returns 0, or why not. */
static int set_aside(struct worker *w, const char *path, int err, char errmsg[SEISMO_ERRMSG])
{
    char why[SEISMO_ERRMSG] = "the database looked damaged, and no longer does: start again";
    int found = err == SEISMO_ECORRUPT || err == SEISMO_EIO ? aside_look(path, why) : 0;
    if (found != SEISMO_ECORRUPT && err == SEISMO_ECORRUPT) {
        snprintf(errmsg, SEISMO_ERRMSG, "%.240s", why);
        return SEISMO_EIO;
    }
    if (found != SEISMO_ECORRUPT) {
        return err;
    }
    err = aside_move(path, w->clock(), w->counts.set_aside, errmsg);
    if (!err) {
        log_error("store",
                  "%s is damaged (%s): it was set aside as %s, nothing was deleted, and the daemon "
                  "starts with an empty database. Restore a backup, or try `sqlite3 FILE .recover`",
                  path, why, w->counts.set_aside);
        w->counts.set_aside_now = true;
    }
    return err;
}

/* SQLite deletes the log of a database that is missing or empty, with all that is in it. */
static int save_log(struct worker *w, const char *path, char errmsg[SEISMO_ERRMSG])
{
    if (!aside_is_orphan(path)) {
        return 0;
    }
    int err = aside_move_log(path, w->clock(), w->counts.set_aside, errmsg);
    if (!err) {
        log_error(
            "store",
            "%s is missing or empty, and its log is not: the log was set aside as %s, and the "
            "daemon starts with an empty database. Put the database back and this beside it "
            "as seismo.db-wal, or restore a backup",
            path, w->counts.set_aside);
        w->counts.set_aside_now = true;
    }
    return err;
}

static int set_up(struct worker *w, const struct config *config, char errmsg[SEISMO_ERRMSG])
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/seismo.db", config->data) >= sizeof path) {
        snprintf(errmsg, SEISMO_ERRMSG, "the path of the data directory is too long");
        return SEISMO_ECONFIG;
    }
    w->counts.synchronous_full = config->synchronous_full;
    int err = save_log(w, path, errmsg);
    if (err) {
        return err;
    }
    err = open_all(w, config, path, errmsg);
    if (err) {
        close_all(w);
        err = set_aside(w, path, err, errmsg);
        err = err ? err : open_all(w, config, path, errmsg);
    }
    if (err) {
        return err;
    }
    if (!w->counts.set_aside_now && aside_find(path, w->counts.set_aside)) {
        log_info("store", "a damaged database still lies at %s", w->counts.set_aside);
    }
    work_publish(w);
    /* Signals are the loop's. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&w->thread, NULL, worker_thread, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    w->has_thread = rc == 0;
    if (rc) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot start the worker thread: %s", strerror(rc));
    }
    return rc ? SEISMO_ENOMEM : 0;
}

int worker_new(const struct config *config, const struct model *model, double (*clock)(void),
               void (*wake)(void *), void *wake_arg, struct worker **ret_worker,
               char errmsg[SEISMO_ERRMSG])
{
    struct worker *w = calloc(1, sizeof *w);
    if (!w || queue_init(&w->queue) != 0) {
        free(w);
        snprintf(errmsg, SEISMO_ERRMSG, "starting the worker: out of memory");
        return SEISMO_ENOMEM;
    }
    pthread_mutex_init(&w->lock, NULL);
    w->model = model;
    w->clock = clock;
    w->wake = wake;
    w->wake_arg = wake_arg;
    w->wall = clock();
    w->boot = boottime();
    settings_init(&w->settings, config);
    int err = set_up(w, config, errmsg);
    if (err) {
        worker_free(&w);
        return err;
    }
    *ret_worker = w;
    return 0;
}

void worker_free(struct worker **worker)
{
    struct worker *w = *worker;
    if (!w) {
        return;
    }
    *worker = NULL;
    if (w->has_thread) {
        queue_stop(&w->queue);
        pthread_join(w->thread, NULL);
    }
    close_all(w);
    queue_close(&w->queue);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int worker_submit(struct worker *w, struct job *job)
{
    return queue_push(&w->queue, job);
}

struct job *worker_drain(struct worker *w)
{
    return queue_drain(&w->queue);
}

void worker_stats(struct worker *w, struct worker_stats *ret)
{
    pthread_mutex_lock(&w->lock);
    *ret = w->stats;
    pthread_mutex_unlock(&w->lock);
    queue_waiting(&w->queue, &ret->queued_jobs, &ret->queued_rows);
}

void worker_reconfigure(struct worker *w, const struct config *config)
{
    pthread_mutex_lock(&w->lock);
    settings_init(&w->next_settings, config);
    w->has_next_settings = true;
    pthread_mutex_unlock(&w->lock);
}
