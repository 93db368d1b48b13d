#include "daemon/backlog.h"

#include <stdlib.h>

struct lane *lane_new(void)
{
    struct lane *l = calloc(1, sizeof(*l));
    if (l) {
        l->end = &l->first;
        l->held = true;
    }
    return l;
}

static void lane_free_unused(struct lane *l)
{
    if (!l->held && !l->first)
        free(l);
}

void lane_leave(struct lane **lane)
{
    struct lane *l = *lane;
    if (!l)
        return;
    *lane = NULL;
    l->held = false;
    lane_free_unused(l);
}

void backlog_init(struct backlog *b, int (*submit)(void *arg, struct job *job),
                  void (*pause)(void *arg, bool paused), double (*now)(void *arg), void *arg)
{
    *b = (struct backlog){.submit = submit,
                          .pause = pause,
                          .now = now,
                          .arg = arg,
                          .own = {.end = &b->own.first, .held = true},
                          .turn_end = &b->turn};
    static const struct limits limits = LIMITS_DEFAULT;
    backlog_limit(b, &limits, 1);
}

void backlog_limit(struct backlog *b, const struct limits *limits, uint32_t commit_rows)
{
    uint64_t ahead = (uint64_t)BACKLOG_AHEAD * commit_rows;
    b->max_bytes = limits->queued_bytes;
    b->max_lane_bytes = limits->peer_queued_bytes;
    b->max_ahead = ahead < BACKLOG_AHEAD_MIN ? BACKLOG_AHEAD_MIN : ahead;
}

static uint32_t rows_of(const struct job *job)
{
    return job->type == JOB_STEPS ? job->steps.n : 0;
}

static uint32_t cost_of(const struct job *job)
{
    uint32_t back = 0;
    switch (job->type) {
    case JOB_STEPS:
        for (uint32_t i = 1; i < job->steps.n; i++)
            back += job->steps.rows[i].step <= job->steps.rows[i - 1].step;
        return job->steps.n + BACKLOG_COST_BATCH + back * BACKLOG_COST_BACK;
    case JOB_OPEN:
        return BACKLOG_COST_OPEN;
    default:
        return BACKLOG_COST_OTHER;
    }
}

static void set_paused(struct backlog *b)
{
    /* Not at the same point in both directions, or each job would be a change. */
    bool paused = b->paused ? b->bytes > b->max_bytes - b->max_bytes / 8 : b->bytes > b->max_bytes;
    if (paused != b->paused) {
        b->paused = paused;
        b->pause(b->arg, paused);
    }
}

int backlog_try(struct backlog *b, struct job *job)
{
    int rc = b->own.first ? SEISMO_EBUSY : b->submit(b->arg, job);
    if (rc == 0) {
        b->in_flight++;
        b->ahead += cost_of(job);
    }
    return rc;
}

static void take_turn(struct backlog *b, struct lane *l)
{
    l->next = NULL;
    *b->turn_end = l;
    b->turn_end = &l->next;
}

void backlog_submit(struct backlog *b, struct job *job)
{
    struct lane *l = job->lane ? job->lane : &b->own;
    uint64_t bytes = job_bytes(job);
    if (!l->first) {
        l->credit = BACKLOG_TURN;
        take_turn(b, l);
    }
    job->next = NULL;
    *l->end = job;
    l->end = &job->next;
    l->bytes += bytes;
    b->bytes += bytes;
    b->jobs++;
    b->rows += rows_of(job);
    b->in_flight++;
    backlog_pump(b);
}

uint64_t backlog_allowance(const struct backlog *b)
{
    uint64_t left = b->bytes < b->max_bytes ? b->max_bytes - b->bytes : 0;
    if (left > b->max_lane_bytes)
        left = b->max_lane_bytes;
    return left < LIMIT_LANE_BYTES ? LIMIT_LANE_BYTES : left;
}

void backlog_done(struct backlog *b, const struct job *job)
{
    b->in_flight--;
    b->ahead -= cost_of(job);
}

/* The lane at the head gives up its turn, with jobs or without. */
static void end_turn(struct backlog *b, struct lane *l)
{
    b->turn = l->next;
    if (!b->turn)
        b->turn_end = &b->turn;
    if (l->first)
        take_turn(b, l);
    else
        lane_free_unused(l);
}

/* Gives jobs to the worker until it has enough, or no lane has one that may go. */
static void serve(struct backlog *b)
{
    double now = b->turn ? b->now(b->arg) : 0;
    const struct lane *early = NULL; /* the first of those that follow on one another */
    b->early = false;
    while (b->turn && b->ahead < b->max_ahead) {
        struct lane *l = b->turn;
        struct job *job = l->first;
        if (job->due > now && !b->hurry) {
            if (l == early) {
                b->early = true;
                return;
            }
            early = early ? early : l;
            end_turn(b, l);
            continue;
        }
        early = NULL;
        uint32_t cost = cost_of(job);
        if (l->credit < cost) {
            l->credit += BACKLOG_TURN;
            end_turn(b, l);
            continue;
        }
        struct job *next = job->next;
        uint64_t bytes = job_bytes(job); /* once submitted it is another thread's */
        uint32_t rows = rows_of(job);
        job->next = NULL;
        if (b->submit(b->arg, job) != 0) {
            job->next = next;
            return;
        }
        b->ahead += cost;
        b->bytes -= bytes;
        b->jobs--;
        b->rows -= rows;
        l->bytes -= bytes;
        l->credit -= cost;
        l->first = next;
        if (!next) {
            l->end = &l->first;
            end_turn(b, l);
        }
    }
}

void backlog_pump(struct backlog *b)
{
    serve(b);
    set_paused(b);
}

void backlog_close(struct backlog *b)
{
    while (b->turn) {
        struct lane *l = b->turn;
        struct job *job = l->first;
        l->first = job->next;
        job_free(&job);
        if (!l->first) {
            l->end = &l->first;
            end_turn(b, l);
        }
    }
    b->bytes = 0;
}
