#include "daemon/alerts.h"

#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/hookpipe.h"
#include "daemon/keeper.h"
#include "daemon/log.h"
#include "proto/json_text.h"

#define BUCKETS 1024

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

/* One run of a hook, which the helper has been asked for. */
struct hook_run {
    struct hook_run *next;
    struct lane *lane;
};

/* To one helper. */
struct connection {
    struct hookpipe pipe;
    struct alerts *alerts;
};

struct alerts {
    uv_loop_t *loop;
    uv_pipe_t news; /* from the keeper, of each new helper */
    pid_t keeper, helper;
    struct keeper_news heard;
    struct connection *to; /* the helper there is, NULL: none just now */
    bool lost;             /* the last helper is gone, and there is no other yet */
    bool reloaded;         /* a new helper knows only the configuration of the start */
    struct alerts_terms terms;
    void *arg;
    int64_t last; /* highest id of the table that was taken */
    bool behind;  /* alerts above it were left in the table … */
    bool asked;   /* … and have been asked for */
    struct lane *bucket[BUCKETS];
    struct lane *ready, **ready_end;
    struct lane *backing_off;
    struct hook_run *running;
    uint32_t n_running, n_alerts;
    uv_timer_t timer; /* the next lane is ready again; while closing: the grace time is over */
    struct log_limit overflow;
    bool closing, closed_all;
    int open; /* handles not yet closed */
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
    double wait = a->terms.backoff;
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

static void maybe_closed(struct alerts *a);

/* How it went, in words. */
static void describe(const struct hook_result *r, char *ret, size_t size)
{
    switch ((enum hook_how)r->how) {
    case HOOK_EXITED:
        snprintf(ret, size, "exit %d", r->code);
        return;
    case HOOK_SIGNALLED:
    case HOOK_KILLED:
        snprintf(ret, size, "signal %d", r->code);
        return;
    case HOOK_TIMED_OUT:
        snprintf(ret, size, "timeout");
        return;
    case HOOK_NOT_STARTED:
        snprintf(ret, size, "cannot start: %s", uv_strerror(r->code));
        return;
    case HOOK_UNKNOWN:
        snprintf(ret, size, "no such hook");
        return;
    }
    snprintf(ret, size, "unknown end %u", r->how);
}

/* Whether the lane's first alert has been dealt with; `r` is not HOOK_KILLED. */
static void lane_attempted(struct alerts *a, struct lane *l, const struct hook_result *r)
{
    int64_t id = l->first->id;
    bool ok = r->how == HOOK_EXITED && r->code == 0;
    /* There is no use in trying to run a hook again that does not exist. */
    bool give_up = !ok && (r->how == HOOK_UNKNOWN || ++l->attempts >= ALERTS_ATTEMPTS);
    char how[64], result[sizeof how + 16];
    describe(r, how, sizeof how);
    snprintf(result, sizeof result, "%s%s", how, give_up ? ", gave up" : "");
    if (ok) {
        log_info("alerts", "hook '%s' took alert %" PRId64, l->hook, id);
    } else {
        log_warning("alerts", "hook '%s' did not take alert %" PRId64 ": %s", l->hook, id, result);
    }
    a->terms.done(a->arg, id, ok, result);
    if (ok || give_up) {
        lane_pop(a, l);
    }
}

/* The run has ended: says how it went, and goes on with the lane. `r` is NULL when nobody knows. */
static void hook_run_finish(struct alerts *a, struct hook_run *h, const struct hook_result *r)
{
    struct lane *l = h->lane;
    struct hook_run **p = &a->running;
    while (*p != h) {
        p = &(*p)->next;
    }
    *p = h->next;
    a->n_running--;
    free(h);
    if (r && r->how != HOOK_KILLED) {
        lane_attempted(a, l, r);
    }
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

static struct hook_run *find_run(struct alerts *a, int64_t id)
{
    struct hook_run *h = a->running;
    while (h && h->lane->first->id != id) {
        h = h->next;
    }
    return h;
}

static void log_output(const struct hook_run *h, const char *p, size_t n)
{
    char quoted[LOG_LINE - 128];
    if (n == 0) {
        log_info("alerts", "hook '%s' for alert %" PRId64 " says more than %d bytes, not shown",
                 h->lane->hook, h->lane->first->id, HOOKD_MAX_OUTPUT);
    } else {
        log_info("alerts", "hook '%s' for alert %" PRId64 " says %s", h->lane->hook,
                 h->lane->first->id, log_quote(quoted, sizeof quoted, p, n));
    }
}

static void on_frame(void *arg, const struct hook_frame *frame, const char *data)
{
    struct alerts *a = ((struct connection *)arg)->alerts;
    struct hook_run *h = find_run(a, frame->id);
    struct hook_result result;
    if (!h) {
        return;
    }
    if (frame->type == HOOK_SAYS) {
        log_output(h, data, frame->size);
    } else if (frame->type == HOOK_DONE && frame->size == sizeof result) {
        memcpy(&result, data, sizeof result);
        hook_run_finish(a, h, &result);
    }
}

/* Has the hook of the lane's first alert run. */
static void hook_run_start(struct alerts *a, struct lane *l)
{
    const struct alert *alert = l->first;
    const char *event = "", *condition = "";
    json_t *document = json_text(alert->json, strlen(alert->json), 0, NULL, NULL);
    json_unpack(document, "{s:s, s:s}", "event", &event, "condition", &condition);
    uv_buf_t parts[] = {uv_buf_init(l->hook, (unsigned)strlen(l->hook) + 1),
                        uv_buf_init((char *)(uintptr_t)event, (unsigned)strlen(event) + 1),
                        uv_buf_init((char *)(uintptr_t)condition, (unsigned)strlen(condition) + 1),
                        uv_buf_init(alert->json, (unsigned)strlen(alert->json))};
    struct hook_run *h = calloc(1, sizeof *h);
    int rc = h ? hookpipe_send(&a->to->pipe, HOOK_RUN, alert->id, parts, 4) : SEISMO_ENOMEM;
    json_decref(document);
    if (rc != 0) {
        free(h);
        back_off(a, l); /* out of memory is not the hook's failure */
        return;
    }
    h->lane = l;
    h->next = a->running;
    a->running = h;
    a->n_running++;
}

static void pump(struct alerts *a)
{
    while (a->ready && a->n_running < HOOKD_MAX_RUNNING && !a->closing && a->to) {
        struct lane *l = a->ready;
        a->ready = l->next;
        a->ready_end = a->ready ? a->ready_end : &a->ready;
        hook_run_start(a, l);
    }
}

/* ---- helpers that come and go ---- */

static void on_handle_closed(struct alerts *a);

static void on_connection_closed(void *arg)
{
    struct connection *c = arg;
    struct alerts *a = c->alerts;
    free(c);
    on_handle_closed(a);
}

/* What it was running is not delivered, and runs again with the next helper. */
static void on_helper_lost(void *arg)
{
    struct connection *c = arg;
    struct alerts *a = c->alerts;
    a->to = NULL;
    a->lost = true;
    hookpipe_close(&c->pipe, on_connection_closed);
    if (!a->closing) {
        log_error("alerts",
                  "the hook helper (pid %d) is gone, and %u hooks with it, which run again with "
                  "the next one",
                  (int)a->helper, a->n_running);
    }
    while (a->running) {
        hook_run_finish(a, a->running, NULL);
    }
}

static void tell_of_reload(struct alerts *a)
{
    if (a->to && hookpipe_send(&a->to->pipe, HOOK_RELOAD, 0, NULL, 0) != 0) {
        log_error("alerts", "the hooks stay as they were: the helper could not be told");
    }
}

/* False without memory; what has come lies in libuv until there is some. */
static bool take_helper(struct alerts *a)
{
    struct connection *c = calloc(1, sizeof *c);
    if (!c) {
        return false;
    }
    c->alerts = a;
    c->pipe.on_frame = on_frame;
    c->pipe.on_end = on_helper_lost;
    c->pipe.arg = c;
    a->open++;
    int rc = hookpipe_accept(&c->pipe, a->loop, &a->news);
    if (a->to) { /* whose end has not been read yet: there is never more than one */
        on_helper_lost(a->to);
    }
    if (rc < 0 || a->closing) {
        hookpipe_close(&c->pipe, on_connection_closed);
        return true;
    }
    if (a->lost) {
        log_info("alerts", "another hook helper (pid %d) was started", (int)a->heard.pid);
    }
    a->to = c;
    a->helper = a->heard.pid;
    a->lost = false;
    if (a->reloaded) {
        tell_of_reload(a);
    }
    pump(a);
    return true;
}

static void take_helpers(struct alerts *a)
{
    while (uv_pipe_pending_count(&a->news) > 0 && take_helper(a)) {
    }
}

static void on_news_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    (void)suggested;
    struct alerts *a = handle->data;
    *ret = uv_buf_init((char *)&a->heard, sizeof a->heard);
}

static void on_news(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    (void)buf;
    struct alerts *a = stream->data;
    if (n < 0) { /* the helper sees the end of the keeper too */
        uv_read_stop(stream);
        log_error("alerts",
                  "the keeper of the hook helper (pid %d) is gone: alerts are stored but no hook "
                  "runs until seismod is started again, which fires them",
                  (int)a->keeper);
        return;
    }
    take_helpers(a);
}

/* ---- life ---- */

static void on_handle_closed(struct alerts *a)
{
    if (--a->open > 0) {
        return;
    }
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
    if (closed) {
        closed(arg);
    }
}

static void on_uv_closed(uv_handle_t *handle)
{
    on_handle_closed(handle->data);
}

static void close_handles(struct alerts *a)
{
    a->closed_all = true;
    uv_close((uv_handle_t *)&a->timer, on_uv_closed);
    uv_close((uv_handle_t *)&a->news, on_uv_closed);
    if (a->to) {
        hookpipe_close(&a->to->pipe, on_connection_closed);
        a->to = NULL;
    }
    waitpid(a->keeper, NULL, WNOHANG); /* when it ends only now, it becomes init's child */
}

int alerts_new(uv_loop_t *loop, const struct hookd *helper, const struct alerts_terms *terms,
               void *arg, struct alerts **ret_alerts, char errmsg[SEISMO_ERRMSG])
{
    struct alerts *a = calloc(1, sizeof *a);
    if (!a) {
        snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
        close(helper->fd);
        return SEISMO_ENOMEM;
    }
    a->loop = loop;
    a->keeper = helper->keeper;
    a->terms = *terms;
    a->arg = arg;
    a->ready_end = &a->ready;
    uv_timer_init(loop, &a->timer);
    uv_pipe_init(loop, &a->news, 1);
    a->timer.data = a->news.data = a;
    a->open = 2;
    int rc = uv_pipe_open(&a->news, helper->fd);
    rc = rc < 0 ? rc : uv_read_start((uv_stream_t *)&a->news, on_news_alloc, on_news);
    if (rc < 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot speak to the hook helper: %s", uv_strerror(rc));
        close_handles(a);
        return SEISMO_EINTERNAL;
    }
    signal(SIGPIPE, SIG_IGN); /* the helper may be gone when it is written to */
    *ret_alerts = a;
    return 0;
}

/* Takes one alert. One of the table may be left there, and then all that come after it are, so that
 * they are read in order later. */
static void submit(struct alerts *a, struct alert *alert)
{
    uint32_t suppressed;
    bool full = a->n_alerts >= a->terms.most;
    if (alert->id > 0 && (a->behind || full)) {
        if (!a->behind &&
            log_limit_pass(&a->overflow, (double)uv_now(a->loop) / 1000, &suppressed)) {
            log_warning("alerts",
                        "%u alerts wait for their hooks already: those from alert %" PRId64
                        " on wait in the outbox (%u more such moments)",
                        a->terms.most, alert->id, suppressed);
        }
        a->behind = true;
        alert_free(alert);
        return;
    }
    const char *run = "";
    json_t *document = json_text(alert->json, strlen(alert->json), 0, NULL, NULL);
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
    a->last = alert->id > a->last ? alert->id : a->last;
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

void alerts_look(struct alerts *a)
{
    take_helpers(a);
    if (a->behind && !a->asked && a->n_alerts <= a->terms.most / 2) {
        a->asked = true;
        a->terms.more(a->arg, a->last, a->terms.most - a->n_alerts);
    }
}

void alerts_more(struct alerts *a, struct alert *list, bool all)
{
    a->asked = false;
    a->behind = false;
    alerts_submit(a, list);
    a->behind = a->behind || !all;
}

bool alerts_behind(const struct alerts *a)
{
    return a->behind;
}

void alerts_reload(struct alerts *a)
{
    a->reloaded = true;
    tell_of_reload(a);
}

uint32_t alerts_pending(const struct alerts *a)
{
    return a->n_alerts;
}

bool alerts_lost(const struct alerts *a)
{
    return a->lost;
}

static void maybe_closed(struct alerts *a)
{
    if (a->n_running == 0 && !a->closed_all) {
        close_handles(a);
    }
}

/* The helper has not even said that the hooks are killed: it will be, by the end of the socket. */
static void on_patience_over(uv_timer_t *timer)
{
    struct alerts *a = timer->data;
    while (a->running) {
        hook_run_finish(a, a->running, NULL);
    }
}

static void on_grace_over(uv_timer_t *timer)
{
    struct alerts *a = timer->data;
    uv_timer_start(timer, on_patience_over, (uint64_t)(ALERTS_GRACE * 1000), 0);
    for (struct hook_run *h = a->running; h; h = h->next) {
        log_warning("alerts",
                    "hook '%s' still runs and is killed: alert %" PRId64
                    " fires again at the next start",
                    h->lane->hook, h->lane->first->id);
        hookpipe_send(&a->to->pipe, HOOK_KILL, h->lane->first->id, NULL, 0);
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
