/* Brings a run back from its stored rows: after a restart, and to an earlier step when a job
 * resumed from a checkpoint. Bit for bit what it was then, as long as the model is the same; with
 * another model the rows are scored again. */
#ifndef SEISMO_DAEMON_RESTORE_H
#define SEISMO_DAEMON_RESTORE_H

#include "daemon/store.h"

/* The columns were loaded (store_run_load): fills in the detector and everything that hangs on the
 * rows. Rows that are damaged are given up, which is logged; then the detector starts anew. */
int restore_run(struct store *s, const struct model *model, struct run *run);

/* Takes the run back to before `step`: deletes rows, marks verdicts as superseded and writes the
 * columns. Within the caller's transaction; *run is changed even on failure, so give a copy. */
int restore_cut(struct store *s, const struct model *model, struct run *run, int64_t step);

#endif
