/* Between the loop and the worker: a bounded queue of jobs in, a list of done jobs out.
 *
 * One thread pushes and drains, another takes and gives back. A full queue refuses, which is
 * backpressure; it never drops. The taker sleeps until as much waits as it asked for, so that a
 * busy pusher wakes it once a group and not once a job. */
#ifndef SEISMO_DAEMON_QUEUE_H
#define SEISMO_DAEMON_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/worker.h"

#define QUEUE_MAX_JOBS 4096
#define QUEUE_MAX_ROWS 65536     /* 8 MB; a job of more is taken when it is alone */
#define QUEUE_NOTHING UINT32_MAX /* queue_wait: sleep whatever arrives */

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t enough;
    struct job *head, **tail;
    uint32_t jobs, rows; /* waiting */
    uint32_t wanted;     /* rows the taker sleeps for, QUEUE_NOTHING when it is awake */
    bool stopped;
    struct job *done, **done_tail;
};

int queue_init(struct queue *q);   /* 0 or SEISMO_ENOMEM */
void queue_close(struct queue *q); /* frees the jobs still in it; no thread may use it any more */

/* Takes the job; SEISMO_EBUSY when there is no room, then it stays the caller's. */
int queue_push(struct queue *q, struct job *job);

/* Sleeps until `rows` rows (0: any job) or half of all possible jobs wait, queue_stop was called,
 * or `timeout` seconds are over. True when stopped. */
bool queue_wait(struct queue *q, uint32_t rows, double timeout);

/* The oldest jobs, in order, with together at most `rows` rows, but at least one job when there is
 * one. A list that the caller now owns; NULL when empty. */
struct job *queue_take(struct queue *q, uint32_t rows);

/* Wakes the taker for good. */
void queue_stop(struct queue *q);

void queue_waiting(struct queue *q, uint32_t *ret_jobs, uint32_t *ret_rows);

/* Gives back a list of done jobs. True when the list was empty, so that somebody must be woken. */
bool queue_give(struct queue *q, struct job *list);

/* All done jobs, oldest first. */
struct job *queue_drain(struct queue *q);

#endif
