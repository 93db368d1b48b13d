/* Key files: what is read, what is refused, and that no text gives a key away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proto/directory.h"
#include "proto/keyfile.h"

#define KEY "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"

static char dir[] = "/tmp/seismo-test-keyfile-XXXXXX";
static char path[64];

/* Errors of the next calls of read(), in order; 0 ends them. */
static const int *read_errors = (const int[]){0};

/* In place of the C library's, and of the name that read() has under _FORTIFY_SOURCE. */
ssize_t read(int fd, void *data, size_t n)
{
    if (*read_errors != 0) {
        errno = *read_errors++;
        return -1;
    }
    return syscall(SYS_read, fd, data, n);
}

ssize_t __read_chk(int fd, void *data, size_t n, size_t room);
ssize_t __read_chk(int fd, void *data, size_t n, size_t room)
{
    assert_true(n <= room);
    return read(fd, data, n);
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/k", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void put(const char *text, size_t n, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static void refused(const char *text, size_t n, mode_t mode, enum keyfile_kind kind,
                    const char *expected)
{
    struct keyfile file = {.key = "untouched"};
    char errmsg[SEISMO_ERRMSG] = "";
    put(text, n, mode);
    assert_int_not_equal(keyfile_read(path, kind, &file, errmsg), 0);
    if (!strstr(errmsg, expected) || !strstr(errmsg, path))
        fail_msg("\"%s\" does not contain \"%s\" and the file's name", errmsg, expected);
    /* Not a part of it either. */
    assert_null(strstr(errmsg, "Yne@"));
    assert_null(strstr(errmsg, "V{hID"));
    assert_string_equal(file.key, "untouched");
}
#define REFUSED(text, mode, kind, expected) refused(text, strlen(text), mode, kind, expected)

static void test_form(void **state)
{
    (void)state;
    assert_true(keyfile_is_key(KEY));
    assert_false(keyfile_is_key(""));
    assert_false(keyfile_is_key(KEY "x"));
    assert_false(keyfile_is_key("Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hI"));
    assert_false(keyfile_is_key("Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hI\""));
    assert_false(keyfile_is_key("Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hI~"));
}

static void test_reading(void **state)
{
    (void)state;
    struct keyfile file;
    char errmsg[SEISMO_ERRMSG];
    static const char public[] = "# a comment\n\n  public=" KEY "  \r\nroles =  push a/, query \n";
    put(public, strlen(public), 0644);
    assert_int_equal(keyfile_read(path, KEYFILE_PUBLIC, &file, errmsg), 0);
    assert_string_equal(file.key, KEY);
    assert_string_equal(file.roles, "push a/, query");
    static const char secret[] = "secret = " KEY; /* without a newline at the end */
    put(secret, strlen(secret), 0640);
    assert_int_equal(keyfile_read(path, KEYFILE_SECRET, &file, errmsg), 0);
    assert_string_equal(file.key, KEY);
    assert_string_equal(file.roles, "");
}

static void test_refusals(void **state)
{
    (void)state;
    REFUSED("", 0600, KEYFILE_SECRET, "holds no secret key");
    REFUSED("# secret = " KEY "\n", 0600, KEYFILE_SECRET, "holds no secret key");
    REFUSED("secret = " KEY "\n", 0644, KEYFILE_SECRET, "chmod 600");
    REFUSED("secret = " KEY "\n", 0604, KEYFILE_SECRET, "chmod 600");
    REFUSED("secret = " KEY "\n", 0620, KEYFILE_SECRET, "chmod 600");
    REFUSED("public = " KEY "\n", 0646, KEYFILE_PUBLIC, "chmod o-w");
    REFUSED("secret = " KEY "\n", 0600, KEYFILE_PUBLIC, "NAME.pub");
    REFUSED("public = " KEY "\n", 0600, KEYFILE_SECRET, "NAME.key");
    REFUSED("public = " KEY "x\n", 0600, KEYFILE_PUBLIC, ":1: this is no key");
    REFUSED("\npublic = Yne@$w-vo\n", 0600, KEYFILE_PUBLIC, ":2: this is no key");
    REFUSED("public = " KEY "\npublic = " KEY "\n", 0600, KEYFILE_PUBLIC, ":2: a second key");
    REFUSED(KEY "\n", 0600, KEYFILE_PUBLIC, ":1: ");
    REFUSED("public " KEY "\n", 0600, KEYFILE_PUBLIC, ":1: expected `name = value`");
    REFUSED("rolls = query\npublic = " KEY "\n", 0600, KEYFILE_PUBLIC, ":1: a line that no key");
    REFUSED("roles = query\nroles = admin\n", 0600, KEYFILE_PUBLIC, ":2: roles are there twice");
    refused("public\0 = x", 11, 0600, KEYFILE_PUBLIC, "NUL");
    char *big = calloc(1, KEYFILE_MAX + 2);
    memset(big, '#', KEYFILE_MAX + 1);
    REFUSED(big, 0600, KEYFILE_PUBLIC, "larger than 4096 bytes");
    memset(big, 'x', KEYFILE_ROLES + 8);
    memcpy(big, "roles = ", 8);
    big[KEYFILE_ROLES + 8] = '\0';
    REFUSED(big, 0600, KEYFILE_PUBLIC, "roles take more than");
    free(big);
}

