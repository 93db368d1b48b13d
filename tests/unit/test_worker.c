/* The worker from outside: what it acknowledges, what it stores, and what survives. */
#include "tests/unit/worker_rig.h"

#include "tests/unit/worker_runs.h"

/* ---- batches ---- */

static void what_is_acknowledged_is_stored(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    assert_string_equal(p.run, "a");
    assert_int_equal(p.welcome_batch, 0);
    assert_false(p.has_step);
    /* A portrait of the same rows scored here. */
    struct detector d;
    detector_init(&d);
    uint32_t at = 0;
    for (uint32_t n = 1; at + n <= ROWS; at += n, n = n * 3 % 71 + 1) {
        struct job *job = rig_send(&p, rows + at, n);
        assert_int_equal(job->last_step, at + n - 1);
        job_free(&job);
    }
    char path[128];
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    struct history *h;
    struct pack_row row;
    assert_int_equal(history_new(db, p.run_id, -1, &h, rig.errmsg), 0);
    for (uint32_t i = 0; i < at; i++) {
        struct detector_result result;
        detector_step(&d, rig.model, &rows[i], &result);
        assert_int_equal(history_next(h, &row, rig.errmsg), 0);
        assert_memory_equal(&row.row, &rows[i], sizeof rows[i]);
        assert_memory_equal(&row.score, &result.score, sizeof row.score);
        assert_memory_equal(&row.curvature, &result.curvature, sizeof row.curvature);
    }
    assert_int_equal(history_next(h, &row, rig.errmsg), SEISMO_EEOF);
    history_free(&h);
    sqlite3_close(db);
    rig_expect("3|768\n", "SELECT count(*), sum(n) FROM chunks");
    rig_expect(
        "warming_up|info\nhealthy|info\n",
        "SELECT state, severity FROM (SELECT 'warming_up' AS state, 'info' AS severity, 0 AS "
        "id UNION SELECT state, severity, id FROM verdicts WHERE id = 1) ORDER BY id");
    rig_expect("unstable|critical\n", "SELECT state, severity FROM verdicts WHERE state = "
                                      "'unstable' AND severity = 'critical' ORDER BY id LIMIT 1");
}

static void verdicts_come_with_the_batch(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 300, 64);
    struct job *job = rig_send(&p, rows + 300, 64);
    assert_non_null(job->news);
    json_t *last = NULL;
    for (struct news *n = job->news; n; n = n->next) {
        json_decref(last);
        last = json_loads(n->json, 0, NULL);
        assert_int_equal(json_integer_value(json_object_get(last, "id")), n->verdict_id);
        assert_int_equal(n->run_id, p.run_id);
        assert_string_equal(n->run, "a");
    }
    assert_string_equal(json_string_value(json_object_get(last, "state")), "unstable");
    assert_string_equal(json_string_value(json_object_get(last, "severity")), "critical");
    assert_string_equal(json_string_value(json_object_get(last, "program")), "train.py");
    json_decref(last);
    job_free(&job);
    struct worker_stats stats;
    worker_stats(rig.worker, &stats);
    assert_int_equal(stats.steps, 364);
    assert_int_equal(stats.batches, 6);
    assert_true(stats.verdicts >= 2);
    assert_int_equal(stats.runs, 1);
    assert_int_equal(stats.queued_jobs, 0);
}

