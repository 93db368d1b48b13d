/* What hooks hear of the storage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "daemon/storage_alert.h"

static struct config config;

static void add_hook(const char *name, uint32_t states)
{
    struct config_hook *h = &config.hook[config.n_hooks++];
    *h = (struct config_hook){.states = states, .min_severity = SEVERITY_CRITICAL};
    snprintf(h->name, sizeof h->name, "%s", name);
}

static int setup(void **state)
{
    (void)state;
    config.n_hooks = 0;
    add_hook("deaf", 1u << STATE_UNSTABLE);
    add_hook("page", 1u << STATE_UNSTABLE | 1u << CONFIG_STORAGE);
    return 0;
}

/* The list is one alert for "page" that says this; frees it and returns its id. */
static int64_t expect(struct alert **list, const char *event, const char *words)
{
    struct alert *a = *list;
    assert_non_null(a);
    *list = a->next;
    assert_string_equal(a->hook, "page");
    json_t *json = json_loads(a->json, 0, NULL);
    assert_non_null(json);
    json_int_t id;
    const char *got, *condition, *severity, *text;
    assert_int_equal(json_unpack(json, "{s:I, s:s, s:s, s:s, s:[{s:s}], s:n, s:n}", "alert", &id,
                                 "event", &got, "condition", &condition, "severity", &severity,
                                 "reasons", "text", &text, "run", "step"),
                     0);
    assert_string_equal(got, event);
    assert_string_equal(condition, "storage");
    assert_string_equal(severity, strcmp(event, "entered") == 0 ? "critical" : "info");
    assert_non_null(strstr(text, words));
    assert_int_equal(a->id, id);
    assert_true(id < 0);
    json_decref(json);
    free(a->json);
    free(a);
    return id;
}

static void a_failure_is_entered_once_and_resolved_once(void **state)
{
    (void)state;
    struct storage_alert s = {0};
    struct worker_stats w = {0};
    assert_null(storage_alert_look(&s, &config, &w, 1000));
    w.storage_failing = true;
    w.storage_since = 1000.5;
    snprintf(w.storage_error, sizeof w.storage_error, "disk is full");
    assert_null(storage_alert_look(&s, &config, &w, 1001));
    struct alert *list = storage_alert_look(&s, &config, &w, 1001.5);
    int64_t first = expect(&list, "entered", "disk is full");
    assert_null(list);
    assert_null(storage_alert_look(&s, &config, &w, 1002.5));
    w.storage_failing = false;
    list = storage_alert_look(&s, &config, &w, 1001.5); /* the clock was set back */
    int64_t second = expect(&list, "resolved", "again");
    assert_null(list);
    assert_true(second < first);
    assert_null(storage_alert_look(&s, &config, &w, 1003));
}

static void what_passes_soon_is_no_news(void **state)
{
    (void)state;
    struct storage_alert s = {0};
    struct worker_stats w = {.storage_failing = true, .storage_since = 1000};
    assert_null(storage_alert_look(&s, &config, &w, 1000.9));
    w.storage_failing = false;
    assert_null(storage_alert_look(&s, &config, &w, 1001.9));
}

static void a_database_that_was_set_aside_is_told_of_once(void **state)
{
    (void)state;
    struct storage_alert s = {0};
    struct worker_stats w = {.set_aside_now = true, .set_aside = "seismo.db.damaged-x"};
    struct alert *list = storage_alert_look(&s, &config, &w, 1000);
    expect(&list, "entered", "set aside as seismo.db.damaged-x");
    expect(&list, "resolved", "empty database");
    assert_null(list);
    assert_null(storage_alert_look(&s, &config, &w, 1001));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_failure_is_entered_once_and_resolved_once, setup),
        cmocka_unit_test_setup(what_passes_soon_is_no_news, setup),
        cmocka_unit_test_setup(a_database_that_was_set_aside_is_told_of_once, setup),
    };
    return cmocka_run_group_tests_name("storage_alert", tests, NULL, NULL);
}
