#include "daemon/config.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <ini.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/argv.h"
#include "daemon/config_table.h"
#include "daemon/endpoint.h"
#include "daemon/nearest.h"
#include "models/verdict.h"

#define MAX_LINE 4096 /* bytes of one line of the file */

static int fail(char errmsg[SEISMO_ERRMSG], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static int fail(char errmsg[SEISMO_ERRMSG], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(errmsg, SEISMO_ERRMSG, format, args);
    va_end(args);
    seismo_errmsg_plain(errmsg);
    return SEISMO_ECONFIG;
}

static int no_memory(char errmsg[SEISMO_ERRMSG])
{
    fail(errmsg, "no memory for the configuration");
    return SEISMO_ENOMEM;
}

static int name_find(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

static int set_text(char **field, const char *value, char errmsg[SEISMO_ERRMSG])
{
    char *copy = strdup(value);
    if (!copy)
        return no_memory(errmsg);
    free(*field);
    *field = copy;
    return 0;
}

static int set_endpoint(char **field, const char *value, char errmsg[SEISMO_ERRMSG])
{
    int rc = set_text(field, value, errmsg);
    return rc != 0 ? rc : endpoint_check(field, errmsg);
}

/* Calls `each` with every part of a list separated by commas, blanks around it removed. */
static int for_each_part(const char *value,
                         int (*each)(void *field, const char *part, char *errmsg), void *field,
                         char errmsg[SEISMO_ERRMSG])
{
    char *copy = strdup(value), *rest = copy, *part;
    if (!copy)
        return no_memory(errmsg);
    int rc = 0;
    while (rc == 0 && (part = strsep(&rest, ","))) {
        part += strspn(part, " \t");
        size_t n = strlen(part);
        while (n > 0 && strchr(" \t", part[n - 1]))
            part[--n] = 0;
        rc = each(field, part, errmsg);
    }
    free(copy);
    return rc;
}

static int add_endpoint(void *field, const char *part, char errmsg[SEISMO_ERRMSG])
{
    char **list = field;
    int n = 0;
    while (list[n])
        n++;
    if (n == CONFIG_MAX_ENDPOINTS)
        return fail(errmsg, "more than %d endpoints", CONFIG_MAX_ENDPOINTS);
    return set_endpoint(&list[n], part, errmsg);
}

static int add_state(void *field, const char *part, char errmsg[SEISMO_ERRMSG])
{
    int state = name_find(config_states, part);
    if (state < 0 || state == STATE_HEALTHY || state == STATE_WARMING_UP)
        return fail(errmsg,
                    "no alert is called \"%.40s\"; there are unstable, stalled, mismatch, "
                    "silent, ended and storage",
                    part);
    *(uint32_t *)field |= 1u << state;
    return 0;
}

static int set_name(int *field, const char *const *names, const char *value,
                    char errmsg[SEISMO_ERRMSG])
{
    int found = name_find(names, value);
    if (found < 0) {
        char all[128] = "";
        for (int i = 0; names[i]; i++)
            snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i ? ", " : "", names[i]);
        return fail(errmsg, "\"%.40s\" is not one of %s", value, all);
    }
    *field = found;
    return 0;
}

static int set_number(const struct config_option *o, void *field, const char *value,
                      char errmsg[SEISMO_ERRMSG])
{
    char *end;
    double x = strtod(value, &end);
    if (*value == 0 || *end != 0 || !isfinite(x) || (o->type == TYPE_COUNT && x != floor(x)))
        return fail(errmsg, "\"%.40s\" is not a %s", value,
                    o->type == TYPE_COUNT ? "whole number" : "number");
    if (x < o->min || x > o->max)
        return fail(errmsg, "%.40s is not between %g and %.10g", value, o->min, o->max);
    if (o->type == TYPE_COUNT)
        *(uint32_t *)field = (uint32_t)x;
    else
        *(double *)field = x;
    return 0;
}

struct unit {
    char letter;
    double factor;
};
static const struct unit span_units[] = {{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}, {0, 0}};
static const struct unit size_units[] = {{'T', 1e12}, {'G', 1e9}, {'M', 1e6}, {'k', 1e3}, {0, 0}};

/* A number with a unit's letter behind it, or none; 0 is allowed beside what lies in the range. */
static int set_amount(const struct config_option *o, double *field, const char *value,
                      char errmsg[SEISMO_ERRMSG])
{
    const struct unit *unit = o->type == TYPE_SPAN ? span_units : size_units;
    char *end;
    double x = strtod(value, &end), factor = 1;
    for (; end > value && unit->letter; unit++) {
        if (*end == unit->letter) {
            factor = unit->factor;
            end++;
            break;
        }
    }
    x *= factor;
    if (end == value || *end != 0 || !isfinite(x))
        return fail(errmsg, "\"%.40s\" is not a number with one of the units %s", value,
                    o->type == TYPE_SPAN ? "s, m, h, d" : "k, M, G, T");
    if (x != 0 && (x < o->min || x > o->max))
        return fail(errmsg, "%.40s is neither 0 nor between %.10g and %.10g", value, o->min,
                    o->max);
    *field = x;
    return 0;
}

/* As short as it reads back the same. */
static void print_number(double x, FILE *out)
{
    char text[32];
    int digits = 10;
    do
        snprintf(text, sizeof(text), "%.*g", digits, x);
    while (strtod(text, NULL) != x && ++digits <= 17);
    fputs(text, out);
}

static void print_amount(const struct config_option *o, double x, FILE *out)
{
    const struct unit *unit = o->type == TYPE_SPAN ? span_units : size_units;
    while (unit->letter && (x == 0 || fmod(x, unit->factor) != 0))
        unit++;
    print_number(unit->letter ? x / unit->factor : x, out);
    if (unit->letter)
        putc(unit->letter, out);
}

static int set_bool(bool *field, const char *value, char errmsg[SEISMO_ERRMSG])
{
    static const char *const names[] = {"no", "yes", "false", "true", "off", "on", NULL};
    int found = name_find(names, value);
    if (found < 0)
        return fail(errmsg, "\"%.40s\" is neither yes nor no", value);
    *field = found & 1;
    return 0;
}

/* `base` is the struct config or config_hook that the option belongs to. */
static int option_set(const struct config_option *o, void *base, const char *value,
                      char errmsg[SEISMO_ERRMSG])
{
    void *field = (char *)base + o->offset;
    if (*value == 0)
        return fail(errmsg, "a value is missing");
    switch (o->type) {
    case TYPE_TEXT:
        return set_text(field, value, errmsg);
    case TYPE_ENDPOINT:
        return set_endpoint(field, value, errmsg);
    case TYPE_ENDPOINTS:
        return for_each_part(value, add_endpoint, field, errmsg);
    case TYPE_COUNT:
    case TYPE_NUMBER:
        return set_number(o, field, value, errmsg);
    case TYPE_SPAN:
    case TYPE_SIZE:
        return set_amount(o, field, value, errmsg);
    case TYPE_BOOL:
        return set_bool(field, value, errmsg);
    case TYPE_LEVEL:
        return set_name(field, config_levels, value, errmsg);
    case TYPE_SEVERITY:
        return set_name(field, config_severities, value, errmsg);
    case TYPE_STATES:
        *(uint32_t *)field = 0;
        return for_each_part(value, add_state, field, errmsg);
    case TYPE_ARGV:
        argv_free(field);
        return argv_split(value, field, CONFIG_MAX_ARGV, errmsg);
    }
    return SEISMO_EINTERNAL;
}

/* Finds the option, or writes an error that names the nearest one, if it is near. */
static int option_find(const char *section, const char *key, char errmsg[SEISMO_ERRMSG])
{
    int nearest = -1;
    unsigned best = 0;
    for (unsigned i = 0; i < config_options_n; i++) {
        if (strcmp(config_options[i].section, section) != 0)
            continue;
        unsigned distance = nearest_distance(config_options[i].key, key);
        if (distance == 0)
            return (int)i;
        if (nearest < 0 || distance < best) {
            nearest = (int)i;
            best = distance;
        }
    }
    if (nearest < 0)
        fail(errmsg, "no section is called [%.40s]", section);
    else if (best <= strlen(key) / 2)
        fail(errmsg, "[%s] has no key \"%.40s\"; did you mean \"%s\"?", section, key,
             config_options[nearest].key);
    else
        fail(errmsg, "[%s] has no key \"%.40s\"; seismod --print-config lists them", section, key);
    return -1;
}

static int hook_new(struct config *c, const char *name, char errmsg[SEISMO_ERRMSG])
{
    if (*name == 0 || strlen(name) > CONFIG_MAX_HOOK_NAME ||
        name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")])
        return fail(errmsg,
                    "a hook needs a name of letters, digits and _ . - up to %d bytes: [hook NAME]",
                    CONFIG_MAX_HOOK_NAME);
    if (c->n_hooks == CONFIG_MAX_HOOKS)
        return fail(errmsg, "more than %d hooks", CONFIG_MAX_HOOKS);
    struct config_hook *hook = &c->hook[c->n_hooks];
    int rc = 0;
    snprintf(hook->name, sizeof(hook->name), "%s", name);
    for (unsigned i = 0; rc == 0 && i < config_options_n; i++)
        if (strcmp(config_options[i].section, "hook") == 0 && config_options[i].fallback)
            rc = option_set(&config_options[i], hook, config_options[i].fallback, errmsg);
    c->n_hooks += rc == 0;
    return rc;
}

/* The name behind "hook ", or NULL when the section is not a hook's. */
static const char *hook_name(const char *section)
{
    if (strncmp(section, "hook", 4) != 0 || (section[4] != ' ' && section[4] != 0))
        return NULL;
    return section + 4 + strspn(section + 4, " ");
}

static struct config_hook *hook_find(struct config *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_hooks; i++)
        if (strcmp(c->hook[i].name, name) == 0)
            return &c->hook[i];
    return NULL;
}

/* A section's head: must be known; a hook begins to exist with it. */
static int section_open(struct config *c, const char *section, char errmsg[SEISMO_ERRMSG])
{
    const char *hook = hook_name(section);
    if (hook) {
        if (hook_find(c, hook))
            return fail(errmsg, "[hook %.40s] is there twice", hook);
        return hook_new(c, hook, errmsg);
    }
    const char *nearest = config_options[0].section;
    for (unsigned i = 0; i < config_options_n; i++) {
        if (strcmp(config_options[i].section, section) == 0)
            return 0;
        if (nearest_distance(config_options[i].section, section) <
            nearest_distance(nearest, section))
            nearest = config_options[i].section;
    }
    return fail(errmsg, "no section is called [%.40s]; did you mean [%s]?", section,
                strcmp(nearest, "hook") == 0 ? "hook NAME" : nearest);
}

int config_set(struct config *c, const char *section, const char *key, const char *value,
               char errmsg[SEISMO_ERRMSG])
{
    const char *name = hook_name(section);
    struct config_hook *hook = name ? hook_find(c, name) : NULL;
    if (name && !hook)
        return fail(errmsg, "there is no [hook %.40s]", name);
    int i = option_find(name ? "hook" : section, key, errmsg);
    if (i < 0)
        return SEISMO_ECONFIG;
    const struct config_option *o = &config_options[i];
    uint64_t *given = hook ? &hook->given : &c->given[c->source], bit = UINT64_C(1) << i;
    if (c->source == CONFIG_FILE && (*given & bit) && o->type != TYPE_ENDPOINTS)
        return fail(errmsg, "%s is there twice", key);
    if (o->type == TYPE_ENDPOINTS && !(*given & bit))
        argv_free((char **)((char *)c + o->offset));
    *given |= bit;
    char why[SEISMO_ERRMSG];
    int rc = option_set(o, hook ? (void *)hook : c, value, why);
    if (rc != 0)
        fail(errmsg, "%s: %.200s", key, why);
    return rc;
}

bool config_is_given(const struct config *c, const char *section, const char *key)
{
    char errmsg[SEISMO_ERRMSG];
    int i = option_find(section, key, errmsg);
    return i >= 0 && (c->given[CONFIG_FILE] | c->given[CONFIG_COMMAND_LINE]) >> i & 1;
}

/* What the two callbacks of the parser share. */
struct parse {
    struct config *c;
    FILE *file;
    unsigned line;
    int rc;
    char *errmsg;
};

/* The parser does not tell line numbers to its handler, is silent about sections without keys and
 * cuts long names and lines, so this looks at each line first. */
static char *read_line(char *line, int size, void *stream)
{
    struct parse *p = stream;
    if (p->rc != 0 || !fgets(line, size, p->file))
        return NULL;
    p->line++;
    size_t n = strlen(line);
    if (n + 1 == (size_t)size && line[n - 1] != '\n') {
        p->rc = fail(p->errmsg, "the line is longer than %d bytes", size - 2);
        return NULL;
    }
    const char *head = line + strspn(line, " \t\n\v\f\r"), *end = strchr(head, ']');
    if (*head == '[' && end) {
        char section[MAX_LINE];
        snprintf(section, sizeof(section), "%.*s", (int)(end - head - 1), head + 1);
        p->rc = section_open(p->c, section, p->errmsg);
    }
    return p->rc == 0 ? line : NULL;
}

/* The first one in `value` other than a tab, 0 for none. They do not survive being printed. */
static unsigned char control_character(const char *value)
{
    while (*value && (*value == '\t' || !iscntrl((unsigned char)*value)))
        value++;
    return (unsigned char)*value;
}

static int on_value(void *user, const char *section, const char *key, const char *value)
{
    struct parse *p = user;
    unsigned char control;
    if (p->rc != 0)
        return 0;
    if (*section == 0)
        p->rc = fail(p->errmsg, "\"%.40s\" stands before any section; put [seismod] above it", key);
    else if ((control = control_character(value)) != 0)
        p->rc = fail(p->errmsg, "%s: the value holds the control character 0x%02x", key, control);
    else
        p->rc = config_set(p->c, section, key, value, p->errmsg);
    return p->rc == 0;
}

static int parse_file(struct config *c, const char *path, char errmsg[SEISMO_ERRMSG])
{
    char why[SEISMO_ERRMSG] = "";
    struct parse p = {.c = c, .file = fopen(path, "re"), .errmsg = why};
    if (!p.file && errno == ENOMEM)
        return no_memory(errmsg);
    if (!p.file)
        return fail(errmsg, "cannot read the configuration %.120s: %s", path, strerror(errno));
    /* Of Debian's build of the library, which makes these settings variables. Commands may hold
     * semicolons, and an indented line is a line like any other. */
    ini_max_line = MAX_LINE;
    ini_allow_multiline = false;
    ini_allow_inline_comments = false;
    int bad_line = ini_parse_stream(read_line, &p, on_value, &p);
    if (p.rc == 0 && bad_line == -2) /* of the library: no memory */
        p.rc = no_memory(why);
    else if (p.rc == 0 && ferror(p.file))
        p.rc = fail(why, "cannot read: %s", strerror(errno));
    else if (p.rc == 0 && bad_line != 0) {
        p.line = (unsigned)bad_line;
        p.rc = fail(why, "expected `key = value`, `[section]` or a comment");
    }
    fclose(p.file);
    if (p.rc != 0)
        snprintf(errmsg, SEISMO_ERRMSG, "%.80s:%u: %.165s", path, p.line, why);
    return p.rc;
}

int config_new(const char *path, struct config **ret_config, char errmsg[SEISMO_ERRMSG])
{
    struct config *c = calloc(1, sizeof(*c));
    if (!c)
        return no_memory(errmsg);
    int rc = 0;
    c->socket_gid = -1;
    c->source = CONFIG_DEFAULT;
    for (unsigned i = 0; rc == 0 && i < config_options_n; i++)
        if (strcmp(config_options[i].section, "hook") != 0 && config_options[i].fallback)
            rc = config_set(c, config_options[i].section, config_options[i].key,
                            config_options[i].fallback, errmsg);
    c->source = CONFIG_FILE;
    if (rc == 0 && path)
        rc = set_text(&c->path, path, errmsg);
    if (rc == 0 && path)
        rc = parse_file(c, path, errmsg);
    c->source = CONFIG_COMMAND_LINE;
    if (rc != 0) {
        config_free(&c);
        return rc;
    }
    *ret_config = c;
    return 0;
}

static int finish_data(struct config *c, char errmsg[SEISMO_ERRMSG])
{
    if (c->data)
        return 0;
    const char *service = getenv("STATE_DIRECTORY"), *state = getenv("XDG_STATE_HOME"),
               *home = getenv("HOME");
    int n;
    if (service && *service) /* may be several, separated by colons: the first is ours */
        n = asprintf(&c->data, "%.*s", (int)strcspn(service, ":"), service);
    else if (state && *state)
        n = asprintf(&c->data, "%s/seismo", state);
    else if (home && *home)
        n = asprintf(&c->data, "%s/.local/state/seismo", home);
    else
        return fail(errmsg, "no data directory: give --data DIR, or set $XDG_STATE_HOME or $HOME");
    if (n < 0) {
        c->data = NULL;
        return no_memory(errmsg);
    }
    return 0;
}

static int finish_socket(const struct config *c, char **endpoint, const char *name, const char *key,
                         char errmsg[SEISMO_ERRMSG])
{
    char why[SEISMO_ERRMSG];
    if (*endpoint)
        return 0;
    if (asprintf(endpoint, "ipc://%s/%s", c->data, name) < 0) {
        *endpoint = NULL;
        return no_memory(errmsg);
    }
    int rc = endpoint_check(endpoint, why);
    if (rc != 0)
        fail(errmsg, "%s: %.240s", key, why);
    return rc;
}

/* Beyond loopback an endpoint has to be protected. */
static int check_exposed(const struct config *c, const char *endpoint, const char *key,
                         char errmsg[SEISMO_ERRMSG])
{
    if (c->server_key || endpoint_is_local(endpoint))
        return 0;
    return fail(errmsg,
                "%s: %.60s is not on loopback, and without keys (`seismo keygen`, then "
                "server_key and clients in [security]) only that and ipc://PATH are served",
                key, endpoint);
}

static int finish_security(struct config *c, char errmsg[SEISMO_ERRMSG])
{
    if (c->server_key && !c->clients)
        return fail(errmsg, "server_key is set, but clients is not: name the directory of the "
                            "clients' keys, or nobody can connect");
    if (c->clients && !c->server_key)
        return fail(errmsg, "clients is set, but server_key is not: make the daemon's key with "
                            "`seismo keygen DIR --server`");
    int rc = 0;
    for (int i = 0; rc == 0 && c->ingest[i]; i++)
        rc = check_exposed(c, c->ingest[i], "ingest", errmsg);
    if (rc == 0)
        rc = check_exposed(c, c->query, "query", errmsg);
    return rc == 0 ? check_exposed(c, c->events, "events", errmsg) : rc;
}

int config_look_up(struct config *c, char errmsg[SEISMO_ERRMSG])
{
    c->socket_gid = -1;
    if (!c->socket_group)
        return 0;
    errno = 0;
    const struct group *group = getgrnam(c->socket_group);
    if (!group)
        return fail(errmsg, "socket_group: there is no group \"%.40s\"%s%s", c->socket_group,
                    errno ? ": " : "", errno ? strerror(errno) : "");
    c->socket_gid = group->gr_gid;
    return 0;
}

int config_finish(struct config *c, char errmsg[SEISMO_ERRMSG])
{
    char why[SEISMO_ERRMSG] = "";
    int rc = finish_data(c, errmsg);
    if (rc == 0)
        rc = finish_socket(c, &c->query, SEISMO_QUERY_SOCKET, "query", errmsg);
    if (rc == 0)
        rc = finish_socket(c, &c->events, SEISMO_EVENTS_SOCKET, "events", errmsg);
    if (rc == 0)
        rc = finish_security(c, why);
    if (rc != 0 && *why)
        fail(errmsg, "%.80s%s%.172s", c->path ? c->path : "", c->path ? ": " : "", why);
    for (uint32_t i = 0; rc == 0 && i < c->n_hooks; i++)
        if (!c->hook[i].argv[0])
            rc = fail(errmsg, "%s: [hook %s] has no command; add `command = PROGRAM ARGUMENT …`",
                      c->path, c->hook[i].name);
    return rc;
}

/* Whether the value may be NULL. */
static bool is_text(const struct config_option *o)
{
    return o->type == TYPE_TEXT || o->type == TYPE_ENDPOINT;
}

static void print_states(uint32_t states, FILE *out)
{
    const char *comma = "";
    for (int i = 0; config_states[i]; i++) {
        if (!(states & 1u << i))
            continue;
        fprintf(out, "%s%s", comma, config_states[i]);
        comma = ", ";
    }
}

static void print_value(const struct config_option *o, const void *base, FILE *out)
{
    const void *field = (const char *)base + o->offset;
    switch (o->type) {
    case TYPE_TEXT:
    case TYPE_ENDPOINT:
        fputs(*(char *const *)field, out);
        break;
    case TYPE_ENDPOINTS:
        for (char *const *e = field; *e; e++)
            fprintf(out, "%s%s", e == field ? "" : ", ", *e);
        break;
    case TYPE_COUNT:
        fprintf(out, "%u", *(const uint32_t *)field);
        break;
    case TYPE_NUMBER:
        print_number(*(const double *)field, out);
        break;
    case TYPE_SPAN:
    case TYPE_SIZE:
        print_amount(o, *(const double *)field, out);
        break;
    case TYPE_BOOL:
        if (strcmp(o->fallback, "on") == 0)
            fputs(*(const bool *)field ? "on" : "off", out);
        else
            fputs(*(const bool *)field ? "yes" : "no", out);
        break;
    case TYPE_LEVEL:
        fputs(config_levels[*(const int *)field], out);
        break;
    case TYPE_SEVERITY:
        fputs(config_severities[*(const int *)field], out);
        break;
    case TYPE_STATES:
        print_states(*(const uint32_t *)field, out);
        break;
    case TYPE_ARGV:
        argv_print(field, out);
        break;
    }
}

static void print_help(const char *help, FILE *out)
{
    for (const char *line = help; *line;) {
        size_t n = strcspn(line, "\n");
        fprintf(out, "# %.*s\n", (int)n, line);
        line += n + (line[n] == '\n');
    }
}

/* What is not given (a bit per option) is commented out, so that what was printed can be used: a
 * default that depends on who asks, or on memory, goes on to. */
static void print_section(const char *section, const void *base, uint64_t given, FILE *out)
{
    for (unsigned i = 0; i < config_options_n; i++) {
        const struct config_option *o = &config_options[i];
        if (strcmp(o->section, section) != 0)
            continue;
        print_help(o->help, out);
        if (is_text(o) && !*(char *const *)((const char *)base + o->offset)) {
            fprintf(out, "#%s =\n\n", o->key);
            continue;
        }
        fprintf(out, "%s%s = ", given >> i & 1 ? "" : "#", o->key);
        print_value(o, base, out);
        fputs("\n\n", out);
    }
}

void config_print(const struct config *c, FILE *out)
{
    static const char *const sections[] = {"seismod", "security", "store", "runs", "limits"};
    for (unsigned i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
        fprintf(out, "[%s]\n", sections[i]);
        print_section(sections[i], c, c->given[CONFIG_FILE] | c->given[CONFIG_COMMAND_LINE], out);
    }
    for (uint32_t i = 0; i < c->n_hooks; i++) {
        fprintf(out, "[hook %s]\n", c->hook[i].name);
        print_section("hook", &c->hook[i], c->hook[i].given, out);
    }
    if (c->n_hooks > 0)
        return;
    struct config example = {0};
    char why[SEISMO_ERRMSG];
    struct config_hook *hook = &example.hook[0];
    if (hook_new(&example, "NAME", why) == 0 &&
        argv_split("/usr/local/bin/notify --to team", hook->argv, CONFIG_MAX_ARGV, why) == 0) {
        fputs("# Programs that hear of verdicts. As many sections as there are hooks.\n"
              "#[hook NAME]\n",
              out);
        print_section("hook", hook, 0, out);
        argv_free(hook->argv);
    }
}

static bool differs(const struct config_option *o, const struct config *a, const struct config *b)
{
    char *text[2] = {NULL, NULL};
    const struct config *both[2] = {a, b};
    bool result = true;
    for (int i = 0; i < 2; i++) {
        size_t size;
        FILE *out = open_memstream(&text[i], &size);
        if (!out)
            goto done;
        if (!is_text(o) || *(char *const *)((const char *)both[i] + o->offset))
            print_value(o, both[i], out);
        fclose(out);
    }
    result = !text[0] || !text[1] || strcmp(text[0], text[1]) != 0;
done:
    free(text[0]);
    free(text[1]);
    return result;
}

const char *config_fixed_change(const struct config *before, const struct config *after,
                                unsigned *ret_at)
{
    for (unsigned i = *ret_at; i < config_options_n; i++) {
        if (!config_options[i].fixed || !differs(&config_options[i], before, after))
            continue;
        *ret_at = i + 1;
        return config_options[i].key;
    }
    return NULL;
}

void config_free(struct config **ref)
{
    struct config *c = *ref;
    if (!c)
        return;
    *ref = NULL;
    free(c->path);
    free(c->data);
    argv_free(c->ingest);
    free(c->query);
    free(c->events);
    free(c->model);
    free(c->server_key);
    free(c->clients);
    free(c->socket_group);
    for (uint32_t i = 0; i < c->n_hooks; i++)
        argv_free(c->hook[i].argv);
    free(c);
}
