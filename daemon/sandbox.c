#include "daemon/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "daemon/log.h"

static bool wanted(const struct config *config)
{
    return config->sandbox && SANDBOX_POSSIBLE;
}

/* ---- files ---- */

/* What the header may not know yet, by the version of the interface that brought it. */
#define ACCESS_REFER (1ULL << 13)     /* 2 */
#define ACCESS_TRUNCATE (1ULL << 14)  /* 3 */
#define ACCESS_IOCTL_DEV (1ULL << 15) /* 5 */

#define ACCESS_MAKE                                                                              \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE |                            \
     LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_DIR | \
     LANDLOCK_ACCESS_FS_MAKE_SOCK | ACCESS_TRUNCATE)
#define ACCESS_SOCKET (LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE)
#define ACCESS_ALL                                                                                \
    (ACCESS_MAKE | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |                    \
     LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM | \
     ACCESS_REFER | ACCESS_IOCTL_DEV)

struct ruleset {
    int fd;
    uint64_t handled; /* what is forbidden where no rule allows it */
};

/* Allows it below a directory. One that is not there has nothing to be allowed in it: whoever needs
 * it says what is wrong. */
static int allow_below(const struct ruleset *r, const char *directory, uint64_t access)
{
    int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    struct landlock_path_beneath_attr rule = {.allowed_access = access & r->handled,
                                              .parent_fd = fd};
    int rc = (int)syscall(SYS_landlock_add_rule, r->fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    close(fd);
    return rc;
}

/* A socket file is made at the start and removed at the end. */
static int allow_socket(const struct ruleset *r, const char *endpoint)
{
    static const char ipc[] = "ipc://";
    if (!endpoint || strncmp(endpoint, ipc, sizeof(ipc) - 1) != 0)
        return 0;
    char *path = strdup(endpoint + sizeof(ipc) - 1);
    if (!path)
        return -1;
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    int rc = allow_below(r, slash ? path : ".", ACCESS_SOCKET);
    free(path);
    return rc;
}

static int restrict_files(const struct ruleset *r, const struct config *c)
{
    int rc = allow_below(r, c->data, ACCESS_MAKE);
    for (int i = 0; rc == 0 && c->ingest[i]; i++)
        rc = allow_socket(r, c->ingest[i]);
    if (rc == 0)
        rc = allow_socket(r, c->query);
    if (rc == 0)
        rc = allow_socket(r, c->events);
    return rc == 0 ? (int)syscall(SYS_landlock_restrict_self, r->fd, 0) : rc;
}

/* A lock on files is for the thread that takes it, and for those that it starts. */
static bool is_single_threaded(void)
{
    struct stat st;
    return stat("/proc/self/task", &st) != 0 || st.st_nlink <= 3; /* "." and ".." count */
}

int sandbox_files(struct sandbox *s, const struct config *config, char errmsg[SEISMO_ERRMSG])
{
    if (!config->sandbox)
        log_warning("sandbox", "switched off by the configuration: this process may do whatever "
                               "its user may");
    else if (!SANDBOX_POSSIBLE)
        log_warning("sandbox", "not there: this seismod was built with a sanitizer");
    if (!wanted(config))
        return 0;
    if (!is_single_threaded()) {
        snprintf(errmsg, SEISMO_ERRMSG, "the sandbox comes too late: there are threads already");
        return SEISMO_EINTERNAL;
    }
    /* SQLite's temporary files have to lie where they may. */
    if (setenv("SQLITE_TMPDIR", config->data, 1) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory");
        return SEISMO_ENOMEM;
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "cannot give up new privileges: %s; sandbox = off does without", strerror(errno));
        return SEISMO_EINTERNAL;
    }
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 1) {
        log_warning("sandbox",
                    "writing is not limited to the data directory: this kernel has no Landlock "
                    "(%s)",
                    strerror(errno));
        return 0;
    }
    struct ruleset r = {.handled = ACCESS_ALL};
    r.handled &= version < 2 ? ~ACCESS_REFER : ~0ULL;
    r.handled &= version < 3 ? ~ACCESS_TRUNCATE : ~0ULL;
    r.handled &= version < 5 ? ~ACCESS_IOCTL_DEV : ~0ULL;
    struct landlock_ruleset_attr attr = {.handled_access_fs = r.handled};
    r.fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr.handled_access_fs), 0);
    int rc = r.fd < 0 ? -1 : restrict_files(&r, config);
    if (rc != 0)
        snprintf(errmsg, SEISMO_ERRMSG,
                 "cannot limit writing to the data directory: %s; sandbox = off does without",
                 strerror(errno));
    if (r.fd >= 0)
        close(r.fd);
    s->files = rc == 0;
    return rc == 0 ? 0 : SEISMO_EINTERNAL;
}

