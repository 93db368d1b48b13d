/* Alerts: each condition is entered once and resolved once, over crashes and superseded steps. */
#include "tests/unit/worker_rig.h"

#include "tests/unit/worker_runs.h"

static int text_count(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)); text++) {
        n++;
    }
    return n;
}

#define ALL_STATES                                                                            \
    (1u << STATE_UNSTABLE | 1u << STATE_STALLED | 1u << STATE_MISMATCH | 1u << STATE_SILENT | \
     1u << STATE_ENDED)

static void add_hook(const char *name, int min_severity, uint32_t states)
{
    struct config_hook *h = &rig.config.hook[rig.config.n_hooks++];
    snprintf(h->name, sizeof h->name, "%s", name);
    h->min_severity = min_severity;
    h->states = states;
}

static int setup_hooks(void **state)
{
    (void)state;
    rig_begin();
    add_hook("page", SEVERITY_CRITICAL, ALL_STATES);
    add_hook("mail", SEVERITY_WARNING, 1u << STATE_SILENT | 1u << STATE_ENDED);
    rig_start();
    return 0;
}

/* "hook:event:condition " for each alert of a job, which is freed. */
static const char *alerts_of(struct job *job)
{
    static char text[1024];
    text[0] = '\0';
    for (struct alert *a = job->alerts; a; a = a->next) {
        json_t *v = json_loads(a->json, 0, NULL);
        assert_int_equal(json_integer_value(json_object_get(v, "alert")), a->id);
        assert_true(json_is_array(json_object_get(v, "reasons")));
        size_t n = strlen(text);
        snprintf(text + n, sizeof text - n, "%s:%s:%s ", a->hook,
                 json_string_value(json_object_get(v, "event")),
                 json_string_value(json_object_get(v, "condition")));
        json_decref(v);
    }
    job_free(&job);
    return text;
}

static void an_alert_is_entered_and_resolved_once(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 300, 100);
    assert_string_equal(alerts_of(rig_send(&p, rows + 300, 100)), "page:entered:unstable ");
    assert_string_equal(alerts_of(rig_send(&p, rows + 400, 50)), "");
    rig_crash(); /* what a hook has heard is remembered */
    rig_start();
    p = rig_open("a", "s1");
    assert_string_equal(alerts_of(rig_send(&p, rows + 450, 50)), "");
    assert_string_equal(alerts_of(rig_send(&p, rows + 500, 200)), "page:resolved:unstable ");
    assert_string_equal(alerts_of(rig_send(&p, rows + 700, 5)), "page:entered:unstable ");
    /* The end resolves it; an end in failure is a condition of its own, below the pager's. */
    assert_string_equal(alerts_of(rig_bye(&p, WIRE_FAILED, "")),
                        "page:resolved:unstable mail:entered:ended ");
    rig_expect("page|entered\npage|resolved\npage|entered\npage|resolved\nmail|entered\n",
               "SELECT hook, event FROM alerts ORDER BY id");
    p = rig_open("a", "s1");
    rig_feed(&p, rows + 705, 0);
    assert_string_equal(alerts_of(rig_send(&p, rows + 705, 1)),
                        "mail:resolved:ended page:entered:unstable ");
}

static void superseding_resolves(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 300, 100);
    assert_string_equal(alerts_of(rig_send(&p, rows + 300, 100)), "page:entered:unstable ");
    assert_string_equal(alerts_of(rig_send(&p, rows + 250, 50)), "page:resolved:unstable ");
    assert_string_equal(alerts_of(rig_send(&p, rows + 300, 100)), "page:entered:unstable ");
    /* Still unstable after the cut: nothing changed for who has heard of it. */
    assert_string_equal(alerts_of(rig_send(&p, rows + 390, 50)), "");
    rig_expect("unstable|critical\n", "SELECT state, severity FROM runs");
}

static void silence_alerts_without_ending_instability(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    for (uint32_t i = 0; i < 320; i += 10) {
        rig_feed(&p, rows + i, 10);
        rig_pass(1);
    }
    rig_pass(15);
    assert_string_equal(alerts_of(expect_news("silent", "warning")), "mail:entered:silent ");
    assert_string_equal(alerts_of(rig_send(&p, rows + 320, 10)), "mail:resolved:silent ");
    /* It has once been quiet for 16 s, so ten times as much is suspicious now. */
    rig_pass(140);
    assert_null(rig.strays);
    rig_pass(25);
    assert_string_equal(alerts_of(expect_news("silent", "warning")), "mail:entered:silent ");
    rig_detach(&p);
    rig_pass(62);
    assert_string_equal(alerts_of(expect_news("ended", "warning")),
                        "page:resolved:unstable mail:resolved:silent mail:entered:ended ");
}

