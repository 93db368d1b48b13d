#include "daemon/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/log.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Hands over `fd` with the news; false when the daemon is gone. */
static bool hand_over(int control, struct keeper_news news, int fd)
{
    union { /* aligned */
        char bytes[CMSG_SPACE(sizeof(fd))];
        struct cmsghdr head;
    } rights;
    struct iovec part = {&news, sizeof(news)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = rights.bytes,
                             .msg_controllen = sizeof(rights.bytes)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(fd));
    memcpy(CMSG_DATA(head), &fd, sizeof(fd));
    ssize_t n;
    while ((n = sendmsg(control, &message, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        ;
    return n == sizeof(news);
}

/* One life of the child. Lack of processes or descriptors is like a death: it is tried again. */
static void live(int control, void (*child)(void *arg, int fd), void *arg)
{
    int fd[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) != 0)
        return;
    pid_t pid = fork();
    if (pid == 0) {
        close(control);
        close(fd[0]);
        child(arg, fd[1]);
        _exit(EXIT_FAILURE);
    }
    close(fd[1]);
    bool heard = pid > 0 && hand_over(control, (struct keeper_news){pid}, fd[0]);
    close(fd[0]); /* if nobody has heard of it, the end of its socket ends the child */
    if (pid < 0)
        log_warning("alerts", "the hook helper cannot be started: %s", strerror(errno));
    if (!heard && pid > 0)
        kill(pid, SIGKILL);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* Waits; true when the daemon is gone before that. It says nothing, so there is nothing else. */
static bool ends_within(int control, double seconds)
{
    struct pollfd end = {.fd = control, .events = POLLIN};
    int n;
    while ((n = poll(&end, 1, (int)(seconds * 1000))) < 0 && errno == EINTR)
        ;
    return n != 0;
}

/* The log is the daemon's too, and the child's; the rest of its standard streams is not. */
static void leave_streams(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
        _exit(EXIT_FAILURE);
}

_Noreturn void keeper_run(pid_t daemon, int control, void (*child)(void *arg, int fd), void *arg)
{
    static const int ignored[] = {SIGINT, SIGHUP, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2};
    prctl(PR_SET_NAME, "seismod-keeper");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
        signal(ignored[i], SIG_IGN); /* when to stop is the daemon's business */
    leave_streams();
    double wait = KEEPER_WAIT_FIRST;
    while (getppid() == daemon) { /* or it was gone before the kernel was asked to tell */
        double born = now();
        live(control, child, arg);
        if (now() - born > KEEPER_STABLE)
            wait = KEEPER_WAIT_FIRST;
        if (ends_within(control, wait))
            break;
        wait = 2 * wait < KEEPER_WAIT_MOST ? 2 * wait : KEEPER_WAIT_MOST;
    }
    _exit(EXIT_SUCCESS); /* what the daemon meant to do at its exit is not for the keeper */
}
