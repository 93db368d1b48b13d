/* The sandbox: what it forbids is fatal, or fails, and what the daemon does works.
 *
 * Each case runs in a child of its own, because no lock can be taken off. A build with a sanitizer
 * has no sandbox, and only that is tested there. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <sqlite3.h>

#include "daemon/log.h"
#include "daemon/sandbox.h"

#define ARMED 42 /* exit status of a child that came to its end */

static char home[] = "/tmp/seismo-sandbox-XXXXXX", data[64], outside[64];
static bool landlock; /* of this kernel */

enum locks { NO_LOCK, FILES, BOTH };

static char *server_key;      /* of the configuration */
static void (*between)(void); /* the two locks, if anything */

/* In the child: the locks, then `act`. */
static void lock_and_act(enum locks locks, void (*act)(void))
{
    char errmsg[SEISMO_ERRMSG];
    struct config config = {.data = data, .sandbox = locks != NO_LOCK, .server_key = server_key};
    struct sandbox s = {0};
    if (sandbox_files(&s, &config, errmsg) != 0 || (between && (between(), false)) ||
        (locks != FILES && sandbox_calls(&s, &config, errmsg) != 0)) {
        fprintf(stderr, "%s\n", errmsg);
        _exit(1);
    }
    bool want = locks != NO_LOCK && SANDBOX_POSSIBLE;
    if (s.calls != (want && locks == BOTH) || s.files != (want && landlock)) {
        fprintf(stderr, "locks: files %d, calls %d\n", s.files, s.calls);
        _exit(2);
    }
    act();
    _exit(ARMED);
}

/* How the child ends. */
static int run(enum locks locks, void (*act)(void))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        lock_and_act(locks, act);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
            _exit(3);                                                                    \
        }                                                                                \
    } while (0)

static void assert_works(enum locks locks, void (*act)(void))
{
    int status = run(locks, act);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), ARMED);
}

/* ---- what is fatal ---- */

/* With arguments that make the kernel refuse, were the call to reach it, so that nothing happens to
 * the machine when a case fails. What is not given is 0. */
