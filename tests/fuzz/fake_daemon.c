#include "tests/fuzz/fake_daemon.h"

#include <inttypes.h>
#include <string.h>

#include "daemon/session.h"
#include "tests/fuzz/fuzz.h"

/* Of the sanitizer's runtime, where there is one. */
__attribute__((weak)) size_t __sanitizer_get_current_allocated_bytes(void);

static size_t heap(void)
{
    return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes() : 0;
}

/* ---- the socket ---- */

/* "A" and the number of the connection. */
static size_t routing_id(const struct fake *f, int peer, uint8_t ret[8])
{
    return (size_t)snprintf((char *)ret, 8, "%c%u", 'A' + peer, f->peer[peer].incarnation);
}

/* The peer that has this connection now, or -1. */
static int find_peer(const struct fake *f, const void *id, size_t n)
{
    for (int i = 0; i < FAKE_PEERS; i++) {
        uint8_t own[8];
        if (routing_id(f, i, own) == n && memcmp(own, id, n) == 0)
            return i;
    }
    return -1;
}

static void tell(struct fake_peer *p, const void *data, size_t n)
{
    if (p->told_n + n > p->told_cap) {
        p->told_cap = 2 * (p->told_n + n);
        p->told = realloc(p->told, p->told_cap);
        FUZZ_CHECK(p->told, "memory");
    }
    memcpy(p->told + p->told_n, data, n);
    p->told_n += n;
}

static uint64_t committed(const struct fake *f, const char *session)
{
    for (int i = 0; i < f->n_commits; i++) {
        if (strcmp(f->commit[i].session, session) == 0)
            return f->commit[i].batch;
    }
    return 0;
}

static void note_commit(struct fake *f, const char *session, uint64_t batch)
{
    int i = 0;
    while (i < f->n_commits && strcmp(f->commit[i].session, session) != 0)
        i++;
    if (i == f->n_commits) {
        f->commit = realloc(f->commit, (size_t)++f->n_commits * sizeof *f->commit);
        FUZZ_CHECK(f->commit, "memory");
        f->commit[i] = (struct fake_commit){.batch = batch};
        snprintf(f->commit[i].session, sizeof f->commit[i].session, "%s", session);
    } else if (f->commit[i].batch < batch) {
        f->commit[i].batch = batch;
    }
}

static struct fake_run *find_run(struct fake *f, int64_t id)
{
    for (int i = 0; i < f->n_runs; i++) {
        if (f->run[i].id == id)
            return &f->run[i];
    }
    return NULL;
}

/* "RUN NUMBER" and padding. */
static void check_news(struct fake *f, int peer, const struct wire_ack *ack)
{
    struct wire_rows cursor = ack->cursor;
    struct wire_str text;
    char errmsg[SEISMO_ERRMSG];
    FUZZ_CHECK(ack->n <= LIMIT_SESSION_VERDICTS, "%u verdicts at once", ack->n);
    while (wire_next_text(&cursor, &text, errmsg) == 0) {
        char *end;
        int64_t id = strtoll(text.p, &end, 10);
        uint64_t number = strtoull(end, NULL, 10);
        struct fake_run *run = find_run(f, id);
        FUZZ_CHECK(run, "a verdict of no run");
        FUZZ_CHECK(run->peer == peer || f->shared, "another's verdict");
        FUZZ_CHECK(number > run->news_heard && number <= run->news,
                   "verdict %" PRIu64 " after %" PRIu64, number, run->news_heard);
        run->news_heard = number;
    }
}

