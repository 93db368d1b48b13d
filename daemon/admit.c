#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/outbox.h"
#include "daemon/restore.h"
#include "daemon/work.h"

static bool same_session(const struct run *run, const struct job *job)
{
    return run->session_n == job->open.session_n &&
           memcmp(run->session, job->open.session, run->session_n) == 0;
}

/* Runs of the job's name, in the table or not. */
struct namesakes {
    size_t n;
    int64_t own;  /* run of the same session, 0: none */
    int64_t free; /* oldest run that the job may continue, 0: none */
};

static void consider(struct namesakes *x, const struct run *run, const struct job *job)
{
    x->n++;
    if (same_session(run, job)) {
        x->own = run->id;
    } else if (!run->attached && strcmp(run->program, job->open.program) == 0 &&
               (x->free == 0 || run->id < x->free)) {
        x->free = run->id;
    }
}

static int find_namesakes(struct worker *w, const struct job *job, struct namesakes *ret)
{
    struct namesakes x = {0};
    const char *name = job->open.name;
    for (struct run *run = NULL; (run = runs_find_name(w->runs, name, job->open.rank, run));) {
        consider(&x, run, job);
    }
    int64_t *ids = NULL;
    size_t n = 0;
    int err = x.own ? 0 : store_run_ids(w->store, name, job->open.rank, &ids, &n);
    for (size_t i = 0; !err && i < n; i++) {
        struct run run = {0};
        if (!runs_find(w->runs, ids[i])) {
            err = store_run_load(w->store, ids[i], &run);
            consider(&x, &run, job);
        }
    }
    free(ids);
    if (!err) {
        *ret = x;
    }
    return err;
}

int work_load_run(struct worker *w, int64_t id, struct job *job, struct run **ret_run)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run) {
        return SEISMO_ENOMEM;
    }
    int err = store_run_load(w->store, id, run);
    err = err ? err : restore_run(w->store, w->model, run);
    err = err ? err : outbox_load(w->group, w->store, &w->settings, run, job, w->wall);
    if (err) {
        free(run);
        return err;
    }
    run->detached_at = w->interval;
    run->rhythm.last = w->interval;
    runs_add(w->runs, run);
    *ret_run = run;
    return 0;
}

/* The client's name when nobody has it, else with a number. */
static int choose_name(struct worker *w, const struct job *job, size_t namesakes,
                       char ret[RUN_SHOWN])
{
    bool taken = true;
    int err = 0;
    for (size_t k = namesakes + 1; !err && taken; k++) {
        char at_rank[16] = "", number[24] = "";
        if (job->open.rank > 0) {
            snprintf(at_rank, sizeof at_rank, "@%" PRIu32, job->open.rank);
        }
        if (k > 1) {
            snprintf(number, sizeof number, "#%zu", k);
        }
        int room = RUN_SHOWN - 1 - (int)(strlen(at_rank) + strlen(number));
        snprintf(ret, RUN_SHOWN, "%.*s%s%s", work_fit(job->open.name, room), job->open.name,
                 at_rank, number);
        err = store_run_exists(w->store, ret, &taken);
        taken = taken || group_has_name(w->group, ret);
    }
    return err;
}

static int new_run(struct worker *w, struct job *job, size_t namesakes, struct run **ret_run)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run) {
        return SEISMO_ENOMEM;
    }
    int err = choose_name(w, job, namesakes, run->run);
    if (err) {
        free(run);
        return err;
    }
    run->id = ++w->last_run;
    memcpy(run->name, job->open.name, sizeof run->name);
    memcpy(run->program, job->open.program, sizeof run->program);
    run->rank = job->open.rank;
    run->started = run->updated = w->wall;
    run->state = run->worst = STATE_WARMING_UP;
    detector_init(&run->detector);
    runs_add(w->runs, run);
    *ret_run = run;
    return 0;
}

static void take_session(struct run *run, const struct job *job)
{
    run->world = job->open.world;
    run->session_n = job->open.session_n;
    memcpy(run->session, job->open.session, run->session_n);
    run->last_batch = 0;
}

/* Whether one more run may go on. */
static int check_room(const struct worker *w, struct job *job)
{
    if (runs_count(w->runs) < w->settings.max_runs)
        return 0;
    snprintf(job->errmsg, sizeof job->errmsg,
             "as many runs go on as may: [limits] runs is %" PRIu32, w->settings.max_runs);
    return SEISMO_EBUSY;
}

static int open_run(struct worker *w, struct job *job)
{
    struct namesakes same;
    struct run *run = NULL;
    int err = find_namesakes(w, job, &same);
    if (err) {
        return err;
    }
    int64_t id = same.own ? same.own : same.free;
    if (id) {
        run = runs_find(w->runs, id);
    }
    if (!run) {
        err = check_room(w, job);
        err = err ? err : id ? work_load_run(w, id, job, &run) : new_run(w, job, same.n, &run);
    }
    if (err) {
        return err;
    }
    if (!same.own) {
        take_session(run, job);
        if (id) {
            group_continue(w->group, run, job);
        } else {
            group_insert(w->group, run, job);
        }
    }
    run->attached = true;
    run->owner = job->owner;
    run->rhythm.last = w->interval;
    job->run_id = run->id;
    memcpy(job->open.ret_run, run->run, sizeof job->open.ret_run);
    work_answer(job, run);
    return 0;
}

void work_open(struct worker *w, struct job *job)
{
    int err = open_run(w, job);
    if (err && err != SEISMO_EBUSY) {
        snprintf(job->errmsg, sizeof job->errmsg, "the run cannot be opened: %.200s",
                 err == SEISMO_ENOMEM ? "out of memory" : store_error(w->store));
    }
    /* A disk may fail for a while, and the client must not give up for that. */
    job->err = err == SEISMO_EIO || err == SEISMO_ECORRUPT ? SEISMO_EBUSY : err;
}