#define TEXT(s) (long)(uintptr_t)(s)
static const struct forbidden {
    const char *name;
    long number, argument[6];
} forbidden[] = {
    {"execve", SYS_execve, {TEXT("/nowhere")}},
    {"execveat", SYS_execveat, {AT_FDCWD, TEXT("/nowhere")}},
    {"fork", SYS_clone, {SIGCHLD}},
    {"fork with memory shared", SYS_clone, {CLONE_VM | CLONE_VFORK | SIGCHLD, 1}},
    {"new user namespace", SYS_clone, {CLONE_NEWUSER | SIGCHLD}},
    {"unshare", SYS_unshare, {CLONE_NEWUSER}},
    {"setns", SYS_setns, {-1}},
    {"ptrace", SYS_ptrace, {PTRACE_TRACEME}},
    {"process_vm_readv", SYS_process_vm_readv, {1}},
    {"process_vm_writev", SYS_process_vm_writev, {1}},
    {"pidfd_open", SYS_pidfd_open, {1}},
    {"kill", SYS_kill, {1, 0}},
    {"tgkill of another", SYS_tgkill, {1, 1, 0}},
    {"mount", SYS_mount, {TEXT("none"), TEXT("/nowhere"), TEXT("tmpfs")}},
    {"umount", SYS_umount2, {TEXT("/nowhere")}},
    {"chroot", SYS_chroot, {TEXT("/nowhere")}},
    {"pivot_root", SYS_pivot_root, {TEXT("/nowhere"), TEXT("/nowhere")}},
    {"packet socket", SYS_socket, {AF_PACKET, SOCK_RAW}},
    {"netlink socket", SYS_socket, {AF_NETLINK, SOCK_RAW}},
    {"vsock socket", SYS_socket, {AF_VSOCK, SOCK_STREAM}},
    {"TCP socket", SYS_socket, {AF_INET, SOCK_STREAM}},
    {"UDP socket", SYS_socket, {AF_INET6, SOCK_DGRAM}},
    {"unix stream socket", SYS_socket, {AF_UNIX, SOCK_STREAM}},
    {"connect", SYS_connect, {-1}},
    {"sendto that connects", SYS_sendto, {-1, 0, 0, MSG_FASTOPEN}},
    {"sendmsg that connects", SYS_sendmsg, {-1, 0, MSG_FASTOPEN}},
    {"MPTCP socket", SYS_socket, {AF_INET, SOCK_STREAM, IPPROTO_MPTCP}},
    {"netfilter", SYS_socket, {AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER}},
    {"bind", SYS_bind, {-1}},
    {"listen", SYS_listen, {-1}},
    {"executable page", SYS_mmap, {0, 4096, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1}},
    {"page made executable", SYS_mprotect, {0, 0, PROT_READ | PROT_EXEC}},
    {"memfd_create", SYS_memfd_create, {TEXT("x"), -1}},
    {"prctl", SYS_prctl, {PR_SET_DUMPABLE, 1}},
    {"seccomp", SYS_seccomp, {-1}},
    {"setuid", SYS_setuid, {-1}},
    {"setresgid", SYS_setresgid, {-1, -1, -1}},
    {"capset", SYS_capset, {0}},
    {"setrlimit", SYS_prlimit64, {0, RLIMIT_NOFILE, 1}},
    {"chmod", SYS_chmod, {TEXT("/nowhere")}},
    {"set-user-ID", SYS_fchmod, {-1, 04700}},
    {"a file to execute", SYS_fchmod, {-1, 0711}},
    {"a new one", SYS_openat, {AT_FDCWD, TEXT("/nowhere/x"), O_WRONLY | O_CREAT, 0755}},
    {"a new set-group-ID file", SYS_open, {TEXT("/nowhere/x"), O_RDWR | O_CREAT, 02600}},
    {"emptied for reading", SYS_open, {TEXT("/nowhere"), O_RDONLY | O_TRUNC}},
    {"the same by openat", SYS_openat, {AT_FDCWD, TEXT("/nowhere"), O_RDONLY | O_TRUNC}},
    {"emptied for nothing", SYS_openat, {AT_FDCWD, TEXT("/nowhere"), O_ACCMODE | O_TRUNC}},
    {"chown", SYS_chown, {TEXT("/nowhere")}},
    {"symlink", SYS_symlink, {TEXT(""), TEXT("")}},
    {"link", SYS_link, {TEXT(""), TEXT("")}},
    {"mknod", SYS_mknod, {TEXT("/nowhere/x"), S_IFCHR}},
    {"setxattr", SYS_setxattr, {TEXT("/nowhere"), TEXT("")}},
    {"bpf", SYS_bpf, {-1}},
    {"perf_event_open", SYS_perf_event_open, {0}},
    {"io_uring_setup", SYS_io_uring_setup, {0}},
    {"userfaultfd", SYS_userfaultfd, {-1}},
    {"keyctl", SYS_keyctl, {-1}},
    {"personality", SYS_personality, {0xffffffff}},
    {"open_by_handle_at", SYS_open_by_handle_at, {-1}},
    {"init_module", SYS_init_module, {0}},
    {"reboot", SYS_reboot, {0}},
    {"clock_settime", SYS_clock_settime, {-1}},
    {"sethostname", SYS_sethostname, {0, -1}},
    {"swapon", SYS_swapon, {0}},
    {"typing into a terminal", SYS_ioctl, {-1, TIOCSTI}},
    {"signals for input", SYS_fcntl, {-1, F_SETOWN}},
    {"filter of a socket", SYS_setsockopt, {-1, SOL_SOCKET, SO_ATTACH_FILTER}},
    {"real-time priority", SYS_sched_setscheduler, {0, SCHED_FIFO}},
    {"a call that does not exist", 100000, {0}},
};
#define N_FORBIDDEN (sizeof forbidden / sizeof forbidden[0])

static const struct forbidden *chosen = &forbidden[0];

static void do_forbidden(void)
{
    const long *a = chosen->argument;
    syscall(chosen->number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void assert_killed(const char *name, int status)
{
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS) {
        fail_msg("%s: status %x, not killed by SIGSYS", name, (unsigned)status);
    }
}

static void test_forbidden_calls_are_fatal(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FORBIDDEN; i++) {
        chosen = &forbidden[i];
        assert_killed(chosen->name, run(BOTH, do_forbidden));
    }
}

/* Otherwise the test above would prove nothing. */
static void test_they_are_not_without_the_lock(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FORBIDDEN; i++) {
        chosen = &forbidden[i];
        assert_works(NO_LOCK, do_forbidden);
    }
}

static void *forbidden_in_a_thread(void *arg)
{
    if (arg) { /* one that is older than the lock waits for it */
        char byte;
        CHECK(read(*(int *)arg, &byte, 1) == 1);
    }
    do_forbidden();
    return NULL;
}

static int go[2];

static void let_go(void)
{
    CHECK(write(go[1], "", 1) == 1);
    sleep(30);
}

static void start_waiting_thread(void)
{
    pthread_t thread;
    CHECK(pipe(go) == 0);
    CHECK(pthread_create(&thread, NULL, forbidden_in_a_thread, &go[0]) == 0);
}

static void test_older_threads_too(void **state)
{
    (void)state;
    between = start_waiting_thread;
    assert_killed("a thread older than the lock", run(BOTH, let_go));
    between = NULL;
}

