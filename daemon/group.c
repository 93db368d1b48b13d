#include "daemon/group.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/restore.h"

struct touch {
    struct run *run;
    const struct job *insert, *resume;          /* JOB_OPEN, or NULL */
    uint32_t first_part, last_part;             /* index + 1 in parts, 0: none */
    uint32_t first_edge, last_edge;             /* index + 1 in edges */
    uint32_t first_tail_rows, first_tail_parts; /* of the run, as they are before this */
    uint32_t tail_rows, tail_parts;             /* as they will be */
    uint32_t unfinished; /* rows since the last chunk, those in the database included */
};

struct part {
    const struct seismo_row *rows; /* borrowed from a job */
    uint32_t n, first_result;
    uint32_t next; /* of the same run, index + 1 */
};

/* Detector state between two chunks. */
struct edge {
    uint32_t next; /* of the same run, index + 1 */
    uint32_t n;
    uint8_t snapshot[DETECTOR_SNAPSHOT_MAX];
};

struct new_point {
    int64_t run_id;
    struct point point;
};

struct new_verdict {
    const struct run *run;
    struct verdict verdict;
    int64_t id;
    double recorded;
    char *distribution, *reasons;
};

struct new_alert {
    const struct run *run;
    int64_t id, verdict_id;
    bool entered;
    enum verdict_state state;
    char hook[64];
    double created;
    const char *document; /* of the alert in the job */
};

/* How much of each list. */
struct counts {
    uint32_t cuts, touches, points, verdicts, alerts;
};

/* A run is taken back. What was noted before it is written before it. */
struct cut {
    struct run before; /* a copy */
    int64_t step;
    struct counts noted;
};

#define LIST(type)        \
    struct {              \
        type *at;         \
        uint32_t n, room; \
    }

struct group {
    const struct model *model;
    int64_t last_verdict, last_alert;
    uint8_t first_snapshot[DETECTOR_SNAPSHOT_MAX]; /* of every run, before its first row */
    size_t first_snapshot_n;
    struct job *jobs, **jobs_end;
    uint32_t new_runs;
    LIST(struct touch) touches;
    LIST(struct part) parts;
    LIST(struct row_result) results;
    LIST(struct edge) edges;
    LIST(struct new_point) points;
    LIST(struct new_verdict) verdicts;
    LIST(struct new_alert) alerts;
    LIST(struct cut) cuts;
    bool writing;                          /* a transaction has been begun */
    struct counts written;                 /* in it */
    uint8_t packed[CHUNK_ROWS * PACK_MAX]; /* what will be the next chunk or tail row */
};

static void *must(void *p)
{
    if (!p) {
        log_error("store", "out of memory in the middle of a group: stopping; what was "
                           "acknowledged is stored, and a restart goes on from there");
        abort();
    }
    return p;
}

static void *grown(void *at, uint32_t n, uint32_t *room, size_t size)
{
    if (n < *room) {
        return at;
    }
    *room = *room ? 2 * *room : 64;
    return must(realloc(at, *room * size));
}

/* A new element at the end of a list. */
#define ADD(list)                                                             \
    ((list).at = grown((list).at, (list).n, &(list).room, sizeof *(list).at), \
     &(list).at[(list).n++])

struct group *group_new(const struct model *model, int64_t last_verdict, int64_t last_alert)
{
    struct group *g = calloc(1, sizeof *g);
    if (!g) {
        return NULL;
    }
    g->model = model;
    g->last_verdict = last_verdict;
    g->last_alert = last_alert;
    g->jobs_end = &g->jobs;
    struct detector d;
    detector_init(&d);
    g->first_snapshot_n = detector_snapshot(&d, model, g->first_snapshot);
    return g;
}

static void clear(struct group *g)
{
    for (uint32_t i = 0; i < g->verdicts.n; i++) {
        free(g->verdicts.at[i].distribution);
        free(g->verdicts.at[i].reasons);
    }
    g->jobs = NULL;
    g->jobs_end = &g->jobs;
    g->new_runs = 0;
    g->touches.n = g->parts.n = g->results.n = g->edges.n = 0;
    g->points.n = g->verdicts.n = g->alerts.n = g->cuts.n = 0;
    g->writing = false;
}

void group_free(struct group **group)
{
    struct group *g = *group;
    if (!g) {
        return;
    }
    *group = NULL;
    for (struct job *next, *job = g->jobs; job; job = next) {
        next = job->next;
        job_free(&job);
    }
    clear(g);
    free(g->touches.at);
    free(g->parts.at);
    free(g->results.at);
    free(g->edges.at);
    free(g->points.at);
    free(g->verdicts.at);
    free(g->alerts.at);
    free(g->cuts.at);
    free(g);
}

