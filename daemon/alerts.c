#include "daemon/alerts.h"

#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"

#define BUCKETS 1024
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The alerts of one run for one hook, in order; exists while there are any. A lane is either
 * running its first alert's hook, or in the list of ready lanes, or in the list of those backing
 * off. */
struct lane {
    struct lane *bucket_next, *next;
    char hook[sizeof((struct config_hook *)0)->name];
    char run[SEISMO_MAX_NAME + 16];
    struct alert *first, **end;
    uint32_t attempts; /* hook runs for `first` that failed */
    uint64_t due;      /* uv_now at which a lane that backs off is ready again */
};

/* One run of a hook. Its handles live in it; it is freed when the last one has closed. */
struct hook_run {
    struct hook_run *next;
    struct alerts *a;
    struct lane *lane;
    uv_process_t process;
    uv_pipe_t in, out;
    uv_timer_t timer;
    uv_write_t write;
    int open;     /* handles not yet closed */
    bool spawned; /* `process` is a handle */
    bool stopped; /* killed because the daemon stops: not an attempt */
    bool timed_out;
    bool hopeless; /* trying again would not help */
    bool ok;
    char result[64];
    char buffer[512]; /* of its output: a line that is not complete */
    size_t buffered;
    size_t output; /* bytes of it logged */
    bool cut;      /* there was more */
};

struct alerts {
    uv_loop_t *loop;
    const struct config *config; /* borrowed */
    alerts_done done;
    void *arg;
    double backoff; /* s */
    struct lane *bucket[BUCKETS];
    struct lane *ready, **ready_end;
    struct lane *backing_off;
    struct hook_run *running;
    uint32_t n_running, n_alerts;
    uv_timer_t timer; /* the next lane is ready again; while closing: the grace time is over */
    struct log_limit overflow;
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
};

static void pump(struct alerts *a);

/* ---- lanes ---- */

static uint32_t lane_hash(const char *hook, const char *run)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (const char *p = hook; *p; p++) {
        h = (h ^ (uint8_t)*p) * 16777619u;
    }
    for (const char *p = run; *p; p++) {
        h = (h ^ (uint8_t)*p) * 16777619u;
    }
    return h % BUCKETS;
}

/* Finds or makes the lane; NULL when out of memory. */
static struct lane *lane_get(struct alerts *a, const char *hook, const char *run)
{
    struct lane **bucket = &a->bucket[lane_hash(hook, run)];
    for (struct lane *l = *bucket; l; l = l->bucket_next) {
        if (strcmp(l->hook, hook) == 0 && strcmp(l->run, run) == 0) {
            return l;
        }
    }
    struct lane *l = calloc(1, sizeof *l);
    if (l) {
        snprintf(l->hook, sizeof l->hook, "%s", hook);
        snprintf(l->run, sizeof l->run, "%s", run);
        l->end = &l->first;
        l->bucket_next = *bucket;
        *bucket = l;
    }
    return l;
}

static void lane_free(struct alerts *a, struct lane *lane)
{
    struct lane **p = &a->bucket[lane_hash(lane->hook, lane->run)];
    while (*p != lane) {
        p = &(*p)->bucket_next;
    }
    *p = lane->bucket_next;
    free(lane);
}

static void alert_free(struct alert *alert)
{
    free(alert->json);
    free(alert);
}

static void lane_pop(struct alerts *a, struct lane *l)
{
    struct alert *alert = l->first;
    l->first = alert->next;
    l->end = l->first ? l->end : &l->first;
    l->attempts = 0;
    a->n_alerts--;
    alert_free(alert);
}

static void set_ready(struct alerts *a, struct lane *l)
{
    l->next = NULL;
    *a->ready_end = l;
    a->ready_end = &l->next;
}

static void on_backoff_over(uv_timer_t *timer)
{
    struct alerts *a = timer->data;
    uint64_t now = uv_now(a->loop), next = 0;
    for (struct lane **p = &a->backing_off; *p;) {
        struct lane *l = *p;
        if (l->due <= now) {
            *p = l->next;
            set_ready(a, l);
        } else {
            next = next == 0 || l->due < next ? l->due : next;
            p = &l->next;
        }
    }
    if (next) {
        uv_timer_start(&a->timer, on_backoff_over, next - now, 0);
    }
    pump(a);
}