/* Landlock is for one thread and its children. */
static void lock_files_too_late(void)
{
    char errmsg[SEISMO_ERRMSG];
    struct sandbox s = {0};
    struct config config = {.data = data, .sandbox = true};
    start_waiting_thread();
    CHECK(sandbox_files(&s, &config, errmsg) != 0 && !s.files);
}

static void test_files_are_locked_before_any_thread(void **state)
{
    (void)state;
    assert_works(NO_LOCK, lock_files_too_late);
}

static void start_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, forbidden_in_a_thread, NULL) == 0);
    pthread_join(thread, NULL);
}

static void test_younger_threads_too(void **state)
{
    (void)state;
    assert_killed("a thread younger than the lock", run(BOTH, start_thread));
}

#ifdef __x86_64__
/* The calls of 32-bit programs have other numbers, among which getpid's is writev's. */
static void call_as_32_bit(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
}
#endif

static void test_other_architectures(void **state)
{
    (void)state;
#ifdef __x86_64__
    assert_killed("int 0x80", run(BOTH, call_as_32_bit));
#endif
}

/* ---- files ---- */

static const char *at(const char *directory, const char *name)
{
    static char path[2][128];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", directory, name);
    return path[turn];
}

#define REFUSED(call) CHECK((call) < 0 && (errno == EACCES || errno == EXDEV))

static void write_everywhere(void)
{
    int fd = open(at(data, "new"), O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1 && fsync(fd) == 0 && ftruncate(fd, 0) == 0);
    CHECK(rename(at(data, "new"), at(data, "other")) == 0 && unlink(at(data, "other")) == 0);
    fd = open(at(outside, "file"), O_RDONLY);
    char byte;
    CHECK(fd >= 0 && read(fd, &byte, 1) == 1);
    CHECK(open("/proc/self/status", O_RDONLY) >= 0);

    REFUSED(open(at(outside, "file"), O_WRONLY));
    REFUSED(open(at(outside, "file"), O_RDWR | O_TRUNC));
    REFUSED(open(at(outside, "new"), O_WRONLY | O_CREAT, 0600));
    REFUSED(open(at(data, "../outside/file"), O_WRONLY));
    REFUSED(open(at(data, "way_out"), O_WRONLY)); /* a symbolic link */
    REFUSED(open("/proc/self/mem", O_RDWR));
    REFUSED(unlink(at(outside, "file")));
    REFUSED(mkdir(at(outside, "directory"), 0700));
    REFUSED(rename(at(outside, "file"), at(data, "file")));
    REFUSED(rename(at(data, "inside"), at(outside, "inside")));
}

static void execute(void)
{
    char *const argv[] = {"true", NULL};
    execv("/bin/true", argv);
    CHECK(errno == EACCES);
}

static void test_writing_is_limited_to_the_data(void **state)
{
    (void)state;
    if (landlock) {
        assert_works(FILES, write_everywhere);
        assert_works(FILES, execute);
        assert_works(BOTH, write_everywhere);
    } else {
        assert_works(FILES, do_forbidden); /* and lock_and_act has seen that it says so */
    }
}

/* The directories of the socket files: sockets, and nothing else. */
static void make_sockets(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", at(outside, "socket"));
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(unlink(address.sun_path) == 0);
    if (landlock) {
        REFUSED(open(at(outside, "new"), O_WRONLY | O_CREAT, 0600));
        snprintf(address.sun_path, sizeof address.sun_path, "%s", at(home, "socket"));
        REFUSED(bind(fd, (struct sockaddr *)&address, sizeof address));
    }
}

static void test_directories_of_sockets(void **state)
{
    (void)state;
    for (int key = 0; key < 3; key++) {
        pid_t pid = fork();
        int status;
        if (pid == 0) {
            char errmsg[SEISMO_ERRMSG], endpoint[128];
            struct sandbox s = {0};
            struct config config = {.data = data, .sandbox = true};
            snprintf(endpoint, sizeof endpoint, "ipc://%s/socket", outside);
            config.ingest[0] = key == 0 ? endpoint : "tcp://127.0.0.1:1";
            config.query = key == 1 ? endpoint : NULL;
            config.events = key == 2 ? endpoint : "ipc:///does/not/exist";
            CHECK(sandbox_files(&s, &config, errmsg) == 0);
            make_sockets();
            _exit(ARMED);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == ARMED);
    }
}

/* ---- what works ---- */

static void *count(void *arg)
{
    ++*(int *)arg;
    return NULL;
}

