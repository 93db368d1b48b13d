#include "client/cli/runs_table.h"

#include <time.h>

#include "client/cli/body.h"
#include "client/cli/table.h"
#include "client/cli/words.h"

json_t *runs_params(const char *state, const char *program)
{
    return json_pack("{s:s*, s:s*}", "state", state, "program", program);
}

static void add_integer(struct table *table, const json_t *run, const char *key)
{
    if (body_is_null(run, key)) {
        table_cell(table, COLOUR_NONE, "-");
    } else {
        table_print(table, "%lld", (long long)body_integer(run, key, 0));
    }
}

static void add_run(struct table *table, const json_t *run, double now)
{
    const char *state = body_string(run, "state"), *worst = body_string(run, "worst");
    const char *label = body_string(run, "label");
    /* How a run ended says more than that it did. */
    const char *shown = body_is_null(run, "ended") ? state : body_string(run, "outcome");
    char text[WORDS_MAX];

    table_cell(table, COLOUR_BOLD, body_string(run, "run"));
    table_cell(table, COLOUR_NONE, body_string(run, "program"));
    table_cell(table, words_state_colour(state), shown);
    table_cell(table, words_state_colour(worst), worst);
    add_integer(table, run, "step");
    /* A stored loss that is null was NaN, unless nothing has been stored yet. */
    table_cell(table, COLOUR_NONE,
               words_number(body_number(run, "loss"), body_is_null(run, "step"), text));
    table_cell(table, COLOUR_NONE, words_of(run, "score", text));
    add_integer(table, run, "alarm_step");
    table_cell(table, COLOUR_NONE, words_duration(now - body_number(run, "updated"), text));
    table_cell(table, COLOUR_NONE, *label != '\0' ? label : "-");
}

void runs_table_write(const json_t *runs, const struct term *term, FILE *out)
{
    static const char *const head[] = {"RUN",    "PROGRAM", "STATE", "WORST", ">STEP", ">LOSS",
                                       ">SCORE", ">ALARM",  ">AGE",  "LABEL", NULL};
    struct table *table = table_new(head);
    double now = (double)time(NULL);
    const json_t *run;
    size_t i;

    json_array_foreach (runs, i, run) {
        add_run(table, run, now);
    }
    table_write(table, term, out);
    table_free(&table);
}