/* The first alert's hook has failed `attempts` times and is tried again later. */
static void back_off(struct alerts *a, struct lane *l)
{
    double wait = a->backoff;
    for (uint32_t i = 1; i < l->attempts; i++) {
        wait *= 4;
    }
    uint64_t ms = (uint64_t)(wait * 1000);
    l->due = uv_now(a->loop) + ms;
    l->next = a->backing_off;
    a->backing_off = l;
    if (!uv_is_active((uv_handle_t *)&a->timer) || uv_timer_get_due_in(&a->timer) > ms) {
        uv_timer_start(&a->timer, on_backoff_over, ms, 0);
    }
}

/* ---- one run of a hook ---- */

/* To the hook and whatever it started: they are a process group of their own. */
static void kill_group(struct hook_run *h, int signum)
{
    kill(-h->process.pid, signum);
}

static void maybe_closed(struct alerts *a);

/* All handles are closed: says how it went, and goes on with the lane. */
static void hook_run_finish(struct hook_run *h)
{
    struct alerts *a = h->a;
    struct lane *l = h->lane;
    struct hook_run **p = &a->running;
    while (*p != h) {
        p = &(*p)->next;
    }
    *p = h->next;
    a->n_running--;
    if (!h->stopped) {
        int64_t id = l->first->id;
        bool give_up = !h->ok && (h->hopeless || ++l->attempts >= ALERTS_ATTEMPTS);
        char result[sizeof h->result + 16];
        snprintf(result, sizeof result, "%s%s", h->result, give_up ? ", gave up" : "");
        if (h->ok) {
            log_info("alerts", "hook '%s' took alert %" PRId64, l->hook, id);
        } else {
            log_warning("alerts", "hook '%s' did not take alert %" PRId64 ": %s", l->hook, id,
                        result);
        }
        a->done(a->arg, id, h->ok, result);
        if (h->ok || give_up) {
            lane_pop(a, l);
        }
    }
    free(h);
    if (!l->first) {
        lane_free(a, l);
    } else if (l->attempts > 0 && !a->closing) {
        back_off(a, l);
    } else if (!a->closing) {
        set_ready(a, l);
    }
    if (a->closing) {
        maybe_closed(a);
    } else {
        pump(a);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct hook_run *h = handle->data;
    if (--h->open == 0) {
        hook_run_finish(h);
    }
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

/* One line of what a hook prints; after ALERTS_MAX_OUTPUT bytes only that there is more. */
static void log_line(struct hook_run *h, const char *p, size_t n)
{
    char quoted[LOG_LINE - 128];
    if (n == 0) {
        return;
    }
    if (h->output >= ALERTS_MAX_OUTPUT) {
        if (!h->cut) {
            log_info("alerts", "hook '%s' for alert %" PRId64 " says more than %d bytes, not shown",
                     h->lane->hook, h->lane->first->id, ALERTS_MAX_OUTPUT);
        }
        h->cut = true;
    } else {
        h->output += n;
        log_info("alerts", "hook '%s' for alert %" PRId64 " says %s", h->lane->hook,
                 h->lane->first->id, log_quote(quoted, sizeof quoted, p, n));
    }
}

/* `n` more bytes lie in the buffer: logs the lines that are complete, or all when it is full. */
static void take_output(struct hook_run *h, size_t n)
{
    h->buffered += n;
    size_t from = 0;
    const char *end;
    while ((end = memchr(h->buffer + from, '\n', h->buffered - from))) {
        size_t to = (size_t)(end - h->buffer);
        log_line(h, h->buffer + from, to - from);
        from = to + 1;
    }
    if (from == 0 && h->buffered == sizeof h->buffer) {
        log_line(h, h->buffer, h->buffered);
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
    log_line(h, h->buffer, h->buffered);
}

static void on_hook_exit(uv_process_t *process, int64_t status, int signum)
{
    struct hook_run *h = process->data;
    h->stopped = h->stopped && signum == SIGKILL; /* or it was quicker */
    if (h->timed_out || h->stopped) {
        kill_group(h, SIGKILL); /* what it started and left behind */
    }
    if (h->timed_out) {
        snprintf(h->result, sizeof h->result, "timeout");
    } else if (signum) {
        snprintf(h->result, sizeof h->result, "signal %d", signum);
    } else {
        snprintf(h->result, sizeof h->result, "exit %" PRId64, status);
        h->ok = status == 0;
    }
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
    uv_timer_start(timer, on_kill_time, (uint64_t)(ALERTS_KILL_AFTER * 1000), 0);
}

static void on_written(uv_write_t *write, int status)
{
    (void)status; /* a hook need not read its input */
    struct hook_run *h = write->data;
    close_handle(&h->in);
}

static const struct config_hook *find_hook(const struct alerts *a, const char *name)
{
    for (uint32_t i = 0; i < a->config->n_hooks; i++) {
        if (strcmp(a->config->hook[i].name, name) == 0) {
            return &a->config->hook[i];
        }
    }
    return NULL;
}

/* Starts the process; 0 or libuv's error. */
static int spawn(struct hook_run *h, const struct config_hook *hook)
{
    const struct alert *alert = h->lane->first;
    const char *path = getenv("PATH");
    const char *event = "", *condition = "";
    char env_path[4096], env_id[64], env_event[64], env_state[64];
    json_t *document = json_loads(alert->json, 0, NULL);
    json_unpack(document, "{s:s, s:s}", "event", &event, "condition", &condition);
    snprintf(env_path, sizeof env_path, "PATH=%s", path ? path : DEFAULT_PATH);
    snprintf(env_id, sizeof env_id, "SEISMO_ALERT_ID=%" PRId64, alert->id);
    snprintf(env_event, sizeof env_event, "SEISMO_EVENT=%s", event);
    snprintf(env_state, sizeof env_state, "SEISMO_STATE=%s", condition);
    json_decref(document);
    char lang[] = "LANG=C.UTF-8";
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
    rc = uv_spawn(h->a->loop, &h->process, &options);
    close(fd[1]);
    return rc;
}

/* Runs the hook of the lane's first alert. What goes wrong is found out by hook_run_finish. */
static void hook_run_start(struct alerts *a, struct lane *l)
{
    struct hook_run *h = calloc(1, sizeof *h);
    if (!h) {
        back_off(a, l); /* out of memory is not the hook's failure */
        return;
    }
    h->a = a;
    h->lane = l;
    h->next = a->running;
    a->running = h;
    a->n_running++;
    h->open = 3;
    uv_pipe_init(a->loop, &h->in, 0);
    uv_pipe_init(a->loop, &h->out, 0);
    uv_timer_init(a->loop, &h->timer);
    h->process.data = h->in.data = h->out.data = h->timer.data = h->write.data = h;

    const struct config_hook *hook = find_hook(a, l->hook);
    if (!hook) {
        snprintf(h->result, sizeof h->result, "no such hook");
        h->hopeless = true;
        hook_run_close(h);
        return;
    }
    int rc = spawn(h, hook);
    if (rc < 0) {
        snprintf(h->result, sizeof h->result, "cannot start: %s", uv_strerror(rc));
        hook_run_close(h);
        return;
    }
    uv_timer_start(&h->timer, on_timeout, (uint64_t)(hook->timeout * 1000), 0);
    uv_read_start((uv_stream_t *)&h->out, on_alloc, on_output);
    char newline[] = "\n";
    uv_buf_t document[2] = {uv_buf_init(l->first->json, (unsigned)strlen(l->first->json)),
                            uv_buf_init(newline, 1)};
    if (uv_write(&h->write, (uv_stream_t *)&h->in, document, 2, on_written) < 0) {
        close_handle(&h->in);
    }
}

static void pump(struct alerts *a)
{
    while (a->ready && a->n_running < ALERTS_MAX_RUNNING && !a->closing) {
        struct lane *l = a->ready;
        a->ready = l->next;
        a->ready_end = a->ready ? a->ready_end : &a->ready;
        hook_run_start(a, l);
    }
}

/* ---- life ---- */

int alerts_new(uv_loop_t *loop, const struct config *config, double backoff, alerts_done done,
               void *arg, struct alerts **ret_alerts, char errmsg[SEISMO_ERRMSG])
{
    struct alerts *a = calloc(1, sizeof *a);
    if (!a) {
        snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
        return SEISMO_ENOMEM;
    }
    a->loop = loop;
    a->config = config;
    a->backoff = backoff;
    a->done = done;
    a->arg = arg;
    a->ready_end = &a->ready;
    uv_timer_init(loop, &a->timer);
    a->timer.data = a;
    signal(SIGPIPE, SIG_IGN); /* libuv gives hooks the default disposition back */
    *ret_alerts = a;
    return 0;
}

/* Takes one alert. */
static void submit(struct alerts *a, struct alert *alert)
{
    uint32_t suppressed;
    if (a->n_alerts >= ALERTS_MAX_WAITING) {
        if (log_limit_pass(&a->overflow, (double)uv_now(a->loop) / 1000, &suppressed)) {
            log_warning("alerts",
                        "%d alerts wait for their hooks already: alert %" PRId64
                        " stays in the outbox and fires at the next start (%u more like it)",
                        ALERTS_MAX_WAITING, alert->id, suppressed);
        }
        alert_free(alert);
        return;
    }
    const char *run = "";
    json_t *document = json_loads(alert->json, 0, NULL);
    json_unpack(document, "{s:s}", "run", &run);
    struct lane *l = lane_get(a, alert->hook, run);
    json_decref(document);
    if (!l) {
        log_error("alerts", "out of memory: alert %" PRId64 " fires at the next start", alert->id);
        alert_free(alert);
        return;
    }
    alert->next = NULL;
    *l->end = alert;
    l->end = &alert->next;
    a->n_alerts++;
    if (l->first == alert) {
        set_ready(a, l);
    }
}

void alerts_submit(struct alerts *a, struct alert *list)
{
    while (list) {
        struct alert *alert = list;
        list = list->next;
        submit(a, alert);
    }
    pump(a);
}

void alerts_reload(struct alerts *a, const struct config *config)
{
    a->config = config;
}

uint32_t alerts_pending(const struct alerts *a)
{
    return a->n_alerts;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct alerts *a = handle->data;
    for (int i = 0; i < BUCKETS; i++) {
        while (a->bucket[i]) {
            struct lane *l = a->bucket[i];
            while (l->first) {
                lane_pop(a, l);
            }
            lane_free(a, l);
        }
    }
    void (*closed)(void *) = a->closed;
    void *arg = a->closed_arg;
    free(a);
    closed(arg);
}

static void maybe_closed(struct alerts *a)
{
    if (a->n_running == 0 && !uv_is_closing((uv_handle_t *)&a->timer)) {
        uv_close((uv_handle_t *)&a->timer, on_timer_closed);
    }
}

static void on_grace_over(uv_timer_t *timer)
{
    struct alerts *a = timer->data;
    for (struct hook_run *h = a->running; h; h = h->next) {
        if (h->spawned && uv_is_active((uv_handle_t *)&h->process)) {
            log_warning("alerts",
                        "hook '%s' still runs and is killed: alert %" PRId64
                        " fires again at the next start",
                        h->lane->hook, h->lane->first->id);
            h->stopped = true;
            kill_group(h, SIGKILL);
        }
    }
}

void alerts_close(struct alerts *a, void (*closed)(void *arg), void *arg)
{
    a->closing = true;
    a->closed = closed;
    a->closed_arg = arg;
    uv_timer_start(&a->timer, on_grace_over, (uint64_t)(ALERTS_GRACE * 1000), 0);
    maybe_closed(a);
}
