/* seismo runs: the runs that are stored, newest first. */
#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/runs_table.h"

enum { OPT_STATE, OPT_PROGRAM, OPT_LIMIT };
static const struct cli_option options[] = {
    [OPT_STATE] = {"state", "STATE", "only runs in this state (healthy, unstable, finished, ...)"},
    [OPT_PROGRAM] = {"program", "PROGRAM", "only runs of this program"},
    [OPT_LIMIT] = {"limit", "N", "at most the newest N runs"},
    {NULL, NULL, NULL},
};

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    json_t *params = runs_params(args->option[OPT_STATE], args->option[OPT_PROGRAM]);
    json_t *body;
    int64_t limit;
    enum cli_exit code = CLI_OK;

    if (args->option[OPT_LIMIT] != NULL) {
        code = cli_integer("limit", args->option[OPT_LIMIT], 1, 1000, &limit);
        if (code != CLI_OK) {
            json_decref(params);
            return code;
        }
        json_object_set_new(params, "limit", json_integer(limit));
    }
    code = cli_query(cli, "runs", params, &body);
    if (code != CLI_OK) {
        return code;
    }
    if (cli->json) {
        body_print(body);
    } else if (json_array_size(json_object_get(body, "runs")) == 0) {
        fprintf(stderr, "no runs\n");
    } else {
        runs_table_write(json_object_get(body, "runs"), &cli->out, stdout);
        if (json_is_true(json_object_get(body, "more"))) {
            fprintf(stderr, "there are more; narrow the list with --state or --program\n");
        }
    }
    json_decref(body);
    return CLI_OK;
}

const struct command cmd_runs = {
    .name = "runs",
    .synopsis = "",
    .summary = "The runs that are stored, newest first",
    .examples = "seismo runs\n"
                "seismo runs --state unstable\n"
                "seismo runs --program train_gpt2.py --json | jq -r .runs[].run",
    .options = options,
    .run = run,
};