static void a_batch_sent_again_is_not_stored_again(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 100, 10);
    p.batch = 7;
    struct job *job = rig_call(rig_steps_job(&p, rows + 70, 10));
    assert_int_equal(job->err, 0);
    assert_int_equal(job->last_batch, 10);
    assert_int_equal(job->last_step, 99);
    assert_null(job->news);
    job_free(&job);
    rig_expect("100|99\n", "SELECT steps, step FROM runs");
    struct worker_stats stats;
    worker_stats(rig.worker, &stats);
    assert_int_equal(stats.duplicate_batches, 1);
    assert_int_equal(stats.superseded, 0);

    /* The end too, whose acknowledgement got lost. */
    p.batch = 10;
    job = rig_bye(&p, WIRE_FINISHED, "");
    assert_int_equal(job->err, 0);
    job_free(&job);
    p.batch--;
    job = rig_bye(&p, WIRE_FINISHED, "");
    assert_int_equal(job->err, SEISMO_EHELLO); /* the run is not held any more */
    job_free(&job);
    p = rig_open("a", "s1");
    assert_int_equal(p.welcome_batch, 11);
    p.batch = 10;
    job = rig_bye(&p, WIRE_FINISHED, "");
    assert_int_equal(job->err, 0);
    assert_int_equal(job->last_batch, 11);
    assert_null(job->news);
    job_free(&job);
    rig_detach(&p);
    /* Whoever goes on after the end must say who he is. */
    job = rig_call(rig_steps_job(&p, rows + 100, 10));
    assert_int_equal(job->err, SEISMO_EHELLO);
    job_free(&job);
    rig_expect("100|finished|1\n",
               "SELECT steps, outcome, (SELECT count(*) FROM verdicts WHERE state = 'ended') "
               "FROM runs");
}

static void an_empty_batch_takes_its_number(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    rig_feed(&p, rows, 0);
    rig_expect("1|0|NULL\n", "SELECT last_batch, steps, step FROM runs");
}

static void the_series_halves_its_resolution_with_each_doubling(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    static struct seismo_row many[3000];
    for (int i = 0; i < 3000; i++) {
        many[i] = (struct seismo_row){.step = 10 * i, .time = NAN};
        row_set(&many[i], SEISMO_LOSS, i == 2001 ? NAN : i % 8);
    }
    for (int i = 0; i < 3000; i += 100) {
        rig_feed(&p, many + i, 100);
    }
    rig_expect("1|512\n2|256\n4|256\n8|119\n",
               "SELECT steps, count(*) FROM series GROUP BY steps ORDER BY steps");
    rig_expect("20470|3|7.0|7.0\n", "SELECT step, steps - 1, loss, loss_max FROM series WHERE "
                                    "step = 20470");
    rig_expect("20030|NULL\n", "SELECT step, loss_max FROM series WHERE loss_max IS NULL");
    rig_expect("3000\n", "SELECT sum(steps) + 3000 % 8 FROM series");
}

/* ---- restart ---- */

/* The same training by a worker that is killed after each batch, and by one that is not. */
static void a_crash_leaves_no_trace(void **state)
{
    (void)state;
    struct peer calm = rig_open("calm", "s1"), shaken = rig_open("shaken", "s2");
    uint32_t n = 1;
    for (uint32_t at = 0; at < ROWS; at += n, n = n * 5 % 67 + 1) {
        n = ROWS - at < n ? ROWS - at : n;
        rig_feed(&shaken, rows + at, n);
        rig_crash();
        rig_start();
        struct peer again = rig_open("shaken", "s2");
        assert_int_equal(again.run_id, shaken.run_id);
        assert_int_equal(again.welcome_batch, shaken.batch);
        assert_int_equal(again.last_step, at + n - 1);
    }
    calm = rig_open("calm", "s1");
    feed(&calm, 0, ROWS, 64);
    rig_same(rig_portrait(calm.run_id), rig_portrait(shaken.run_id));
}

static void another_model_scores_the_rows_again(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 700, 64);
    rig_stop();
    struct model *small = rig.model;
    rig.model = load_model(SMALL_MODEL("other"));
    rig_start();
    p = rig_open("a", "s1");
    feed(&p, 700, ROWS, 64); /* completes a chunk that began under the old model */
    struct detector d;
    detector_init(&d);
    struct detector_result result;
    for (int i = 0; i < ROWS; i++) {
        detector_step(&d, rig.model, &rows[i], &result);
    }
    char *got = rig_sql("SELECT printf('%%.9g', score), model FROM runs");
    char expected[64];
    snprintf(expected, sizeof expected, "%.9g|other\n", (double)result.score);
    assert_string_equal(got, expected);
    free(got);
    rig_crash(); /* restores from snapshots of the new model */
    rig_start();
    rig_stop();
    model_free(&rig.model);
    rig.model = small;
    rig_start();
}

/* ---- a job resumed from its checkpoint ---- */

