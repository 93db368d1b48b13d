#include "client/cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/words.h"
#include "proto/json_text.h"

const struct command *const cli_commands[] = {
    &cmd_status, &cmd_runs,   &cmd_show,   &cmd_verdicts, &cmd_explain,
    &cmd_watch,  &cmd_export, &cmd_replay, &cmd_score,    &cmd_label,
    &cmd_keygen, &cmd_model,  &cmd_check,  &cmd_backup,   NULL,
};

/* Options that every command has. */
static const struct cli_option common_options[] = {
    {"query", "ENDPOINT", "the daemon's query socket; else $SEISMO_QUERY, else the default socket"},
    {"json", NULL, "print JSON, one document a line"},
    {"help", NULL, "print this text"},
    {NULL, NULL, NULL},
};
enum { COMMON_QUERY, COMMON_JSON, COMMON_HELP, COMMON_N };

enum cli_exit cli_fail(enum cli_exit code, const char *format, ...)
{
    char text[4096];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    fflush(stdout);
    fputs("seismo: ", stderr);
    words_put(text, stderr);
    fputc('\n', stderr);
    return code;
}

/* The code that stands for an error of the daemon, or of proto/. */
static enum cli_exit cli_exit_of(int err)
{
    switch (err) {
    case 0:
        return CLI_OK;
    case SEISMO_EUNREACHABLE:
        return CLI_UNREACHABLE;
    case SEISMO_ENOTFOUND:
        return CLI_NOT_FOUND;
    case SEISMO_EVERSION:
        return CLI_PROTOCOL;
    default:
        return CLI_FAILED;
    }
}

enum cli_exit cli_query(struct cli *cli, const char *method, json_t *params, json_t **ret_body)
{
    char errmsg[QUERY_ERRMSG];
    int err = 0;

    if (cli->client == NULL) {
        err = query_client_new(cli->query, &cli->client, errmsg);
        if (err != 0) {
            json_decref(params);
            return cli_fail(err == SEISMO_EINVAL ? CLI_USAGE : CLI_FAILED, "%s", errmsg);
        }
    }
    err = query_client_call(cli->client, method, params, ret_body, errmsg);
    return err == 0 ? CLI_OK : cli_fail(cli_exit_of(err), "%s", errmsg);
}

enum cli_exit cli_integer(const char *option, const char *text, int64_t min, int64_t max,
                          int64_t *ret)
{
    char *end;
    long long value;

    errno = 0;
    value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < min || value > max) {
        return cli_fail(CLI_USAGE, "--%s %s: give a whole number from %lld to %lld", option, text,
                        (long long)min, (long long)max);
    }
    *ret = value;
    return CLI_OK;
}

enum cli_exit cli_number(const char *option, const char *text, double min, double max, double *ret)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= min && value <= max)) {
        return cli_fail(CLI_USAGE, "--%s %s: give a number from %g to %g", option, text, min, max);
    }
    *ret = value;
    return CLI_OK;
}

static void print_options(const struct cli_option *options)
{
    for (; options != NULL && options->name != NULL; options++) {
        char left[64];

        snprintf(left, sizeof(left), "--%s%s%s", options->name, options->value != NULL ? " " : "",
                 options->value != NULL ? options->value : "");
        printf("  %-20s %s\n", left, options->help);
    }
}

static void print_command_help(const struct command *c)
{
    printf("Examples:\n");
    for (const char *line = c->examples; *line != '\0';) {
        size_t n = strcspn(line, "\n");

        printf("  %.*s\n", (int)n, line);
        line += n + (line[n] == '\n');
    }
    printf("\nUsage: seismo %s%s%s [OPTION]...\n%s.\n", c->name, *c->synopsis != '\0' ? " " : "",
           c->synopsis, c->summary);
    if (c->details != NULL) {
        printf("\n%s\n", c->details);
    }
    printf("\nOptions:\n");
    print_options(c->options);
    print_options(common_options);
}

