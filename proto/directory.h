/* Directories, made as `mkdir -p` does. */
#ifndef SEISMO_PROTO_DIRECTORY_H
#define SEISMO_PROTO_DIRECTORY_H

#include <sys/types.h>

/* Makes a directory and those above it, as far as they are missing, with this mode. 0, or -1 with
 * errno; also 0 when there is something else in its place. */
int directory_make(const char *path, mode_t mode);

#endif
