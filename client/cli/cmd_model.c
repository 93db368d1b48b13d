/* seismo model: what the detector's model is, and whether a model file is sound. */
#include <stdio.h>
#include <string.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/words.h"
#include "models/detector.h"

static void print_value(const char *key, const json_t *value, int depth)
{
    const char *inner;
    const json_t *item;
    size_t i;

    printf("%*s", 2 * depth, "");
    words_put(key, stdout);
    if (json_is_object(value)) {
        putchar('\n');
        json_object_foreach ((json_t *)value, inner, item) {
            print_value(inner, item, depth + 1);
        }
        return;
    }
    if (json_is_object(json_array_get(value, 0))) { /* the list of instability heads */
        json_array_foreach (value, i, item) {
            char number[32];

            snprintf(number, sizeof number, "[%zu]", i);
            if (i == 0) {
                putchar('\n');
            }
            print_value(number, item, depth + 1);
        }
        return;
    }
    fputs(": ", stdout);
    if (json_is_array(value)) {
        json_array_foreach (value, i, item) {
            char *text = json_dumps(item, BODY_FLAGS | JSON_ENCODE_ANY);

            printf("%s%s", i > 0 ? ", " : "", text != NULL ? text : "");
            free(text);
        }
    } else if (json_is_string(value)) {
        words_put(json_string_value(value), stdout);
    } else {
        json_dumpf(value, stdout, BODY_FLAGS | JSON_ENCODE_ANY);
    }
    putchar('\n');
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    const char *what = args->word[0], *path = args->n > 1 ? args->word[1] : NULL;
    bool verify = strcmp(what, "verify") == 0;
    char errmsg[SEISMO_ERRMSG];
    struct model *model = NULL;
    json_t *document;
    const char *key;
    const json_t *value;

    if (!verify && strcmp(what, "info") != 0) {
        return cli_fail(CLI_USAGE, "seismo model has no \"%s\"; it is info or verify", what);
    }
    int err = model_load(path, &model, errmsg);
    if (err != 0) {
        return cli_fail(err == SEISMO_ENOTFOUND ? CLI_NOT_FOUND : CLI_FAILED, "%s", errmsg);
    }
    document = model_describe(model);
    json_object_set_new(document, "schema", json_integer(1));
    if (cli->json) {
        body_print(document);
    } else if (verify) {
        words_put(path != NULL ? path : "built-in model", stdout);
        fputs(": sound, ", stdout);
        words_put(model_name(model), stdout);
        printf(", id %016llx\n", (unsigned long long)model_id(model));
    } else {
        json_object_del(document, "schema");
        json_object_foreach (document, key, value) {
            print_value(key, value, 0);
        }
    }
    json_decref(document);
    model_free(&model);
    return CLI_OK;
}

const struct command cmd_model = {
    .name = "model",
    .synopsis = "info|verify [FILE]",
    .summary = "What the detector's model is, and whether a model file is sound",
    .examples = "seismo model info\n"
                "seismo model info my.model.json --json\n"
                "seismo model verify my.model.json",
    .details =
        "Without FILE the model built into this program is meant. The daemon uses another one "
        "when its\nconfiguration says so: see `seismo status`.",
    .min_words = 1,
    .max_words = 2,
    .run = run,
};