static void supersede_at(uint32_t cut, uint32_t batch)
{
    char name[32];
    snprintf(name, sizeof name, "back-to-%u", cut);
    struct peer straight = rig_open("straight", name);
    feed(&straight, 0, ROWS, batch);
    struct peer first = rig_open(name, "s1");
    feed(&first, 0, 850, 64);
    rig_detach(&first);
    struct peer second = rig_open(name, "s2");
    assert_int_equal(second.run_id, first.run_id);
    assert_string_equal(second.run, name);
    assert_int_equal(second.welcome_batch, 0);
    assert_int_equal(second.last_step, 849);
    feed(&second, cut, ROWS, batch);
    rig_same(rig_portrait(second.run_id), rig_portrait(straight.run_id));
    rig_crash();
    rig_start();
    rig_same(rig_portrait(second.run_id), rig_portrait(straight.run_id));
    straight = rig_open("straight", name);
    rig_detach(&straight);
}

static void a_resumed_job_leaves_one_history(void **state)
{
    (void)state;
    static const uint32_t cuts[] = {0,   1,   100, 255, 256, 257, 333,
                                    512, 520, 701, 767, 768, 800, 849};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        supersede_at(cuts[i], i % 2 ? 64 : 300);
        rig_expect("0\n", "SELECT count(*) FROM verdicts WHERE superseded = 0 AND step > "
                          "(SELECT step FROM runs WHERE id = run_id)");
    }
    rig_expect("ok\n", "PRAGMA integrity_check");
}

static void rows_may_go_back_within_a_batch(void **state)
{
    (void)state;
    struct peer straight = rig_open("straight", "s1"), p = rig_open("p", "s2");
    feed(&straight, 0, 400, 64);
    static struct seismo_row batch[1000];
    uint32_t n = 0;
    static const uint32_t span[][2] = {{0, 300}, {200, 290}, {290, 310}, {305, 306}, {305, 400}};
    for (size_t i = 0; i < sizeof span / sizeof *span; i++) {
        for (uint32_t k = span[i][0]; k < span[i][1]; k++) {
            batch[n++] = rows[k];
        }
    }
    rig_feed(&p, batch, n);
    rig_same(rig_portrait(p.run_id), rig_portrait(straight.run_id));
    struct worker_stats stats;
    worker_stats(rig.worker, &stats);
    assert_int_equal(stats.superseded, 100 + 5 + 1);
    rig_expect("0\n", "SELECT count(*) FROM tail GROUP BY run_id, first_step HAVING count(*) > 1 "
                      "UNION SELECT 0");
}

/* Transactions in the log: frames that say how large the database is after them. */
static unsigned transactions(void)
{
    char path[128];
    uint8_t head[32], frame[24 + 4096];
    unsigned n = 0;
    snprintf(path, sizeof path, "%s/seismo.db-wal", rig.dir);
    FILE *log = fopen(path, "rb");
    assert_non_null(log);
    assert_int_equal(fread(head, sizeof head, 1, log), 1);
    while (fread(frame, sizeof frame, 1, log) == 1 && memcmp(frame + 8, head + 16, 8) == 0) {
        n += memcmp(frame + 4, "\0\0\0\0", 4) != 0;
    }
    fclose(log);
    return n;
}

/* What a resumed job repeats is acknowledged, and so it is deleted in the transaction of the batch
 * that repeats it, wherever in the batch it goes back: after a crash there is all of the batch or
 * nothing of it. */
static void going_back_is_one_transaction(void **state)
{
    (void)state;
    struct peer p = rig_open("p", "s1");
    feed(&p, 0, 400, 50);
    static struct seismo_row batch[60];
    for (uint32_t k = 0; k < 20; k++) {
        batch[k] = rows[400 + k];
        batch[20 + k] = rows[100 + k];
        batch[40 + k] = rows[110 + k];
    }
    unsigned before = transactions();
    struct job *job = rig_steps_job(&p, batch, 60);
    rig_call(job);
    assert_int_equal(job->err, 0);
    job_free(&job);
    assert_int_equal(transactions(), before + 1);
    rig_expect("130|129|9\n", "SELECT steps, step, last_batch FROM runs");
    struct peer straight = rig_open("straight", "s2");
    feed(&straight, 0, 130, 50);
    rig_same(rig_portrait(p.run_id), rig_portrait(straight.run_id));
}

