#include "daemon/queue.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>

/* Jobs differ much in size (a HELLO carries its metadata), so each type gets what it needs. */
static size_t job_size(enum job_type type, uint32_t n_rows)
{
    static const size_t size[] = {
        [JOB_OPEN] = sizeof(((struct job *)0)->open),
        [JOB_CLOSE] = sizeof(((struct job *)0)->close),
        [JOB_LABEL] = sizeof(((struct job *)0)->label),
        [JOB_ALERT] = sizeof(((struct job *)0)->alert),
        [JOB_OUTBOX] = sizeof(((struct job *)0)->outbox),
        [JOB_DETACH] = 0,
        [JOB_NEWS] = 0,
    };
    return type == JOB_STEPS ? offsetof(struct job, steps.rows) + n_rows * sizeof(struct seismo_row)
                             : offsetof(struct job, open) + size[type];
}

struct job *job_new(enum job_type type, uint32_t n_rows)
{
    struct job *job = calloc(1, job_size(type, n_rows));
    if (job) {
        job->type = type;
        if (type == JOB_STEPS) {
            job->steps.n = n_rows;
        }
    }
    return job;
}

size_t job_bytes(const struct job *job)
{
    return job_size(job->type, job->type == JOB_STEPS ? job->steps.n : 0);
}

void job_free(struct job **job)
{
    struct job *j = *job;
    if (!j) {
        return;
    }
    *job = NULL;
    for (struct news *next, *n = j->news; n; n = next) {
        next = n->next;
        free(n->json);
        free(n);
    }
    for (struct alert *next, *a = j->alerts; a; a = next) {
        next = a->next;
        free(a->json);
        free(a);
    }
    free(j);
}

static uint32_t job_rows(const struct job *job)
{
    return job->type == JOB_STEPS ? job->steps.n : 0;
}

int queue_init(struct queue *q)
{
    *q = (struct queue){.wanted = QUEUE_NOTHING};
    q->tail = &q->head;
    q->done_tail = &q->done;
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0) {
        return SEISMO_ENOMEM;
    }
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(&q->enough, &attr);
    pthread_condattr_destroy(&attr);
    if (rc != 0) {
        return SEISMO_ENOMEM;
    }
    if (pthread_mutex_init(&q->lock, NULL) != 0) {
        pthread_cond_destroy(&q->enough);
        return SEISMO_ENOMEM;
    }
    return 0;
}

static void free_list(struct job *list)
{
    for (struct job *next; list; list = next) {
        next = list->next;
        job_free(&list);
    }
}

void queue_close(struct queue *q)
{
    free_list(q->head);
    free_list(q->done);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->enough);
}

static bool enough(const struct queue *q, uint32_t rows)
{
    return rows != QUEUE_NOTHING && q->jobs > 0 &&
           (q->rows >= rows || q->jobs >= QUEUE_MAX_JOBS / 2);
}

int queue_push(struct queue *q, struct job *job)
{
    uint32_t rows = job_rows(job);
    pthread_mutex_lock(&q->lock);
    bool full = q->jobs >= QUEUE_MAX_JOBS || (q->jobs > 0 && q->rows + rows > QUEUE_MAX_ROWS);
    bool wake = false;
    if (!full) {
        job->next = NULL;
        *q->tail = job;
        q->tail = &job->next;
        q->jobs++;
        q->rows += rows;
        wake = enough(q, q->wanted);
    }
    pthread_mutex_unlock(&q->lock);
    if (wake) {
        pthread_cond_signal(&q->enough);
    }
    return full ? SEISMO_EBUSY : 0;
}

bool queue_wait(struct queue *q, uint32_t rows, double timeout)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double whole = floor(timeout);
    until.tv_sec += (time_t)whole;
    until.tv_nsec += (long)(1e9 * (timeout - whole));
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&q->lock);
    q->wanted = rows;
    int rc = 0;
    while (!q->stopped && !enough(q, rows) && rc != ETIMEDOUT) {
        rc = pthread_cond_timedwait(&q->enough, &q->lock, &until);
    }
    q->wanted = QUEUE_NOTHING;
    bool stopped = q->stopped;
    pthread_mutex_unlock(&q->lock);
    return stopped;
}

struct job *queue_take(struct queue *q, uint32_t rows)
{
    pthread_mutex_lock(&q->lock);
    struct job *list = q->head, **end = &q->head;
    uint64_t taken = 0;
    while (*end && (end == &q->head || taken + job_rows(*end) <= rows)) {
        taken += job_rows(*end);
        q->jobs--;
        end = &(*end)->next;
    }
    q->rows -= (uint32_t)taken;
    struct job *rest = *end;
    *end = NULL;
    q->head = rest;
    if (!rest) {
        q->tail = &q->head;
    }
    pthread_mutex_unlock(&q->lock);
    return list;
}

void queue_stop(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->stopped = true;
    pthread_mutex_unlock(&q->lock);
    pthread_cond_signal(&q->enough);
}

void queue_waiting(struct queue *q, uint32_t *ret_jobs, uint32_t *ret_rows)
{
    pthread_mutex_lock(&q->lock);
    *ret_jobs = q->jobs;
    *ret_rows = q->rows;
    pthread_mutex_unlock(&q->lock);
}

bool queue_give(struct queue *q, struct job *list)
{
    pthread_mutex_lock(&q->lock);
    bool was_empty = !q->done;
    *q->done_tail = list;
    while (*q->done_tail) {
        q->done_tail = &(*q->done_tail)->next;
    }
    pthread_mutex_unlock(&q->lock);
    return was_empty;
}

struct job *queue_drain(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    struct job *list = q->done;
    q->done = NULL;
    q->done_tail = &q->done;
    pthread_mutex_unlock(&q->lock);
    return list;
}
