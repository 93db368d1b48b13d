/* seismod: the command line, then the server. */
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "daemon/auth.h"
#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/server.h"
#include "models/detector.h"
#include "proto/defaults.h"
#include "proto/json_text.h"

enum { EXIT_USAGE = 2 };

/* What the command line says about the configuration; kept, because a reload says it again. */
struct command_line {
    const char *path; /* of the configuration file, or NULL */
    int n;
    struct {
        const char *key, *value; /* of section [seismod] */
    } set[];                     /* n, in order */
};

static const char help[] =
    "Examples:\n"
    "  seismod                              loopback, data below ~/.local/state/seismo\n"
    "  seismod --data /srv/seismo           the same with another directory\n"
    "  seismod --config /etc/seismo/seismod.conf\n"
    "  seismod --print-config > seismod.conf\n"
    "\n"
    "Usage: seismod [OPTION]...\n"
    "Watches training runs: receives their statistics, scores them, and answers `seismo`.\n"
    "\n"
    "  --config FILE        read this configuration; --print-config shows the syntax\n"
    "  --data DIR           database and sockets go here\n"
    "  --ingest ENDPOINT    training jobs connect here (may be repeated), default\n"
    "                       " SEISMO_DEFAULT_INGEST "\n"
    "  --query ENDPOINT     the seismo command connects here, default\n"
    "                       ipc://DIR/" SEISMO_QUERY_SOCKET "\n"
    "  --events ENDPOINT    verdicts are published here, default\n"
    "                       ipc://DIR/" SEISMO_EVENTS_SOCKET "\n"
    "  --model FILE         score with this model instead of the one built in\n"
    "  --budget SHARE       of healthy runs that may give a false alarm: 0.001, 0.01 or 0.05\n"
    "  --check-config       check the configuration and exit\n"
    "  --print-config       print every key with its value and an explanation and exit; what is "
    "not\n"
    "                       set is commented out\n"
    "  --version            print the version and exit\n"
    "  --help               print this and exit\n"
    "\n"
    "Runs in the foreground, logs to stderr, prints one line when it is ready. SIGTERM and SIGINT\n"
    "stop it in order, SIGHUP reloads the configuration. Exit status: 0 stopped in order,\n"
    "1 failure, 2 wrong usage.\n";

static int load(void *arg, struct config **ret_config, char errmsg[SEISMO_ERRMSG])
{
    const struct command_line *line = arg;
    struct config *c;
    int rc = config_new(line->path, &c, errmsg);
    if (rc != 0)
        return rc;
    for (int i = 0; rc == 0 && i < line->n; i++) {
        char why[SEISMO_ERRMSG];
        rc = config_set(c, "seismod", line->set[i].key, line->set[i].value, why);
        if (rc != 0)
            snprintf(errmsg, SEISMO_ERRMSG, "--%.200s", why);
    }
    if (rc == 0)
        rc = config_finish(c, errmsg);
    if (rc != 0) {
        config_free(&c);
        return rc;
    }
    *ret_config = c;
    return 0;
}

/* Each client takes a file descriptor, and the usual soft limit is meant for programs that select.
 */
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int load_model(const struct config *config, struct model **ret, char errmsg[SEISMO_ERRMSG])
{
    int rc = model_load(config->model, ret, errmsg);
    return rc ? rc : model_set_budget(*ret, config->budget, errmsg);
}

static int check(const struct config *config, char errmsg[SEISMO_ERRMSG])
{
    struct model *model = NULL;
    int rc = load_model(config, &model, errmsg);
    model_free(&model);
    return rc ? rc : auth_check(config, errmsg);
}

static int run(struct command_line *line, const struct config *config)
{
    char errmsg[SEISMO_ERRMSG];
    struct model *model = NULL;
    int rc = load_model(config, &model, errmsg);
    if (rc == 0) {
        log_set_level((enum log_priority)config->log_level);
        mallopt(M_ARENA_MAX, 2); /* an arena a thread would cost more than it saves */
        umask(077);
        raise_file_limit();
        rc = server_run(config, model, load, line, errmsg);
    }
    if (rc != 0)
        fprintf(stderr, "seismod: %s\n", errmsg);
    model_free(&model);
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

enum mode { MODE_RUN, MODE_CHECK, MODE_PRINT, MODE_VERSION, MODE_HELP, MODE_USAGE };

static enum mode parse(int argc, char **argv, struct command_line *line)
{
    enum { CONFIG = 256, SET, CHECK, PRINT, VERSION, HELP };
    static const struct option options[] = {
        {"config", required_argument, NULL, CONFIG}, {"data", required_argument, NULL, SET},
        {"ingest", required_argument, NULL, SET},    {"query", required_argument, NULL, SET},
        {"events", required_argument, NULL, SET},    {"model", required_argument, NULL, SET},
        {"budget", required_argument, NULL, SET},    {"check-config", no_argument, NULL, CHECK},
        {"print-config", no_argument, NULL, PRINT},  {"version", no_argument, NULL, VERSION},
        {"help", no_argument, NULL, HELP},           {NULL, 0, NULL, 0}};
    enum mode mode = MODE_RUN;
    int c, at;
    while ((c = getopt_long(argc, argv, "", options, &at)) != -1) {
        switch (c) {
        case CONFIG:
            line->path = optarg;
            break;
        case SET:
            line->set[line->n].key = options[at].name;
            line->set[line->n++].value = optarg;
            break;
        case CHECK:
            mode = MODE_CHECK;
            break;
        case PRINT:
            mode = MODE_PRINT;
            break;
        case VERSION:
            return MODE_VERSION;
        case HELP:
            return MODE_HELP;
        default: /* getopt has said what is wrong */
            return MODE_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "%s: unexpected argument '%s'\n", argv[0], argv[optind]);
        return MODE_USAGE;
    }
    return mode;
}

int main(int argc, char **argv)
{
    struct command_line *line = calloc(1, sizeof(*line) + (size_t)argc * sizeof(line->set[0]));
    struct config *config = NULL;
    char errmsg[SEISMO_ERRMSG];
    int status = EXIT_SUCCESS;
    json_text_init();
    if (!line) {
        fprintf(stderr, "seismod: no memory\n");
        return EXIT_FAILURE;
    }
    enum mode mode = parse(argc, argv, line);
    if (mode == MODE_VERSION) {
        puts("seismod " SEISMO_VERSION);
    } else if (mode == MODE_HELP) {
        fputs(help, stdout);
    } else if (mode == MODE_USAGE) {
        fprintf(stderr, "Try `seismod --help`.\n");
        status = EXIT_USAGE;
    } else if (load(line, &config, errmsg) != 0 || config_look_up(config, errmsg) != 0) {
        fprintf(stderr, "seismod: %s\n", errmsg);
        status = EXIT_FAILURE;
    } else if (mode == MODE_CHECK && check(config, errmsg) != 0) {
        fprintf(stderr, "seismod: %s\n", errmsg);
        status = EXIT_FAILURE;
    } else if (mode == MODE_CHECK) {
        printf("%s: ok\n", line->path ? line->path : "the default configuration");
    } else if (mode == MODE_PRINT) {
        config_print(config, stdout);
    } else {
        status = run(line, config);
    }
    config_free(&config);
    free(line);
    return status;
}
