/* seismo score: the detector on recorded traces, without a daemon. */
#include <stdlib.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/progress.h"
#include "client/cli/scoring.h"
#include "client/cli/table.h"
#include "client/cli/words.h"
#include "proto/trace.h"

enum { OPT_MODEL, OPT_BUDGET };
static const struct cli_option options[] = {
    [OPT_MODEL] = {"model", "FILE", "score with this model, not with the one built in"},
    [OPT_BUDGET] = {"budget", "SHARE", "of healthy runs with a false alarm: 0.001, 0.01 or 0.05"},
    {NULL, NULL, NULL},
};

/* What goes on over all files. */
struct batch {
    struct cli *cli;
    const struct model *model;
    struct progress progress;
    struct table *table; /* of more than one file, unless JSON is wanted */
    int n, done;         /* files */
};

/* All rows of an open trace; *ret_document also when the trace is damaged further down. */
static int score_rows(struct batch *b, struct trace_reader *reader, const char *path,
                      json_t **ret_document, char errmsg[SEISMO_ERRMSG])
{
    const json_t *header = trace_reader_header(reader);
    struct scoring *scoring = scoring_new(b->model);
    struct seismo_row row;
    unsigned n = 0;
    int err = scoring != NULL ? 0 : SEISMO_ENOMEM;

    while (err == 0 && (err = trace_reader_next(reader, &row, errmsg)) == 0) {
        err = scoring_row(scoring, &row);
        if (n++ % 256 == 0) {
            double share = trace_reader_progress(reader);

            progress_draw(&b->progress, share < 0 && b->n == 1 ? -1 : (b->done + share) / b->n,
                          path);
        }
    }
    if (err == SEISMO_ENOMEM) {
        snprintf(errmsg, SEISMO_ERRMSG, "%.100s: out of memory", path);
    } else {
        *ret_document =
            scoring_json(scoring, body_string(header, "run"), body_string(header, "program"));
        if (*ret_document == NULL) {
            snprintf(errmsg, SEISMO_ERRMSG, "%.100s: out of memory", path);
            err = SEISMO_ENOMEM;
        }
    }
    scoring_free(&scoring);
    return err == SEISMO_EEOF ? 0 : err;
}

static void add_to_table(struct table *table, const char *path, const json_t *document)
{
    const char *state = body_string(document, "state");
    char text[WORDS_MAX];

    table_cell(table, COLOUR_NONE, path);
    table_cell(table, COLOUR_NONE, body_string(document, "run"));
    table_cell(table, words_state_colour(state), state);
    if (body_is_null(document, "alarm_step")) {
        table_cell(table, COLOUR_NONE, "-");
    } else {
        table_print(table, "%lld", (long long)body_integer(document, "alarm_step", 0));
    }
    table_cell(table, COLOUR_NONE, words_of(document, "score", text));
    table_print(table, "%lld", (long long)body_integer(document, "steps", 0));
    table_cell(table, COLOUR_NONE, body_string(json_object_get(document, "fault"), "class"));
}

static void print_one(const struct term *term, const json_t *document)
{
    const char *state = body_string(document, "state");
    const json_t *verdict;
    char text[WORDS_MAX];
    size_t i;

    words_put(body_string(document, "run"), stdout);
    fputs(" (", stdout);
    words_put(body_string(document, "program"), stdout);
    printf("): %s%s%s, highest score %s in %lld steps", term_on(term, words_state_colour(state)),
           state, term_off(term, words_state_colour(state)), words_of(document, "score", text),
           (long long)body_integer(document, "steps", 0));
    if (!body_is_null(document, "alarm_step")) {
        printf(", alarm at step %lld", (long long)body_integer(document, "alarm_step", 0));
    }
    putchar('\n');
    json_array_foreach (json_object_get(document, "verdicts"), i, verdict) {
        words_verdict(verdict, false, term, stdout);
    }
}

static enum cli_exit score_file(struct batch *b, const char *path)
{
    char errmsg[SEISMO_ERRMSG];
    struct trace_reader *reader;
    json_t *document = NULL;
    int err = trace_reader_new(path, &reader, errmsg);

    if (err == 0) {
        err = score_rows(b, reader, path, &document, errmsg);
        trace_reader_free(&reader);
    }
    if (document != NULL) {
        json_object_set_new(document, "file", json_string(path));
        if (err != 0) {
            json_object_set_new(document, "error", json_string(errmsg));
        }
        if (b->table != NULL) {
            add_to_table(b->table, path, document);
        } else {
            progress_clear(&b->progress);
            if (b->cli->json) {
                body_print(document);
            } else {
                print_one(&b->cli->out, document);
            }
        }
        json_decref(document);
    }
    if (err == 0) {
        return CLI_OK;
    }
    progress_clear(&b->progress);
    return cli_fail(err == SEISMO_ENOTFOUND ? CLI_NOT_FOUND : CLI_FAILED, "%s%s", errmsg,
                    document != NULL ? "; scored up to there" : "");
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    static const char *const head[] = {"FILE",   "RUN",    "STATE", ">ALARM",
                                       ">SCORE", ">STEPS", "FAULT", NULL};
    const char *path = args->option[OPT_MODEL], *budget = args->option[OPT_BUDGET];
    struct batch b = {.cli = cli, .progress = {.term = &cli->err}, .n = args->n};
    char errmsg[SEISMO_ERRMSG];
    struct model *model = NULL;
    enum cli_exit code = CLI_OK;

    int err = model_load(path, &model, errmsg);
    if (err != 0) {
        return cli_fail(err == SEISMO_ENOTFOUND ? CLI_NOT_FOUND : CLI_FAILED, "%s", errmsg);
    }
    if (budget != NULL) {
        char *end;
        double share = strtod(budget, &end);
        if (*end != '\0' || model_set_budget(model, share, errmsg) != 0) {
            model_free(&model);
            return cli_fail(CLI_USAGE, "--budget %s: %s", budget,
                            *end != '\0' ? "not a number" : errmsg);
        }
    }
    b.model = model;
    b.table = args->n > 1 && !cli->json ? table_new(head) : NULL;
    for (; b.done < b.n; b.done++) {
        enum cli_exit of_file = score_file(&b, args->word[b.done]);

        /* A single file that is not there is "not found"; of several the others have been scored.
         */
        if (of_file != CLI_OK) {
            code = b.n == 1 ? of_file : CLI_FAILED;
        }
    }
    progress_clear(&b.progress);
    table_write(b.table, &cli->out, stdout);
    table_free(&b.table);
    model_free(&model);
    return code;
}

const struct command cmd_score = {
    .name = "score",
    .synopsis = "FILE...",
    .summary = "The detector on recorded traces, without a daemon",
    .examples = "seismo score trace.jsonl.gz\n"
                "seismo score runs/*.jsonl.gz\n"
                "seismo score --json runs/*.jsonl.gz | jq -r 'select(.alarm_step) | .file'\n"
                "seismo score --model my.model.json trace.jsonl",
    .details =
        "The code is the daemon's, so the verdicts are those that a daemon would store. A "
        "damaged file is\nscored up to the damage and reported; the others are scored all the "
        "same, and the exit code is 1.\nFILE may be - for standard input.",
    .options = options,
    .min_words = 1,
    .max_words = -1,
    .run = run,
};