/* A client that says the same step again and again: every row goes back. */
static struct job *same_step_job(struct peer *p)
{
    static struct seismo_row same[SEISMO_MAX_ROWS];
    for (int i = 0; i < SEISMO_MAX_ROWS; i++) {
        same[i] = rows[400];
        row_set(&same[i], SEISMO_LOSS, 1 + i);
    }
    return rig_steps_job(p, same, SEISMO_MAX_ROWS);
}

/* Each cut adds to what is written already. Written anew with each, this batch took minutes. */
static void going_back_with_every_row_takes_linear_time(void **state)
{
    (void)state;
    struct peer p = rig_open("p", "s1"), straight = rig_open("straight", "s2");
    struct peer other = rig_open("other", "s3");
    feed(&p, 0, 400, 50);
    feed(&straight, 0, 400, 50);
    struct job *same = same_step_job(&p), *job = rig_steps_job(&other, rows, 10);
    struct seismo_row last = same->steps.rows[SEISMO_MAX_ROWS - 1];
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    assert_int_equal(worker_submit(rig.worker, same), 0);
    rig_call(job);
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_true(to.tv_sec - from.tv_sec < 10);
    job_free(&job);
    rig_wait(same);
    job_free(&same);
    rig_feed(&straight, &last, 1);
    rig_same(rig_portrait(p.run_id), rig_portrait(straight.run_id));
}

/* Several runs in one group, some of which go back, end or come in it: a cut writes them all, and
 * what comes after it goes on from there. */
