/* seismo show: a run's curves in the terminal, with the verdicts on the axis. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/plot.h"
#include "client/cli/verdict_pages.h"
#include "client/cli/words.h"

#define MAX_WIDTH 160 /* columns of a plot, also where the terminal is wider */

enum { OPT_WIDTH, OPT_HEIGHT };
static const struct cli_option options[] = {
    [OPT_WIDTH] = {"width", "COLUMNS", "of the plots; else the terminal's"},
    [OPT_HEIGHT] = {"height", "LINES", "of each plot; else a quarter of the terminal's"},
    {NULL, NULL, NULL},
};

/* The points of the daemon's `series`, column by column. */
struct series {
    size_t n;
    double *step, *loss, *loss_max, *grad_norm, *curvature, *score;
    double *all; /* what they point into */
};

/* NULL in the database was NaN; the plot marks it like an infinity. */
static double value_or_bad(const json_t *point, const char *key)
{
    double x = body_number(point, key);

    return isnan(x) ? INFINITY : x;
}

static bool series_init(struct series *s, const json_t *points)
{
    const json_t *point;
    size_t i;

    s->n = json_array_size(points);
    s->all = malloc((6 * s->n + 1) * sizeof(*s->all));
    if (s->all == NULL) {
        return false;
    }
    s->step = s->all;
    s->loss = s->step + s->n;
    s->loss_max = s->loss + s->n;
    s->grad_norm = s->loss_max + s->n;
    s->curvature = s->grad_norm + s->n;
    s->score = s->curvature + s->n;
    json_array_foreach (points, i, point) {
        s->step[i] = body_number(point, "step");
        s->loss[i] = value_or_bad(point, "loss");
        s->loss_max[i] = value_or_bad(point, "loss_max");
        s->grad_norm[i] = body_number(point, "grad_norm");
        if (isinf(s->loss[i]) && isnan(s->grad_norm[i]) && i > 0 && !isnan(s->grad_norm[i - 1])) {
            /* A run that sends gradients, and a loss that is NaN: so was the gradient. */
            s->grad_norm[i] = INFINITY;
        }
        s->curvature[i] = body_number(point, "curvature");
        s->score[i] = body_number(point, "score");
    }
    return true;
}

/* The weight by which marks of one column cover each other. */
static int mark_weight(const struct plot_mark *m)
{
    return m->line ? 2 : m->colour == words_state_colour("healthy") ? 0 : 1;
}

static int compare_marks(const void *a, const void *b)
{
    return mark_weight(a) - mark_weight(b);
}

/* Marks of all verdicts that have a step; *ret_n of them. NULL when out of memory. */
static struct plot_mark *marks_new(const json_t *verdicts, bool utf8, size_t *ret_n)
{
    struct plot_mark *marks = calloc(json_array_size(verdicts) + 1, sizeof(*marks));
    const json_t *verdict;
    size_t i, n = 0;

    if (marks == NULL) {
        term_no_memory();
        return NULL;
    }
    json_array_foreach (verdicts, i, verdict) {
        const char *state = body_string(verdict, "state");

        if (!body_is_null(verdict, "step")) {
            marks[n++] = (struct plot_mark){
                .x = body_number(verdict, "step"),
                .glyph = words_state_mark(state, utf8),
                .colour = words_state_colour(state),
                .line = strcmp(body_string(verdict, "severity"), "critical") == 0,
            };
        }
    }
    qsort(marks, n, sizeof(*marks), compare_marks);
    *ret_n = n;
    return marks;
}

/* The marks that occur, each with its state, in the order in which they first came. */
static void print_legend(const json_t *verdicts, const struct term *term)
{
    json_t *seen = json_object();
    const json_t *verdict;
    size_t i;

    json_array_foreach (verdicts, i, verdict) {
        const char *state = body_string(verdict, "state");

        if (!body_is_null(verdict, "step") && json_object_get(seen, state) == NULL) {
            printf("%s%s%s%s ", json_object_size(seen) == 0 ? "verdicts:  " : "   ",
                   term_on(term, words_state_colour(state)), words_state_mark(state, term->utf8),
                   term_off(term, words_state_colour(state)));
            words_put(state, stdout);
            json_object_set_new(seen, state, json_true());
        }
    }
    if (json_object_size(seen) > 0) {
        putchar('\n');
    }
    json_decref(seen);
}

static double threshold_of(const json_t *verdicts)
{
    const json_t *verdict;
    double threshold = NAN;
    size_t i;

    json_array_foreach (verdicts, i, verdict) {
        double x = body_number(verdict, "threshold");

        threshold = isnan(x) ? threshold : x;
    }
    return threshold;
}

static void print_state(const char *state, const char *shown, const struct term *term)
{
    fputs(term_on(term, words_state_colour(state)), stdout);
    words_put(shown, stdout);
    fputs(term_off(term, words_state_colour(state)), stdout);
}

static void print_head(const json_t *run, const struct term *term)
{
    const char *state = body_string(run, "state"), *worst = body_string(run, "worst");

    fputs(term_on(term, COLOUR_BOLD), stdout);
    words_put(body_string(run, "run"), stdout);
    printf("%s (", term_off(term, COLOUR_BOLD));
    words_put(body_string(run, "program"), stdout);
    fputs("): ", stdout);
    print_state(state, body_is_null(run, "ended") ? state : body_string(run, "outcome"), term);
    fputs(", at worst ", stdout);
    print_state(worst, worst, term);
    printf(", %lld steps", (long long)body_integer(run, "steps", 0));
    if (!body_is_null(run, "label")) {
        fputs(", labelled ", stdout);
        words_put(body_string(run, "label"), stdout);
    }
    puts("\n");
}

