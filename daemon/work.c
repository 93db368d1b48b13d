#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/outbox.h"
#include "daemon/restore.h"
#include "daemon/work.h"

int work_fit(const char *s, int max)
{
    int n = (int)strnlen(s, (size_t)max + 1);
    if (n > max) {
        n = max;
        while (n > 0 && (s[n] & 0xc0) == 0x80) {
            n--;
        }
    }
    return n;
}

static void say(struct worker *w, struct run *run, struct job *job, const struct verdict *v)
{
    w->counts.verdicts++;
    outbox_verdict(w->group, &w->settings, run, job, v, w->wall);
}

/* A verdict that the daemon makes without the detector. */
static struct verdict own_verdict(const struct worker *w, const struct run *run, const char *field,
                                  float value)
{
    struct verdict v = {
        .step = run->steps ? run->step : -1,
        .time = w->wall,
        .state = run_shown_state(run),
        .severity = run_shown_severity(run),
        .score = NAN,
        .threshold = NAN,
        .n_reasons = 1,
    };
    v.reason[0].feature = field;
    v.reason[0].value = value;
    return v;
}

static void end_run(struct worker *w, struct run *run, struct job *job, enum run_outcome outcome,
                    const char *text)
{
    run->ended = true;
    run->ended_at = w->wall;
    run->outcome = outcome;
    run->silent = false;
    struct verdict v = own_verdict(w, run, "step", run->steps ? (float)run->step : NAN);
    if (outcome == OUTCOME_LOST) {
        snprintf(v.reason[0].text, VERDICT_TEXT, "the job is gone without a word");
    } else {
        snprintf(v.reason[0].text, VERDICT_TEXT, "the job said \"%s\"%s%.*s",
                 run_outcome_name(outcome), text[0] ? ": " : "", work_fit(text, 120), text);
    }
    say(w, run, job, &v);
}

static void fall_silent(struct worker *w, struct run *run, struct job *job)
{
    run->silent = true;
    double quiet = w->interval - run->rhythm.last;
    struct verdict v = own_verdict(w, run, "time", (float)quiet);
    snprintf(v.reason[0].text, VERDICT_TEXT,
             "no steps for %.3g s; its longest usual pause is %.3g s", quiet,
             (double)run->rhythm.longest);
    say(w, run, job, &v);
}

/* The first row after silence or after an end, when the detector says nothing by itself. */
static void come_back(struct worker *w, struct run *run, struct job *job,
                      const struct seismo_row *row, double quiet)
{
    struct verdict v = own_verdict(w, run, "time", (float)quiet);
    v.time = row->time;
    v.score = run->score;
    snprintf(v.reason[0].text, VERDICT_TEXT, "steps come again after %.3g s", quiet);
    say(w, run, job, &v);
}

/* ---- rows ---- */

struct back {
    struct run *run;
    struct run after;
    int64_t step;
};

static int try_cut(struct worker *w, void *arg)
{
    struct back *b = arg;
    return group_cut(w->group, w->store, b->run, b->step, w->clock(), &b->after);
}

/* A job resumed from its checkpoint: takes the run back to before `step`. What it repeats is
 * deleted in the transaction of the rows that repeat it, and not before: until then it is
 * acknowledged. */
static bool take_back(struct worker *w, struct run *run, struct job *job, int64_t step)
{
    struct back b = {.run = run, .step = step};
    if (!work_insist(w, try_cut, &b)) {
        return false;
    }
    w->counts.superseded += run->steps - b.after.steps;
    *run = b.after;
    /* What fails here is found and resolved when the run is loaded next. */
    if (outbox_load(w->group, w->store, &w->settings, run, job, w->wall) != 0) {
        log_warning("store", "alerts of run %s: %s", run->run, store_error(w->store));
    }
    return true;
}

static void take_result(struct worker *w, struct run *run, struct job *job,
                        const struct seismo_row *row, const struct detector_result *result)
{
    run->first_step = run->steps ? run->first_step : row->step;
    run->max_score = run->steps ? fmaxf(run->max_score, result->score) : result->score;
    run->step = row->step;
    run->loss = row->value[SEISMO_LOSS];
    run->score = result->score;
    run->state = result->state;
    run->severity = result->severity;
    if (verdict_state_worse(result->state, run->worst)) {
        run->worst = result->state;
    }
    group_row(w->group, run, (struct row_result){result->score, result->curvature});
    struct point point;
    if (bucket_add(&run->bucket, run->steps, row, result->score, result->curvature, &point)) {
        group_point(w->group, run, &point);
    }
    run->steps++;
    for (uint32_t i = 0; i < result->n_verdicts; i++) {
        const struct verdict *v = &result->verdict[i];
        if (v->severity == SEVERITY_CRITICAL && !run->has_alarm) {
            run->has_alarm = true;
            run->alarm_step = v->step;
        }
        say(w, run, job, v);
    }
}

