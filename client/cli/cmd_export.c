/* seismo export: all stored steps of a run, as a trace file or as CSV. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "proto/trace.h"

enum { OPT_FORMAT };
static const struct cli_option options[] = {
    [OPT_FORMAT] = {"format", "jsonl|csv", "trace file (default), or a table with a header row"},
    {NULL, NULL, NULL},
};

/* The trace's header: the run's metadata, then its names, which win. */
static enum cli_exit print_header(struct cli *cli, const char *run)
{
    json_t *body, *header;
    const json_t *object, *meta;
    enum cli_exit code = cli_query(cli, "run", json_pack("{s:s}", "run", run), &body);

    if (code != CLI_OK) {
        return code;
    }
    object = json_object_get(body, "run");
    meta = json_object_get(object, "meta");
    header = json_pack("{s:O, s:O}", "run", json_object_get(object, "run"), "program",
                       json_object_get(object, "program"));
    if (json_is_object(meta)) {
        json_object_update_missing(header, (json_t *)meta);
    }
    body_print(header);
    json_decref(header);
    json_decref(body);
    return CLI_OK;
}

static void print_csv_head(void)
{
    for (int i = 0; i < SEISMO_N_FIELDS; i++) {
        printf("%s%s", i > 0 ? "," : "", seismo_field_name(i));
    }
    putchar('\n');
}

/* The words of the trace format, which R, pandas and most others read as numbers too. */
static void print_csv_number(double x, int digits)
{
    if (isnan(x)) {
        fputs("nan", stdout);
    } else {
        printf("%.*g", digits, x); /* an infinity prints as inf or -inf */
    }
}

static void print_csv(const struct seismo_row *row)
{
    printf("%" PRId64 ",", row->step);
    if (!isnan(row->time)) {
        print_csv_number(row->time, 17);
    }
    for (int i = 0; i < SEISMO_N_VALUES; i++) {
        putchar(',');
        if (row_has(row, (enum seismo_value)i)) {
            print_csv_number((double)row->value[i], 9);
        }
    }
    putchar('\n');
}

static enum cli_exit print_rows(const json_t *rows, bool csv, int64_t *after)
{
    char text[TRACE_MAX_ROW], errmsg[SEISMO_ERRMSG];
    const json_t *object;
    struct seismo_row row;
    size_t i;

    json_array_foreach (rows, i, object) {
        if (trace_row_from_json(object, &row, errmsg) != 0) {
            return cli_fail(CLI_PROTOCOL, "cannot read a step that the daemon sent: %s", errmsg);
        }
        *after = row.step;
        if (csv) {
            print_csv(&row);
        } else {
            trace_row_print(&row, text);
            puts(text);
        }
    }
    return CLI_OK;
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    const char *run = args->word[0], *format = args->option[OPT_FORMAT];
    bool csv = format != NULL && strcmp(format, "csv") == 0, more = true;
    int64_t after = -1;
    enum cli_exit code;

    if (format != NULL && !csv && strcmp(format, "jsonl") != 0) {
        return cli_fail(CLI_USAGE, "--format %s: give jsonl or csv", format);
    }
    if (csv && cli->json) {
        return cli_fail(CLI_USAGE, "--json and --format csv exclude each other");
    }
    code = csv ? CLI_OK : print_header(cli, run);
    while (code == CLI_OK && more) {
        json_t *body;

        code = cli_query(cli, "steps",
                         json_pack("{s:s, s:I}", "run", run, "after", (json_int_t)after), &body);
        if (code != CLI_OK) {
            break;
        }
        if (csv && after < 0) {
            print_csv_head();
        }
        more = json_is_true(json_object_get(body, "more"));
        code = print_rows(json_object_get(body, "rows"), csv, &after);
        json_decref(body);
    }
    return code;
}

const struct command cmd_export = {
    .name = "export",
    .synopsis = "RUN",
    .summary = "All stored steps of a run, as a trace file or as CSV",
    .examples = "seismo export gpt2-a > gpt2-a.jsonl\n"
                "seismo export gpt2-a | gzip > gpt2-a.jsonl.gz && seismo score gpt2-a.jsonl.gz\n"
                "seismo export gpt2-a --format csv > gpt2-a.csv",
    .details = "Numbers come out as they were scored, rounded to float32. In CSV a field that was "
               "not sent is an\nempty cell; what is not finite is nan, inf or -inf.",
    .options = options,
    .min_words = 1,
    .max_words = 1,
    .run = run,
};
