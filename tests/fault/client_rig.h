/* A worker, and clients that behave like libseismo: what is refused is sent again, and who is asked
 * for HELLO says it. On top of the rig of the unit tests. */
#ifndef SEISMO_TESTS_CLIENT_RIG_H
#define SEISMO_TESTS_CLIENT_RIG_H

#include "daemon/archive/check.h"
#include "tests/unit/worker_runs.h"

#define PATIENCE 100 /* attempts */

static struct {
    uint64_t starts_refused, jobs_refused, queries_refused;
} refused;

/* Starts the worker as a service manager would: again, while it is refused. Each refusal says why.
 */
static inline void start_patiently(void)
{
    for (int i = 0; i < PATIENCE; i++) {
        rig.errmsg[0] = 0;
        if (worker_new(&rig.config, rig.model, rig_clock, rig_wake, NULL, &rig.worker,
                       rig.errmsg) == 0) {
            return;
        }
        assert_null(rig.worker);
        if (!rig.errmsg[0]) {
            fail_msg("a start was refused without a word");
        }
        refused.starts_refused++;
        usleep(10000);
    }
    fail_msg("does not start: %s", rig.errmsg);
}

static inline void expect_reason(const struct job *job)
{
    if (!job->errmsg[0]) {
        fail_msg("a job was refused without a word");
    }
    refused.jobs_refused++;
}

static inline struct peer open_patiently(const char *name, const char *session)
{
    for (int i = 0; i < PATIENCE; i++) {
        struct job *job = rig_open_job(name, "train.py", 0, session);
        rig_call(job);
        struct peer p = rig_opened(job);
        int err = job->err;
        if (err) {
            expect_reason(job);
        }
        job_free(&job);
        if (!err) {
            return p;
        }
    }
    fail_msg("HELLO is refused for ever");
    return (struct peer){0};
}

/* Gives one batch, or the BYE, until it is acknowledged. `make` makes the job and counts the batch.
 */
static inline void give(struct peer *p, const char *session,
                        struct job *(*make)(struct peer *p, const void *arg), const void *arg)
{
    for (int i = 0; i < PATIENCE; i++) {
        struct job *job = make(p, arg);
        rig_call(job);
        int err = job->err;
        if (!err) {
            assert_int_equal(job->last_batch, p->batch);
        } else {
            expect_reason(job);
        }
        job_free(&job);
        if (!err) {
            return;
        }
        uint64_t sent = p->batch--;
        if (err == SEISMO_EHELLO) {
            struct peer again = open_patiently(p->run, session);
            assert_int_equal(again.run_id, p->run_id);
            assert_true(again.batch == sent || again.batch == sent - 1);
            p->batch = again.batch;
            if (again.batch == sent) {
                return;
            }
        }
    }
    fail_msg("a batch is refused for ever");
}

struct some_rows {
    const struct seismo_row *rows;
    uint32_t n;
};

static inline struct job *make_steps(struct peer *p, const void *arg)
{
    const struct some_rows *some = arg;
    return rig_steps_job(p, some->rows, some->n);
}

static inline struct job *make_bye(struct peer *p, const void *arg)
{
    (void)arg;
    struct job *job = job_new(JOB_CLOSE, 0);
    job->run_id = p->run_id;
    job->batch = ++p->batch;
    job->close.outcome = WIRE_FINISHED;
    return job;
}

static inline void give_rows(struct peer *p, const char *session, uint32_t from, uint32_t n)
{
    give(p, session, make_steps, &(struct some_rows){rows + from, n});
}

/* ---- afterwards ---- */

static inline void on_problem(void *arg, const char *run, const char *text)
{
    snprintf(arg, 512, "%s: %s", run ? run : "", text);
}

static inline bool on_progress(void *arg, double share)
{
    (void)arg;
    (void)share;
    return false;
}

/* NULL when all is well with the database at `path`, else what is not, in `text`. */
static inline const char *find_problem(const char *path, char text[512])
{
    static const struct check_ops ops = {.problem = on_problem, .progress = on_progress};
    struct check_report report;
    char errmsg[SEISMO_ERRMSG];
    text[0] = 0;
    if (check_database(path, (const struct model *const[]){rig.model, NULL}, &ops, text, &report,
                       errmsg) != 0) {
        snprintf(text, 512, "%s", errmsg);
    }
    return text[0] ? text : NULL;
}

#endif