static void a_cut_between_others_rows(void **state)
{
    (void)state;
    enum { N = 7 };
    struct peer p = rig_open("p", "s1"), q = rig_open("q", "s2"), straight = rig_open("x", "s3");
    feed(&p, 0, 250, 50);
    feed(&q, 0, 240, 50);
    struct job *bye = job_new(JOB_CLOSE, 0);
    struct job *all[N] = {
        rig_steps_job(&q, rows + 240, 30), rig_steps_job(&p, rows + 200, 70),
        rig_steps_job(&q, rows + 270, 40), rig_steps_job(&p, rows + 260, 40),
        rig_steps_job(&q, rows + 300, 10), rig_steps_job(&p, rows + 300, 10),
    };
    bye->run_id = q.run_id;
    bye->batch = ++q.batch;
    bye->close.outcome = WIRE_FINISHED;
    all[N - 1] = bye;
    unsigned before = transactions();
    for (int i = 0; i < N; i++) {
        assert_int_equal(worker_submit(rig.worker, all[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        rig_wait(all[i]);
        assert_int_equal(all[i]->err, 0);
        job_free(&all[i]);
    }
    assert_in_range(transactions() - before, 1, 3);
    feed(&straight, 0, 310, 70);
    rig_same(rig_portrait(p.run_id), rig_portrait(straight.run_id));
    struct job *job = rig_bye(&straight, WIRE_FINISHED, "");
    job_free(&job);
    rig_same(rig_portrait(q.run_id), rig_portrait(straight.run_id));
    struct worker_stats stats;
    worker_stats(rig.worker, &stats);
    assert_int_equal(stats.runs, 1); /* p: what ended has left the table */
}

/* What is not acknowledged comes again after a start, and so a stop does not wait for it. */
static void a_stop_does_not_wait_for_going_back(void **state)
{
    (void)state;
    struct peer p = rig_open("p", "s1");
    feed(&p, 0, 400, 50);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(worker_submit(rig.worker, same_step_job(&p)), 0);
    }
    rig_stop();
    rig_expect("1\n", "SELECT last_batch BETWEEN 8 AND 37 FROM runs");
}

/* ---- who is who ---- */

static void jobs_of_one_name_are_told_apart(void **state)
{
    (void)state;
    struct peer first = rig_open("x", "s1"), second = rig_open("x", "s2");
    assert_string_equal(second.run, "x#2");
    assert_string_equal(rig_open("x", "s3").run, "x#3");
    assert_string_equal(rig_open("x", "s2").run, "x#2"); /* the same client again */
    assert_string_equal(rig_open_as("x", "train.py", 1, "s4").run, "x@1");
    assert_string_equal(rig_open_as("x", "train.py", 1, "s5").run, "x@1#2");
    rig_feed(&first, rows, 20);
    rig_feed(&second, rows, 10);

    /* A name that looks like ours is nobody's but its owner's. */
    assert_string_equal(rig_open("y#2", "s6").run, "y#2");
    assert_string_equal(rig_open("y", "s7").run, "y");
    assert_string_equal(rig_open("y", "s8").run, "y#3");

    /* Gone is free for a job of the same program, and only of that. */
    rig_detach(&first);
    assert_string_equal(rig_open_as("x", "other.py", 0, "s9").run, "x#4");
    struct peer heir = rig_open("x", "s10");
    assert_string_equal(heir.run, "x");
    assert_int_equal(heir.last_step, 19);
    assert_int_equal(heir.welcome_batch, 0);

    /* What ended is known by name and by session, over restarts too. */
    struct job *job = rig_bye(&heir, WIRE_FAILED, "CUDA error");
    job_free(&job);
    rig_stop();
    rig_start();
    struct peer same = rig_open("x", "s10");
    assert_int_equal(same.run_id, heir.run_id);
    assert_int_equal(same.welcome_batch, 1);
    rig_expect("failed\n", "SELECT outcome FROM runs WHERE run = 'x'");
    rig_detach(&same);
    heir = rig_open("x", "s11");
    assert_int_equal(heir.run_id, same.run_id);
    rig_feed(&heir, rows + 20, 10);
    rig_expect("NULL|30|healthy\n",
               "SELECT outcome, steps, worst FROM runs WHERE run = 'x' AND ended IS NULL");
}

/* What a connection left on its way when another one took its run over is not stored under the
 * other's batch numbers, and does not detach it. */
static void a_run_belongs_to_its_last_connection(void **state)
{
    (void)state;
    struct peer gone = rig_open("x", "s1"); /* owner 0 */
    rig_feed(&gone, rows, 10);
    struct job *open = job_new(JOB_OPEN, 0);
    open->owner = 7;
    snprintf(open->open.name, sizeof open->open.name, "x");
    snprintf(open->open.program, sizeof open->open.program, "train.py");
    snprintf(open->open.meta, sizeof open->open.meta, "{}");
    memcpy(open->open.session, "s1", open->open.session_n = 2);
    open->open.world = 1;
    rig_call(open);
    assert_int_equal(open->run_id, gone.run_id);
    assert_int_equal(open->last_batch, 1);
    job_free(&open);
    struct job *late = rig_call(rig_steps_job(&gone, rows + 10, 10));
    assert_int_equal(late->err, SEISMO_EHELLO);
    job_free(&late);
    rig_detach(&gone);
    assert_string_equal(rig_open("x", "s2").run, "x#2"); /* the run still has its client */
    rig_expect("10|1\n", "SELECT steps, last_batch FROM runs WHERE run = 'x'");
}

/* Batches are acknowledged to the session that they are of. A run that has ended under another one,
 * and is held no more, says nothing about the batches of those before. */
static void an_ended_run_acknowledges_nothing_to_others(void **state)
{
    (void)state;
    struct peer first = rig_open("x", "s1");
    rig_feed(&first, rows, 10);
    rig_detach(&first);
    struct peer heir = rig_open("x", "s2");
    assert_int_equal(heir.run_id, first.run_id);
    for (int i = 1; i < 4; i++) {
        rig_feed(&heir, rows + 10 * i, 10);
    }
    struct job *job = rig_bye(&heir, WIRE_FINISHED, "");
    assert_int_equal(job->last_batch, 4);
    job_free(&job);
    job = rig_call(rig_steps_job(&first, rows + 10, 10)); /* batch 2, which is not stored */
    assert_int_equal(job->err, SEISMO_EHELLO);
    job_free(&job);
    job = rig_bye(&first, WIRE_FINISHED, "");
    assert_int_equal(job->err, SEISMO_EHELLO);
    job_free(&job);
    rig_expect("40|4\n", "SELECT steps, last_batch FROM runs");
}

static void no_more_runs_than_the_limit(void **state)
{
    (void)state;
    rig.config.limits.runs = 2;
    worker_reconfigure(rig.worker, &rig.config);
    rig_pass(1);
    struct peer first = rig_open("a", "s1");
    rig_open("b", "s2");
    struct job *job = job_new(JOB_OPEN, 0);
    snprintf(job->open.name, sizeof job->open.name, "c");
    snprintf(job->open.program, sizeof job->open.program, "train.py");
    job->open.session[0] = 'c';
    job->open.session_n = job->open.world = 1;
    rig_call(job);
    assert_int_equal(job->err, SEISMO_EBUSY);
    assert_non_null(strstr(job->errmsg, "runs is 2"));
    job_free(&job);
    rig_feed(&first, rows, 10); /* those that are there go on, also after coming back */
    assert_string_equal(rig_open("b", "s2").run, "b");
    rig_expect("2\n", "SELECT count(*) FROM runs");
    job = rig_bye(&first, WIRE_FINISHED, "");
    job_free(&job);
    assert_string_equal(rig_open("c", "s3").run, "c");
}

static void many_open_at_once(void **state)
{
    (void)state;
    enum { MANY = 700 };
    struct job *job[MANY];
    for (int i = 0; i < MANY; i++) {
        job[i] = job_new(JOB_OPEN, 0);
        snprintf(job[i]->open.name, sizeof job[i]->open.name, "same");
        snprintf(job[i]->open.program, sizeof job[i]->open.program, "p");
        snprintf(job[i]->open.meta, sizeof job[i]->open.meta, "{}");
        job[i]->open.session_n = sizeof i;
        memcpy(job[i]->open.session, &i, sizeof i);
        assert_int_equal(worker_submit(rig.worker, job[i]), 0);
    }
    for (int i = 0; i < MANY; i++) {
        rig_wait(job[i]);
        assert_int_equal(job[i]->err, 0);
        char expected[32] = "same";
        if (i > 0) {
            snprintf(expected, sizeof expected, "same#%d", i + 1);
        }
        assert_string_equal(job[i]->open.ret_run, expected);
        job_free(&job[i]);
    }
    rig_expect("700\n", "SELECT count(DISTINCT run) FROM runs");
}

static void labels_are_written(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    (void)p;
    for (int known = 0; known < 2; known++) {
        struct job *job = job_new(JOB_LABEL, 0);
        snprintf(job->label.run, sizeof job->label.run, known ? "a" : "nobody");
        snprintf(job->label.outcome, sizeof job->label.outcome, "diverged");
        rig_call(job);
        assert_int_equal(job->err, known ? 0 : SEISMO_ENOTFOUND);
        if (!known) {
            assert_non_null(strstr(job->errmsg, "nobody"));
        }
        job_free(&job);
    }
    rig_expect("diverged\n", "SELECT label FROM runs");
}

/* ---- silence, loss, ends ---- */

static void silence_is_measured_by_the_runs_own_rhythm(void **state)
{
    (void)state;
    struct peer quick = rig_open("quick", "s1"), slow = rig_open("slow", "s2");
    for (uint32_t i = 0; i < 60; i++) {
        rig_feed(&quick, rows + i, 1);
        if (i % 3 == 0) {
            rig_feed(&slow, rows + i / 3, 1);
        }
        rig_pass(1);
    }
    /* Ten times its longest gap: 10 s for the one, 30 s for the other. */
    rig_pass(20);
    struct job *job = expect_news("silent", "warning");
    assert_string_equal(job->news->run, "quick");
    assert_null(job->news->next);
    job_free(&job);
    assert_null(rig.strays);
    rig_expect("quick|silent|warning|healthy\nslow|healthy|info|healthy\n",
               "SELECT run, state, severity, worst FROM runs ORDER BY id");

    /* A restart forgets neither that it is silent nor that it said so. */
    rig_stop();
    rig_start();
    quick = rig_open("quick", "s1");
    slow = rig_open("slow", "s2");
    rig_expect("silent\n", "SELECT state FROM runs WHERE run = 'quick'");
    job = rig_send(&quick, rows + 60, 1);
    assert_non_null(job->news);
    json_t *v = json_loads(job->news->json, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(v, "state")), "healthy");
    assert_int_equal(json_integer_value(json_object_get(v, "step")), 60);
    json_decref(v);
    job_free(&job);
    rig_expect("healthy|info\n", "SELECT state, severity FROM runs WHERE run = 'quick'");
}

static void a_run_without_rhythm_gets_more_patience(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    rig_feed(&p, rows, 1);
    rig_pass(48);
    assert_null(rig.strays);
    rig_pass(4);
    struct job *job = expect_news("silent", "warning");
    job_free(&job);
}

static void a_lost_peer_ends_its_run(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1"), q = rig_open("b", "s2");
    feed(&p, 0, 50, 10);
    feed(&q, 0, 50, 10);
    rig_detach(&p);
    rig_pass(40);
    p = rig_open("a", "s1"); /* came back in time */
    rig_feed(&p, rows + 50, 10);
    rig_detach(&p);
    rig_detach(&q);
    rig_pass(59);
    assert_null(rig.strays);
    rig_pass(3);
    struct job *job = expect_news("ended", "warning");
    assert_non_null(job->news->next);
    job_free(&job);
    rig_expect("ended|lost|healthy\nended|lost|healthy\n",
               "SELECT state, outcome, worst FROM runs");
    struct worker_stats stats;
    worker_stats(rig.worker, &stats);
    assert_int_equal(stats.runs, 0);

    /* It was alive after all: the session goes on where it was. */
    p = rig_open("a", "s1");
    assert_int_equal(p.welcome_batch, 6);
    job = rig_send(&p, rows + 60, 10);
    assert_non_null(job->news);
    job_free(&job);
    rig_expect("healthy|NULL|NULL\n", "SELECT state, outcome, ended FROM runs WHERE run = 'a'");
}

static void runs_found_open_at_the_start_are_lost_when_nobody_comes(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 50, 10);
    rig_crash();
    rig_start();
    rig_pass(62);
    struct job *job = expect_news("ended", "warning");
    job_free(&job);
}

