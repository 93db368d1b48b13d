/* seismo verdicts: what the daemon has said, and with --follow what it says from now on. */
#include <time.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/verdict_pages.h"
#include "client/cli/words.h"

#define FOLLOW_INTERVAL 500 /* ms between looking for news */

enum { OPT_FOLLOW, OPT_SUPERSEDED };
static const struct cli_option options[] = {
    [OPT_FOLLOW] = {"follow", NULL, "go on and print new ones as they come; ^C ends it"},
    [OPT_SUPERSEDED] = {"superseded", NULL,
                        "also those that a job took back by resuming from a checkpoint"},
    {NULL, NULL, NULL},
};

static const char *run_of(const struct cli_args *args)
{
    return args->n > 0 ? args->word[0] : NULL;
}

static bool is_superseded(const struct cli_args *args)
{
    return args->option[OPT_SUPERSEDED] != NULL;
}

static void print_verdicts(const struct cli *cli, const struct cli_args *args, const json_t *body)
{
    const json_t *verdict;
    size_t i;

    json_array_foreach (json_object_get(body, "verdicts"), i, verdict) {
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
        enum cli_exit code =
            verdict_pages_next(cli, run_of(args), is_superseded(args), &after, &body);

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

static enum cli_exit print_document(struct cli *cli, const struct cli_args *args)
{
    json_t *whole;
    enum cli_exit code = verdict_pages_all(cli, run_of(args), is_superseded(args), &whole);

    if (code == CLI_OK) {
        body_print(whole);
        json_decref(whole);
    }
    return code;
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
