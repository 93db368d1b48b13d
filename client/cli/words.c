#include "client/cli/words.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/body.h"

const char *words_number(double x, bool absent, char ret[WORDS_MAX])
{
    if (absent) {
        return strcpy(ret, "-");
    }
    if (isnan(x)) {
        return strcpy(ret, "nan"); /* never "-nan" */
    }
    snprintf(ret, WORDS_MAX, "%.4g", x);
    return ret;
}

const char *words_of(const json_t *object, const char *key, char ret[WORDS_MAX])
{
    return words_number(body_number(object, key), body_is_null(object, key), ret);
}

const char *words_duration(double seconds, char ret[WORDS_MAX])
{
    static const struct {
        double below, unit;
        const char *name;
    } units[] = {{120, 1, "s"}, {7200, 60, "min"}, {172800, 3600, "h"}, {INFINITY, 86400, "d"}};
    size_t i = 0;

    if (isnan(seconds)) {
        return strcpy(ret, "-");
    }
    seconds = fmax(seconds, 0);
    while (seconds >= units[i].below && i < 3) {
        i++;
    }
    snprintf(ret, WORDS_MAX, "%.0f %s", seconds / units[i].unit, units[i].name);
    return ret;
}

const char *words_time(double epoch, char ret[WORDS_MAX])
{
    struct tm tm;
    time_t t;

    if (!(fabs(epoch) < 1e15)) {
        return strcpy(ret, "-");
    }
    t = (time_t)epoch;
    if (localtime_r(&t, &tm) == NULL || strftime(ret, WORDS_MAX, "%Y-%m-%d %H:%M:%S", &tm) == 0) {
        return strcpy(ret, "-");
    }
    return ret;
}

const char *words_bytes(double bytes, char ret[WORDS_MAX])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t i = 0;

    while (bytes >= 1000 && i < 4) {
        bytes /= 1000;
        i++;
    }
    snprintf(ret, WORDS_MAX, i == 0 ? "%.0f %s" : "%.1f %s", bytes, units[i]);
    return ret;
}

struct state_look {
    const char *name;
    enum colour colour;
    const char *mark, *ascii;
};

static const struct state_look *state_look(const char *state)
{
    static const struct state_look looks[] = {
        {"unstable", COLOUR_RED, "▲", "U"},     {"stalled", COLOUR_YELLOW, "■", "S"},
        {"mismatch", COLOUR_MAGENTA, "◆", "M"}, {"silent", COLOUR_YELLOW, "○", "Q"},
        {"healthy", COLOUR_GREEN, "●", "h"},    {"ended", COLOUR_DIM, "×", "e"},
        {"warming_up", COLOUR_DIM, "·", "w"},
    };
    static const struct state_look unknown = {"", COLOUR_NONE, "?", "?"};

    for (size_t i = 0; i < sizeof(looks) / sizeof(*looks); i++) {
        if (strcmp(looks[i].name, state) == 0) {
            return &looks[i];
        }
    }
    return &unknown;
}

enum colour words_state_colour(const char *state)
{
    return state_look(state)->colour;
}

const char *words_state_mark(const char *state, bool utf8)
{
    return utf8 ? state_look(state)->mark : state_look(state)->ascii;
}

void words_put(const char *text, FILE *out)
{
    term_put(text, out);
}

void words_verdict(const json_t *verdict, bool with_run, const struct term *term, FILE *out)
{
    const char *state = body_string(verdict, "state");
    const json_t *fault = json_object_get(verdict, "fault"), *reason;
    const char *class = body_string(fault, "class");
    enum colour colour = words_state_colour(state);
    char a[WORDS_MAX], b[WORDS_MAX], step[WORDS_MAX] = "-";
    size_t i;

    if (!body_is_null(verdict, "step")) {
        snprintf(step, sizeof(step), "%lld", (long long)body_integer(verdict, "step", 0));
    }
    if (with_run) {
        words_put(body_string(verdict, "run"), out);
        fputs("  ", out);
    }
    fprintf(out, "step %s  %s%s ", step, term_on(term, colour),
            words_state_mark(state, term->utf8));
    words_put(state, out);
    fprintf(out, "%s  ", term_off(term, colour));
    words_put(body_string(verdict, "severity"), out);
    if (!body_is_null(verdict, "score")) {
        fprintf(out, "  score %s (threshold %s)", words_of(verdict, "score", a),
                words_of(verdict, "threshold", b));
    }
    if (!body_is_null(verdict, "time") || !body_is_null(verdict, "recorded")) {
        double t = body_number(verdict, body_is_null(verdict, "time") ? "recorded" : "time");

        fprintf(out, "  %s%s%s", term_on(term, COLOUR_DIM), words_time(t, a),
                term_off(term, COLOUR_DIM));
    }
    fputc('\n', out);
    if (*class != '\0' && strcmp(class, "unknown") != 0) {
        double p = body_number(json_object_get(fault, "distribution"), class);

        fputs("    likely fault: ", out);
        words_put(class, out);
        if (isfinite(p)) {
            fprintf(out, " (%.0f %%)", 100 * p);
        }
        fputc('\n', out);
    }
    json_array_foreach (json_object_get(verdict, "reasons"), i, reason) {
        fputs("    ", out);
        words_put(body_string(reason, "text"), out);
        fputc('\n', out);
    }
}
