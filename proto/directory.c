#include "proto/directory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int make(const char *path, mode_t mode)
{
    return mkdir(path, mode) != 0 && errno != EEXIST ? -1 : 0;
}

int directory_make(const char *path, mode_t mode)
{
    char *copy = strdup(path);
    if (!copy)
        return -1;
    int rc = 0;
    for (char *p = *copy ? copy + 1 : copy; rc == 0 && *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        rc = make(copy, mode);
        *p = '/';
    }
    if (rc == 0)
        rc = make(copy, mode);
    free(copy);
    return rc;
}
