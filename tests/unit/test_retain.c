/* Retention: what it deletes, what it keeps, and that other runs do not notice. */
#include "tests/unit/worker_rig.h"

#include "daemon/work.h"
#include "tests/unit/worker_runs.h"

#define DAY 86400.0

static void reconfigure(double retain, double size)
{
    rig.config.retain = retain;
    rig.config.retain_size = size;
    worker_reconfigure(rig.worker, &rig.config);
}

/* A run with all its rows that has ended. */
static int64_t ended_run(const char *name)
{
    struct peer p = rig_open(name, name);
    feed(&p, 0, ROWS, 100);
    struct job *job = rig_bye(&p, WIRE_FINISHED, "");
    job_free(&job);
    return p.run_id;
}

/* The daemon is away for so long; to one that is there it would be a clock that is set. */
static void start_later(double seconds)
{
    rig_stop();
    rig_now = rig_now + seconds;
    rig_start();
    rig_forget();
}

/* Waits until the query gives this, up to 30 s: retention works at the ticks of a real clock. */
static void await(const char *expected, const char *sql)
{
    for (int i = 0; i < 600; i++) {
        char *got = rig_sql("%s", sql);
        bool same = strcmp(got, expected) == 0;
        free(got);
        if (same) {
            return;
        }
        rig_collect();
    }
    rig_expect(expected, sql);
}

/* Long enough that the worker has looked twice. */
static void let_it_look(void)
{
    for (int i = 0; i < 25; i++) {
        rig_collect();
        usleep(50000);
    }
}

static void old_runs_are_deleted_whole(void **state)
{
    (void)state;
    ended_run("a");
    ended_run("b");
    start_later(10 * DAY);
    struct peer c = rig_open("c", "s");
    feed(&c, 0, 450, 50);
    ended_run("d");
    reconfigure(5 * DAY, 0);
    await("c\nd\n", "SELECT run FROM runs ORDER BY run");
    rig_expect("3\n4\n", "SELECT DISTINCT run_id FROM chunks UNION SELECT run_id FROM tail "
                         "UNION SELECT run_id FROM tail_state UNION SELECT run_id FROM verdicts "
                         "UNION SELECT run_id FROM series_points UNION SELECT run_id FROM alerts");
    rig_expect("ok\n", "PRAGMA integrity_check");
    struct worker_stats stats = {0};
    for (int i = 0; i < 600 && stats.expired < 2; i++) { /* counted after the commit */
        worker_stats(rig.worker, &stats);
        usleep(50000);
    }
    assert_int_equal(stats.expired, 2);
    /* The one that goes on has not noticed. */
    feed(&c, 450, ROWS, 50);
    rig_same(rig_portrait(c.run_id), rig_portrait(c.run_id));
    rig_expect("900\n", "SELECT steps FROM runs WHERE run = 'c'");
}

static void nothing_is_deleted_unless_it_is_asked_for(void **state)
{
    (void)state;
    ended_run("a");
    ended_run("b");
    start_later(5000 * DAY);
    let_it_look();
    rig_expect("2\n", "SELECT count(*) FROM runs");
    reconfigure(6000 * DAY, 0);
    let_it_look();
    rig_expect("2\n", "SELECT count(*) FROM runs");
}

/* Ids are never used again, so whoever holds the highest one stays, also over a restart. */
static void the_highest_ids_stay(void **state)
{
    (void)state;
    ended_run("a");
    ended_run("b");
    start_later(10 * DAY);
    reconfigure(5 * DAY, 0);
    await("b\n", "SELECT run FROM runs");
    char *verdict = rig_sql("SELECT max(id) FROM verdicts");
    rig_stop();
    rig_start();
    int64_t id = ended_run("c");
    assert_int_equal(id, 3);
    rig_expect("1\n", "SELECT count(*) = count(DISTINCT id) FROM verdicts");
    char *first = rig_sql("SELECT min(id) FROM verdicts WHERE run = 'c'");
    assert_true(atoll(first) > atoll(verdict));
    free(first);
    free(verdict);
}

