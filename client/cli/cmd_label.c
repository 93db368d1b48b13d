/* seismo label: what a person knows of a run's outcome. */
#include <string.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/words.h"

#define MAX_BYTES 63 /* of an outcome; the daemon takes no more (PROTOCOL.md) */

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    json_t *body;
    size_t n = strlen(args->word[1]);
    enum cli_exit code;

    if (n == 0 || n > MAX_BYTES) {
        return cli_fail(CLI_USAGE, "an outcome has 1 to %d bytes; this one has %zu", MAX_BYTES, n);
    }
    code =
        cli_query(cli, "label",
                  json_pack("{s:s, s:s}", "run", args->word[0], "outcome", args->word[1]), &body);
    if (code != CLI_OK) {
        return code;
    }
    if (cli->json) {
        body_print(body);
    } else {
        words_put(args->word[0], stdout);
        fputs(": labelled ", stdout);
        words_put(args->word[1], stdout);
        putchar('\n');
    }
    json_decref(body);
    return CLI_OK;
}

const struct command cmd_label = {
    .name = "label",
    .synopsis = "RUN OUTCOME",
    .summary = "Record what a run really came to",
    .examples = "seismo label gpt2-a healthy\n"
                "seismo label gpt2-b unstable\n"
                "seismo label gpt2-c \"too slow\"",
    .details =
        "The label is yours: any text of up to 63 bytes. It does not change the verdicts; it "
        "is stored\nbeside them, so that the detector can be judged, and trained, by it.",
    .min_words = 2,
    .max_words = 2,
    .run = run,
};
