#include "daemon/hookd.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "daemon/hookpipe.h"
#include "daemon/keeper.h"
#include "daemon/log.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define MAX_WORD 32 /* bytes of an event's or a condition's name */

/* One run of a hook. Its handles live in it; it is freed when the last one has closed. */
struct hook_run {
    struct hook_run *next;
    struct helper *helper;
    int64_t id; /* of the alert */
    uv_process_t process;
    uv_pipe_t in, out;
    uv_timer_t timer;
    uv_write_t write;
    char *document; /* heap, with a newline */
    int open;       /* handles not yet closed */
    bool spawned;   /* `process` is a handle */
    bool killed;    /* the daemon said so */
    bool timed_out;
    struct hook_result result;
    char buffer[HOOKD_MAX_LINE]; /* of its output: a line that is not complete */
    size_t buffered;
    size_t output; /* bytes of it told */
    bool cut;      /* there was more */
};

struct helper {
    uv_loop_t loop;
    struct hookpipe pipe;
    uv_signal_t sigterm;
    pid_t keeper;
    hookd_load load;
    void *load_arg;
    const struct config *config;
    struct config *fresh; /* the same, after a reload */
    struct hook_run *running;
    uint32_t n_running;
};

/* Without the daemon nobody hears how a hook ends, and the alert fires again at the next start;
 * with another helper after this one it does so at once. */
static _Noreturn void end(struct helper *helper)
{
    for (struct hook_run *h = helper->running; h; h = h->next) {
        if (h->spawned && uv_is_active((uv_handle_t *)&h->process)) {
            kill(-h->process.pid, SIGKILL);
        }
    }
    _exit(EXIT_SUCCESS); /* what the daemon meant to do at its exit is not for the helper */
}

static void tell(struct hook_run *h, enum hook_frame_type type, const void *data, size_t n)
{
    uv_buf_t part = uv_buf_init((char *)(uintptr_t)data, (unsigned)n);
    if (hookpipe_send(&h->helper->pipe, type, h->id, &part, 1) != 0) {
        end(h->helper); /* it would wait for ever for an answer that is lost */
    }
}

/* To the hook and whatever it started: they are a process group of their own. */
static void kill_group(struct hook_run *h, int signum)
{
    kill(-h->process.pid, signum);
}

/* ---- the end of a run ---- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct hook_run *h = handle->data;
    if (--h->open > 0) {
        return;
    }
    struct hook_run **p = &h->helper->running;
    while (*p != h) {
        p = &(*p)->next;
    }
    *p = h->next;
    h->helper->n_running--;
    tell(h, HOOK_DONE, &h->result, sizeof h->result);
    free(h->document);
    free(h);
}

static void close_handle(void *handle)
{
    if (!uv_is_closing(handle)) {
        uv_close(handle, on_handle_closed);
    }
}

static void hook_run_close(struct hook_run *h)
{
    if (h->spawned) {
        close_handle(&h->process);
    }
    close_handle(&h->in);
    close_handle(&h->out);
    close_handle(&h->timer);
}

/* ---- its output ---- */

/* One line of what a hook prints; after HOOKD_MAX_OUTPUT bytes only that there is more. */
static void take_line(struct hook_run *h, const char *p, size_t n)
{
    if (n == 0 || h->cut) {
        return;
    }
    h->cut = h->output >= HOOKD_MAX_OUTPUT;
    h->output += n;
    tell(h, HOOK_SAYS, p, h->cut ? 0 : n);
}

/* `n` more bytes lie in the buffer: tells the lines that are complete, or all when it is full. */
static void take_output(struct hook_run *h, size_t n)
{
    h->buffered += n;
    size_t from = 0;
    const char *newline;
    while ((newline = memchr(h->buffer + from, '\n', h->buffered - from))) {
        size_t to = (size_t)(newline - h->buffer);
        take_line(h, h->buffer + from, to - from);
        from = to + 1;
    }
    if (from == 0 && h->buffered == sizeof h->buffer) {
        take_line(h, h->buffer, h->buffered);
        from = h->buffered;
    }
    h->buffered -= from;
    memmove(h->buffer, h->buffer + from, h->buffered);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    (void)suggested;
    struct hook_run *h = handle->data;
    *ret = uv_buf_init(h->buffer + h->buffered, (unsigned)(sizeof h->buffer - h->buffered));
}

static void on_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    (void)buf;
    if (n < 0) {
        uv_read_stop(stream);
    } else {
        take_output(stream->data, (size_t)n);
    }
}

/* The hook may have exited before the loop saw its last words, which then still lie in the pipe. */
static void read_last_words(struct hook_run *h)
{
    uv_os_fd_t fd;
    ssize_t n;
    uv_read_stop((uv_stream_t *)&h->out);
    while (!h->cut && uv_fileno((uv_handle_t *)&h->out, &fd) == 0 &&
           (n = read(fd, h->buffer + h->buffered, sizeof h->buffer - h->buffered)) > 0) {
        take_output(h, (size_t)n);
    }
    take_line(h, h->buffer, h->buffered);
}

