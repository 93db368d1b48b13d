/* The daemon's own alert: what hooks hear when the database cannot be written, and when it can
 * again, or when a damaged one was set aside at the start.
 *
 * It does not go through the outbox, because that lies in the database. So it lives in memory only,
 * and its id is negative: milliseconds since the epoch. A failure that is over within
 * STORAGE_ALERT_AFTER is no news. */
#ifndef SEISMO_DAEMON_STORAGE_ALERT_H
#define SEISMO_DAEMON_STORAGE_ALERT_H

#include "daemon/config.h"
#include "daemon/worker.h"

#define STORAGE_ALERT_AFTER 1.0 /* s */

/* Zeroed is ready for use. */
struct storage_alert {
    bool entered; /* hooks have heard of the failure that goes on */
    bool said;    /* … and of the database that was set aside */
    int64_t last_id;
};

/* Looks at the worker's state at time `now` (s since the epoch). What hooks have to hear, a list
 * for alerts_submit, or NULL. */
struct alert *storage_alert_look(struct storage_alert *s, const struct config *config,
                                 const struct worker_stats *w, double now);

#endif