void group_add_job(struct group *g, struct job *job)
{
    job->next = NULL;
    *g->jobs_end = job;
    g->jobs_end = &job->next;
}

bool group_is_empty(const struct group *g)
{
    return !g->jobs && g->touches.n == 0 && g->alerts.n == 0;
}

/* What is noted of the run since the last cut, of whatever run: that is written, and goes on from
 * what came before it. */
static struct touch *touch(struct group *g, struct run *run)
{
    uint32_t closed = g->cuts.n ? g->cuts.at[g->cuts.n - 1].noted.touches : 0;
    if (run->touch <= closed) {
        const struct touch *before = run->touch ? &g->touches.at[run->touch - 1] : NULL;
        uint32_t tail_rows = before ? before->tail_rows : run->tail_rows;
        uint32_t tail_parts = before ? before->tail_parts : run->tail_parts;
        *ADD(g->touches) = (struct touch){
            .run = run,
            .first_tail_rows = tail_rows,
            .first_tail_parts = tail_parts,
            .tail_rows = tail_rows,
            .tail_parts = tail_parts,
            .unfinished = tail_rows,
        };
        run->touch = g->touches.n;
    }
    return &g->touches.at[run->touch - 1];
}

void group_touch(struct group *g, struct run *run)
{
    touch(g, run);
}

void group_insert(struct group *g, struct run *run, const struct job *open)
{
    touch(g, run)->insert = open;
    g->new_runs++;
}

void group_continue(struct group *g, struct run *run, const struct job *open)
{
    touch(g, run)->resume = open;
}

int64_t group_last_verdict(const struct group *g)
{
    return g->last_verdict;
}

uint32_t group_new_runs(const struct group *g)
{
    return g->new_runs;
}

uint32_t group_cuts(const struct group *g)
{
    return g->cuts.n;
}

bool group_has_name(const struct group *g, const char *shown)
{
    for (uint32_t i = 0; i < g->touches.n; i++) {
        if (g->touches.at[i].insert && strcmp(g->touches.at[i].run->run, shown) == 0) {
            return true;
        }
    }
    return false;
}

void group_part(struct group *g, struct run *run, const struct seismo_row *rows)
{
    struct touch *t = touch(g, run);
    *ADD(g->parts) = (struct part){.rows = rows, .first_result = g->results.n};
    *(t->last_part ? &g->parts.at[t->last_part - 1].next : &t->first_part) = g->parts.n;
    t->last_part = g->parts.n;
}

void group_row(struct group *g, struct run *run, struct row_result result)
{
    struct touch *t = touch(g, run);
    assert(t->last_part == g->parts.n);
    *ADD(g->results) = result;
    g->parts.at[t->last_part - 1].n++;
    if (++t->unfinished == CHUNK_ROWS) {
        struct edge *e = ADD(g->edges);
        e->next = 0;
        e->n = (uint32_t)detector_snapshot(&run->detector, g->model, e->snapshot);
        *(t->last_edge ? &g->edges.at[t->last_edge - 1].next : &t->first_edge) = g->edges.n;
        t->last_edge = g->edges.n;
        t->unfinished = 0;
    }
}

void group_point(struct group *g, struct run *run, const struct point *point)
{
    *ADD(g->points) = (struct new_point){.run_id = run->id, .point = *point};
}

static char *text(const json_t *json)
{
    return must(json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15)));
}

static void set(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, must(value)) != 0) {
        must(NULL);
    }
}

int64_t group_verdict(struct group *g, struct run *run, struct job *job, const struct verdict *v,
                      double now, json_t **ret_document)
{
    touch(g, run);
    json_t *document = must(verdict_json(v, run->run, run->program));
    if (v->step < 0) {
        set(document, "step", json_null());
    }
    int64_t id = ++g->last_verdict;
    set(document, "id", json_integer(id));
    const json_t *fault = json_object_get(document, "fault");
    *ADD(g->verdicts) = (struct new_verdict){
        .run = run,
        .verdict = *v,
        .id = id,
        .recorded = now,
        .distribution = text(json_object_get(fault, "distribution")),
        .reasons = text(json_object_get(document, "reasons")),
    };
    struct news *news = must(calloc(1, sizeof *news)), **end = &job->news;
    news->verdict_id = id;
    news->run_id = run->id;
    memcpy(news->run, run->run, sizeof news->run);
    news->json = text(document);
    while (*end) {
        end = &(*end)->next;
    }
    *end = news;
    if (ret_document) {
        *ret_document = document;
    } else {
        json_decref(document);
    }
    return id;
}

