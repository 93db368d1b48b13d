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
 * the outbox. When the helper dies, nothing is delivered any more, and the next start fires it all.
 * Everything happens on the loop thread and nothing waits. */
#ifndef SEISMO_DAEMON_ALERTS_H
#define SEISMO_DAEMON_ALERTS_H

#include <uv.h>

#include "daemon/hookd.h"
#include "daemon/worker.h"
#include "proto/err.h"

#define ALERTS_MAX_WAITING 10000 /* alerts in memory; those beyond fire at the next start */
#define ALERTS_ATTEMPTS 3        /* runs of a failing hook before an alert is given up */
#define ALERTS_BACKOFF 5.0 /* s before the second attempt, four times as long before each next */
#define ALERTS_GRACE 2.0   /* s that running hooks get at shutdown */

struct alerts;

/* Called after each run of a hook: `delivered` is true when it exited 0; `result` (valid during the
 * call) is "exit N", "signal N", "timeout", "cannot start: …" or "no such hook", with ", gave up"
 * appended when it will not be tried again. The caller submits a JOB_ALERT with it. */
typedef void (*alerts_done)(void *arg, int64_t id, bool delivered, const char *result);

/* `helper` is taken, also on failure. `backoff` is the wait before a second attempt in seconds,
 * ALERTS_BACKOFF except in tests. Ignores SIGPIPE for the process. When it fails, the loop must run
 * once more. */
int alerts_new(uv_loop_t *loop, const struct hookd *helper, double backoff, alerts_done done,
               void *arg, struct alerts **ret_alerts, char errmsg[SEISMO_ERRMSG]);

/* Takes a list of alerts (job->alerts: set that to NULL afterwards). Never calls `done` itself. */
void alerts_submit(struct alerts *a, struct alert *list);

/* The configuration has changed: the helper reads it again, and what is fired from now on goes by
 * the new one. Hooks that run already go on under the old terms. */
void alerts_reload(struct alerts *a);

/* Alerts waiting and hooks running. */
uint32_t alerts_pending(const struct alerts *a);

/* The helper is gone, and with it the hooks. */
bool alerts_lost(const struct alerts *a);

/* Starts no more hooks, gives running ones ALERTS_GRACE (their results still reach `done`), kills
 * the rest, then frees everything, nulls nothing of the caller's, and calls `closed` from the loop.
 * `a` must not be used after this call; the loop must go on running until `closed`. */
void alerts_close(struct alerts *a, void (*closed)(void *arg), void *arg);

#endif
