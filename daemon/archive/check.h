/* Is everything in the database as it should be?
 *
 * SQLite's own checks, then every run: its steps are all there, in order, decode, and are what its
 * columns say; scores, verdicts and series are what the detector gives for these steps. Steps that
 * yet another model scored are not scored again, and counted as such. Reads only; a run is read
 * within one transaction, so that the daemon may go on writing meanwhile. */
#ifndef SEISMO_DAEMON_ARCHIVE_CHECK_H
#define SEISMO_DAEMON_ARCHIVE_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "models/detector.h"
#include "proto/err.h"

struct check_ops {
    /* Something is wrong with a run, or, when `run` is NULL, with the whole. Borrowed. */
    void (*problem)(void *arg, const char *run, const char *text);
    /* Between runs; returning true ends the check with SEISMO_EBUSY. `share`: 0 to 1. */
    bool (*progress)(void *arg, double share);
};

struct check_report {
    uint64_t runs, steps, chunks, verdicts, points; /* looked at */
    uint64_t unscored;                              /* steps that another model scored */
    uint64_t problems;
};

/* `models`: any of which may have scored steps, the one model under each of its budgets; ends with
 * NULL. 0: the check went through, and *ret says what it found. Otherwise it could not be made. */
int check_database(const char *path, const struct model *const *models, const struct check_ops *ops,
                   void *arg, struct check_report *ret, char errmsg[SEISMO_ERRMSG]);

#endif
