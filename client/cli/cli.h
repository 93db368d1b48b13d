/* The command line program: its commands, what each is given, and how each reports. */
#ifndef SEISMO_CLIENT_CLI_CLI_H
#define SEISMO_CLIENT_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/cli/query_client.h"
#include "client/cli/term.h"

/*  X(constant, code, meaning); printed by `seismo help` and documented in seismo.1 */
#define CLI_EXIT_MAP(X)                         \
    X(CLI_OK, 0, "success")                     \
    X(CLI_FAILED, 1, "failure")                 \
    X(CLI_USAGE, 2, "wrong usage")              \
    X(CLI_UNREACHABLE, 3, "daemon unreachable") \
    X(CLI_NOT_FOUND, 4, "not found")            \
    X(CLI_PROTOCOL, 5, "the daemon speaks another version of the protocol")

enum cli_exit {
#define X(constant, code, meaning) constant = code,
    CLI_EXIT_MAP(X)
#undef X
};

struct cli {
    struct term out; /* stdout */
    struct term err; /* stderr */
    const char *command;
    const char *query; /* --query, or NULL */
    bool json;
    struct query_client *client; /* NULL until the first request */
};

struct cli_option {
    const char *name;  /* without its dashes */
    const char *value; /* placeholder, NULL for a flag */
    const char *help;
};

#define CLI_MAX_OPTIONS 8

/* What stood behind the command, checked for number and known options. All borrowed from argv. */
struct cli_args {
    const char **word; /* positional arguments */
    int n;
    const char
        *option[CLI_MAX_OPTIONS]; /* as listed in the command: NULL when not given, "" for a flag */
};

struct command {
    const char *name;
    const char *synopsis; /* of the positional arguments */
    const char *summary;
    const char *examples;             /* lines without their indentation */
    const char *details;              /* a paragraph for --help, or NULL */
    const struct cli_option *options; /* ends with a NULL name; or NULL */
    int min_words, max_words;         /* max < 0: any number */
    enum cli_exit (*run)(struct cli *cli, const struct cli_args *args);
};

extern const struct command cmd_status, cmd_runs, cmd_show, cmd_verdicts, cmd_explain, cmd_watch,
    cmd_export, cmd_replay, cmd_score, cmd_label, cmd_keygen, cmd_model, cmd_check, cmd_backup;

/* The commands in the order of the help, NULL at the end. */
extern const struct command *const cli_commands[];

/* Everything but main itself. */
int cli_main(int argc, char **argv);

/* "seismo: TEXT" on stderr, the text escaped. Returns `code` for `return cli_fail(…)`. */
__attribute__((format(printf, 2, 3))) enum cli_exit cli_fail(enum cli_exit code, const char *format,
                                                             ...);

/* Asks the daemon; `params` is taken. On failure the error has been reported. */
enum cli_exit cli_query(struct cli *cli, const char *method, json_t *params, json_t **ret_body);

/* A whole number from an option's value; a usage error has been reported when it is none. */
enum cli_exit cli_integer(const char *option, const char *text, int64_t min, int64_t max,
                          int64_t *ret);

/* The same for a decimal number. */
enum cli_exit cli_number(const char *option, const char *text, double min, double max, double *ret);

#endif