/* An alert that its hook has not heard of keeps its run. */
static void an_alert_that_waits_keeps_its_run(void **state)
{
    (void)state;
    rig_stop();
    rig.config.n_hooks = 1;
    snprintf(rig.config.hook[0].name, sizeof rig.config.hook[0].name, "mail");
    rig.config.hook[0].min_severity = SEVERITY_CRITICAL;
    rig.config.hook[0].states = 1u << STATE_UNSTABLE;
    rig_start();
    ended_run("a");
    rig_forget();
    ended_run("b");
    start_later(10 * DAY);
    reconfigure(5 * DAY, 0);
    let_it_look();
    rig_expect("2\n", "SELECT count(*) FROM runs");
    for (int64_t id = 1; id <= 64; id++) {
        struct job *job = job_new(JOB_ALERT, 0);
        job->alert.id = id;
        job->alert.delivered = true;
        snprintf(job->alert.result, sizeof job->alert.result, "exit 0");
        rig_call(job);
        job_free(&job);
    }
    /* The worker looks again after six virtual seconds or more. */
    rig_pass(70);
    await("b\n", "SELECT run FROM runs");
}

/* Nobody will ever hear of an alert whose hook is not configured any more. */
static void an_alert_of_a_removed_hook_keeps_nothing(void **state)
{
    (void)state;
    rig_stop();
    rig.config.n_hooks = 2;
    snprintf(rig.config.hook[0].name, sizeof rig.config.hook[0].name, "mail");
    snprintf(rig.config.hook[1].name, sizeof rig.config.hook[1].name, "ail");
    rig.config.hook[0].min_severity = SEVERITY_CRITICAL;
    rig.config.hook[0].states = 1u << STATE_UNSTABLE;
    rig_start();
    ended_run("a");
    ended_run("b");
    rig.config.hook[0] = rig.config.hook[1];
    rig.config.n_hooks = 1;
    start_later(10 * DAY);
    reconfigure(5 * DAY, 0);
    await("b\n", "SELECT run FROM runs");
}

/* By size: those that ended first go until the rest fits. */
static void size_is_bounded(void **state)
{
    (void)state;
    for (int i = 0; i < 16; i++) {
        char name[16];
        snprintf(name, sizeof name, "r%02d", i);
        ended_run(name);
        rig_now = rig_now + 60;
    }
    char *used = rig_sql("SELECT (page_count - freelist_count) * page_size FROM "
                         "pragma_page_count(), pragma_freelist_count(), pragma_page_size()");
    double before = atof(used);
    free(used);
    reconfigure(0, before / 2);
    char small[512];
    snprintf(small, sizeof small,
             "SELECT (page_count - freelist_count) * page_size <= %.0f FROM pragma_page_count(), "
             "pragma_freelist_count(), pragma_page_size()",
             before / 2);
    await("1\n", small);
    rig_expect("r15\n", "SELECT max(run) FROM runs");
    rig_expect("1\n", "SELECT count(*) BETWEEN 4 AND 8 FROM runs");
    /* What is left is the newest, without a hole. */
    rig_expect("1\n", "SELECT max(id) - min(id) + 1 = count(*) FROM runs");
}

static void expire(struct store *s, int64_t run_id, uint32_t chunks, bool whole)
{
    bool got = !whole;
    assert_int_equal(store_begin(s), 0);
    assert_int_equal(store_expire(s, run_id, chunks, &got), 0);
    assert_int_equal(store_commit(s), 0);
    assert_int_equal(got, whole);
}