static void a_clock_that_jumps_ends_nothing(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1"), q = rig_open("b", "s2");
    for (uint32_t i = 0; i < 30; i++) {
        rig_feed(&p, rows + i, 1);
        rig_pass(1);
    }
    rig_feed(&q, rows, 1);
    rig_detach(&q);
    static const double jump[] = {3600, -7200, 86400, -86400};
    for (size_t i = 0; i < sizeof jump / sizeof *jump; i++) {
        rig_now = rig_now + jump[i];
        rig_pass(1);
    }
    assert_null(rig.strays);
    rig_expect("healthy\nwarming_up\n", "SELECT state FROM runs ORDER BY id");
    rig_pass(62);
    struct job *job = rig_stray_news();
    job_free(&job);
    rig_expect("silent\nended\n", "SELECT state FROM runs ORDER BY id");
}

static void an_end_says_how(void **state)
{
    (void)state;
    static const char *const outcome[] = {"finished", "failed", "aborted"};
    static const char *const severity[] = {"info", "warning", "info"};
    for (int i = 0; i < 3; i++) {
        struct peer p = rig_open(outcome[i], outcome[i]);
        if (i > 0) {
            feed(&p, 0, 30, 30);
        }
        /* 119 bytes and a character of two: it must not be cut in the middle. */
        char text[256];
        memset(text, 'x', sizeof text);
        strcpy(text + 119, "\u00e9\u00e9\u00e9");
        struct job *job = rig_bye(&p, (enum wire_outcome)i, i == 1 ? text : "");
        assert_int_equal(job->err, 0);
        json_t *v = json_loads(job->news->json, 0, NULL);
        assert_string_equal(json_string_value(json_object_get(v, "state")), "ended");
        assert_string_equal(json_string_value(json_object_get(v, "severity")), severity[i]);
        if (i == 0) {
            assert_true(json_is_null(json_object_get(v, "step")));
        } else {
            assert_int_equal(json_integer_value(json_object_get(v, "step")), 29);
        }
        json_decref(v);
        job_free(&job);
    }
    rig_expect(
        "finished|ended|warming_up|NULL\nfailed|ended|healthy|29\naborted|ended|healthy|29\n",
        "SELECT outcome, state, worst, step FROM runs ORDER BY id");
    rig_expect("1\n", "SELECT reasons LIKE '%said \"\"failed\"\": xxx%' OR reasons LIKE "
                      "'%failed%xxx%' FROM verdicts WHERE run = 'failed' AND state = 'ended'");
}