/* ---- system calls ---- */

/* Those that are allowed with any arguments. */
#define CALL(name) SCMP_SYS(name)
static const int any_arguments[] = {
    /* memory, threads, time */
    CALL(brk),
    CALL(munmap),
    CALL(mlock), /* libzmq keeps its secrets in memory that is not paged out */
    CALL(munlock),
    CALL(mremap),
    CALL(madvise),
    CALL(futex),
    CALL(set_robust_list),
    CALL(rseq),
    CALL(membarrier),
    CALL(exit),
    CALL(exit_group),
    CALL(sched_yield),
    CALL(sched_getaffinity),
    CALL(sched_getparam),
    CALL(sched_getscheduler),
    CALL(getcpu),
    CALL(clock_gettime),
    CALL(clock_getres),
    CALL(clock_nanosleep),
    CALL(nanosleep),
    CALL(gettimeofday),
    CALL(time),
    CALL(restart_syscall),
    CALL(getrandom),
    /* who and where we are */
    CALL(getpid),
    CALL(getppid),
    CALL(gettid),
    CALL(getuid),
    CALL(geteuid),
    CALL(getgid),
    CALL(getegid),
    CALL(uname),
    CALL(sysinfo),
    CALL(getrusage),
    CALL(getcwd),
    CALL(umask),
    CALL(getrlimit),
    CALL(wait4),
    /* signals to this process */
    CALL(rt_sigaction),
    CALL(rt_sigprocmask),
    CALL(rt_sigreturn),
    CALL(sigaltstack),
    /* waiting */
    CALL(epoll_create1),
    CALL(epoll_ctl),
    CALL(epoll_wait),
    CALL(epoll_pwait),
    CALL(epoll_pwait2),
    CALL(poll),
    CALL(ppoll),
    CALL(select),
    CALL(pselect6),
    CALL(eventfd2),
    CALL(pipe2),
    /* files; where they may lie is the other lock's business */
    CALL(close),
    CALL(read),
    CALL(readv),
    CALL(pread64),
    CALL(preadv),
    CALL(write),
    CALL(writev),
    CALL(pwrite64),
    CALL(pwritev),
    CALL(lseek),
    CALL(ftruncate),
    CALL(fallocate),
    CALL(fsync),
    CALL(fdatasync),
    CALL(stat),
    CALL(lstat),
    CALL(fstat),
    CALL(newfstatat),
    CALL(statx),
    CALL(statfs),
    CALL(fstatfs),
    CALL(access),
    CALL(faccessat),
    CALL(faccessat2),
    CALL(readlink),
    CALL(readlinkat),
    CALL(getdents64),
    CALL(flock),
    CALL(fchown),
    CALL(mkdir),
    CALL(mkdirat),
    CALL(rmdir),
    CALL(unlink),
    CALL(unlinkat),
    CALL(rename),
    CALL(renameat),
    CALL(renameat2),
    /* sockets that are there already, and those that are accepted */
    CALL(accept),
    CALL(accept4),
    CALL(recvfrom),
    CALL(recvmsg),
    CALL(shutdown),
    CALL(getsockname),
    CALL(getpeername),
    CALL(getsockopt),
};

