/* Which verdict becomes an alert for which hook.
 *
 * A hook hears of a condition once when it is entered and once when it is left: unstable and the
 * like (one at a time), silence, and a bad end. Silence does not end instability; the end of the
 * run ends both. */
#ifndef SEISMO_DAEMON_OUTBOX_H
#define SEISMO_DAEMON_OUTBOX_H

#include "daemon/group.h"

/* Notes a verdict of the run, and the alerts that follow from it, in the group; they come back with
 * `job`. `now`: s since the epoch. */
void outbox_verdict(struct group *g, const struct settings *settings, struct run *run,
                    struct job *job, const struct verdict *v, double now);

/* What hooks have heard of the run, from the database, after it was loaded or taken back to an
 * earlier step. Conditions that do not hold any more are resolved in the group; on failure nothing
 * is noted in it. */
int outbox_load(struct group *g, struct store *s, const struct settings *settings, struct run *run,
                struct job *job, double now);

/* The hooks of `from` are now those of `to`: keeps what those with the same name have heard. */
void outbox_reconfigure(struct run *run, const struct settings *from, const struct settings *to);

#endif
