/* seismo watch: the table of runs, live. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/interrupt.h"
#include "client/cli/runs_table.h"
#include "client/cli/words.h"

enum { OPT_STATE, OPT_PROGRAM, OPT_INTERVAL, OPT_COUNT };
static const struct cli_option options[] = {
    [OPT_STATE] = {"state", "STATE", "only runs in this state"},
    [OPT_PROGRAM] = {"program", "PROGRAM", "only runs of this program"},
    [OPT_INTERVAL] = {"interval", "SECONDS", "between looks; default 1"},
    [OPT_COUNT] = {"count", "N", "end after N looks; else it goes on until q or ^C"},
    {NULL, NULL, NULL},
};

/* A terminal taken over: no echo, keys at once, another screen, no cursor. */
struct screen {
    bool keys; /* stdin is a terminal too */
    struct termios before;
};

static void screen_enter(struct screen *s)
{
    struct termios raw;

    s->keys = isatty(STDIN_FILENO) == 1 && tcgetattr(STDIN_FILENO, &s->before) == 0;
    if (s->keys) {
        raw = s->before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    fputs("\033[?1049h\033[?25l", stdout);
}

static void screen_leave(struct screen *s)
{
    if (s->keys) {
        tcsetattr(STDIN_FILENO, TCSANOW, &s->before);
    }
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
}

/* Waits, at most `seconds`, for a key. True when the watch is to end. */
static bool screen_wait(const struct screen *s, double seconds)
{
    struct pollfd key = {.fd = s->keys ? STDIN_FILENO : -1, .events = POLLIN};
    char c = 0;

    if (poll(&key, 1, (int)(seconds * 1000)) > 0 && read(STDIN_FILENO, &c, 1) <= 0) {
        return true; /* the terminal is gone */
    }
    return c == 'q' || c == 'Q' || interrupt_seen();
}

/* Draws over what stands there, so that nothing flickers, and cuts what does not fit. */
static void screen_draw(const char *text, const struct term *term)
{
    int line = 0;

    fputs("\033[H", stdout);
    for (; *text != '\0' && line < term->height - 1; line++) {
        size_t n = strcspn(text, "\n");

        printf("%.*s\033[K\n", (int)n, text);
        text += n + (text[n] == '\n');
    }
    fputs("\033[J", stdout);
    fflush(stdout);
}

static void write_page(const json_t *body, const struct term *term, FILE *out)
{
    const json_t *runs = json_object_get(body, "runs");
    char now[WORDS_MAX];

    fprintf(out, "%sseismo watch%s  %s  %zu runs%s  %sq ends it%s\n\n", term_on(term, COLOUR_BOLD),
            term_off(term, COLOUR_BOLD), words_time((double)time(NULL), now), json_array_size(runs),
            json_is_true(json_object_get(body, "more")) ? " (the newest)" : "",
            term_on(term, COLOUR_DIM), term_off(term, COLOUR_DIM));
    runs_table_write(runs, term, out);
}

struct watch {
    struct cli *cli;
    const char *state, *program;
    double interval; /* s */
    int64_t count;
};

/* What the screen is to show now; NULL when memory is out. */
static char *ask_for_page(struct watch *w)
{
    struct cli *cli = w->cli;
    char errmsg[QUERY_ERRMSG], *text = NULL;
    size_t size;
    FILE *page = open_memstream(&text, &size);
    json_t *body;
    bool whole;

    if (page == NULL) {
        return NULL;
    }
    if (query_client_call(cli->client, "runs", runs_params(w->state, w->program), &body, errmsg) ==
        0) {
        write_page(body, &cli->out, page);
        json_decref(body);
    } else {
        words_put(errmsg, page);
    }
    whole = !ferror(page);
    if (fclose(page) != 0 || !whole) {
        free(text);
        return NULL;
    }
    return text;
}

/* Neither a daemon that is away for a while nor memory that is out is a reason to leave the screen.
 */
static enum cli_exit watch_screen(struct watch *w)
{
    struct cli *cli = w->cli;
    struct screen screen;
    bool end = false;

    screen_enter(&screen);
    for (int64_t i = 0; !end && i < w->count; i++) {
        term_measure(&cli->out, stdout);
        char *page = ask_for_page(w);
        screen_draw(page != NULL ? page : "out of memory\n", &cli->out);
        free(page);
        end = screen_wait(&screen, i + 1 < w->count ? w->interval : 0);
    }
    screen_leave(&screen);
    return CLI_OK;
}

static enum cli_exit watch_lines(struct watch *w)
{
    struct cli *cli = w->cli;

    for (int64_t i = 0; i < w->count && !interrupt_seen(); i++) {
        json_t *body;
        enum cli_exit code = cli_query(cli, "runs", runs_params(w->state, w->program), &body);

        if (code != CLI_OK) {
            return code;
        }
        if (cli->json) {
            body_print(body);
        } else {
            runs_table_write(json_object_get(body, "runs"), &cli->out, stdout);
        }
        fflush(stdout);
        json_decref(body);
        if (i + 1 < w->count) {
            interrupt_sleep(w->interval);
        }
    }
    return CLI_OK;
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    struct watch w = {
        .cli = cli,
        .state = args->option[OPT_STATE],
        .program = args->option[OPT_PROGRAM],
        .interval = 1,
        .count = INT64_MAX,
    };
    json_t *body;
    enum cli_exit code = CLI_OK;

    if (args->option[OPT_INTERVAL] != NULL) {
        code = cli_number("interval", args->option[OPT_INTERVAL], 0.05, 3600, &w.interval);
    }
    if (code == CLI_OK && args->option[OPT_COUNT] != NULL) {
        code = cli_integer("count", args->option[OPT_COUNT], 1, INT64_MAX, &w.count);
    }
    if (code != CLI_OK) {
        return code;
    }
    interrupt_catch();
    if (!cli->out.tty || cli->json) {
        return watch_lines(&w);
    }
    /* Find out what is wrong with the first request before the screen is taken. */
    code = cli_query(cli, "runs", runs_params(w.state, w.program), &body);
    if (code != CLI_OK) {
        return code;
    }
    json_decref(body);
    return watch_screen(&w);
}

const struct command cmd_watch = {
    .name = "watch",
    .synopsis = "",
    .summary = "The table of runs, live",
    .examples = "seismo watch\n"
                "seismo watch --state unstable\n"
                "seismo watch --interval 10 >> runs.log\n"
                "seismo watch --json | jq -c '[.runs[] | {run, score}]'",
    .details = "On a terminal the table is redrawn in place; q or ^C leaves it. Elsewhere it is "
               "printed again each\ntime, and with --json one document a line.",
    .options = options,
    .run = run,
};
