#include "daemon/server.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>
#include <zmq.h>

#include "daemon/alerts.h"
#include "daemon/auth.h"
#include "daemon/backlog.h"
#include "daemon/datadir.h"
#include "daemon/descriptors.h"
#include "daemon/endpoint.h"
#include "daemon/events.h"
#include "daemon/ingest.h"
#include "daemon/limits.h"
#include "daemon/log.h"
#include "daemon/memory.h"
#include "daemon/notify.h"
#include "daemon/query.h"
#include "daemon/sandbox.h"
#include "daemon/storage_alert.h"
#include "daemon/worker.h"
#include "daemon/zap.h"
#include "daemon/zsock.h"

#define TICK_MS 1000
#define PACE_MS 20      /* between looks at jobs that wait for their time */
#define STATUS_TICKS 10 /* between two STATUS= messages */

enum phase {
    RUNNING,
    DRAINING, /* nothing is read any more; what was read is being committed */
    CLOSING,  /* alerts and queries finish */
    CLOSED,   /* the last handles go */
};

struct server {
    uv_loop_t loop;
    uv_async_t wake; /* the worker has something */
    uv_signal_t sigterm, sigint, sighup;
    uv_timer_t tick, watchdog, deadline, pace;
    void *zmq;
    int lock;                    /* of the data directory */
    const struct config *config; /* the server's: what does not change while it runs */
    struct config *reloaded;     /* the rest, after a reload */
    struct memory memory;        /* that there is */
    struct limits limits;        /* of the configuration, lowered to what memory holds */
    bool scarce;                 /* memory, at the start */
    const struct model *model;
    server_load load;
    void *load_arg;
    struct auth *auth;
    struct worker *worker;
    struct backlog backlog;
    struct ingest *ingest;
    struct zsock *clients, *events;
    struct sandbox sandbox;
    struct hookd helper; /* its keeper, of alerts; fd is -1 once it has been handed over */
    struct alerts *alerts;
    struct query *query;
    int closing;                               /* of alerts and query: not closed yet */
    char *endpoints[CONFIG_MAX_ENDPOINTS + 1]; /* of clients, as bound */
    enum phase phase;
    bool late; /* the stop has taken too long */
    uint32_t ticks;
    struct storage_alert storage_alert;
    bool damaged;   /* the database, so that only a new start helps */
    double started; /* s since the epoch */
};

static double wall_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- stop ---- */