static void check_sent(struct fake *f, int peer, const struct wire_msg *m)
{
    struct fake_peer *p = &f->peer[peer];
    switch (m->type) {
    case WIRE_WELCOME:
        p->welcomes++;
        FUZZ_CHECK(m->welcome.last_batch <= committed(f, p->session),
                   "WELCOME names batch %" PRIu64, m->welcome.last_batch);
        break;
    case WIRE_ACK:
        p->acks++;
        p->acked = m->ack.batch;
        FUZZ_CHECK(m->ack.batch <= committed(f, p->session),
                   "batch %" PRIu64 " of %s is acknowledged, %" PRIu64 " is committed",
                   m->ack.batch, p->session, committed(f, p->session));
        check_news(f, peer, &m->ack);
        break;
    case WIRE_ERROR: {
        double measure = LIMIT_ERROR_BURST + (f->now - p->since) * LIMIT_ERROR_RATE + 1e-6;
        p->errors++;
        FUZZ_CHECK((double)p->errors <= measure, "%u ERRORs in %g s", (unsigned)p->errors,
                   f->now - p->since);
        break;
    }
    case WIRE_PING:
        break;
    default:
        FUZZ_CHECK(false, "type %d", (int)m->type);
    }
}

static int fake_send(void *arg, const void *id, size_t id_n, const void *data, size_t n)
{
    struct fake *f = arg;
    struct wire_msg m;
    char errmsg[SEISMO_ERRMSG];
    int peer = find_peer(f, id, id_n);
    if (peer < 0 || f->peer[peer].unreachable)
        return SEISMO_EUNREACHABLE;
    if (f->peer[peer].busy)
        return SEISMO_EBUSY;
    FUZZ_CHECK(n <= LIMIT_ACK_BYTES, "a message of %zu bytes", n);
    int err = wire_decode(data, n, &m, errmsg);
    FUZZ_CHECK(err == 0, "the daemon sends what nobody can read: %s", errmsg);
    check_sent(f, peer, &m);
    tell(&f->peer[peer], data, n);
    return 0;
}

/* ---- the way to the worker ---- */

static struct fake_owner *find_owner(struct fake *f, uint64_t owner)
{
    for (int i = f->n_owners - 1; i >= 0; i--) {
        if (f->owner[i].owner == owner)
            return &f->owner[i];
    }
    return NULL;
}

/* The client's id alone does not say which run is meant. */
static void session_name(const struct job *job, char ret[FAKE_SESSION])
{
    int n = snprintf(ret, FAKE_SESSION, "%.*s of %s@%" PRIu32, (int)job->open.session_n,
                     (const char *)job->open.session, job->open.name, job->open.rank);
    FUZZ_CHECK(n < FAKE_SESSION, "a session's name of %d bytes", n);
}

static void note_open(struct fake *f, const struct job *job)
{
    struct fake_peer *p = &f->peer[f->receiving];
    FUZZ_CHECK(f->receiving >= 0, "a run is opened, and nobody asked");
    session_name(job, p->session);
    p->owner = job->owner;
    p->early = UINT64_MAX;
    struct fake_owner *o = find_owner(f, job->owner);
    if (!o) {
        f->owner = realloc(f->owner, (size_t)(f->n_owners + 1) * sizeof *f->owner);
        FUZZ_CHECK(f->owner, "memory");
        o = &f->owner[f->n_owners++];
    }
    *o = (struct fake_owner){.owner = job->owner, .peer = f->receiving};
}

static void note_batch(struct fake *f, const struct job *job)
{
    struct fake_owner *o = find_owner(f, job->owner);
    FUZZ_CHECK(o && o->opened && o->peer == f->receiving, "a batch of a session that is not open");
    FUZZ_CHECK(job->owner == f->peer[o->peer].owner, "a batch of an earlier session");
    FUZZ_CHECK(!o->any || job->batch <= f->peer[o->peer].early,
               "batch %" PRIu64 " is taken before %" PRIu64 ", which came too early", job->batch,
               f->peer[o->peer].early);
    FUZZ_CHECK(job->batch >= 1 && (o->any || job->batch <= o->received + 1),
               "batch %" PRIu64 " after %" PRIu64, job->batch, o->received);
    const struct fake_run *run = find_run(f, job->run_id);
    FUZZ_CHECK(run && (f->shared || run->peer == o->peer), "a batch into another's run");
    if (job->batch > o->received || o->any)
        o->received = job->batch;
    o->any = false;
    if (job->type != JOB_STEPS || !f->clean)
        return;
    for (uint32_t i = 0; i < job->steps.n; i++) {
        const struct seismo_row *row = &job->steps.rows[i];
        FUZZ_CHECK((double)row->value[SEISMO_LOSS] == FAKE_LOSS(f->receiving, job->batch),
                   "a row of another batch: %g", (double)row->value[SEISMO_LOSS]);
        FUZZ_CHECK(row->step == (int64_t)(job->batch % 1000 * 8 + i), "rows out of order");
    }
}

