/* seismo verdicts: what the daemon has said, and with --follow what it says from now on. */
#include <time.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/words.h"

#define FOLLOW_INTERVAL 500 /* ms between looking for news */

enum { OPT_FOLLOW, OPT_SUPERSEDED };
static const struct cli_option options[] = {
    [OPT_FOLLOW] = {"follow", NULL, "go on and print new ones as they come; ^C ends it"},
    [OPT_SUPERSEDED] = {"superseded", NULL,
                        "also those that a job took back by resuming from a checkpoint"},
    {NULL, NULL, NULL},
};

/* One page from behind `*after`, which moves on. */
static enum cli_exit next_page(struct cli *cli, const struct cli_args *args, json_int_t *after,
                               json_t **ret_body)
{
    const char *run = args->n > 0 ? args->word[0] : NULL;
    json_t *params = json_pack("{s:s*, s:I}", "run", run, "after", *after);
    enum cli_exit code;

    if (args->option[OPT_SUPERSEDED] != NULL) {
        json_object_set_new(params, "superseded", json_true());
    }
    code = cli_query(cli, "verdicts", params, ret_body);
    if (code == CLI_OK) {
        *after = body_integer(*ret_body, "last", *after);
    }
    return code;
}

static void print_verdicts(const struct cli *cli, const struct cli_args *args, const json_t *body)
{
    const json_t *verdict;
    size_t i;

    json_array_foreach(json_object_get(body, "verdicts"), i, verdict)
    {
        if (cli->json) {
            body_print(verdict);
        } else {
            words_verdict(verdict, args->n == 0, &cli->out, stdout);
        }
    }
    fflush(stdout);
}

/* Prints page after page, and with `follow` goes on for ever. */
static enum cli_exit print_pages(struct cli *cli, const struct cli_args *args, bool follow)
{
    const struct timespec interval = {.tv_nsec = FOLLOW_INTERVAL * 1000000L};
    json_int_t after = 0;
    bool more = true;

    while (more || follow) {
        json_t *body;
        enum cli_exit code = next_page(cli, args, &after, &body);

        if (code != CLI_OK) {
            return code;
        }
        print_verdicts(cli, args, body);
        more = json_is_true(json_object_get(body, "more"));
        json_decref(body);
        if (!more && follow) {
            nanosleep(&interval, NULL);
        }
    }
    return CLI_OK;
}

/* All pages as one document. */
static enum cli_exit print_document(struct cli *cli, const struct cli_args *args)
{
    json_t *whole = NULL, *body;
    json_int_t after = 0;
    bool more = true;

    while (more) {
        enum cli_exit code = next_page(cli, args, &after, &body);

        if (code != CLI_OK) {
            json_decref(whole);
            return code;
        }
        more = json_is_true(json_object_get(body, "more"));
        if (whole == NULL) {
            whole = body;
        } else {
            json_array_extend(json_object_get(whole, "verdicts"),
                              json_object_get(body, "verdicts"));
            json_decref(body);
        }
    }
    json_object_set_new(whole, "last", json_integer(after));
    json_object_set_new(whole, "more", json_false());
    body_print(whole);
    json_decref(whole);
    return CLI_OK;
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    bool follow = args->option[OPT_FOLLOW] != NULL;

    return cli->json && !follow ? print_document(cli, args) : print_pages(cli, args, follow);
}

const struct command cmd_verdicts = {
    .name = "verdicts",
    .synopsis = "[RUN]",
    .summary = "What the daemon has said of one run or of all, oldest first",
    .examples =
        "seismo verdicts\n"
        "seismo verdicts gpt2-a\n"
        "seismo verdicts --follow\n"
        "seismo verdicts --follow --json | jq -r 'select(.severity == \"critical\") | .run'",
    .details = "With --json one document holds them all; with --json --follow each is a line.",
    .options = options,
    .max_words = 1,
    .run = run,
};