/* ---- load ---- */

static void many_runs_at_once_stay_apart(void **state)
{
    (void)state;
    enum { RUNS = 8 };
    struct peer p[RUNS];
    for (int i = 0; i < RUNS; i++) {
        char name[16];
        snprintf(name, sizeof name, "run%d", i);
        p[i] = rig_open(name, name);
    }
    struct job *last[RUNS] = {0};
    for (uint32_t at = 0; at < ROWS; at += 9) {
        for (int i = 0; i < RUNS; i++) {
            struct job *job = rig_steps_job(&p[i], rows + at, 9);
            while (worker_submit(rig.worker, job) != 0) {
                rig_collect();
            }
            last[i] = job;
        }
    }
    for (int i = 0; i < RUNS; i++) {
        rig_wait(last[i]);
        assert_int_equal(last[i]->last_step, ROWS - 1);
        job_free(&last[i]);
        if (i > 0) {
            rig_same(rig_portrait(p[i].run_id), rig_portrait(p[0].run_id));
        }
    }
    struct worker_stats stats;
    worker_stats(rig.worker, &stats);
    assert_int_equal(stats.steps, RUNS * ROWS);
    assert_true(stats.commits < 100 * RUNS); /* groups */
    rig_stop();
    rig_expect("7200\n", "SELECT (SELECT sum(n) FROM chunks) + (SELECT sum(n) FROM tail)");
    rig_start();
}