static void fake_submit(void *arg, struct job *job)
{
    struct fake *f = arg;
    FUZZ_CHECK(job->owner != 0, "a job of nobody");
    if (job->type == JOB_OPEN)
        note_open(f, job);
    else if (job->type == JOB_STEPS || job->type == JOB_CLOSE)
        note_batch(f, job);
    else
        FUZZ_CHECK(job->type == JOB_DETACH, "a job of type %d", (int)job->type);
    if (f->n_jobs == f->cap_jobs) {
        f->cap_jobs = f->cap_jobs * 2 + 16;
        f->job = realloc(f->job, (size_t)f->cap_jobs * sizeof(struct job *));
        FUZZ_CHECK(f->job, "memory");
    }
    f->job[f->n_jobs++] = job;
}

static void fake_opened(void *arg, const char *run, const char *program)
{
    (void)arg;
    FUZZ_CHECK(*run && *program, "a run without a name");
}

static double fake_now(void *arg)
{
    const struct fake *f = arg;
    return f->now;
}

static void begin(struct fake *f)
{
    static const struct ingest_ops ops = {
        .send = fake_send, .submit = fake_submit, .opened = fake_opened, .now = fake_now};
    f->ingest = ingest_new(&ops, f, 10, NULL);
    FUZZ_CHECK(f->ingest, "memory");
}

/* ---- the worker, as daemon/admit.c and daemon/work.c do it ---- */

static void open_run(struct fake *f, struct job *job)
{
    struct fake_owner *o = find_owner(f, job->owner);
    struct fake_run *own = NULL, *other = NULL;
    char session[FAKE_SESSION];
    session_name(job, session);
    for (int i = 0; i < f->n_runs; i++) {
        struct fake_run *run = &f->run[i];
        if (strcmp(run->name, job->open.name) != 0 || run->rank != job->open.rank)
            continue;
        if (strcmp(run->session, session) == 0)
            own = run;
        else if (!run->attached && !other && strcmp(run->program, job->open.program) == 0)
            other = run;
    }
    struct fake_run *run = own ? own : other;
    /* A run that is attached is in memory: its session is let in whatever happens. */
    if (!(own && own->attached) && (f->refuse_open || f->n_runs == FAKE_RUNS)) {
        job->err = f->refuse_open == 1 ? SEISMO_ENOMEM : SEISMO_EIO;
        snprintf(job->errmsg, sizeof job->errmsg, "no run today");
        return;
    }
    if (!run) {
        run = &f->run[f->n_runs++];
        *run = (struct fake_run){.id = 1000 * (o->peer + 1) + f->peer[o->peer].runs++,
                                 .rank = job->open.rank};
        snprintf(run->name, sizeof run->name, "%s", job->open.name);
        snprintf(run->program, sizeof run->program, "%s", job->open.program);
    }
    if (!own) {
        snprintf(run->session, sizeof run->session, "%s", session);
        run->peer = o->peer;
        run->last_batch = 0;
    }
    run->attached = true;
    run->owner = job->owner;
    job->run_id = run->id;
    snprintf(job->open.ret_run, sizeof job->open.ret_run, "%s", run->name);
    job->last_batch = run->last_batch;
    job->has_step = run->has_step;
    job->last_step = run->last_step;
    o->opened = true;
    o->received = run->last_batch;
    o->any = run->last_batch == 0;
}