/* Those that are allowed when the comparisons hold. */
struct rule {
    int call;
    unsigned n;
    struct scmp_arg_cmp compare[3];
};
static const struct rule some_arguments[] = {
#define EQUAL(argument, value)                          \
    {                                                   \
        argument, SCMP_CMP_EQ, (scmp_datum_t)(value), 0 \
    }
#define MASKED(argument, mask, value)                                             \
    {                                                                             \
        argument, SCMP_CMP_MASKED_EQ, (scmp_datum_t)(mask), (scmp_datum_t)(value) \
    }
    /* No code is made or loaded any more. */
    {CALL(mmap), 1, {MASKED(2, PROT_EXEC, 0)}},
    {CALL(mprotect), 1, {MASKED(2, PROT_EXEC, 0)}},
    /* Threads, not processes. */
    {CALL(clone), 1, {MASKED(0, CLONE_THREAD | CLONE_VM, CLONE_THREAD | CLONE_VM)}},
    {CALL(prctl), 1, {EQUAL(0, PR_SET_NAME)}},
    {CALL(prlimit64), 1, {EQUAL(2, 0)}}, /* asks, does not set */
    /* libzmq sets the policy of its threads to what it is. */
    {CALL(sched_setscheduler), 1, {EQUAL(1, SCHED_OTHER)}},
    /* Landlock before Linux 6.2 lets an open for reading empty a file. And no file that is made or
     * changed can be executed, or is set-user-ID: somebody else could run it, outside of here. */
    {CALL(open), 1, {MASKED(1, O_CREAT | O_TRUNC, 0)}},
    {CALL(open), 2, {MASKED(1, O_ACCMODE, O_WRONLY), MASKED(2, 07111, 0)}},
    {CALL(open), 2, {MASKED(1, O_ACCMODE, O_RDWR), MASKED(2, 07111, 0)}},
    {CALL(openat), 1, {MASKED(2, O_CREAT | O_TRUNC, 0)}},
    {CALL(openat), 2, {MASKED(2, O_ACCMODE, O_WRONLY), MASKED(3, 07111, 0)}},
    {CALL(openat), 2, {MASKED(2, O_ACCMODE, O_RDWR), MASKED(3, 07111, 0)}},
    {CALL(fchmod), 1, {MASKED(1, 07111, 0)}},
    /* This flag would connect. */
    {CALL(sendto), 1, {MASKED(3, MSG_FASTOPEN, 0)}},
    {CALL(sendmsg), 1, {MASKED(2, MSG_FASTOPEN, 0)}},
    /* The datagram that tells systemd how things are. */
    {CALL(socket), 2, {EQUAL(0, AF_UNIX), MASKED(1, 0xf, SOCK_DGRAM)}},
    {CALL(setsockopt), 2, {EQUAL(1, IPPROTO_TCP), EQUAL(2, TCP_NODELAY)}},
    {CALL(setsockopt), 2, {EQUAL(1, IPPROTO_TCP), EQUAL(2, TCP_KEEPIDLE)}},
    {CALL(setsockopt), 2, {EQUAL(1, IPPROTO_TCP), EQUAL(2, TCP_KEEPINTVL)}},
    {CALL(setsockopt), 2, {EQUAL(1, IPPROTO_TCP), EQUAL(2, TCP_KEEPCNT)}},
    {CALL(setsockopt), 2, {EQUAL(1, IPPROTO_TCP), EQUAL(2, TCP_USER_TIMEOUT)}},
    {CALL(setsockopt), 2, {EQUAL(1, SOL_SOCKET), EQUAL(2, SO_KEEPALIVE)}},
    {CALL(setsockopt), 2, {EQUAL(1, SOL_SOCKET), EQUAL(2, SO_SNDBUF)}},
    {CALL(setsockopt), 2, {EQUAL(1, SOL_SOCKET), EQUAL(2, SO_RCVBUF)}},
    {CALL(ioctl), 1, {EQUAL(1, FIONBIO)}},
    {CALL(ioctl), 1, {EQUAL(1, FIOCLEX)}},
    {CALL(ioctl), 1, {EQUAL(1, FIONREAD)}},
    {CALL(ioctl), 1, {EQUAL(1, TCGETS)}},
    /* SQLite may ask a file whether it lies on F2FS. */
    {CALL(ioctl), 1, {EQUAL(1, _IOR(0xf5, 12, uint32_t))}},
    {CALL(fcntl), 1, {EQUAL(1, F_GETFD)}},
    {CALL(fcntl), 1, {EQUAL(1, F_SETFD)}},
    {CALL(fcntl), 1, {EQUAL(1, F_GETFL)}},
    {CALL(fcntl), 1, {EQUAL(1, F_SETFL)}},
    {CALL(fcntl), 1, {EQUAL(1, F_GETLK)}},
    {CALL(fcntl), 1, {EQUAL(1, F_SETLK)}},
    {CALL(fcntl), 1, {EQUAL(1, F_SETLKW)}},
};