void group_alert(struct group *g, struct run *run, struct job *job, int64_t verdict_id,
                 const json_t *document, bool entered, enum verdict_state state, const char *hook,
                 double now)
{
    struct alert *alert = must(calloc(1, sizeof *alert)), **end = &job->alerts;
    alert->id = ++g->last_alert;
    strncpy(alert->hook, hook, sizeof alert->hook - 1);
    json_t *copy = must(json_copy((json_t *)document));
    set(copy, "alert", json_integer(alert->id));
    set(copy, "event", json_string(entered ? "entered" : "resolved"));
    set(copy, "condition", json_string(verdict_state_name(state)));
    alert->json = text(copy);
    json_decref(copy);
    while (*end) {
        end = &(*end)->next;
    }
    *end = alert;
    struct new_alert *a = ADD(g->alerts);
    *a = (struct new_alert){
        .run = run,
        .id = alert->id,
        .verdict_id = verdict_id,
        .entered = entered,
        .state = state,
        .created = now,
        .document = alert->json,
    };
    memcpy(a->hook, alert->hook, sizeof a->hook);
}

/* ---- writing ---- */

/* Rows that are packed and not yet written. */
struct packing {
    uint32_t n;
    size_t bytes;
    int64_t first_step, last_step;
};

/* The tail in the database and the rows just packed make a chunk. */
static int write_chunk(struct group *g, struct store *s, struct touch *t, struct packing *p,
                       const struct edge *edge)
{
    int64_t id = t->run->id;
    int err = 0;
    if (t->tail_rows > 0) {
        uint8_t tail[CHUNK_ROWS * PACK_MAX];
        size_t bytes;
        err = store_tail_read(s, id, tail, sizeof tail - p->bytes, &bytes);
        if (err) {
            return err;
        }
        memmove(g->packed + bytes, g->packed, p->bytes);
        memcpy(g->packed, tail, bytes);
        p->bytes += bytes;
        p->first_step = pack_first_step(tail);
        err = store_tail_delete(s, id);
    }
    err = err ? err
              : store_chunk_insert(s, id, p->first_step, p->last_step, g->packed, p->bytes,
                                   edge->snapshot, edge->n);
    t->tail_rows = t->tail_parts = 0;
    *p = (struct packing){0};
    return err;
}

static int write_rows(struct group *g, struct store *s, struct touch *t)
{
    struct packing p = {0};
    uint32_t edge = t->first_edge;
    t->tail_rows = t->first_tail_rows;
    t->tail_parts = t->first_tail_parts;
    for (uint32_t i = t->first_part; i; i = g->parts.at[i - 1].next) {
        const struct part *part = &g->parts.at[i - 1];
        const struct row_result *result = &g->results.at[part->first_result];
        for (uint32_t k = 0; k < part->n; k++) {
            const struct seismo_row *row = &part->rows[k];
            p.first_step = p.n == 0 ? row->step : p.first_step;
            p.last_step = row->step;
            p.bytes += pack_row(g->packed + p.bytes, row, result[k].score, result[k].curvature);
            p.n++;
            if (t->tail_rows + p.n == CHUNK_ROWS) {
                int err = write_chunk(g, s, t, &p, &g->edges.at[edge - 1]);
                if (err) {
                    return err;
                }
                edge = g->edges.at[edge - 1].next;
            }
        }
    }
    if (p.n == 0) {
        return 0;
    }
    t->tail_rows += p.n;
    return store_tail_insert(s, t->run->id, t->tail_parts++, p.first_step, p.last_step, p.n,
                             g->packed, p.bytes);
}

static int write_run(struct group *g, struct store *s, struct touch *t, double now)
{
    struct run *run = t->run;
    int err = 0;
    run->updated = now;
    if (t->insert) {
        err = store_run_insert(s, run, t->insert->open.meta, model_name(g->model),
                               g->first_snapshot, g->first_snapshot_n);
    }
    if (!err && t->resume) {
        err = store_run_continue(s, run, t->resume->open.meta);
    }
    err = err ? err : write_rows(g, s, t);
    return err ? err : store_run_update(s, run, model_name(g->model));
}

/* What people and hooks have said: no rows, and an unknown run is the asker's error only. */
static int write_job(struct store *s, struct job *job, double now)
{
    if (job->type == JOB_ALERT) {
        return store_alert_result(s, job->alert.id, job->alert.delivered, job->alert.result, now);
    }
    if (job->type != JOB_LABEL) {
        return 0;
    }
    job->err = 0;
    int err = store_run_label(s, job->label.run, job->label.outcome);
    if (err == SEISMO_ENOTFOUND) {
        snprintf(job->errmsg, sizeof job->errmsg, "no run is called \"%s\"", job->label.run);
        job->err = err;
        return 0;
    }
    return err;
}

