#include "client/cli/runs_table.h"

#include <time.h>

#include "client/cli/body.h"
#include "client/cli/table.h"
#include "client/cli/words.h"

json_t *runs_params(const char *state, const char *program)
{
    return json_pack("{s:s*, s:s*}", "state", state, "program", program);
}

static void add_run(struct table *table, const json_t *run, double now)
{
    const char *state = body_string(run, "state");
    const char *label = body_string(run, "label");
    bool ended = !body_is_null(run, "ended");
    char text[WORDS_MAX];

    table_cell(table, COLOUR_BOLD, body_string(run, "run"));
    table_cell(table, COLOUR_NONE, body_string(run, "program"));
    table_cell(table, words_state_colour(state), state);
    if (body_is_null(run, "step")) {
        table_cell(table, COLOUR_NONE, "-");
    } else {
        table_print(table, "%lld", (long long)body_integer(run, "step", 0));
    }
    /* A stored loss that is null was NaN, unless nothing has been stored yet. */
    table_cell(table, COLOUR_NONE,
               words_number(body_number(run, "loss"), body_is_null(run, "step"), text));
    table_cell(table, COLOUR_NONE, words_of(run, "score", text));
    if (body_is_null(run, "alarm_step")) {
        table_cell(table, COLOUR_NONE, "-");
    } else {
        table_print(table, "%lld", (long long)body_integer(run, "alarm_step", 0));
    }
    table_cell(table, COLOUR_NONE, words_duration(now - body_number(run, "updated"), text));
    table_cell(table, ended ? COLOUR_DIM : COLOUR_GREEN,
               ended ? body_string(run, "outcome") : "running");
    table_cell(table, COLOUR_NONE, *label != '\0' ? label : "-");
}

void runs_table_write(const json_t *runs, const struct term *term, FILE *out)
{
    static const char *const head[] = {"RUN",    "PROGRAM", "STATE", ">STEP", ">LOSS", ">SCORE",
                                       ">ALARM", ">AGE",    "LIFE",  "LABEL", NULL};
    struct table *table = table_new(head);
    double now = (double)time(NULL);
    const json_t *run;
    size_t i;

    json_array_foreach(runs, i, run)
    {
        add_run(table, run, now);
    }
    table_write(table, term, out);
    table_free(&table);
}