static void store_batch(struct fake *f, struct job *job)
{
    struct fake_run *run = find_run(f, job->run_id);
    FUZZ_CHECK(run, "a batch of no run");
    if (run->owner != job->owner || (run->ended && !run->attached)) {
        job->err = SEISMO_EHELLO;
        snprintf(job->errmsg, sizeof job->errmsg, "not your run: send HELLO again");
        return;
    }
    if (job->batch > run->last_batch) {
        FUZZ_CHECK(run->last_batch == 0 || job->batch == run->last_batch + 1,
                   "batch %" PRIu64 " is stored after %" PRIu64, job->batch, run->last_batch);
        run->last_batch = job->batch;
        note_commit(f, run->session, job->batch);
        run->ended = job->type == JOB_CLOSE;
        run->attached = job->type != JOB_CLOSE;
        if (job->type == JOB_STEPS && job->steps.n > 0) {
            run->has_step = true;
            run->last_step = job->steps.rows[job->steps.n - 1].step;
        }
    }
    job->last_batch = run->last_batch;
    job->has_step = run->has_step;
    job->last_step = run->last_step;
}

static void work(struct fake *f, struct job *job)
{
    struct fake_run *run;
    switch (job->type) {
    case JOB_OPEN:
        open_run(f, job);
        break;
    case JOB_STEPS:
    case JOB_CLOSE:
        store_batch(f, job);
        break;
    default:
        run = find_run(f, job->run_id);
        FUZZ_CHECK(run, "no run to detach");
        if (run->owner == job->owner) {
            run->attached = false;
            run->ended = true; /* as if a minute had passed */
        }
        break;
    }
}

static int peer_of(struct fake *f, const struct job *job)
{
    const struct fake_owner *o = find_owner(f, job->owner);
    return o ? o->peer : -1;
}

void fake_commit(struct fake *f, int peer, int n)
{
    if (f->skip)
        return;
    for (int i = 0; i < f->n_jobs && n > 0;) {
        struct job *job = f->job[i];
        if (!f->shared && peer_of(f, job) != peer) {
            i++;
            continue;
        }
        memmove(&f->job[i], &f->job[i + 1], (size_t)(f->n_jobs - i - 1) * sizeof job);
        f->n_jobs--;
        work(f, job);
        ingest_done(f->ingest, job);
        job_free(&job);
        n--;
    }
}

void fake_news(struct fake *f, int peer, uint8_t choice)
{
    struct fake_run *run = NULL;
    for (int i = 0; i < f->n_runs; i++) {
        if (f->run[i].peer == peer)
            run = &f->run[i];
    }
    if (f->skip || !run)
        return;
    struct job *job = job_new(JOB_NEWS, 0);
    FUZZ_CHECK(job, "memory");
    struct news **end = &job->news;
    for (int i = 0; i <= choice % 80; i++) {
        struct news *n = calloc(1, sizeof *n);
        size_t size = 32 + (choice & 0x80 ? 6000u : 0u);
        n->run_id = run->id;
        n->json = malloc(size + 1);
        memset(n->json, ' ', size);
        n->json[size] = '\0';
        int length = snprintf(n->json, size, "%" PRId64 " %" PRIu64, run->id, ++run->news);
        n->json[length] = ' ';
        *end = n;
        end = &n->next;
    }
    ingest_done(f->ingest, job);
    FUZZ_CHECK(!job->news, "news are left");
    job_free(&job);
}

/* ---- peers ---- */

void fake_receive(struct fake *f, int peer, const uint8_t *data, size_t n, int frames, bool clean)
{
    if (f->skip)
        return;
    uint8_t id[8];
    void *copy = malloc(n > 0 ? n : 1); /* of its exact size */
    memcpy(copy, data, n);
    struct zsock_msg msg = {
        .peer = id, .peer_n = routing_id(f, peer, id), .data = copy, .n = n, .frames = frames};
    f->receiving = peer;
    f->clean = clean;
    ingest_receive(f->ingest, &msg);
    f->receiving = -1;
    free(copy);
}

void fake_batch(struct fake *f, int peer, uint64_t batch)
{
    struct fake_peer *p = &f->peer[peer];
    const struct fake_owner *o = find_owner(f, p->owner);
    if (!f->skip && o && !o->opened && batch < p->early)
        p->early = batch;
}

void fake_reconnect(struct fake *f, int peer)
{
    struct fake_peer *p = &f->peer[peer];
    if (f->skip)
        return;
    p->incarnation++;
    p->unreachable = p->busy = false;
    p->since = f->now;
    p->errors = p->welcomes = p->acks = p->acked = p->owner = 0;
    p->session[0] = '\0';
    f->connections++;
}