static void test_other_files(void **state)
{
    (void)state;
    struct keyfile file;
    char errmsg[SEISMO_ERRMSG];
    unlink(path);
    assert_int_equal(keyfile_read(path, KEYFILE_PUBLIC, &file, errmsg), SEISMO_ENOTFOUND);
    assert_int_equal(keyfile_read(dir, KEYFILE_PUBLIC, &file, errmsg), SEISMO_EINVAL);
    assert_non_null(strstr(errmsg, "not a regular file"));
    assert_int_equal(keyfile_read(KEY, KEYFILE_SECRET, &file, errmsg), SEISMO_ENOTFOUND);
    assert_null(strstr(errmsg, "Yne"));      /* a key in the place of a file's name */
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody writes: it must not be waited for */
    assert_int_equal(keyfile_read(path, KEYFILE_SECRET, &file, errmsg), SEISMO_EINVAL);
    unlink(path);
}

static void test_a_disk_that_fails(void **state)
{
    (void)state;
    static const char text[] = "public = " KEY "\n";
    struct keyfile file;
    char errmsg[SEISMO_ERRMSG];
    put(text, strlen(text), 0600);
    read_errors = (const int[]){EINTR, 0}; /* a signal is none */
    assert_int_equal(keyfile_read(path, KEYFILE_PUBLIC, &file, errmsg), 0);
    assert_string_equal(file.key, KEY);
    read_errors = (const int[]){EINTR, EIO, 0};
    assert_int_equal(keyfile_read(path, KEYFILE_PUBLIC, &file, errmsg), SEISMO_EIO);
    assert_non_null(strstr(errmsg, strerror(EIO)));
    unlink(path);
}

/* What could not be written whole is not left behind, where it would be in the way. */
static void test_a_disk_that_is_full(void **state)
{
    (void)state;
    struct rlimit before, small;
    char errmsg[SEISMO_ERRMSG];
    unlink(path);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){.rlim_cur = 20, .rlim_max = before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int err = keyfile_write(path, KEYFILE_SECRET, "# mine\n", KEY, errmsg);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(err, SEISMO_EIO);
    assert_non_null(strstr(errmsg, strerror(EFBIG)));
    assert_null(strstr(errmsg, "Yne@"));
    assert_int_not_equal(access(path, F_OK), 0);
}

static void test_writing(void **state)
{
    (void)state;
    struct keyfile file;
    struct stat st;
    char errmsg[SEISMO_ERRMSG];
    unlink(path);
    umask(0);
    assert_int_equal(keyfile_write(path, KEYFILE_SECRET, "# mine\n", KEY, errmsg), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(keyfile_read(path, KEYFILE_SECRET, &file, errmsg), 0);
    assert_string_equal(file.key, KEY);
    /* Never over another one. */
    assert_int_equal(keyfile_write(path, KEYFILE_PUBLIC, "", KEY, errmsg), SEISMO_EINVAL);
    assert_int_equal(keyfile_read(path, KEYFILE_SECRET, &file, errmsg), 0);
    unlink(path);
    umask(077);
    assert_int_equal(keyfile_write(path, KEYFILE_PUBLIC, "", KEY, errmsg), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0644);
    unlink(path);
    assert_int_equal(keyfile_write("/dev/full/x", KEYFILE_PUBLIC, "", KEY, errmsg), SEISMO_EIO);
    assert_null(strstr(errmsg, "Yne@"));
}

/* Where they go: `seismo keygen` makes what is missing. */
static void test_directories(void **state)
{
    (void)state;
    char deep[96], file[96], beyond[128];
    struct stat st;
    snprintf(deep, sizeof(deep), "%s/a/b", dir);
    snprintf(file, sizeof(file), "%s/a/f", dir);
    snprintf(beyond, sizeof(beyond), "%s/c", file);
    for (int i = 0; i < 2; i++) /* the second time all is there */
        assert_int_equal(directory_make(deep, 0700), 0);
    assert_int_equal(stat(deep, &st), 0);
    assert_int_equal(st.st_mode, S_IFDIR | 0700);
    assert_int_equal(mknod(file, S_IFREG | 0600, 0), 0);
    assert_int_equal(directory_make(beyond, 0700), -1);
    assert_int_equal(errno, ENOTDIR);
    assert_int_equal(directory_make("", 0700), -1);
    char *too_long = calloc(1, 8192);
    memset(too_long, 'x', 8191);
    assert_int_equal(directory_make(too_long, 0700), -1);
    assert_int_equal(errno, ENAMETOOLONG);
    free(too_long);
    unlink(file);
    rmdir(deep);
    *strrchr(deep, '/') = 0;
    assert_int_equal(rmdir(deep), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_writing),
        cmocka_unit_test(test_a_disk_that_fails),
        cmocka_unit_test(test_a_disk_that_is_full),
        cmocka_unit_test(test_directories),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
