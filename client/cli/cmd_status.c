/* seismo status: is the daemon there, and how is it doing. */
#include <string.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/words.h"

static void print_counts(const json_t *counts)
{
    const char *key, *separator = ": ";
    const json_t *value;

    json_object_foreach ((json_t *)counts, key, value) {
        if (json_integer_value(value) > 0) {
            printf("%s%lld ", separator, (long long)json_integer_value(value));
            words_put(key, stdout);
            separator = ", ";
        }
    }
}

static void print_endpoint(const char *label, const json_t *endpoint)
{
    if (json_is_string(endpoint)) {
        printf("%-10s ", label);
        words_put(json_string_value(endpoint), stdout);
        putchar('\n');
    }
}

static void print_alerts(const json_t *alerts, const struct term *term)
{
    bool good = !json_is_false(json_object_get(alerts, "ok"));
    printf("alerts     %s%s%s, %lld waiting%s\n", term_on(term, good ? COLOUR_GREEN : COLOUR_RED),
           good ? "ok" : "no hook runs: the hook helper is gone, the log says more",
           term_off(term, COLOUR_GREEN), (long long)body_integer(alerts, "waiting", 0),
           json_is_true(json_object_get(alerts, "more")) ? ", more in the database" : "");
}

static void print_sandbox(const json_t *sandbox)
{
    bool files = json_is_true(json_object_get(sandbox, "files"));
    bool calls = json_is_true(json_object_get(sandbox, "calls"));
    printf("sandbox    %s\n", files && calls ? "on"
                              : calls        ? "on, but files are not protected"
                              : files        ? "on, but system calls are not filtered"
                                             : "off");
}

/* Only where memory bounds the clients. */
static void print_memory(const json_t *body)
{
    const json_t *memory = json_object_get(body, "memory");
    long long fit = (long long)body_integer(memory, "peers", 0);
    long long most = (long long)body_integer(json_object_get(body, "limits"), "peers", 0);
    char bytes[WORDS_MAX];
    if (!memory || fit == 0 || fit > most) {
        return;
    }
    printf("memory     %s (", words_bytes(body_number(memory, "bytes"), bytes));
    words_put(body_string(memory, "source"), stdout);
    printf(") hold %lld clients, %lld may connect\n", fit, most);
}

static void print_status(const json_t *body, const struct term *term)
{
    const json_t *runs = json_object_get(body, "runs");
    const json_t *storage = json_object_get(body, "storage");
    const json_t *endpoints = json_object_get(body, "endpoints"), *ingest;
    const json_t *queued = json_object_get(body, "queued");
    bool good = json_is_true(json_object_get(storage, "ok"));
    char a[WORDS_MAX], b[WORDS_MAX];
    size_t i;

    printf("daemon     %srunning%s, seismod ", term_on(term, COLOUR_GREEN),
           term_off(term, COLOUR_GREEN));
    words_put(body_string(body, "version"), stdout);
    printf(", process %lld, up %s, since %s\n", (long long)body_integer(body, "pid", 0),
           words_duration(body_number(body, "uptime"), a),
           words_time(body_number(body, "started"), b));
    fputs("model      ", stdout);
    words_put(body_string(json_object_get(body, "model"), "name"), stdout);
    printf("\nruns       %lld", (long long)body_integer(runs, "total", 0));
    print_counts(json_object_get(runs, "by_state"));
    printf("\nclients    %lld connected\n", (long long)body_integer(body, "peers", 0));
    print_memory(body);
    if (body_integer(body, "refused", 0) > 0) {
        printf("limits     %lld messages refused\n", (long long)body_integer(body, "refused", 0));
    }
    printf("received   %lld steps in %lld batches (%lld sent twice), %lld verdicts, %lld commits\n",
           (long long)body_integer(body, "steps", 0), (long long)body_integer(body, "batches", 0),
           (long long)body_integer(body, "duplicate_batches", 0),
           (long long)body_integer(body, "verdicts", 0),
           (long long)body_integer(body, "commits", 0));
    printf("queued     %lld steps\n", (long long)body_integer(queued, "rows", 0));
    printf("storage    %s%s%s", term_on(term, good ? COLOUR_GREEN : COLOUR_RED),
           good ? "ok" : "failing", term_off(term, COLOUR_GREEN));
    if (!body_is_null(storage, "error") && !good) {
        fputs(": ", stdout);
        words_put(body_string(storage, "error"), stdout);
    }
    printf(", %s in ", words_bytes(body_number(storage, "bytes"), a));
    words_put(body_string(storage, "path"), stdout);
    putchar('\n');
    if (json_is_string(json_object_get(storage, "set_aside"))) {
        fputs("set aside  a damaged database, as ", stdout);
        words_put(body_string(storage, "set_aside"), stdout);
        putchar('\n');
    }
    print_alerts(json_object_get(body, "alerts"), term);
    print_sandbox(json_object_get(body, "sandbox"));
    json_array_foreach (json_object_get(endpoints, "ingest"), i, ingest) {
        print_endpoint("ingest", ingest);
    }
    print_endpoint("query", json_object_get(endpoints, "query"));
    print_endpoint("events", json_object_get(endpoints, "events"));
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    json_t *body;
    enum cli_exit code = cli_query(cli, "status", json_object(), &body);

    (void)args;
    if (code != CLI_OK) {
        return code;
    }
    if (cli->json) {
        body_print(body);
    } else {
        print_status(body, &cli->out);
    }
    json_decref(body);
    return CLI_OK;
}

const struct command cmd_status = {
    .name = "status",
    .synopsis = "",
    .summary = "Whether the daemon is there, and how it is doing",
    .examples = "seismo status\n"
                "seismo status --json | jq .storage.ok",
    .run = run,
};