/* A long run goes in pieces; what is left after each of them can be read and scored. */
static void a_long_run_goes_in_pieces(void **state)
{
    (void)state;
    static struct seismo_row many[256];
    struct peer p = rig_open("long", "s"), exact = rig_open("exact", "t");
    for (int64_t step = 0; step < 20000; step += 256) {
        for (int k = 0; k < 256; k++) {
            many[k] = (struct seismo_row){.step = step + k};
            row_set(&many[k], SEISMO_LOSS, 1.0 / (1 + (double)(step + k)));
        }
        rig_feed(&p, many, 256);
    }
    for (int k = 0; k < 10; k++) {
        many[k].step = 20224 + k;
    }
    rig_feed(&p, many, 10);
    struct job *job = rig_bye(&p, WIRE_FINISHED, "");
    job_free(&job);
    feed(&exact, 0, 512, 256);
    job = rig_bye(&exact, WIRE_FINISHED, "");
    job_free(&job);
    ended_run("other");
    rig_stop();
    char path[128];
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    struct store *s;
    assert_int_equal(store_new(path, false, &s, rig.errmsg), 0);
    expire(s, p.run_id, 64, false);
    rig_expect("3850|16384|20233\n", "SELECT steps, first_step, step FROM runs WHERE id = 1");
    free(rig_portrait(p.run_id)); /* reads every row that is left */
    /* Only the tail may be left for a while. */
    expire(s, p.run_id, 15, false);
    rig_expect("10|20224|20233\n", "SELECT steps, first_step, step FROM runs WHERE id = 1");
    expire(s, p.run_id, 64, true);
    /* Nothing may be left but the run, and then that goes too. */
    expire(s, exact.run_id, 2, true);
    store_free(&s);
    rig_expect("other\n", "SELECT run FROM runs");
    rig_expect("3\n", "SELECT DISTINCT run_id FROM chunks");
    rig_start();
}

/* What is left of a run is begun anew below its first step: nothing of the deleted part is in its
 * detector, after a restart either. */
static void a_run_that_has_lost_its_beginning_may_begin_anew(void **state)
{
    (void)state;
    struct peer straight = rig_open("straight", "s2"), p = rig_open("p", "s1");
    feed(&p, 0, 600, 100);
    struct job *job = rig_bye(&p, WIRE_FINISHED, "");
    job_free(&job);
    rig_stop();
    char path[128];
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    struct store *s;
    assert_int_equal(store_new(path, false, &s, rig.errmsg), 0);
    expire(s, p.run_id, 1, false);
    store_free(&s);
    rig_start();
    p = rig_open("p", "s3");
    feed(&p, 0, 100, 100);
    rig_crash();
    rig_start();
    p = rig_open("p", "s3");
    straight = rig_open("straight", "s2");
    feed(&p, 100, 550, 50);
    feed(&straight, 0, 550, 50);
    char query[] = "SELECT score, max_score, state, worst, steps, first_step, step FROM runs "
                   "WHERE run = '%s'";
    rig_same(rig_sql(query, "p"), rig_sql(query, "straight"));
    rig_same(rig_sql("SELECT hex(rows), hex(snapshot) FROM chunks WHERE run_id = %d", 2),
             rig_sql("SELECT hex(rows), hex(snapshot) FROM chunks WHERE run_id = %d", 1));
}

/* ---- retention alone, without the thread ---- */

/* What retention needs of a worker, over the database of one that was stopped. */
static struct worker alone;

static void begin_alone(double retain)
{
    char path[128];
    rig_stop();
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    alone = (struct worker){.wall = rig_now, .settings.retain = retain};
    pthread_mutex_init(&alone.lock, NULL);
    alone.runs = runs_new();
    assert_int_equal(store_new(path, false, &alone.store, rig.errmsg), 0);
}

static void end_alone(void)
{
    store_free(&alone.store);
    runs_free(&alone.runs);
    pthread_mutex_destroy(&alone.lock);
    rig_start();
}

/* Runs that the daemon has found to be old, and not yet come to. */
static void listed(uint32_t n)
{
    struct store_limit limit = {.before = INFINITY, .attempts = 3};
    alone.retain = (struct retain){.next_look = INFINITY};
    assert_int_equal(
        store_expired(alone.store, &limit, alone.retain.run, RETAIN_RUNS, &alone.retain.n), 0);
    assert_int_equal(alone.retain.n, n);
}

