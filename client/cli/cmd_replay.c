/* seismo replay: recorded traces into a daemon, as if the training ran again. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/interrupt.h"
#include "client/cli/progress.h"
#include "client/cli/words.h"
#include "client/lib/client.h"
#include "proto/defaults.h"
#include "proto/trace.h"

#define CONNECT_PATIENCE 5.0 /* s until there is a connection */
#define STALL_PATIENCE 30.0  /* s without an answer then: its disk may be slow, or it restarts */
#define NAP 0.002            /* s between looks at what has been acknowledged */

enum { OPT_INGEST, OPT_RUN, OPT_SPEED };
static const struct cli_option options[] = {
    [OPT_INGEST] = {"ingest", "ENDPOINT", "where to; else $SEISMO_INGEST, else the default"},
    [OPT_RUN] = {"run", "NAME", "name the run so; else as the trace says"},
    [OPT_SPEED] = {"speed", "max|N", "N steps a second; max (default): as fast as acknowledged"},
    {NULL, NULL, NULL},
};

struct replay {
    struct cli *cli;
    const char *ingest, *run_name; /* or NULL */
    double speed;                  /* steps/s, infinite for max */
    const char *path;
    struct progress progress;

    struct seismo *run;
    double started, progress_at; /* s, monotonic */
    uint64_t rows, acknowledged;
};

static double monotonic_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Whether to go on waiting for the daemon. */
static enum cli_exit check(struct replay *r, const struct seismo_stats *stats)
{
    double now = monotonic_now();
    bool connected = client_connected(r->run);
    double patience = connected || r->acknowledged > 0 ? STALL_PATIENCE : CONNECT_PATIENCE;

    if (interrupt_seen()) {
        progress_clear(&r->progress);
        return cli_fail(CLI_FAILED, "interrupted; %llu of %llu steps of %s are stored",
                        (unsigned long long)stats->acknowledged, (unsigned long long)stats->steps,
                        r->path);
    }
    if (stats->acknowledged > r->acknowledged || stats->waiting == 0) {
        r->progress_at = now;
    }
    r->acknowledged = stats->acknowledged;
    if (client_refused(r->run)) {
        struct seismo_stats why; /* said since `stats` was taken */

        seismo_stats(r->run, &why);
        progress_clear(&r->progress);
        return cli_fail(CLI_FAILED, "%s: %s; %llu of %llu steps are stored", r->path, why.error,
                        (unsigned long long)why.acknowledged, (unsigned long long)why.steps);
    }
    if (now - r->progress_at < patience) {
        return CLI_OK;
    }
    progress_clear(&r->progress);
    return cli_fail(CLI_UNREACHABLE,
                    "%s: nothing acknowledged for %.0f s (%s); is seismod running, and does it "
                    "listen at %s?",
                    r->path, patience,
                    *stats->error != '\0' ? stats->error
                    : connected           ? "connected, but no answer"
                                          : "no connection",
                    r->ingest);
}

static enum cli_exit offer(struct replay *r, const struct seismo_row *row)
{
    struct seismo_stats stats;
    enum cli_exit code = CLI_OK;

    if (isfinite(r->speed)) {
        interrupt_sleep(r->started + (double)r->rows / r->speed - monotonic_now());
        seismo_stats(r->run, &stats);
        code = check(r, &stats);
    }
    while (code == CLI_OK && !client_offer(r->run, row)) {
        interrupt_sleep(NAP);
        seismo_stats(r->run, &stats);
        code = check(r, &stats);
    }
    r->rows += code == CLI_OK;
    return code;
}

static enum cli_exit wait_for_acks(struct replay *r, struct seismo_stats *ret_stats)
{
    enum cli_exit code;

    client_hurry(r->run);
    do {
        seismo_stats(r->run, ret_stats);
        code = check(r, ret_stats);
        if (ret_stats->waiting > 0) {
            progress_draw(&r->progress, (double)ret_stats->acknowledged / (double)ret_stats->steps,
                          r->path);
            interrupt_sleep(NAP);
        }
    } while (code == CLI_OK && ret_stats->waiting > 0);
    return code;
}

/* The run as the trace's header describes it. */
static struct seismo *open_run(const struct replay *r, const json_t *header,
                               char errmsg[SEISMO_ERRMSG])
{
    json_t *meta = json_copy((json_t *)header);
    char *text;
    struct seismo *run;

    json_object_del(meta, "run");
    json_object_del(meta, "program");
    text = json_dumps(meta, JSON_COMPACT);
    json_decref(meta);
    if (text != NULL && strlen(text) > SEISMO_MAX_META) {
        fprintf(stderr,
                "seismo: the header's %zu bytes beside the names are more than a run may have "
                "(%d); it goes without them\n",
                strlen(text), SEISMO_MAX_META);
        free(text);
        text = NULL;
    }
    run = seismo_open(
        &(struct seismo_options){
            .run = r->run_name != NULL ? r->run_name : body_string(header, "run"),
            .program = body_string(header, "program"),
            .ingest = r->ingest,
            .meta = text,
        },
        errmsg);
    free(text);
    return run;
}

