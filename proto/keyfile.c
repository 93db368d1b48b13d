#include "proto/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const kind_names[] = {[KEYFILE_PUBLIC] = "public", [KEYFILE_SECRET] = "secret"};

static int fail(int err, char errmsg[SEISMO_ERRMSG], const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int fail(int err, char errmsg[SEISMO_ERRMSG], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(errmsg, SEISMO_ERRMSG, format, args);
    va_end(args);
    return err;
}

bool keyfile_is_key(const char *text)
{
    static const char z85[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                              ".-:+=^!/*?&<>()[]{}@%$#";
    return strlen(text) == KEY_TEXT - 1 && text[strspn(text, z85)] == '\0';
}

static int check_type(int fd, const char *path, struct stat *ret, char errmsg[SEISMO_ERRMSG])
{
    if (fstat(fd, ret) != 0)
        return fail(SEISMO_EIO, errmsg, "cannot read the key file %.150s: %s", path,
                    strerror(errno));
    if (!S_ISREG(ret->st_mode))
        return fail(SEISMO_EINVAL, errmsg, "the key file %.150s is not a regular file", path);
    return 0;
}

/* Whether the file may be relied on: nobody else changes it, nor reads a secret. */
static int check_mode(mode_t mode, const char *path, enum keyfile_kind kind,
                      char errmsg[SEISMO_ERRMSG])
{
    if (kind == KEYFILE_SECRET && mode & 0037)
        return fail(SEISMO_EINVAL, errmsg,
                    "the secret key %.130s is open to others (mode %04o): chmod 600 it, and make "
                    "a new one if they may have read it",
                    path, (unsigned)mode & 07777);
    if (mode & 0002)
        return fail(SEISMO_EINVAL, errmsg,
                    "everybody may write the key file %.150s (mode %04o): chmod o-w it", path,
                    (unsigned)mode & 07777);
    return 0;
}

static int read_text(int fd, const char *path, char text[KEYFILE_MAX + 1],
                     char errmsg[SEISMO_ERRMSG])
{
    size_t n = 0;
    ssize_t got;
    while (n < KEYFILE_MAX + 1 && (got = read(fd, text + n, KEYFILE_MAX + 1 - n)) != 0) {
        if (got > 0)
            n += (size_t)got;
        else if (errno != EINTR)
            return fail(SEISMO_EIO, errmsg, "cannot read the key file %.150s: %s", path,
                        strerror(errno));
    }
    if (n > KEYFILE_MAX)
        return fail(SEISMO_EINVAL, errmsg, "%.150s is larger than %d bytes: it is no key file",
                    path, KEYFILE_MAX);
    text[n] = '\0';
    if (strlen(text) != n)
        return fail(SEISMO_EINVAL, errmsg, "%.150s holds a NUL byte: it is no key file", path);
    return 0;
}

static char *trim(char *text)
{
    text += strspn(text, " \t\r");
    size_t n = strlen(text);
    while (n > 0 && strchr(" \t\r", text[n - 1]))
        text[--n] = '\0';
    return text;
}

/* One line that is no comment. */
static int take(char *line, unsigned number, const char *path, struct keyfile *file,
                char errmsg[SEISMO_ERRMSG])
{
    char *equals = strchr(line, '=');
    if (!equals)
        return fail(SEISMO_EINVAL, errmsg, "%.150s:%u: expected `name = value`", path, number);
    *equals = '\0';
    const char *name = trim(line), *value = trim(equals + 1);
    if (strcmp(name, "roles") == 0) {
        if (file->roles[0])
            return fail(SEISMO_EINVAL, errmsg, "%.150s:%u: roles are there twice", path, number);
        if (strlen(value) >= sizeof(file->roles))
            return fail(SEISMO_EINVAL, errmsg, "%.150s:%u: roles take more than %d bytes", path,
                        number, KEYFILE_ROLES - 1);
        strcpy(file->roles, value);
        return 0;
    }
    const char *wanted = kind_names[file->kind], *other = kind_names[!file->kind];
    if (strcmp(name, other) == 0)
        return fail(SEISMO_EINVAL, errmsg,
                    "%.120s:%u: this file holds a %s key where a %s one belongs; give the file "
                    "NAME.%s",
                    path, number, other, wanted, file->kind == KEYFILE_PUBLIC ? "pub" : "key");
    if (strcmp(name, wanted) != 0)
        return fail(SEISMO_EINVAL, errmsg,
                    "%.150s:%u: a line that no key file has; there are %s and roles", path, number,
                    wanted);
    if (file->key[0])
        return fail(SEISMO_EINVAL, errmsg, "%.150s:%u: a second key", path, number);
    if (!keyfile_is_key(value))
        return fail(SEISMO_EINVAL, errmsg,
                    "%.150s:%u: this is no key: one has %d characters of Z85; make it with `seismo "
                    "keygen`",
                    path, number, KEY_TEXT - 1);
    strcpy(file->key, value);
    return 0;
}

static int parse(char *text, const char *path, struct keyfile *file, char errmsg[SEISMO_ERRMSG])
{
    unsigned number = 0;
    char *line;
    int err = 0;
    while (err == 0 && (line = strsep(&text, "\n"))) {
        number++;
        line = trim(line);
        if (*line != '\0' && *line != '#')
            err = take(line, number, path, file, errmsg);
    }
    if (err == 0 && !file->key[0])
        err = fail(SEISMO_EINVAL, errmsg, "%.150s holds no %s key", path, kind_names[file->kind]);
    return err;
}

int keyfile_read(const char *path, enum keyfile_kind kind, struct keyfile *ret,
                 char errmsg[SEISMO_ERRMSG])
{
    struct keyfile file = {.kind = kind};
    char text[KEYFILE_MAX + 2];
    /* Not blocking, so that a FIFO is refused instead of waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && keyfile_is_key(path)) /* it belongs in no error text */
        return fail(SEISMO_ENOTFOUND, errmsg,
                    "a key stands where the name of a key file belongs; put it into a file");
    if (fd < 0)
        return fail(errno == ENOENT ? SEISMO_ENOTFOUND : SEISMO_EIO, errmsg,
                    "cannot read the key file %.150s: %s", path, strerror(errno));
    struct stat st;
    int err = check_type(fd, path, &st, errmsg);
    if (err == 0)
        err = read_text(fd, path, text, errmsg);
    close(fd);
    if (err == 0)
        err = parse(text, path, &file, errmsg);
    if (err == 0)
        err = check_mode(st.st_mode, path, kind, errmsg);
    if (err == 0)
        *ret = file;
    explicit_bzero(text, sizeof(text));
    explicit_bzero(&file, sizeof(file));
    return err;
}

int keyfile_write(const char *path, enum keyfile_kind kind, const char *comment, const char *key,
                  char errmsg[SEISMO_ERRMSG])
{
    mode_t mode = kind == KEYFILE_SECRET ? 0600 : 0644;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0 && errno == EEXIST)
        return fail(SEISMO_EINVAL, errmsg,
                    "%.120s is there already and stays as it is; choose another name, or remove it "
                    "first",
                    path);
    if (fd < 0)
        return fail(SEISMO_EIO, errmsg, "cannot make the key file %.150s: %s", path,
                    strerror(errno));
    bool done = fchmod(fd, mode) == 0 &&
                dprintf(fd, "%s%s = %s\n", comment, kind_names[kind], key) > 0 && fsync(fd) == 0;
    done = close(fd) == 0 && done;
    if (!done) {
        fail(SEISMO_EIO, errmsg, "cannot write the key file %.150s: %s", path, strerror(errno));
        unlink(path);
        return SEISMO_EIO;
    }
    return 0;
}