static void print_help(FILE *out)
{
    fprintf(out, "Examples:\n"
                 "  seismo runs                  what is being watched, and how it is doing\n"
                 "  seismo show RUN              its curves, with the verdicts marked\n"
                 "  seismo explain RUN           why it is thought to be in that state\n"
                 "  seismo score trace.jsonl.gz  the same detector on a recorded trace, no daemon\n"
                 "\nUsage: seismo COMMAND [OPTION]...\n\nCommands:\n");
    for (size_t i = 0; cli_commands[i] != NULL; i++) {
        fprintf(out, "  %-9s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    }
    fprintf(out, "  %-9s %s\n", "help", "Help on a command: seismo help COMMAND");
    fprintf(out, "\nExit codes:\n");
#define X(constant, code, meaning) fprintf(out, "  %d  %s\n", code, meaning);
    CLI_EXIT_MAP(X)
#undef X
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; cli_commands[i] != NULL; i++) {
        if (strcmp(cli_commands[i]->name, name) == 0) {
            return cli_commands[i];
        }
    }
    cli_fail(CLI_USAGE, "there is no command \"%s\"; `seismo help` lists them", name);
    return NULL;
}

/* Index of the option of `n` bytes in the list, or -1. */
static int find_option(const struct cli_option *options, const char *name, size_t n)
{
    for (int i = 0; options != NULL && options[i].name != NULL; i++) {
        if (strlen(options[i].name) == n && memcmp(options[i].name, name, n) == 0) {
            return i;
        }
    }
    return -1;
}

/* The option at argv[*i], with its value from "--name=value" or the next argument. */
static enum cli_exit parse_option(const struct command *c, int argc, char **argv, int *i,
                                  struct cli_args *args, const char *common[COMMON_N])
{
    const char *name = argv[*i] + 2, *value = "";
    size_t n = strcspn(name, "=");
    const struct cli_option *options = c->options;
    const char **values = args->option;
    int found = find_option(options, name, n);

    if (found < 0) {
        options = common_options;
        values = common;
        found = find_option(options, name, n);
    }
    if (found < 0) {
        return cli_fail(CLI_USAGE, "seismo %s has no option %s; see `seismo %s --help`", c->name,
                        argv[*i], c->name);
    }
    if (options[found].value == NULL) {
        if (name[n] == '=') {
            return cli_fail(CLI_USAGE, "--%s takes no value", options[found].name);
        }
    } else if (name[n] == '=') {
        value = name + n + 1;
    } else if (*i + 1 < argc) {
        value = argv[++*i];
    } else {
        return cli_fail(CLI_USAGE, "--%s needs a value: --%s %s", options[found].name,
                        options[found].name, options[found].value);
    }
    values[found] = value;
    return CLI_OK;
}

static enum cli_exit run_command(struct cli *cli, const struct command *c, int argc, char **argv)
{
    struct cli_args args = {0};
    const char *common[COMMON_N] = {NULL};
    enum cli_exit code = CLI_OK;
    bool only_words = false;

    args.word = calloc((size_t)argc + 1, sizeof(*args.word));
    if (args.word == NULL) {
        return cli_fail(CLI_FAILED, "out of memory");
    }
    for (int i = 0; i < argc && code == CLI_OK; i++) {
        if (only_words || argv[i][0] != '-' || argv[i][1] == '\0') {
            args.word[args.n++] = argv[i];
        } else if (strcmp(argv[i], "-h") == 0) {
            common[COMMON_HELP] = "";
        } else if (strcmp(argv[i], "--") == 0) {
            only_words = true;
        } else if (argv[i][1] != '-') {
            code = cli_fail(CLI_USAGE, "seismo %s has no option %s; see `seismo %s --help`",
                            c->name, argv[i], c->name);
        } else {
            code = parse_option(c, argc, argv, &i, &args, common);
        }
    }
    cli->command = c->name;
    cli->query = common[COMMON_QUERY];
    cli->json = common[COMMON_JSON] != NULL;
    if (code != CLI_OK) {
        /* said already */
    } else if (common[COMMON_HELP] != NULL) {
        print_command_help(c);
    } else if (args.n < c->min_words || (c->max_words >= 0 && args.n > c->max_words)) {
        code = cli_fail(CLI_USAGE, "usage: seismo %s %s; see `seismo %s --help`", c->name,
                        c->synopsis, c->name);
    } else {
        code = c->run(cli, &args);
    }
    free(args.word);
    return code;
}

static enum cli_exit help_command(int argc, char **argv)
{
    const struct command *c;

    if (argc < 3) {
        print_help(stdout);
        return CLI_OK;
    }
    c = find_command(argv[2]);
    if (c == NULL) {
        return CLI_USAGE;
    }
    print_command_help(c);
    return CLI_OK;
}

int cli_main(int argc, char **argv)
{
    struct cli cli = {.json = false};
    const struct command *c;
    enum cli_exit code = CLI_USAGE;

    json_text_init();
    term_init(&cli.out, stdout);
    term_init(&cli.err, stderr);
    if (argc < 2) {
        print_help(stderr);
    } else if (strcmp(argv[1], "--version") == 0) {
        printf("seismo %s\n", SEISMO_VERSION);
        code = CLI_OK;
    } else if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
               strcmp(argv[1], "-h") == 0) {
        code = help_command(argc, argv);
    } else if (argv[1][0] == '-') {
        cli_fail(CLI_USAGE,
                 "options stand behind the command: seismo COMMAND %s; `seismo help` "
                 "lists the commands",
                 argv[1]);
    } else if ((c = find_command(argv[1])) != NULL) {
        code = run_command(&cli, c, argc - 2, argv + 2);
    }
    query_client_free(&cli.client);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        code = cli_fail(CLI_FAILED, "cannot write the output: %s", strerror(errno));
    }
    if (json_text_lost() || term_had_no_memory()) {
        code = cli_fail(CLI_FAILED, "out of memory: what is above may be incomplete or mistaken");
    }
    return (int)code;
}