static int write_verdict(struct store *s, const struct new_verdict *v)
{
    return store_verdict_insert(s, &(struct store_verdict){
                                       .id = v->id,
                                       .run_id = v->run->id,
                                       .run = v->run->run,
                                       .program = v->run->program,
                                       .verdict = &v->verdict,
                                       .recorded = v->recorded,
                                       .distribution = v->distribution,
                                       .reasons = v->reasons,
                                   });
}

static int write_alert(struct store *s, const struct new_alert *a)
{
    return store_alert_insert(s, &(struct store_alert){
                                     .id = a->id,
                                     .verdict_id = a->verdict_id,
                                     .run_id = a->run->id,
                                     .run = a->run->run,
                                     .entered = a->entered,
                                     .state = a->state,
                                     .hook = a->hook,
                                     .created = a->created,
                                     .document = a->document,
                                 });
}

/* Everything up to `to`, but no cuts. */
static int write_until(struct group *g, struct store *s, struct counts to, double now)
{
    struct counts *w = &g->written;
    int err = 0;
    for (; !err && w->touches < to.touches; w->touches++) {
        err = write_run(g, s, &g->touches.at[w->touches], now);
    }
    for (; !err && w->points < to.points; w->points++) {
        err = store_point_insert(s, g->points.at[w->points].run_id, &g->points.at[w->points].point);
    }
    for (; !err && w->verdicts < to.verdicts; w->verdicts++) {
        err = write_verdict(s, &g->verdicts.at[w->verdicts]);
    }
    for (; !err && w->alerts < to.alerts; w->alerts++) {
        err = write_alert(s, &g->alerts.at[w->alerts]);
    }
    return err;
}

static struct counts noted(const struct group *g)
{
    return (struct counts){g->cuts.n, g->touches.n, g->points.n, g->verdicts.n, g->alerts.n};
}

/* Whatever is not yet in the transaction. An error, of a reading too, may have ended the one that
 * was begun; then all is written again. */
static int write_noted(struct group *g, struct store *s, double now)
{
    int err = 0;
    if (!g->writing || !store_is_begun(s)) {
        g->written = (struct counts){0};
        err = store_begin(s);
        g->writing = !err;
    }
    for (; !err && g->written.cuts < g->cuts.n; g->written.cuts++) {
        const struct cut *c = &g->cuts.at[g->written.cuts];
        struct run run = c->before;
        err = write_until(g, s, c->noted, now);
        err = err ? err : restore_cut(s, g->model, &run, c->step);
    }
    return err ? err : write_until(g, s, noted(g), now);
}

static int fail(struct group *g, struct store *s, int err)
{
    g->writing = false;
    store_rollback(s);
    return err;
}

int group_cut(struct group *g, struct store *s, struct run *run, int64_t step, double now,
              struct run *ret_after)
{
    int err = write_noted(g, s, now);
    if (err) {
        return fail(g, s, err);
    }
    struct run before = *run;
    before.ended = before.silent = false;
    if (run->touch) {
        before.tail_rows = g->touches.at[run->touch - 1].tail_rows;
        before.tail_parts = g->touches.at[run->touch - 1].tail_parts;
    }
    struct run after = before;
    err = restore_cut(s, g->model, &after, step);
    if (err) {
        return fail(g, s, err);
    }
    struct cut cut = {before, step, noted(g)};
    *ADD(g->cuts) = cut;
    g->written.cuts = g->cuts.n;
    after.touch = 0; /* its tail is the cut's */
    *ret_after = after;
    return 0;
}

int group_write(struct group *g, struct store *s, double now)
{
    int err = write_noted(g, s, now);
    for (struct job *job = g->jobs; !err && job; job = job->next) {
        err = write_job(s, job, now);
    }
    err = err ? err : store_commit(s);
    return err ? fail(g, s, err) : 0;
}

struct job *group_done(struct group *g, struct runs *runs)
{
    for (uint32_t i = 0; i < g->touches.n; i++) {
        struct touch *t = &g->touches.at[i];
        struct run *run = t->run;
        if (run->touch != i + 1) {
            continue; /* a later one is the last */
        }
        run->touch = 0;
        run->tail_rows = t->tail_rows;
        run->tail_parts = t->tail_parts;
        if (run->ended && !run->attached) {
            runs_remove(runs, run);
        }
    }
    struct job *jobs = g->jobs;
    clear(g);
    return jobs;
}