void fake_pass(struct fake *f, double seconds)
{
    f->now += seconds;
    ingest_tick(f->ingest);
}

static void drop_jobs(struct fake *f)
{
    for (int i = 0; i < f->n_jobs; i++)
        job_free(&f->job[i]);
    f->n_jobs = 0;
}

/* What was not committed is lost; all have to connect again. */
void fake_restart(struct fake *f)
{
    ingest_free(&f->ingest);
    drop_jobs(f);
    f->n_owners = 0;
    for (int i = 0; i < f->n_runs; i++)
        f->run[i].attached = false;
    bool skip = f->skip;
    f->skip = false;
    for (int i = 0; i < FAKE_PEERS; i++)
        fake_reconnect(f, i);
    f->skip = skip;
    begin(f);
}

void fake_all_gone(struct fake *f)
{
    for (int i = 0; i < FAKE_PEERS; i++)
        f->peer[i].unreachable = true;
    fake_pass(f, 2 * LIMIT_PING_INTERVAL);
    while (f->n_jobs > 0) /* a run that is opened now has nobody: one more job */
        for (int i = 0; i < FAKE_PEERS; i++)
            fake_commit(f, i, f->n_jobs);
    for (int i = 0; i < f->n_runs; i++)
        FUZZ_CHECK(!f->run[i].attached, "run %s of %s is attached, and nobody is there",
                   f->run[i].name, f->run[i].session);
}

/* ---- life ---- */

struct fake *fake_new(bool shared)
{
    struct fake *f = calloc(1, sizeof *f);
    FUZZ_CHECK(f, "memory");
    f->shared = shared;
    f->now = 1000;
    f->receiving = -1;
    f->connections = FAKE_PEERS;
    for (int i = 0; i < FAKE_PEERS; i++)
        f->peer[i].since = f->now;
    f->heap = heap();
    begin(f);
    return f;
}

void fake_free(struct fake **ref)
{
    struct fake *f = *ref;
    ingest_free(&f->ingest);
    FUZZ_CHECK(!f->ingest, "not freed");
    drop_jobs(f);
    for (int i = 0; i < FAKE_PEERS; i++)
        free(f->peer[i].told);
    free(f->owner);
    free(f->commit);
    free(f->job);
    free(f);
    *ref = NULL;
}

void fake_skip(struct fake *f, bool skip)
{
    f->skip = skip;
}

void fake_check_memory(struct fake *f)
{
    struct ingest_stats stats;
    ingest_stats(f->ingest, &stats);
    FUZZ_CHECK(stats.attached <= f->connections, "%u sessions of %u connections", stats.attached,
               f->connections);
    size_t jobs = 0, told = 0;
    for (int i = 0; i < f->n_jobs; i++) {
        const struct job *job = f->job[i];
        jobs += sizeof *job;
        jobs += job->type == JOB_STEPS ? job->steps.n * sizeof(struct seismo_row) : 0;
    }
    for (int i = 0; i < FAKE_PEERS; i++)
        told += f->peer[i].told_cap;
    size_t own = told + jobs + (size_t)f->n_owners * sizeof *f->owner +
                 (size_t)f->n_commits * sizeof *f->commit + (size_t)f->cap_jobs * sizeof *f->job;
    size_t bound = (2u << 20) + f->connections * (sizeof(struct session) + (1u << 10) +
                                                  LIMIT_SESSION_VERDICTS * (6000 + 1024));
    FUZZ_CHECK(heap() <= f->heap + own + bound, "%zu bytes are held for %u connections",
               heap() - f->heap - own, f->connections);
}

void fake_same(const struct fake_peer *a, const struct fake_peer *b)
{
    size_t n = a->told_n < b->told_n ? a->told_n : b->told_n, i = 0;
    while (i < n && a->told[i] == b->told[i])
        i++;
    FUZZ_CHECK(a->told_n == b->told_n && i == n,
               "beside others the peer is told %zu bytes, alone %zu; the same are %zu", a->told_n,
               b->told_n, i);
}