/* The last verdict, unless it only says that the run ended as it should. */
static void print_last_verdict(const json_t *verdicts, const struct term *term)
{
    const json_t *verdict;

    for (size_t i = json_array_size(verdicts); i > 0; i--) {
        bool plain_end;

        verdict = json_array_get(verdicts, i - 1);
        plain_end = strcmp(body_string(verdict, "state"), "ended") == 0 &&
                    strcmp(body_string(verdict, "severity"), "info") == 0;
        if (!plain_end) {
            fputs("\nlast verdict: ", stdout);
            words_verdict(verdict, false, term, stdout);
            return;
        }
    }
}

/* At least one point. */
static void print_plots(const struct series *s, const json_t *run, const json_t *verdicts,
                        int width, int height, const struct term *term)
{
    size_t n_marks = 0;
    struct plot_mark *marks = marks_new(verdicts, term->utf8, &n_marks);
    const struct plot base = {
        .x = s->step,
        .n = s->n,
        /* The run may be some steps further than the last point of its decimated series. */
        .x0 = fmin(s->step[0], body_number(run, "first_step")),
        .x1 = fmax(s->step[s->n - 1], body_number(run, "step")),
        .y0 = NAN,
        .y1 = NAN,
        .level = NAN,
        .colour = COLOUR_CYAN,
        .marks = marks,
        .n_marks = marks != NULL ? n_marks : 0,
    };
    struct plot plots[] = {base, base, base, base};

    plots[0].title = "loss";
    plots[0].y = s->loss;
    plots[0].high = s->loss_max;
    plots[0].may_log = true;
    plots[0].empty = "no finite value";
    plots[1].title = "gradient norm";
    plots[1].y = s->grad_norm;
    plots[1].may_log = true;
    plots[1].empty = "not sent";
    plots[2].title = "curvature";
    plots[2].y = s->curvature;
    plots[2].empty = "cannot be told from what was sent";
    plots[3].title = "score";
    plots[3].y = s->score;
    plots[3].y0 = 0;
    plots[3].y1 = 1;
    plots[3].level = threshold_of(verdicts);
    plots[3].empty = "none yet";
    for (size_t i = 0; i < sizeof(plots) / sizeof(*plots); i++) {
        plot_write(&plots[i], width, height, term, stdout);
    }
    plot_write_scale(base.x0, base.x1, width, stdout);
    free(marks);
}

static enum cli_exit show(struct cli *cli, const char *name, int width, int height)
{
    json_t *body = NULL, *verdicts = NULL;
    const json_t *list;
    struct series s;
    enum cli_exit code = cli_query(cli, "series", json_pack("{s:s}", "run", name), &body);

    if (code == CLI_OK) {
        code = verdict_pages_all(cli, name, false, &verdicts);
    }
    if (code != CLI_OK) {
        json_decref(body);
        return code;
    }
    list = json_object_get(verdicts, "verdicts");
    if (cli->json) {
        json_object_set(body, "verdicts", (json_t *)list);
        body_print(body);
    } else if (!series_init(&s, json_object_get(body, "points"))) {
        code = cli_fail(CLI_FAILED, "out of memory");
    } else {
        print_head(json_object_get(body, "run"), &cli->out);
        if (s.n == 0) {
            puts("no steps yet");
        } else {
            print_plots(&s, json_object_get(body, "run"), list, width, height, &cli->out);
            print_legend(list, &cli->out);
        }
        print_last_verdict(list, &cli->out);
        free(s.all);
    }
    json_decref(body);
    json_decref(verdicts);
    return code;
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    int64_t width = cli->out.width < MAX_WIDTH ? cli->out.width : MAX_WIDTH;
    int64_t height = (cli->out.height - 8) / 4 - 1; /* four plots, and what stands around them */
    enum cli_exit code = CLI_OK;

    height = height < 4 ? 4 : height > 12 ? 12 : height;
    if (args->option[OPT_WIDTH] != NULL) {
        code = cli_integer("width", args->option[OPT_WIDTH], 20, 1000, &width);
    }
    if (code == CLI_OK && args->option[OPT_HEIGHT] != NULL) {
        code = cli_integer("height", args->option[OPT_HEIGHT], 1, 100, &height);
    }
    return code == CLI_OK ? show(cli, args->word[0], (int)width, (int)height) : code;
}

const struct command cmd_show = {
    .name = "show",
    .synopsis = "RUN",
    .summary = "A run's loss, gradient norm, curvature and score, plotted in the terminal",
    .examples = "seismo show gpt2-a\n"
                "seismo show gpt2-a --width 120 --height 10\n"
                "seismo show gpt2-a --json | jq .points[-1]",
    .details =
        "Verdicts are marked on the axis of steps; a thin line goes up from critical ones, a "
        "dashed one shows\nthe threshold of the score. x at the top: the value was not finite.",
    .options = options,
    .min_words = 1,
    .max_words = 1,
    .run = run,
};
