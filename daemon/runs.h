/* The run table: what the worker knows of every run that goes on or is attached.
 *
 * Fixed memory a run, no pointer to anything but its neighbours in the table. The columns here are
 * the truth; the database follows them with each commit. One thread. */
#ifndef SEISMO_DAEMON_RUNS_H
#define SEISMO_DAEMON_RUNS_H

#include "daemon/archive/series.h"
#include "daemon/settings.h"
#include "models/detector.h"
#include "proto/defaults.h"
#include "proto/row.h"

#define RUN_SHOWN (SEISMO_MAX_NAME + 16) /* bytes of a run's name as shown, terminated */

/* How often a run usually speaks. Gaps are between arrivals of batches, in s of the worker's
 * interval clock. */
struct rhythm {
    double last;   /* when it last spoke */
    uint32_t n;    /* gaps known, saturating */
    float mean;    /* exponential average of gaps */
    float longest; /* longest usual gap: forgotten at 1 s in RHYTHM_MEMORY, so that a pause for
                      validation is still known at the next one */
};
#define RHYTHM_MEMORY 500.0f

/* What an alert can be about. A run has at most one state of the detector, may be silent besides,
 * and may have ended. */
enum condition { CONDITION_DETECTOR, CONDITION_SILENT, CONDITION_ENDED, CONDITIONS_N };

/*  X(constant, name): how a run ended; the first three are enum wire_outcome */
#define RUN_OUTCOME_MAP(X)          \
    X(OUTCOME_FINISHED, "finished") \
    X(OUTCOME_FAILED, "failed")     \
    X(OUTCOME_ABORTED, "aborted")   \
    X(OUTCOME_LOST, "lost")

enum run_outcome {
#define X(constant, name) constant,
    RUN_OUTCOME_MAP(X)
#undef X
        OUTCOMES_N
};
const char *run_outcome_name(enum run_outcome outcome);

struct run {
    struct run *next_by_id, *next_by_name;

    /* Who it is. */
    int64_t id;
    char run[RUN_SHOWN]; /* as shown */
    char name[SEISMO_MAX_NAME + 1], program[SEISMO_MAX_NAME + 1];
    uint32_t rank, world;
    uint32_t session_n;
    uint8_t session[SEISMO_MAX_SESSION];
    uint64_t last_batch;

    /* The columns of table runs. */
    double started, updated;
    bool ended;
    double ended_at;          /* s since the epoch, when ended */
    enum run_outcome outcome; /* when ended */
    enum verdict_state state; /* the detector's, after the last row */
    enum verdict_severity severity;
    bool silent;
    enum verdict_state worst;
    bool has_alarm;
    int64_t alarm_step;
    uint64_t steps; /* rows stored; the following five only when > 0 */
    int64_t first_step, step;
    float loss, score, max_score;

    /* Life. */
    bool attached;
    uint64_t owner;     /* job.owner of the last OPEN */
    double detached_at; /* interval clock */
    struct rhythm rhythm;

    struct detector detector;
    struct bucket bucket;

    /* The tail as it lies in the database, last commit. */
    uint32_t tail_rows, tail_parts;

    /* Hooks (bits are indices in the settings) that have heard of a condition and not of its end.
     */
    uint32_t alerted[CONDITIONS_N];
    enum verdict_state alerted_state; /* of CONDITION_DETECTOR */

    uint32_t touch; /* of the worker's group: index + 1, or 0 */
};

struct runs;

struct runs *runs_new(void);
void runs_free(struct runs **runs); /* with its runs */

/* Puts a run, allocated by the caller, into the table, which owns it from then on. */
void runs_add(struct runs *t, struct run *run);
void runs_remove(struct runs *t, struct run *run); /* and frees it */

struct run *runs_find(const struct runs *t, int64_t id);

/* Runs of one name and rank: start with `after` NULL. */
struct run *runs_find_name(const struct runs *t, const char *name, uint32_t rank,
                           const struct run *after);

/* All of them, in no order: start with `after` NULL. */
struct run *runs_next(const struct runs *t, const struct run *after);
uint32_t runs_count(const struct runs *t);

/* State and severity as people see them. */
enum verdict_state run_shown_state(const struct run *run);
enum verdict_severity run_shown_severity(const struct run *run);

/* A batch arrived at `now` (interval clock). */
void rhythm_arrival(struct rhythm *r, double now, const struct settings *s);

/* How long the run may stay quiet before it counts as silent, s. */
double rhythm_allowance(const struct rhythm *r, const struct settings *s);

#endif
