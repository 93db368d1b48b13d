/* A file in memory for what reads files: the same name for all inputs, because it stands in error
 * texts. */
#ifndef SEISMO_TESTS_MEMORY_FILE_H
#define SEISMO_TESTS_MEMORY_FILE_H

#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

struct memory_file {
    int fd;
    char path[64];
};

static inline void memory_file_open(struct memory_file *f, const char *name)
{
    f->fd = memfd_create(name, MFD_CLOEXEC);
    snprintf(f->path, sizeof f->path, "/proc/self/fd/%d", f->fd);
}

static inline void memory_file_write(struct memory_file *f, const void *data, size_t n)
{
    FUZZ_CHECK(ftruncate(f->fd, 0) == 0 && pwrite(f->fd, data, n, 0) == (ssize_t)n,
               "cannot write %zu bytes", n);
}

#endif
