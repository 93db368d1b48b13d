/* seismo explain: the features behind a score, weightiest first. */
#include <math.h>
#include <string.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/table.h"
#include "client/cli/words.h"

#define SHOWN 12     /* reasons, unless --all */
#define BAR_WIDTH 10 /* columns of the largest contribution */

enum { OPT_STEP, OPT_ALL };
static const struct cli_option options[] = {
    [OPT_STEP] = {"step", "N", "as it was at this step; else at the last one"},
    [OPT_ALL] = {"all", NULL, "all features, not only the weightiest"},
    {NULL, NULL, NULL},
};

static void add_reason(struct table *table, const json_t *reason, double largest,
                       const struct term *term)
{
    double contribution = body_number(reason, "contribution");
    int n = largest > 0 && isfinite(contribution)
                ? (int)lround(fabs(contribution) / largest * BAR_WIDTH)
                : 0;
    char text[WORDS_MAX], bar[3 * BAR_WIDTH + 1] = "";

    for (int i = 0; i < n; i++) {
        strcat(bar, term->utf8 ? "█" : "#");
    }
    table_cell(table, COLOUR_NONE, body_string(reason, "feature"));
    table_cell(table, COLOUR_NONE, words_of(reason, "value", text));
    table_print(table, "%+.3f", contribution);
    table_cell(table, contribution > 0 ? COLOUR_RED : COLOUR_GREEN, bar);
    table_cell(table, COLOUR_NONE, body_string(reason, "text"));
}

static void print_explanation(const json_t *body, size_t shown, const struct term *term)
{
    static const char *const head[] = {"FEATURE", ">VALUE", ">WEIGHT", "", "IN WORDS", NULL};
    const json_t *reasons = json_object_get(body, "reasons"), *reason;
    const json_t *verdict = json_object_get(body, "verdict");
    const char *state = body_string(body, "state");
    enum colour colour = words_state_colour(state);
    struct table *table = table_new(head);
    char text[WORDS_MAX];
    size_t i;

    words_put(body_string(json_object_get(body, "run"), "run"), stdout);
    printf(" at step %lld: %s", (long long)body_integer(body, "step", 0), term_on(term, colour));
    words_put(state, stdout);
    printf("%s, score %s\n\n", term_off(term, colour), words_of(body, "score", text));
    json_array_foreach (reasons, i, reason) {
        if (i < shown) {
            add_reason(table, reason, fabs(body_number(json_array_get(reasons, 0), "contribution")),
                       term);
        }
    }
    table_write(table, term, stdout);
    table_free(&table);
    if (json_array_size(reasons) > shown) {
        printf("%zu more with --all\n", json_array_size(reasons) - shown);
    }
    printf("\nThe weights (log-odds) and the bias %s add up to %s, of which the score is the "
           "probability.\n",
           words_of(body, "bias", text), words_of(body, "margin", (char[WORDS_MAX]){0}));
    if (json_is_object(verdict)) {
        fputs("\nLast verdict: ", stdout);
        words_verdict(verdict, false, term, stdout);
    }
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    json_t *params = json_pack("{s:s}", "run", args->word[0]), *body;
    int64_t step;
    enum cli_exit code = CLI_OK;

    if (args->option[OPT_STEP] != NULL) {
        code = cli_integer("step", args->option[OPT_STEP], 0, INT64_MAX, &step);
        json_object_set_new(params, "step", json_integer(step));
    }
    if (code != CLI_OK) {
        json_decref(params);
        return code;
    }
    code = cli_query(cli, "explain", params, &body);
    if (code != CLI_OK) {
        return code;
    }
    if (cli->json) {
        body_print(body);
    } else {
        print_explanation(body, args->option[OPT_ALL] != NULL ? SIZE_MAX : SHOWN, &cli->out);
    }
    json_decref(body);
    return CLI_OK;
}

const struct command cmd_explain = {
    .name = "explain",
    .synopsis = "RUN",
    .summary = "Why a run is thought to be in its state",
    .examples = "seismo explain gpt2-a\n"
                "seismo explain gpt2-a --step 1200\n"
                "seismo explain gpt2-a --all",
    .details = "Every feature's weight says how far it moved the score from what the average run "
               "has: positive\ntowards unstable, negative towards healthy.",
    .options = options,
    .min_words = 1,
    .max_words = 1,
    .run = run,
};