/* What was queued is committed before the end. */
static void stopping_commits_what_is_queued(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    for (int i = 0; i < 50; i++) {
        assert_int_equal(worker_submit(rig.worker, rig_steps_job(&p, rows + 10 * i, 10)), 0);
    }
    rig_stop();
    rig_expect("500|50\n", "SELECT steps, last_batch FROM runs");
    rig_start();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_acknowledged_is_stored),
        TEST(verdicts_come_with_the_batch),
        TEST(a_batch_sent_again_is_not_stored_again),
        TEST(an_empty_batch_takes_its_number),
        TEST(the_series_halves_its_resolution_with_each_doubling),
        TEST(a_crash_leaves_no_trace),
        TEST(another_model_scores_the_rows_again),
        TEST(a_resumed_job_leaves_one_history),
        TEST(rows_may_go_back_within_a_batch),
        TEST(going_back_is_one_transaction),
        TEST(going_back_with_every_row_takes_linear_time),
        TEST(a_cut_between_others_rows),
        TEST(a_stop_does_not_wait_for_going_back),
        TEST(jobs_of_one_name_are_told_apart),
        TEST(a_run_belongs_to_its_last_connection),
        TEST(an_ended_run_acknowledges_nothing_to_others),
        TEST(no_more_runs_than_the_limit),
        TEST(many_open_at_once),
        TEST(labels_are_written),
        TEST(silence_is_measured_by_the_runs_own_rhythm),
        TEST(a_run_without_rhythm_gets_more_patience),
        TEST(a_lost_peer_ends_its_run),
        TEST(runs_found_open_at_the_start_are_lost_when_nobody_comes),
        TEST(a_clock_that_jumps_ends_nothing),
        TEST(an_end_says_how),
        TEST(many_runs_at_once_stay_apart),
        TEST(stopping_commits_what_is_queued),
    };
    return cmocka_run_group_tests_name("worker", tests, group_setup, group_teardown);
}