static void live_on(void)
{
    pthread_t thread[4];
    int n = 0;
    for (int i = 0; i < 4; i++) { /* one after the other: `n` is nobody's secret */
        CHECK(pthread_create(&thread[i], NULL, count, &n) == 0);
        CHECK(pthread_join(thread[i], NULL) == 0);
    }
    CHECK(n == 4);
    char *memory = malloc(64 << 20);
    CHECK(memory);
    memset(memory, 1, 64 << 20);
    memory = realloc(memory, 128 << 20);
    CHECK(memory);
    free(memory);
    time_t now = time(NULL);
    struct tm tm;
    CHECK(localtime_r(&now, &tm));
    int event = eventfd(0, EFD_NONBLOCK), epoll = epoll_create1(0);
    struct epoll_event wanted = {.events = EPOLLIN};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted) == 0);
    CHECK(eventfd_write(event, 1) == 0 && epoll_wait(epoll, &wanted, 1, 1000) == 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(fd >= 0);
    prctl(PR_SET_NAME, "confined");
    CHECK(syscall(SYS_clone3, NULL, 0) < 0 && errno == ENOSYS);
}

/* Sorts more than SQLite keeps in memory, which takes a temporary file. */
static void sort_in_a_file(void)
{
    sqlite3 *db;
    CHECK(sqlite3_open(at(data, "sort.db"), &db) == SQLITE_OK);
    int rc = sqlite3_exec(
        db,
        "PRAGMA journal_mode=WAL; PRAGMA cache_size=-512; CREATE TABLE t(x);"
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < 20000)"
        " INSERT INTO t SELECT hex(randomblob(200)) FROM c;"
        "CREATE TABLE u AS SELECT x FROM t ORDER BY x; PRAGMA wal_checkpoint(TRUNCATE)",
        NULL, NULL, NULL);
    CHECK(rc == SQLITE_OK);
    CHECK(sqlite3_close(db) == SQLITE_OK);
}

static void test_what_a_daemon_does_works(void **state)
{
    (void)state;
    assert_works(BOTH, live_on);
    assert_works(BOTH, sort_in_a_file);
}

/* A daemon with keys leaves its TCP ports and binds them again. */
static void bind_again(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 1) == 0);
    CHECK(socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP) >= 0 || errno == EAFNOSUPPORT);
    CHECK(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0) >= 0);
}

static void test_with_keys(void **state)
{
    (void)state;
    static const char *const still[] = {
        "packet socket", "UDP socket", "unix stream socket",   "MPTCP socket",         "netfilter",
        "connect",       "execve",     "sendto that connects", "sendmsg that connects"};
    server_key = "/etc/seismo/server.key";
    assert_works(BOTH, bind_again);
    for (size_t i = 0; i < N_FORBIDDEN; i++) {
        for (size_t j = 0; j < sizeof still / sizeof still[0]; j++) {
            if (strcmp(forbidden[i].name, still[j]) == 0) {
                chosen = &forbidden[i];
                assert_killed(chosen->name, run(BOTH, do_forbidden));
            }
        }
    }
    server_key = NULL;
    chosen = &forbidden[0];
    assert_killed("binding without keys", run(BOTH, bind_again));
}

/* A failed assertion must not look like an attack. */
static void test_abort_stays_an_abort(void **state)
{
    (void)state;
    int status = run(BOTH, abort);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

/* A sanitizer's build goes on without. */
static void test_no_sandbox_with_a_sanitizer(void **state)
{
    (void)state;
    assert_works(BOTH, do_forbidden);
}

static void touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
}

static int setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(home));
    snprintf(data, sizeof data, "%s/data", home);
    snprintf(outside, sizeof outside, "%s/outside", home);
    assert_int_equal(mkdir(data, 0700), 0);
    assert_int_equal(mkdir(outside, 0700), 0);
    touch(at(data, "inside"));
    touch(at(outside, "file"));
    assert_int_equal(symlink("../outside/file", at(data, "way_out")), 0);
    log_set_level(LOG_ERROR); /* each case without a lock warns of it */
    landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", home);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forbidden_calls_are_fatal),
        cmocka_unit_test(test_they_are_not_without_the_lock),
        cmocka_unit_test(test_older_threads_too),
        cmocka_unit_test(test_files_are_locked_before_any_thread),
        cmocka_unit_test(test_younger_threads_too),
        cmocka_unit_test(test_other_architectures),
        cmocka_unit_test(test_writing_is_limited_to_the_data),
        cmocka_unit_test(test_directories_of_sockets),
        cmocka_unit_test(test_what_a_daemon_does_works),
        cmocka_unit_test(test_with_keys),
        cmocka_unit_test(test_abort_stays_an_abort),
    };
    const struct CMUnitTest sanitized[] = {
        cmocka_unit_test(test_no_sandbox_with_a_sanitizer),
    };
    return SANDBOX_POSSIBLE ? cmocka_run_group_tests(tests, setup, teardown)
                            : cmocka_run_group_tests(sanitized, setup, teardown);
}
