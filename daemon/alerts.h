/* Alert hooks: programs of the operator's choice that hear of committed verdicts.
 *
 * Each alert of the outbox becomes one run of its hook: argv from the configuration, the alert's
 * JSON document and a newline on standard input, then end of file. The environment holds PATH, LANG
 * and SEISMO_ALERT_ID, SEISMO_EVENT, SEISMO_STATE and nothing else; what a peer chose (a run's
 * name, a program's name) reaches the hook only on standard input, so that no shell can trip over
 * it. What the hook prints goes to the log, bounded and escaped. The hooks run in a helper process
 * (hookd.h), which is told which one and with what document.
 *
 * Invariants: alerts of one run for one hook are delivered one at a time in the order given, so
 * that "entered" comes before "resolved" even when a hook fails and is tried again. An alert is
 * delivered only when its hook has exited with status 0; whatever is not delivered still stands in
 * the outbox. When the helper dies, the next one fires again what was under way. At most
 * `most` alerts are in memory; beyond that they are left in the table and asked for again in their
 * order. Everything happens on the loop thread and nothing waits. */
#ifndef SEISMO_DAEMON_ALERTS_H
#define SEISMO_DAEMON_ALERTS_H

#include <uv.h>

#include "daemon/hookd.h"
#include "daemon/worker.h"
#include "proto/err.h"

#define ALERTS_MOST 2000   /* alerts in memory; those beyond wait in the table */
#define ALERTS_ATTEMPTS 3  /* runs of a failing hook before an alert is given up */
#define ALERTS_BACKOFF 5.0 /* s before the second attempt, four times as long before each next */
#define ALERTS_GRACE 2.0   /* s that running hooks get at shutdown */

struct alerts;

/* Called after each run of a hook: `delivered` is true when it exited 0; `result` (valid during the
 * call) is "exit N", "signal N", "timeout", "cannot start: …" or "no such hook", with ", gave up"
 * appended when it will not be tried again. The caller submits a JOB_ALERT with it. */
typedef void (*alerts_done)(void *arg, int64_t id, bool delivered, const char *result);

/* Called by alerts_look when there is room again: at most `most` undelivered alerts of the table
 * with ids above `after`, oldest first, are wanted, by alerts_more. */
typedef void (*alerts_wanted)(void *arg, int64_t after, uint32_t most);

struct alerts_terms {
    double backoff; /* s before a second attempt; ALERTS_BACKOFF except in tests */
    uint32_t most;  /* alerts in memory; ALERTS_MOST except in tests */
    alerts_done done;
    alerts_wanted more;
};

/* `helper` is taken, also on failure; `terms` are copied. Ignores SIGPIPE for the process. When it
 * fails, the loop must run once more. */
int alerts_new(uv_loop_t *loop, const struct hookd *helper, const struct alerts_terms *terms,
               void *arg, struct alerts **ret_alerts, char errmsg[SEISMO_ERRMSG]);

/* Takes a list of alerts in the order of their ids (job->alerts: set that to NULL afterwards).
 * Never calls `done` itself. */
void alerts_submit(struct alerts *a, struct alert *list);

/* About once a second: asks for alerts that were left in the table when there is room, and takes
 * what there was no memory for. */
void alerts_look(struct alerts *a);

/* The answer, to be given in order with lists of alerts that are committed before and after; taken
 * as in alerts_submit. `all`: the table has no more than these. After a failure: NULL, false. */
void alerts_more(struct alerts *a, struct alert *list, bool all);

/* Some are in the table only. */
bool alerts_behind(const struct alerts *a);

/* The configuration has changed: the helper reads it again, and what is fired from now on goes by
 * the new one. Hooks that run already go on under the old terms. */
void alerts_reload(struct alerts *a);

/* Alerts waiting and hooks running. */
uint32_t alerts_pending(const struct alerts *a);

/* The helper is gone, and with it the hooks; the keeper starts another one. */
bool alerts_lost(const struct alerts *a);

/* Starts no more hooks, gives running ones ALERTS_GRACE (their results still reach `done`), kills
 * the rest, then frees everything, nulls nothing of the caller's, and calls `closed` from the loop.
 * `a` must not be used after this call; the loop must go on running until `closed`. */
void alerts_close(struct alerts *a, void (*closed)(void *arg), void *arg);

#endif
