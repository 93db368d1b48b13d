/* seismo check: is everything in the database as it should be. */
#include <inttypes.h>
#include <stdlib.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/database.h"
#include "client/cli/interrupt.h"
#include "client/cli/progress.h"
#include "client/cli/words.h"
#include "daemon/archive/check.h"

#define SHOWN 200 /* problems that are told one by one */
#define MAX_BUDGETS 16

enum { OPT_MODEL };
static const struct cli_option options[] = {
    {"model", "FILE", "score with this model; else with the one built in"},
    {NULL, NULL, NULL},
};

struct listing {
    struct cli *cli;
    struct progress progress;
    json_t *problems; /* with --json */
    int n;
};

static void on_problem(void *arg, const char *run, const char *text)
{
    struct listing *l = arg;

    if (l->n++ >= SHOWN) {
        return;
    }
    if (l->problems != NULL) {
        json_array_append_new(l->problems, json_pack("{s:s?, s:s}", "run", run, "text", text));
        return;
    }
    progress_clear(&l->progress);
    fputs(term_on(&l->cli->out, COLOUR_RED), stdout);
    if (run != NULL) {
        fputs("run ", stdout);
        words_put(run, stdout);
        fputs(": ", stdout);
    }
    words_put(text, stdout);
    printf("%s\n", term_off(&l->cli->out, COLOUR_RED));
}

static bool on_progress(void *arg, double share)
{
    struct listing *l = arg;

    progress_draw(&l->progress, share, "checking");
    return interrupt_seen();
}

static void print_report(struct listing *l, const char *path, const struct check_report *r)
{
    const struct term *term = &l->cli->out;

    if (l->problems != NULL) {
        json_t *document = json_pack(
            "{s:i, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "schema", 1, "path", path,
            "sound", r->problems == 0, "runs", (json_int_t)r->runs, "steps", (json_int_t)r->steps,
            "chunks", (json_int_t)r->chunks, "verdicts", (json_int_t)r->verdicts, "points",
            (json_int_t)r->points, "unscored", (json_int_t)r->unscored, "n_problems",
            (json_int_t)r->problems, "problems", l->problems);
        body_print(document);
        json_decref(document);
        return;
    }
    if (r->problems > SHOWN) {
        printf("%" PRIu64 " more problems\n", r->problems - SHOWN);
    }
    words_put(path, stdout);
    printf(": %s%s%s, %" PRIu64 " runs, %" PRIu64 " steps, %" PRIu64 " verdicts, %" PRIu64
           " points of series",
           term_on(term, r->problems ? COLOUR_RED : COLOUR_GREEN),
           r->problems ? "damaged" : "sound",
           term_off(term, r->problems ? COLOUR_RED : COLOUR_GREEN), r->runs, r->steps, r->verdicts,
           r->points);
    if (r->unscored > 0) {
        printf("; %" PRIu64 " steps were scored by another model and not scored again",
               r->unscored);
    }
    putchar('\n');
}

/* The model once for each of its budgets, the default first: a daemon may have scored with any of
 * them. `ret` is NULL at its end, also after a failure. */
static int load_models(const char *file, struct model *ret[MAX_BUDGETS + 1],
                       char errmsg[SEISMO_ERRMSG])
{
    int n = 0, err = model_load(file, &ret[0], errmsg);
    json_t *about = err == 0 ? model_describe(ret[0]) : NULL, *level;
    json_t *head = json_object_get(json_object_get(about, "heads"), "instability");
    const char *budget;

    if (json_is_array(head)) /* a budget that not all of the heads have is refused below */
        head = json_array_get(head, 0);
    json_object_foreach (json_object_get(head, "budgets"), budget, level) {
        if (n + 1 == MAX_BUDGETS) {
            break;
        }
        err = model_load(file, &ret[n + 1], errmsg);
        err = err ? err : model_set_budget(ret[n + 1], strtod(budget, NULL), errmsg);
        if (err != 0) {
            break;
        }
        if (model_id(ret[n + 1]) == model_id(ret[0])) {
            model_free(&ret[n + 1]);
        } else {
            n++;
        }
    }
    json_decref(about);
    return err;
}

static enum cli_exit check(struct listing *l, const char *path, const struct model *const *models)
{
    static const struct check_ops ops = {.problem = on_problem, .progress = on_progress};
    char errmsg[SEISMO_ERRMSG];
    struct check_report report;
    int err;

    interrupt_catch();
    err = check_database(path, models, &ops, l, &report, errmsg);
    progress_clear(&l->progress);
    if (err != 0) {
        return cli_fail(database_exit(err), "%s", errmsg);
    }
    print_report(l, path, &report);
    return report.problems == 0 ? CLI_OK : CLI_FAILED;
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    struct listing l = {.cli = cli, .progress = {.term = &cli->err}};
    const char *file = args->option[OPT_MODEL];
    char path[PATH_MAX], errmsg[SEISMO_ERRMSG];
    struct model *models[MAX_BUDGETS + 1] = {NULL};
    enum cli_exit code = database_find(cli, args->n > 0 ? args->word[0] : NULL, path);

    if (code != CLI_OK) {
        return code;
    }
    int err = load_models(file, models, errmsg);
    if (err != 0) {
        code = cli_fail(err == SEISMO_ENOTFOUND ? CLI_NOT_FOUND : CLI_FAILED, "%s", errmsg);
    } else {
        l.problems = cli->json ? json_array() : NULL;
        code = check(&l, path, (const struct model *const *)models);
        json_decref(l.problems);
    }
    for (int i = 0; models[i] != NULL; i++) {
        model_free(&models[i]);
    }
    return code;
}

const struct command cmd_check = {
    .name = "check",
    .synopsis = "[DIR|FILE]",
    .summary = "Whether everything in the database is as it should be",
    .examples = "seismo check\n"
                "seismo check /var/lib/seismo\n"
                "seismo check backup.db --json | jq .sound",
    .details =
        "SQLite's own checks; that the steps of every run are all there, in order, and decode; "
        "and that\nscores, verdicts and series are what the detector gives for them, under the "
        "budget that the\ndaemon had. Without DIR or FILE the daemon's database is meant; the "
        "daemon may go on meanwhile.\nReads the file, so be the user of seismod or root. Exit code "
        "1 when something is wrong.",
    .options = options,
    .max_words = 1,
    .run = run,
};