/* When a client's key is revoked its connections are cut off by leaving the TCP ports and binding
 * them again, so a daemon with keys may go on to do that, after libzmq has asked over netlink which
 * addresses there are. Without keys all is bound at the start. */
static const struct rule binding[] = {
    {CALL(socket), 3, {EQUAL(0, AF_INET), MASKED(1, 0xf, SOCK_STREAM), EQUAL(2, IPPROTO_TCP)}},
    {CALL(socket), 3, {EQUAL(0, AF_INET6), MASKED(1, 0xf, SOCK_STREAM), EQUAL(2, IPPROTO_TCP)}},
    {CALL(socket), 3, {EQUAL(0, AF_NETLINK), MASKED(1, 0xf, SOCK_RAW), EQUAL(2, NETLINK_ROUTE)}},
    {CALL(bind), 0, {EQUAL(0, 0)}},
    {CALL(listen), 0, {EQUAL(0, 0)}},
    {CALL(setsockopt), 2, {EQUAL(1, SOL_SOCKET), EQUAL(2, SO_REUSEADDR)}},
    {CALL(setsockopt), 2, {EQUAL(1, IPPROTO_IPV6), EQUAL(2, IPV6_V6ONLY)}},
};
#undef EQUAL
#undef MASKED
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int add_table(scmp_filter_ctx filter, const struct rule *rules, size_t n)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, rules[i].call, rules[i].n,
                                    rules[i].compare);
    return rc;
}

static int add_rules(scmp_filter_ctx filter, const struct config *config)
{
    int rc = add_table(filter, some_arguments, COUNT(some_arguments));
    if (rc == 0 && config->server_key)
        rc = add_table(filter, binding, COUNT(binding));
    for (size_t i = 0; rc == 0 && i < COUNT(any_arguments); i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, any_arguments[i], 0);
    /* abort() signals its own thread. */
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(tgkill), 1,
                              SCMP_A0_64(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
    /* Its flags lie in memory, where no filter looks; without it the C library takes clone. */
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), CALL(clone3), 0);
    return rc;
}

int sandbox_calls(struct sandbox *s, const struct config *config, char errmsg[SEISMO_ERRMSG])
{
    if (!wanted(config))
        return 0;
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int rc = filter ? 0 : -ENOMEM;
    if (rc == 0) /* the kernel's own error codes, please */
        rc = seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1);
    if (rc == 0) /* all threads */
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0) /* a binary tree */
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (rc == 0)
        rc = add_rules(filter, config);
    if (rc == 0)
        rc = seccomp_load(filter);
    if (filter)
        seccomp_release(filter);
    s->calls = rc == 0;
    if (rc == -ENOSYS || rc == -EINVAL || rc == -EOPNOTSUPP) {
        log_warning("sandbox", "system calls are not filtered: this kernel cannot (%s)",
                    strerror(-rc));
        rc = 0;
    }
    if (rc != 0)
        snprintf(errmsg, SEISMO_ERRMSG,
                 "cannot filter system calls: %s; sandbox = off does without", strerror(-rc));
    return rc == 0 ? 0 : SEISMO_EINTERNAL;
}