/* A list may be minutes old when its last run's turn comes. */
static void a_listed_run_is_asked_again(void **state)
{
    (void)state;
    ended_run("a");
    ended_run("b");
    ended_run("c");
    ended_run("last");
    rig_now = rig_now + 10 * DAY;
    begin_alone(5 * DAY);
    listed(3);
    alone.settings.n_hooks = 1;
    snprintf(alone.settings.hook[0].name, sizeof alone.settings.hook[0].name, "mail");
    rig_execute("UPDATE runs SET ended = (SELECT max(ended) FROM runs) + 1000 WHERE run = 'a';"
                "INSERT INTO alerts(id, verdict, run_id, run, event, state, hook, document, "
                "created) SELECT 1, 1, id, run, 'entered', 'ended', 'mail', '{}', 1 FROM runs "
                "WHERE run = 'b';"
                "INSERT INTO alerts SELECT 2, 1, id, run, 'entered', 'ended', 'mail', '{}', 1, 2, "
                "1, '' FROM runs WHERE run = 'last'");
    retain_tick(&alone);
    rig_expect("a\nb\nlast\n", "SELECT run FROM runs ORDER BY id");
    assert_int_equal(alone.counts.expired, 1);
    /* A longer `retain` holds for what is listed, too. */
    rig_execute("DELETE FROM alerts WHERE id = 1");
    listed(2);
    alone.settings.retain = 100 * DAY;
    retain_tick(&alone);
    rig_expect("a\nb\nlast\n", "SELECT run FROM runs ORDER BY id");
    listed(2);
    alone.settings.retain = 5 * DAY;
    retain_tick(&alone);
    rig_expect("last\n", "SELECT run FROM runs");
    end_alone();
}

/* A clock that is set ahead makes no run old. */
static void a_clock_set_ahead_deletes_nothing(void **state)
{
    (void)state;
    ended_run("before");
    char *known = rig_sql("SELECT max(id) FROM verdicts");
    start_later(4 * DAY);
    ended_run("a");
    ended_run("last");
    reconfigure(5 * DAY, 0);
    rig_pass(2);
    rig_now = rig_now + 365 * DAY;
    let_it_look();
    rig_expect("3\n", "SELECT count(*) FROM runs");
    /* An hour later it is believed, but not of what ended in this daemon's life. */
    begin_alone(5 * DAY);
    alone.retain.known = atoll(known);
    free(known);
    retain_clock_set(&alone.retain, 365 * DAY, 0, 1000);
    alone.interval = 3599;
    retain_tick(&alone);
    rig_expect("3\n", "SELECT count(*) FROM runs");
    alone.interval = 3700;
    retain_tick(&alone);
    rig_expect("a\nlast\n", "SELECT run FROM runs");
    alone.wall += 5 * DAY - 100;
    alone.interval += 100;
    retain_tick(&alone);
    rig_expect("a\nlast\n", "SELECT run FROM runs");
    alone.wall += 200;
    alone.interval += 100;
    retain_tick(&alone);
    rig_expect("last\n", "SELECT run FROM runs");
    end_alone();
}

/* One that is set right again counts as before. */
static void a_clock_set_back_is_believed(void **state)
{
    (void)state;
    ended_run("a");
    ended_run("last");
    begin_alone(5 * DAY);
    retain_clock_set(&alone.retain, 365 * DAY, 0, 1000);
    retain_clock_set(&alone.retain, -365 * DAY, 10, 1000);
    alone.wall += 5 * DAY + 10;
    alone.interval = 3700;
    retain_tick(&alone);
    rig_expect("last\n", "SELECT run FROM runs");
    end_alone();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(old_runs_are_deleted_whole),
        TEST(nothing_is_deleted_unless_it_is_asked_for),
        TEST(the_highest_ids_stay),
        TEST(an_alert_that_waits_keeps_its_run),
        TEST(an_alert_of_a_removed_hook_keeps_nothing),
        TEST(size_is_bounded),
        TEST(a_long_run_goes_in_pieces),
        TEST(a_run_that_has_lost_its_beginning_may_begin_anew),
        TEST(a_clock_set_ahead_deletes_nothing),
        TEST(a_clock_set_back_is_believed),
        TEST(a_listed_run_is_asked_again),
    };
    return cmocka_run_group_tests_name("retain", tests, group_setup, group_teardown);
}
