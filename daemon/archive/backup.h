/* A copy of the database as it stands at one moment, while the daemon goes on writing. */
#ifndef SEISMO_DAEMON_ARCHIVE_BACKUP_H
#define SEISMO_DAEMON_ARCHIVE_BACKUP_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/err.h"

struct backup_ops {
    /* Now and then; returning true gives up with SEISMO_EBUSY. `share`: 0 to 1. */
    bool (*progress)(void *arg, double share);
};

/* Copies the database at `from` into a file `to` of its own (no log beside it, mode 0600), which
 * appears under that name only when it is whole, checked and synced. Without `replace` a file that
 * is there already is left alone and the backup refused with SEISMO_EINVAL; so are the database's
 * own files, always. The daemon's commits do
 * not wait; its log grows for as long as the copy takes. */
int backup_database(const char *from, const char *to, bool replace, const struct backup_ops *ops,
                    void *arg, int64_t *ret_bytes, char errmsg[SEISMO_ERRMSG]);

#endif