/* ---- its process ---- */

static void on_hook_exit(uv_process_t *process, int64_t status, int signum)
{
    struct hook_run *h = process->data;
    h->killed = h->killed && signum == SIGKILL; /* or it was quicker */
    if (h->timed_out || h->killed) {
        kill_group(h, SIGKILL); /* what it started and left behind */
    }
    h->result.code = signum ? signum : (int32_t)status;
    h->result.how = h->timed_out ? HOOK_TIMED_OUT
                    : h->killed  ? HOOK_KILLED
                    : signum     ? HOOK_SIGNALLED
                                 : HOOK_EXITED;
    read_last_words(h);
    hook_run_close(h);
}

static void on_kill_time(uv_timer_t *timer)
{
    kill_group(timer->data, SIGKILL);
}

static void on_timeout(uv_timer_t *timer)
{
    struct hook_run *h = timer->data;
    h->timed_out = true;
    kill_group(h, SIGTERM);
    uv_timer_start(timer, on_kill_time, (uint64_t)(HOOKD_KILL_AFTER * 1000), 0);
}

static void on_written(uv_write_t *write, int status)
{
    (void)status; /* a hook need not read its input */
    struct hook_run *h = write->data;
    close_handle(&h->in);
}

/* Starts the process; 0 or libuv's error. `event` and `condition` are words. */
static int spawn(struct hook_run *h, const struct config_hook *hook, const char *event,
                 const char *condition)
{
    const char *path = getenv("PATH");
    char env_path[4096], env_id[64], env_event[64], env_state[64], lang[] = "LANG=C.UTF-8";
    snprintf(env_path, sizeof env_path, "PATH=%s", path ? path : DEFAULT_PATH);
    snprintf(env_id, sizeof env_id, "SEISMO_ALERT_ID=%" PRId64, h->id);
    snprintf(env_event, sizeof env_event, "SEISMO_EVENT=%s", event);
    snprintf(env_state, sizeof env_state, "SEISMO_STATE=%s", condition);
    char *env[] = {env_path, lang, env_id, env_event, env_state, NULL};

    uv_file fd[2];
    int rc = uv_pipe(fd, UV_NONBLOCK_PIPE, 0);
    if (rc < 0) {
        return rc;
    }
    rc = uv_pipe_open(&h->out, fd[0]);
    if (rc < 0) {
        close(fd[0]);
        close(fd[1]);
        return rc;
    }
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&h->in},
        {.flags = UV_INHERIT_FD, .data.fd = fd[1]},
        {.flags = UV_INHERIT_FD, .data.fd = fd[1]},
    };
    uv_process_options_t options = {
        .file = hook->argv[0],
        .args = (char **)hook->argv,
        .env = env,
        .flags = UV_PROCESS_DETACHED, /* a session, and so a process group, of its own */
        .stdio = stdio,
        .stdio_count = 3,
        .exit_cb = on_hook_exit,
    };
    h->spawned = true; /* even when it fails */
    h->open++;
    rc = uv_spawn(&h->helper->loop, &h->process, &options);
    close(fd[1]);
    return rc;
}

static const struct config_hook *find_hook(const struct config *config, const char *name)
{
    for (uint32_t i = 0; i < config->n_hooks; i++) {
        if (strcmp(config->hook[i].name, name) == 0) {
            return &config->hook[i];
        }
    }
    return NULL;
}

/* ---- what the daemon says ---- */

/* Takes the next string of a frame; NULL when it is not there, or too long. */
static const char *next_string(const char **at, const char *end, size_t most)
{
    const char *string = *at;
    const char *zero = memchr(string, '\0', (size_t)(end - string));
    if (!zero || (size_t)(zero - string) > most) {
        return NULL;
    }
    *at = zero + 1;
    return string;
}

/* A name of ours, which may go into an environment. */
static bool is_word(const char *s)
{
    return s && s[strspn(s, "abcdefghijklmnopqrstuvwxyz_")] == '\0';
}

