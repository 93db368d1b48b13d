#include "daemon/datadir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/directory.h"

int datadir_open(const char *path, int *ret_fd, char errmsg[SEISMO_ERRMSG])
{
    if (directory_make(path, 0700) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot make the data directory %.150s: %s", path,
                 strerror(errno));
        return SEISMO_EIO;
    }
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = directory < 0
                 ? -1
                 : openat(directory, DATADIR_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "cannot use the data directory %.120s: %s; choose another one with --data", path,
                 strerror(errno));
        if (directory >= 0)
            close(directory);
        return SEISMO_EIO;
    }
    /* Somebody else could put a database there, or take one away. */
    struct stat st;
    bool open_to_all = fstat(directory, &st) == 0 && st.st_mode & S_IWOTH;
    close(directory);
    if (open_to_all) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "everybody can write the data directory %.120s: chmod o-w it, or choose another "
                 "one with --data",
                 path);
        close(fd);
        return SEISMO_ECONFIG;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        char pid[16] = "";
        ssize_t n = errno == EWOULDBLOCK ? pread(fd, pid, sizeof(pid) - 1, 0) : 0;
        pid[n > 0 ? strcspn(pid, "\n") : 0] = 0;
        snprintf(errmsg, SEISMO_ERRMSG,
                 "the data directory %.120s is in use by another seismod (pid %s); stop it, or "
                 "choose another directory with --data",
                 path, *pid ? pid : "unknown");
        close(fd);
        return SEISMO_EBUSY;
    }
    char pid[16];
    int n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, pid, (size_t)n, 0) != n) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot write %.150s/%s: %s", path, DATADIR_LOCK,
                 strerror(errno));
        close(fd);
        return SEISMO_EIO;
    }
    *ret_fd = fd;
    return 0;
}