static void close_handle(uv_handle_t *handle)
{
    if (handle->loop && !uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* The last step: with nobody left who asks for it, the worker stops, and the loop runs out. */
static void close_rest(struct server *s)
{
    s->phase = CLOSED;
    if (s->late && s->backlog.in_flight > 0)
        log_warning("server",
                    "stopping with %llu jobs not committed; their clients were told nothing of "
                    "them and send them again",
                    (unsigned long long)s->backlog.in_flight);
    worker_free(&s->worker);
    zsock_close(&s->clients, NULL, NULL);
    zsock_close(&s->events, NULL, NULL);
    close_handle((uv_handle_t *)&s->wake);
    close_handle((uv_handle_t *)&s->sigterm);
    close_handle((uv_handle_t *)&s->sigint);
    close_handle((uv_handle_t *)&s->sighup);
    close_handle((uv_handle_t *)&s->tick);
    close_handle((uv_handle_t *)&s->watchdog);
    close_handle((uv_handle_t *)&s->deadline);
    close_handle((uv_handle_t *)&s->pace);
}

static void advance(struct server *s);

static void on_part_closed(void *arg)
{
    struct server *s = arg;
    s->closing--;
    advance(s);
}

/* Goes on with the stop as far as it can. */
static void advance(struct server *s)
{
    bool idle = s->backlog.in_flight == 0 || s->late;
    if (s->phase == DRAINING && idle) {
        s->phase = CLOSING;
        s->closing = (s->alerts != NULL) + (s->query != NULL);
        struct alerts *alerts = s->alerts;
        struct query *query = s->query;
        s->alerts = NULL;
        s->query = NULL;
        if (alerts)
            alerts_close(alerts, on_part_closed, s);
        if (query)
            query_close(query, on_part_closed, s);
    }
    /* Hooks that ended in their grace time have handed in results, so idle is asked again. */
    if (s->phase == CLOSING && s->closing == 0 && idle)
        close_rest(s);
}

static void stop(struct server *s, bool late)
{
    if (s->phase != RUNNING)
        return;
    s->phase = DRAINING;
    s->late = late;
    if (s->clients)
        zsock_pause(s->clients, true);
    s->backlog.hurry = true;
    if (s->worker)
        backlog_pump(&s->backlog);
    advance(s);
}

static void on_deadline(uv_timer_t *timer)
{
    struct server *s = timer->data;
    s->late = true;
    advance(s);
}

static void on_stop_signal(uv_signal_t *handle, int number)
{
    struct server *s = handle->data;
    if (s->phase != RUNNING)
        return;
    log_info("server", "stopping on %s", number == SIGTERM ? "SIGTERM" : "SIGINT");
    notify_send("STOPPING=1");
    uv_timer_start(&s->deadline, on_deadline, (uint64_t)(LIMIT_STOP_SECONDS * 1000), 0);
    stop(s, false);
}

/* ---- work ---- */

static int submit_to_worker(void *arg, struct job *job)
{
    struct server *s = arg;
    return worker_submit(s->worker, job);
}

static void on_backlog(void *arg, bool paused)
{
    struct server *s = arg;
    if (s->clients)
        zsock_pause(s->clients, paused || s->phase != RUNNING);
}

static void on_pace(uv_timer_t *timer);

/* After jobs were given to the backlog or have left it. */
static void keep_pace(struct server *s)
{
    if (!s->backlog.early)
        uv_timer_stop(&s->pace);
    else if (!uv_is_active((uv_handle_t *)&s->pace))
        uv_timer_start(&s->pace, on_pace, PACE_MS, PACE_MS);
}

static void on_pace(uv_timer_t *timer)
{
    struct server *s = timer->data;
    backlog_pump(&s->backlog);
    keep_pace(s);
}

static void on_worker(void *arg)
{
    struct server *s = arg;
    uv_async_send(&s->wake); /* from the worker's thread */
}

static void job_done(struct server *s, struct job *job)
{
    events_done(s->events, job);
    if (s->alerts && job->type == JOB_OUTBOX) {
        alerts_more(s->alerts, job->alerts, !job->err && job->outbox.ret_all);
        job->alerts = NULL;
    } else if (s->alerts && job->alerts) {
        alerts_submit(s->alerts, job->alerts);
        job->alerts = NULL;
    }
    switch (job->type) {
    case JOB_OPEN:
    case JOB_STEPS:
    case JOB_CLOSE:
    case JOB_DETACH:
    case JOB_NEWS:
        ingest_done(s->ingest, job);
        break;
    case JOB_LABEL:
        if (s->query)
            query_label_done(s->query, job);
        break;
    case JOB_OUTBOX:
        if (job->err)
            log_error("alerts", "those that wait in the database cannot be read: %s", job->errmsg);
        break;
    case JOB_ALERT:
        if (job->err)
            log_error("alerts", "the result of alert %lld was not recorded: %s",
                      (long long)job->alert.id, job->errmsg);
        break;
    }
}

static void on_wake(uv_async_t *wake)
{
    struct server *s = wake->data;
    if (!s->worker)
        return;
    struct job *job = worker_drain(s->worker), *next;
    for (; job; job = next) {
        next = job->next;
        if (job->type != JOB_NEWS)
            backlog_done(&s->backlog, job);
        job_done(s, job);
        job_free(&job);
    }
    backlog_pump(&s->backlog);
    keep_pace(s);
    ingest_flush(s->ingest);
    advance(s);
}

static int ingest_send(void *arg, const void *peer, size_t peer_n, const void *data, size_t n)
{
    struct server *s = arg;
    return zsock_send(s->clients, peer, peer_n, data, n);
}

static void ingest_submit(void *arg, struct job *job)
{
    struct server *s = arg;
    backlog_submit(&s->backlog, job);
}

static void ingest_opened(void *arg, const char *run, const char *program)
{
    struct server *s = arg;
    events_opened(s->events, run, program);
}

static uint64_t ingest_allowance(void *arg)
{
    struct server *s = arg;
    return backlog_allowance(&s->backlog);
}

static double server_now(void *arg)
{
    struct server *s = arg;
    return (double)uv_now(&s->loop) / 1000;
}

static bool ingest_may(void *arg, const char *user, const char *run, size_t n,
                       char errmsg[SEISMO_ERRMSG])
{
    struct server *s = arg;
    return auth_may(s->auth, user, run ? AUTH_PUSH : AUTH_CONNECT, run, n, errmsg);
}

static void on_client_message(void *arg, const struct zsock_msg *msg)
{
    struct server *s = arg;
    ingest_receive(s->ingest, msg);
    keep_pace(s);
}

static void on_hook_done(void *arg, int64_t id, bool delivered, const char *result)
{
    struct server *s = arg;
    if (id < 0) /* the daemon's own, which is in no table */
        return;
    struct job *job = job_new(JOB_ALERT, 0);
    if (!job) {
        log_error("alerts", "no memory to record the result of alert %lld", (long long)id);
        return;
    }
    job->alert.id = id;
    job->alert.delivered = delivered;
    snprintf(job->alert.result, sizeof(job->alert.result), "%s", result);
    backlog_submit(&s->backlog, job);
}

static void on_alerts_wanted(void *arg, int64_t after, uint32_t most)
{
    struct server *s = arg;
    struct job *job = job_new(JOB_OUTBOX, 0);
    if (!job) {
        alerts_more(s->alerts, NULL, false);
        return;
    }
    job->outbox.after = after;
    job->outbox.most = most;
    backlog_submit(&s->backlog, job);
}

static void query_live(void *arg, struct query_live *ret)
{
    struct server *s = arg;
    struct ingest_stats stats;
    ingest_stats(s->ingest, &stats);
    worker_stats(s->worker, &ret->worker);
    ret->worker.duplicate_batches += stats.duplicate_batches;
    ret->worker.queued_jobs += s->backlog.jobs;
    ret->worker.queued_rows += (uint32_t)s->backlog.rows;
    ret->alerts = s->alerts ? alerts_pending(s->alerts) : 0;
    ret->alerts_behind = s->alerts && alerts_behind(s->alerts);
    ret->hooks_lost = s->alerts && alerts_lost(s->alerts);
    ret->refused = stats.refused;
    ret->limits = ingest_limits(s->ingest);
    ret->memory = &s->memory;
    ret->sandbox_files = s->sandbox.files;
    ret->sandbox_calls = s->sandbox.calls;
    ret->connections = zsock_connections(s->clients);
    ret->started = s->started;
    ret->peers = stats.attached;
    ret->ingest = (const char *const *)s->endpoints;
    ret->query = query_endpoint(s->query);
    ret->events = zsock_endpoint(s->events);
}

static int query_submit(void *arg, struct job *job)
{
    struct server *s = arg;
    return backlog_try(&s->backlog, job);
}

static bool query_may(void *arg, const char *user, bool change, char errmsg[SEISMO_ERRMSG])
{
    struct server *s = arg;
    return auth_may(s->auth, user, change ? AUTH_ADMIN : AUTH_QUERY, NULL, 0, errmsg);
}

static void query_guard(void *arg, struct zsock *z)
{
    struct server *s = arg;
    auth_guard(s->auth, z, "query");
}

/* ---- time and signals ---- */

/* The configuration that holds now. */
static const struct config *current(const struct server *s)
{
    return s->reloaded ? s->reloaded : s->config;
}

/* A client whose key or role is gone is out from here on: its session is cut off, and what it sends
 * afterwards is refused. Events are pushed, not asked for, so there the connections are dropped. */
static void reload_keys(struct server *s)
{
    bool lost_query;
    if (!auth_reload(s->auth, current(s)->clients, &lost_query))
        return;
    ingest_recheck(s->ingest);
    if (lost_query)
        zsock_reopen(s->events);
}

static void send_status(struct server *s)
{
    struct ingest_stats stats;
    struct worker_stats worker;
    ingest_stats(s->ingest, &stats);
    worker_stats(s->worker, &worker);
    notify_send("STATUS=%u clients, %llu steps and %llu verdicts since the start%s%s%s",
                stats.attached, (unsigned long long)worker.steps,
                (unsigned long long)worker.verdicts,
                worker.storage_failing ? "; storage fails: " : "",
                worker.storage_failing ? worker.storage_error : "",
                s->alerts && alerts_lost(s->alerts) ? "; the hook helper is gone" : "");
}

static void look_at_storage(struct server *s)
{
    struct worker_stats stats;
    worker_stats(s->worker, &stats);
    struct alert *news = storage_alert_look(
        &s->storage_alert, s->reloaded ? s->reloaded : s->config, &stats, wall_clock());
    if (news)
        alerts_submit(s->alerts, news);
    if (stats.storage_damaged && !s->damaged) {
        s->damaged = true;
        log_error("server",
                  "the database is damaged: stopping, so that the next start sets it aside");
        notify_send("STOPPING=1");
        stop(s, true);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct server *s = timer->data;
    if (s->phase > DRAINING)
        return;
    ingest_tick(s->ingest);
    if (s->phase == RUNNING)
        look_at_storage(s);
    if (s->phase == RUNNING)
        alerts_look(s->alerts);
    if (auth_tick(s->auth, current(s)->clients))
        reload_keys(s);
    if (++s->ticks % STATUS_TICKS == 0)
        send_status(s);
}

static void on_watchdog(uv_timer_t *timer)
{
    (void)timer;
    notify_send("WATCHDOG=1");
}

/* The limits of the configuration, but no more than memory and file descriptors hold. */
static void fit_limits(struct server *s)
{
    const struct config *config = current(s);
    memory_find("", &s->memory);
    s->limits = config->limits;
    s->limits.peers = s->config->limits.peers; /* what a reload cannot change */
    s->scarce = memory_fit(&s->memory, config, &s->limits);
    memory_log(&s->memory, config, &s->limits);
    descriptors_fit(&s->limits);
}

/* The same configuration with other limits, for whoever looks at it during a call. */
static struct config with_limits(const struct config *config, const struct limits *limits)
{
    struct config other = *config;
    other.limits = *limits;
    return other;
}

static void on_reload(uv_signal_t *handle, int number)
{
    (void)number;
    struct server *s = handle->data;
    if (s->phase != RUNNING)
        return;
    struct config *fresh;
    char errmsg[SEISMO_ERRMSG];
    if (s->load(s->load_arg, &fresh, errmsg) != 0) {
        log_error("config", "reload failed, the configuration stays as it was: %s", errmsg);
        reload_keys(s); /* a mistake elsewhere keeps nobody in */
        return;
    }
    unsigned at = 0;
    const char *key;
    while ((key = config_fixed_change(s->config, fresh, &at)))
        log_warning("config", "%s changes only when the daemon is started again", key);
    log_set_level((enum log_priority)fresh->log_level);
    config_free(&s->reloaded);
    s->reloaded = fresh;
    fit_limits(s);
    struct config fitted = with_limits(fresh, &s->limits);
    worker_reconfigure(s->worker, &fitted);
    ingest_limit(s->ingest, &s->limits);
    zsock_limit_again(s->clients, s->limits.peers + LIMIT_PEERS_TOLD);
    backlog_limit(&s->backlog, &s->limits, s->config->commit_rows);
    alerts_reload(s->alerts);
    reload_keys(s);
    log_info("config", "configuration reloaded");
}

/* ---- start ---- */

static int open_handles(struct server *s, char errmsg[SEISMO_ERRMSG])
{
    int rc = uv_async_init(&s->loop, &s->wake, on_wake);
    if (rc == 0)
        rc = uv_signal_init(&s->loop, &s->sigterm);
    if (rc == 0)
        rc = uv_signal_init(&s->loop, &s->sigint);
    if (rc == 0)
        rc = uv_signal_init(&s->loop, &s->sighup);
    if (rc == 0)
        rc = uv_timer_init(&s->loop, &s->tick);
    if (rc == 0)
        rc = uv_timer_init(&s->loop, &s->watchdog);
    if (rc == 0)
        rc = uv_timer_init(&s->loop, &s->deadline);
    if (rc == 0)
        rc = uv_timer_init(&s->loop, &s->pace);
    if (rc != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot set up the event loop: %s", uv_strerror(rc));
        return SEISMO_EINTERNAL;
    }
    s->wake.data = s->sigterm.data = s->sigint.data = s->sighup.data = s;
    s->tick.data = s->watchdog.data = s->deadline.data = s->pace.data = s;
    return 0;
}

static int bind_clients(struct server *s, int i, char errmsg[SEISMO_ERRMSG])
{
    int rc = zsock_bind(s->clients, s->config->ingest[i], errmsg);
    if (rc != 0)
        return rc;
    s->endpoints[i] = strdup(zsock_endpoint(s->clients));
    if (s->endpoints[i])
        return 0;
    snprintf(errmsg, SEISMO_ERRMSG, "no memory");
    return SEISMO_ENOMEM;
}

/* Beyond twice what a message may have, which is answered with an error, it is not even read. */
static size_t hard_bytes(const struct limits *limits)
{
    size_t bytes = 2 * (size_t)limits->message_bytes;
    return bytes < SEISMO_MAX_MESSAGE ? bytes : SEISMO_MAX_MESSAGE;
}

static int open_sockets(struct server *s, char errmsg[SEISMO_ERRMSG])
{
    const struct limits *limits = &s->limits;
    int rc = zsock_new(&s->loop, s->zmq, ZMQ_PUB, LIMIT_TOPIC, NULL, NULL, &s->events, errmsg);
    if (rc == 0)
        rc = zsock_limit(s->events, s->zmq, limits->query_peers, "query_peers", errmsg);
    if (rc == 0)
        auth_guard(s->auth, s->events, ZAP_EVENTS);
    if (rc == 0)
        rc = zsock_bind(s->events, s->config->events, errmsg);
    if (rc == 0)
        rc = zsock_new(&s->loop, s->zmq, ZMQ_ROUTER, hard_bytes(limits), on_client_message, s,
                       &s->clients, errmsg);
    /* Some more, so that those beyond the limit can be told of it before they are cut off. */
    if (rc == 0)
        rc = zsock_limit(s->clients, s->zmq, limits->peers + LIMIT_PEERS_TOLD, "peers", errmsg);
    if (rc == 0 && s->scarce)
        zsock_spare(s->clients);
    if (rc == 0)
        auth_guard(s->auth, s->clients, "ingest");
    for (int i = 0; rc == 0 && s->config->ingest[i]; i++)
        if (!endpoint_is_tcp(s->config->ingest[i]))
            rc = bind_clients(s, i, errmsg);
    for (int i = 0; rc == 0 && s->config->ingest[i]; i++)
        if (endpoint_is_tcp(s->config->ingest[i]))
            rc = bind_clients(s, i, errmsg);
    return rc;
}

static int start_alerts(struct server *s, char errmsg[SEISMO_ERRMSG])
{
    struct hookd helper = s->helper;
    s->helper.fd = -1;
    static const struct alerts_terms terms = {.backoff = ALERTS_BACKOFF,
                                              .most = ALERTS_MOST,
                                              .done = on_hook_done,
                                              .more = on_alerts_wanted};
    return alerts_new(&s->loop, &helper, &terms, s, &s->alerts, errmsg);
}

static int start(struct server *s, char errmsg[SEISMO_ERRMSG])
{
    struct config fitted = with_limits(s->config, &s->limits);
    int rc = open_handles(s, errmsg);
    if (rc == 0)
        rc = datadir_open(s->config->data, &s->lock, errmsg);
    if (rc == 0)
        rc = sandbox_files(&s->sandbox, s->config, errmsg); /* before the first thread */
    if (rc == 0)
        rc = auth_new(s->config, s->zmq, &s->auth, errmsg);
    if (rc == 0)
        rc = worker_new(&fitted, s->model, wall_clock, on_worker, s, &s->worker, errmsg);
    if (rc != 0)
        return rc;
    static const struct ingest_ops ingest_ops = {
        .send = ingest_send,
        .submit = ingest_submit,
        .opened = ingest_opened,
        .now = server_now,
        .allowance = ingest_allowance,
        .may = ingest_may,
    };
    s->ingest = ingest_new(&ingest_ops, s, s->config->probe_every, &s->limits);
    if (!s->ingest) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory");
        return SEISMO_ENOMEM;
    }
    rc = open_sockets(s, errmsg);
    if (rc == 0)
        rc = start_alerts(s, errmsg);
    char *database = NULL;
    if (rc == 0 && asprintf(&database, "%s/seismo.db", s->config->data) < 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory");
        rc = SEISMO_ENOMEM;
        database = NULL;
    }
    const struct query_ops query_ops = {.live = query_live,
                                        .submit = query_submit,
                                        .clock = wall_clock,
                                        .may = query_may,
                                        .guard = query_guard,
                                        .peers = s->limits.query_peers,
                                        .scarce = s->scarce};
    if (rc == 0)
        rc = query_new(&s->loop, s->zmq, s->config->query, database, s->model, &query_ops, s,
                       &s->query, errmsg);
    free(database);
    if (rc == 0)
        rc = sandbox_calls(&s->sandbox, s->config, errmsg);
    if (rc != 0)
        return rc;
    uv_signal_start(&s->sigterm, on_stop_signal, SIGTERM);
    uv_signal_start(&s->sigint, on_stop_signal, SIGINT);
    uv_signal_start(&s->sighup, on_reload, SIGHUP);
    uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
    uint64_t watchdog = notify_watchdog_interval();
    if (watchdog > 0)
        uv_timer_start(&s->watchdog, on_watchdog, 0, watchdog);
    return 0;
}

static void say_ready(struct server *s)
{
    printf("seismod: ready: ingest ");
    for (int i = 0; s->endpoints[i]; i++)
        printf("%s%s", i ? "," : "", s->endpoints[i]);
    printf(" query %s events %s data %s\n", query_endpoint(s->query), zsock_endpoint(s->events),
           s->config->data);
    fflush(stdout);
    notify_send("READY=1");
    send_status(s);
}

int server_run(const struct config *config, const struct model *model, server_load load,
               void *load_arg, char errmsg[SEISMO_ERRMSG])
{
    struct hookd helper;
    malloc_trim(0); /* what loading the model gave back, or the helper would keep it */
    int rc = hookd_start(config, load, load_arg, &helper, errmsg); /* before anything is open */
    if (rc != 0)
        return rc;
    setenv("UV_USE_IO_URING", "0", 1); /* what goes through such a ring passes by every filter */
    struct server *s = calloc(1, sizeof(*s));
    void *zmq = zmq_ctx_new();
    if (!s || !zmq || uv_loop_init(&s->loop) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory or file descriptors for the event loop");
        close(helper.fd);
        free(s);
        if (zmq)
            zmq_ctx_term(zmq);
        return SEISMO_ENOMEM;
    }
    s->zmq = zmq;
    s->lock = -1;
    s->helper = helper;
    s->config = config;
    s->model = model;
    s->load = load;
    s->load_arg = load_arg;
    s->started = wall_clock();
    backlog_init(&s->backlog, submit_to_worker, on_backlog, server_now, s);
    fit_limits(s);
    backlog_limit(&s->backlog, &s->limits, config->commit_rows);
    rc = start(s, errmsg);
    if (rc == 0) {
        malloc_trim(0); /* what the start took and gave back */
        say_ready(s);
    } else {
        stop(s, true);
    }
    uv_run(&s->loop, UV_RUN_DEFAULT);
    int left = uv_loop_close(&s->loop);
    if (left != 0 && rc == 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "something still hangs on the event loop at the end: %s",
                 uv_strerror(left));
        rc = SEISMO_EINTERNAL;
    }
    if (s->damaged && rc == 0) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "the database in %.150s is damaged; start again: it is set aside then",
                 config->data);
        rc = SEISMO_ECORRUPT;
    }
    zmq_ctx_term(zmq);
    auth_free(&s->auth);
    ingest_free(&s->ingest);
    backlog_close(&s->backlog);
    config_free(&s->reloaded);
    for (int i = 0; i < CONFIG_MAX_ENDPOINTS; i++)
        free(s->endpoints[i]);
    if (s->helper.fd >= 0)
        close(s->helper.fd);
    if (s->lock >= 0)
        close(s->lock);
    if (left == 0) /* otherwise a handle in it may still be linked */
        free(s);
    return rc;
}