static void record(int64_t id, bool delivered, const char *result)
{
    struct job *job = job_new(JOB_ALERT, 0);
    job->alert.id = id;
    job->alert.delivered = delivered;
    snprintf(job->alert.result, sizeof job->alert.result, "%s", result);
    rig_call(job);
    assert_int_equal(job->err, 0);
    job_free(&job);
}

static void undelivered_alerts_come_again_at_the_start(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 300, 100);
    struct job *job = rig_send(&p, rows + 300, 100);
    assert_non_null(job->alerts);
    int64_t id = job->alerts->id;
    char *json = strdup(job->alerts->json);
    job_free(&job);
    rig_crash();
    rig_start();
    job = rig_stray_news();
    assert_int_equal(job->alerts->id, id);
    assert_string_equal(job->alerts->hook, "page");
    assert_string_equal(job->alerts->json, json);
    assert_null(job->alerts->next);
    job_free(&job);
    free(json);
    record(id, false, "exit 1");
    rig_stop();
    rig_start();
    job = rig_stray_news();
    assert_int_equal(job->alerts->id, id);
    job_free(&job);
    record(id, true, "exit 0");
    rig_expect("2|exit 0|1\n", "SELECT attempts, result, delivered IS NOT NULL FROM alerts");
    rig_stop();
    rig_start();
    rig_pass(2);
    assert_null(rig.strays);
}

static void a_failing_hook_is_given_up(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 400, 100);
    rig_forget();
    for (int i = 0; i < 3; i++) {
        record(1, false, "timeout");
    }
    rig_expect("3|timeout|NULL\n", "SELECT attempts, result, delivered FROM alerts WHERE id = 1");
    rig_stop();
    rig_start();
    rig_pass(2);
    assert_null(rig.strays);
}

/* Ids of the undelivered alerts above `after`, in text, and whether those are all. */
static const char *outbox(int64_t after, uint32_t most, bool all)
{
    static char text[128];
    struct job *job = job_new(JOB_OUTBOX, 0);
    job->outbox.after = after;
    job->outbox.most = most;
    rig_call(job);
    assert_int_equal(job->err, 0);
    assert_int_equal(job->outbox.ret_all, all);
    text[0] = '\0';
    for (struct alert *a = job->alerts; a; a = a->next) {
        assert_non_null(strstr(a->json, "\"alert\":"));
        snprintf(text + strlen(text), sizeof text - strlen(text), "%d:%s ", (int)a->id, a->hook);
    }
    job_free(&job);
    return text;
}

static void the_table_is_read_in_pieces(void **state)
{
    (void)state;
    assert_string_equal(outbox(0, 10, true), "");
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 705, 100); /* entered, resolved, entered */
    assert_string_equal(alerts_of(rig_bye(&p, WIRE_FAILED, "")),
                        "page:resolved:unstable mail:entered:ended ");
    rig_forget();
    assert_string_equal(outbox(0, 3, false), "1:page 2:page 3:page ");
    assert_string_equal(outbox(3, 2, false), "4:page 5:mail ");
    assert_string_equal(outbox(3, 3, true), "4:page 5:mail ");
    assert_string_equal(outbox(5, 4, true), "");
    record(4, true, "exit 0");
    for (int i = 0; i < 3; i++) {
        record(2, false, "exit 1");
    }
    assert_string_equal(outbox(0, 4, true), "1:page 3:page 5:mail ");
}

static void new_hooks_are_taken_over(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    feed(&p, 0, 300, 100);
    assert_string_equal(alerts_of(rig_send(&p, rows + 300, 100)), "page:entered:unstable ");
    rig.config.n_hooks = 0;
    memset(rig.config.hook, 0, sizeof rig.config.hook);
    add_hook("extra", SEVERITY_WARNING, ALL_STATES);
    add_hook("page", SEVERITY_CRITICAL, ALL_STATES);
    worker_reconfigure(rig.worker, &rig.config);
    assert_string_equal(alerts_of(rig_send(&p, rows + 400, 300)), "page:resolved:unstable ");
    const char *text = alerts_of(rig_send(&p, rows + 700, 5));
    assert_int_equal(text_count(text, "extra:entered:unstable"), 1);
    assert_int_equal(text_count(text, "page:entered:unstable"), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_hooks, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_alert_is_entered_and_resolved_once),
        TEST(superseding_resolves),
        TEST(silence_alerts_without_ending_instability),
        TEST(undelivered_alerts_come_again_at_the_start),
        TEST(the_table_is_read_in_pieces),
        TEST(a_failing_hook_is_given_up),
        TEST(new_hooks_are_taken_over),
    };
    return cmocka_run_group_tests_name("outbox", tests, group_setup, group_teardown);
}