static void print_summary(const struct replay *r, const struct seismo_stats *stats,
                          const struct seismo_verdict *verdict)
{
    double seconds = monotonic_now() - r->started;
    bool heard = verdict->count > 0;
    char text[WORDS_MAX];
    json_t *document;

    if (!r->cli->json) {
        words_put(stats->run, stdout);
        printf(": %llu steps acknowledged in %.2f s (%s steps/s)",
               (unsigned long long)stats->acknowledged, seconds,
               words_number((double)stats->acknowledged / seconds, false, text));
        if (stats->rejected > 0) {
            printf(", %llu refused", (unsigned long long)stats->rejected);
        }
        if (heard) {
            enum colour colour = words_state_colour(verdict->state);

            printf("; last verdict: %s", term_on(&r->cli->out, colour));
            words_put(verdict->state, stdout);
            printf("%s at step %lld", term_off(&r->cli->out, colour), (long long)verdict->step);
        }
        putchar('\n');
        fflush(stdout);
        return;
    }
    document = json_pack("{s:i, s:s, s:s, s:I, s:I, s:I, s:f, s:I, s:s?}", "schema", 1, "file",
                         r->path, "run", stats->run, "steps", (json_int_t)stats->steps,
                         "acknowledged", (json_int_t)stats->acknowledged, "rejected",
                         (json_int_t)stats->rejected, "seconds", seconds, "verdicts",
                         (json_int_t)verdict->count, "state", heard ? verdict->state : NULL);
    body_print(document);
    json_decref(document);
}

static enum cli_exit replay_rows(struct replay *r, struct trace_reader *reader)
{
    char errmsg[SEISMO_ERRMSG];
    struct seismo_verdict verdict = {.count = 0};
    struct seismo_stats stats;
    struct seismo_row row;
    enum cli_exit code = CLI_OK, damage = CLI_OK;
    int err;

    r->run = open_run(r, trace_reader_header(reader), errmsg);
    if (r->run == NULL) {
        return cli_fail(CLI_USAGE, "%s: %s", r->path, errmsg);
    }
    r->started = r->progress_at = monotonic_now();
    while (code == CLI_OK && (err = trace_reader_next(reader, &row, errmsg)) == 0) {
        code = offer(r, &row);
        progress_draw(&r->progress, trace_reader_progress(reader), r->path);
    }
    if (code == CLI_OK && err != SEISMO_EEOF) {
        progress_clear(&r->progress);
        damage = cli_fail(CLI_FAILED, "%s; the steps before it are sent", errmsg);
    }
    if (code == CLI_OK) {
        code = wait_for_acks(r, &stats);
    }
    progress_clear(&r->progress);
    seismo_verdict(r->run, &verdict);
    if (code == CLI_UNREACHABLE) {
        client_give_up(r->run);
    }
    if (!seismo_close(&r->run,
                      code == CLI_OK && damage == CLI_OK ? SEISMO_FINISHED : SEISMO_ABORTED)) {
        code = code != CLI_OK ? code
                              : cli_fail(CLI_FAILED, "%s: the run could not be closed", r->path);
    }
    if (code != CLI_OK) {
        return code;
    }
    print_summary(r, &stats, &verdict);
    if (stats.rejected > 0) {
        return cli_fail(CLI_FAILED, "%s: the daemon refused %llu steps: %s", r->path,
                        (unsigned long long)stats.rejected, stats.error);
    }
    return damage;
}

static enum cli_exit replay_file(struct replay *r)
{
    char errmsg[SEISMO_ERRMSG];
    struct trace_reader *reader;
    int err = trace_reader_new(r->path, &reader, errmsg);
    enum cli_exit code;

    if (err != 0) {
        return cli_fail(err == SEISMO_ENOTFOUND ? CLI_NOT_FOUND : CLI_FAILED, "%s", errmsg);
    }
    r->rows = r->acknowledged = 0;
    code = replay_rows(r, reader);
    trace_reader_free(&reader);
    return code;
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    const char *speed = args->option[OPT_SPEED], *environment = getenv("SEISMO_INGEST");
    struct replay r = {
        .cli = cli,
        .ingest = args->option[OPT_INGEST],
        .run_name = args->option[OPT_RUN],
        .speed = INFINITY,
        .progress = {.term = &cli->err},
    };
    enum cli_exit code = CLI_OK;

    if (r.ingest == NULL) {
        r.ingest =
            environment != NULL && *environment != '\0' ? environment : SEISMO_DEFAULT_INGEST;
    }
    if (speed != NULL && strcmp(speed, "max") != 0) {
        code = cli_number("speed", speed, 0.001, 1e9, &r.speed);
    }
    if (code == CLI_OK && r.run_name != NULL && args->n > 1) {
        code = cli_fail(CLI_USAGE, "--run names one run: give one FILE with it");
    }
    if (code != CLI_OK) {
        return code;
    }
    interrupt_catch();
    for (int i = 0; i < args->n && !interrupt_seen(); i++) {
        enum cli_exit of_file;

        r.path = args->word[i];
        of_file = replay_file(&r);
        if (of_file == CLI_UNREACHABLE) {
            return of_file; /* and so it will be for the others */
        }
        if (of_file != CLI_OK) {
            code = args->n == 1 ? of_file : CLI_FAILED;
        }
    }
    return code;
}

const struct command cmd_replay = {
    .name = "replay",
    .synopsis = "FILE...",
    .summary = "Stream recorded traces into a daemon, as if the training ran again",
    .examples = "seismo replay trace.jsonl.gz\n"
                "seismo replay trace.jsonl --run again --speed 50\n"
                "seismo replay runs/*.jsonl.gz --ingest tcp://watcher:7747",
    .details =
        "Nothing is dropped: it goes as fast as the daemon acknowledges, and ends when all is "
        "stored.",
    .options = options,
    .min_words = 1,
    .max_words = -1,
    .run = run,
};
