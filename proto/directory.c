#include "proto/directory.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

static int make(const char *path, mode_t mode)
{
    return mkdir(path, mode) != 0 && errno != EEXIST ? -1 : 0;
}

int directory_make(const char *path, mode_t mode)
{
    char copy[PATH_MAX];
    int rc = 0;
    if (strlen(path) >= sizeof(copy)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(copy, path);
    for (char *p = *copy ? copy + 1 : copy; rc == 0 && *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        rc = make(copy, mode);
        *p = '/';
    }
    if (rc == 0)
        rc = make(copy, mode);
    return rc;
}