/* Scores rows from number `i` on until one goes back or all are done; returns where it stopped. */
static uint32_t score_rows(struct worker *w, struct run *run, struct job *job, uint32_t i,
                           double quiet)
{
    bool was_away = run->ended || run->silent;
    run->ended = false;
    run->silent = false;
    group_part(w->group, run, &job->steps.rows[i]);
    for (; i < job->steps.n; i++) {
        const struct seismo_row *row = &job->steps.rows[i];
        if (run->steps && row->step <= run->step) {
            break;
        }
        struct detector_result result;
        detector_step(&run->detector, w->model, row, &result);
        take_result(w, run, job, row, &result);
        if (was_away && result.n_verdicts == 0) {
            come_back(w, run, job, row, quiet);
        }
        was_away = false;
    }
    return i;
}

void work_answer(struct job *job, const struct run *run)
{
    job->last_batch = run->last_batch;
    job->has_step = run->steps > 0;
    job->last_step = run->step;
}

/* The run of a batch, when the batch is new. NULL when the job needs no more than its answer.
 *
 * Only the run's owner gets one about batches: numbers mean something in one session alone, and the
 * run may have gone on under another. A run that is not in the table has no owner. */
static struct run *run_of_batch(struct worker *w, struct job *job)
{
    struct run *run = runs_find(w->runs, job->run_id);
    bool owner = run && run->owner == job->owner;
    if (owner && job->batch <= run->last_batch) {
        w->counts.duplicate_batches++;
        work_answer(job, run);
        return NULL;
    }
    if (owner && (run->attached || !run->ended)) {
        return run;
    }
    job->err = SEISMO_EHELLO;
    snprintf(job->errmsg, sizeof job->errmsg, "%s: send HELLO again",
             run && !owner ? "another connection has the run now" : "the run is closed");
    return NULL;
}

/* Going back costs as much as scoring hundreds of rows, so a stop does not wait for a job that does
 * so with every row. */
static bool may_go_back(struct worker *w)
{
    uint32_t cuts = group_cuts(w->group);
    bool look = cuts > 0 && cuts % GROUP_MAX_CUTS == 0;
    w->abandoned = look && queue_wait(&w->queue, QUEUE_NOTHING, 0);
    return !w->abandoned;
}

bool work_steps(struct worker *w, struct job *job)
{
    struct run *run = run_of_batch(w, job);
    if (!run) {
        return true;
    }
    double quiet = w->interval - run->rhythm.last;
    for (uint32_t i = 0; i < job->steps.n;) {
        if (run->steps && job->steps.rows[i].step <= run->step &&
            !(may_go_back(w) && take_back(w, run, job, job->steps.rows[i].step))) {
            return false;
        }
        i = score_rows(w, run, job, i, quiet);
    }
    if (job->steps.n > 0) {
        rhythm_arrival(&run->rhythm, w->interval, &w->settings);
    }
    run->last_batch = job->batch;
    group_touch(w->group, run);
    w->counts.steps += job->steps.n;
    w->counts.batches++;
    work_answer(job, run);
    return true;
}

/* ---- life of a run ---- */

void work_close(struct worker *w, struct job *job)
{
    struct run *run = run_of_batch(w, job);
    if (!run) {
        return;
    }
    run->last_batch = job->batch;
    run->attached = false;
    end_run(w, run, job, (enum run_outcome)job->close.outcome, job->close.text);
    work_answer(job, run);
}

void work_detach(struct worker *w, const struct job *job)
{
    struct run *run = runs_find(w->runs, job->run_id);
    if (run && run->owner == job->owner) {
        run->attached = false;
        run->detached_at = w->interval;
        group_touch(w->group, run);
    }
}

void work_tick(struct worker *w)
{
    struct job *job = NULL;
    for (struct run *run = NULL; (run = runs_next(w->runs, run));) {
        bool silent = run->attached && !run->silent &&
                      w->interval - run->rhythm.last > rhythm_allowance(&run->rhythm, &w->settings);
        bool lost = !run->attached && w->interval - run->detached_at > w->settings.lost_after;
        if (run->ended || !(silent || lost)) {
            continue;
        }
        if (!job && !(job = job_new(JOB_NEWS, 0))) {
            return; /* at the next tick, perhaps */
        }
        if (silent) {
            fall_silent(w, run, job);
        } else {
            end_run(w, run, job, OUTCOME_LOST, "");
        }
    }
    if (job) {
        group_add_job(w->group, job);
    }
}