static void on_run(struct helper *helper, const struct hook_frame *frame, const char *data)
{
    const char *at = data, *behind = data + frame->size;
    const char *name = next_string(&at, behind, CONFIG_MAX_HOOK_NAME);
    const char *event = name ? next_string(&at, behind, MAX_WORD) : NULL;
    const char *condition = event ? next_string(&at, behind, MAX_WORD) : NULL;
    struct hook_run *h = calloc(1, sizeof *h);
    size_t n = condition ? (size_t)(behind - at) : 0;
    if (!h || !(h->document = malloc(n + 1))) {
        end(helper);
    }
    memcpy(h->document, at, n);
    h->document[n] = '\n';
    h->id = frame->id;
    h->helper = helper;
    h->next = helper->running;
    helper->running = h;
    helper->n_running++;
    h->open = 3;
    uv_pipe_init(&helper->loop, &h->in, 0);
    uv_pipe_init(&helper->loop, &h->out, 0);
    uv_timer_init(&helper->loop, &h->timer);
    h->process.data = h->in.data = h->out.data = h->timer.data = h->write.data = h;

    const struct config_hook *hook = name ? find_hook(helper->config, name) : NULL;
    int rc = !is_word(event) || !is_word(condition)  ? UV_EINVAL
             : helper->n_running > HOOKD_MAX_RUNNING ? UV_EAGAIN
                                                     : 0;
    if (rc == 0 && hook) {
        rc = spawn(h, hook, event, condition);
    }
    if (rc != 0 || !hook) {
        h->result = rc != 0 ? (struct hook_result){HOOK_NOT_STARTED, rc}
                            : (struct hook_result){HOOK_UNKNOWN, 0};
        hook_run_close(h);
        return;
    }
    uv_timer_start(&h->timer, on_timeout, (uint64_t)(hook->timeout * 1000), 0);
    uv_read_start((uv_stream_t *)&h->out, on_alloc, on_output);
    uv_buf_t document = uv_buf_init(h->document, (unsigned)n + 1);
    if (uv_write(&h->write, (uv_stream_t *)&h->in, &document, 1, on_written) < 0) {
        close_handle(&h->in);
    }
}

static void on_kill(struct helper *helper, int64_t id)
{
    for (struct hook_run *h = helper->running; h; h = h->next) {
        if (h->id == id && h->spawned && uv_is_active((uv_handle_t *)&h->process)) {
            h->killed = true;
            kill_group(h, SIGKILL);
        }
    }
}

static void on_reload(struct helper *helper)
{
    struct config *fresh;
    char errmsg[SEISMO_ERRMSG];
    if (helper->load(helper->load_arg, &fresh, errmsg) != 0) {
        log_error("alerts", "the hooks stay as they were: %s", errmsg);
        return;
    }
    config_free(&helper->fresh); /* hooks that run have copied what they need */
    helper->config = helper->fresh = fresh;
    log_set_level((enum log_priority)fresh->log_level);
}

static void on_frame(void *arg, const struct hook_frame *frame, const char *data)
{
    struct helper *helper = arg;
    switch (frame->type) {
    case HOOK_RUN:
        on_run(helper, frame, data);
        break;
    case HOOK_KILL:
        on_kill(helper, frame->id);
        break;
    case HOOK_RELOAD:
        on_reload(helper);
        break;
    }
}

static void on_end(void *arg)
{
    end(arg);
}

/* ---- life ---- */

/* SIGTERM comes from the kernel when the keeper is gone, and the daemon mostly too. One that
 * somebody sends to all processes of a group is the daemon's business, which stops in order and
 * needs its hooks meanwhile. */
static void on_sigterm(uv_signal_t *handle, int number)
{
    (void)number;
    struct helper *helper = handle->data;
    if (getppid() != helper->keeper) {
        end(helper);
    }
}

static void ignore_signals(void)
{
    static const int ignored[] = {SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++) {
        signal(ignored[i], SIG_IGN); /* libuv gives hooks the default disposition back */
    }
}

static void run(void *arg, int fd)
{
    struct helper *helper = arg;
    prctl(PR_SET_NAME, "seismod-hooks");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    ignore_signals();
    helper->pipe.on_frame = on_frame;
    helper->pipe.on_end = on_end;
    helper->pipe.arg = helper;
    if (uv_loop_init(&helper->loop) < 0 || hookpipe_open(&helper->pipe, &helper->loop, fd) < 0 ||
        uv_signal_init(&helper->loop, &helper->sigterm) < 0 ||
        uv_signal_start(&helper->sigterm, on_sigterm, SIGTERM) < 0) {
        _exit(EXIT_FAILURE);
    }
    helper->sigterm.data = helper;
    if (getppid() != helper->keeper) { /* gone before the kernel was asked to tell */
        end(helper);
    }
    uv_run(&helper->loop, UV_RUN_DEFAULT);
    end(helper);
}

int hookd_start(const struct config *config, hookd_load load, void *load_arg,
                struct hookd *ret_hookd, char errmsg[SEISMO_ERRMSG])
{
    int fd[2];
    struct helper *helper = calloc(1, sizeof *helper);
    if (!helper || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory or file descriptors for the hook helper");
        free(helper);
        return SEISMO_ENOMEM;
    }
    pid_t daemon = getpid();
    helper->config = config;
    helper->load = load;
    helper->load_arg = load_arg;
    pid_t pid = fork();
    if (pid == 0) {
        close(fd[0]);
        helper->keeper = getpid();
        keeper_run(daemon, fd[1], run, helper);
    }
    free(helper);
    close(fd[1]);
    if (pid < 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot start the hook helper: %s", strerror(errno));
        close(fd[0]);
        return SEISMO_EINTERNAL;
    }
    *ret_hookd = (struct hookd){pid, fd[0]};
    return 0;
}
