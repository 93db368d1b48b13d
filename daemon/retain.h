/* Retention: deletes runs that ended long ago, or the oldest ones when the database grows too big.
 *
 * In the worker's thread, in pieces of one small transaction each, with a budget of time a tick, so
 * that commits of steps hardly wait. A run whose steps go in several pieces is consistent after
 * each of them: it has merely lost its beginning. Each piece asks again whether the run may go: a
 * job may have come back to it since. The pages are used again; the file does not shrink. Never
 * deleted: runs that go on, runs with alerts that a configured hook has still to hear of, and those
 * that hold the highest id of a run, a verdict or an alert, because ids are never used twice.
 *
 * How old a run is says the wall clock, which may be set wrongly. After it went ahead nothing is
 * deleted for its age for RETAIN_DOUBT; then the runs of this daemon's life that ended before that
 * count as so much younger, and so none goes sooner after its end than `retain` says. */
#ifndef SEISMO_DAEMON_RETAIN_H
#define SEISMO_DAEMON_RETAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/store.h"

#define RETAIN_CHUNKS 64    /* chunks of a piece, 256 steps each */
#define RETAIN_RUNS 512     /* runs that one look into the table finds */
#define RETAIN_BUDGET 0.05  /* s a tick */
#define RETAIN_LOOK 60.0    /* s between looks when one found nothing, at most */
#define RETAIN_DOUBT 3600.0 /* s, interval clock, in which a clock that was set is set right */

struct worker;

struct retain { /* zeroed: has not looked yet */
    struct store_expired run[RETAIN_RUNS];
    uint32_t n, at;
    bool for_size;    /* the list is not of old runs, but because of retain_size */
    double next_look; /* s, interval clock */
    bool failing;
    char hooks[CONFIG_MAX_HOOKS * 65 + 2]; /* that are configured, see store_limit */
    int64_t known, doubted; /* ids of verdicts: last before this daemon, before the last step */
    double ahead;           /* s that steps have put the wall clock ahead */
    double doubt_until;     /* s, interval clock */
};

/* `retain` or `retain_size` is another now: what is listed may stay. */
void retain_changed(struct retain *r);

/* The wall clock was set, by so many s; `last_verdict`: the highest id so far. */
void retain_clock_set(struct retain *r, double step, double interval, int64_t last_verdict);

/* Once a tick of the worker, between two groups. */
void retain_tick(struct worker *w);

#endif
