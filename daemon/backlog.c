#include "daemon/backlog.h"

void backlog_init(struct backlog *b, int (*submit)(void *arg, struct job *job),
                  void (*pause)(void *arg, bool paused), void *arg)
{
    *b = (struct backlog){.submit = submit, .pause = pause, .arg = arg, .end = &b->first};
}

int backlog_try(struct backlog *b, struct job *job)
{
    int rc = b->first ? SEISMO_EBUSY : b->submit(b->arg, job);
    if (rc == 0)
        b->in_flight++;
    return rc;
}

void backlog_submit(struct backlog *b, struct job *job)
{
    if (backlog_try(b, job) == 0)
        return;
    bool first = !b->first;
    job->next = NULL;
    *b->end = job;
    b->end = &job->next;
    b->in_flight++;
    if (first)
        b->pause(b->arg, true);
}

void backlog_done(struct backlog *b, uint64_t n)
{
    b->in_flight -= n;
    if (!b->first)
        return;
    while (b->first) {
        struct job *job = b->first, *next = job->next;
        job->next = NULL;
        if (b->submit(b->arg, job) != 0) {
            job->next = next;
            return;
        }
        b->first = next;
    }
    b->end = &b->first;
    b->pause(b->arg, false);
}

void backlog_close(struct backlog *b)
{
    while (b->first) {
        struct job *job = b->first;
        b->first = job->next;
        job_free(&job);
    }
    b->end = &b->first;
}
