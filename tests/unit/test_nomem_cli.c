/* Memory that runs out in the command line, at every allocation in turn: it says so and fails, or
 * prints all that it would have printed otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/cli_nomem.h"

static void test_offline(void **state)
{
    (void)state;
    TRY(100, "score", "--model", t.model_path, t.trace);
    TRY(100, "score", "--json", "--model", t.model_path, t.trace);
    TRY(100, "score", "--model", t.model_path, t.trace, t.trace);
    TRY(100, "model", "verify", t.model_path);
    TRY(100, "model", "info", t.model_path);
}

static void test_queries(void **state)
{
    (void)state;
    TRY(20, "runs", "--query", t.endpoint);
    TRY(20, "runs", "--json", "--query", t.endpoint);
    TRY(20, "show", "a", "--query", t.endpoint);
    TRY(20, "verdicts", "a", "--query", t.endpoint);
    TRY(20, "explain", "a", "--query", t.endpoint);
    TRY(20, "export", "a", "--query", t.endpoint);
    TRY(20, "label", "a", "good", "--query", t.endpoint);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_offline),
                                       cmocka_unit_test(test_queries)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
