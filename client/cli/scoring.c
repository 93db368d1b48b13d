#include "client/cli/scoring.h"

#include <math.h>
#include <stdlib.h>

/* A detector is kept for every MARK_ROWS rows, so that going back costs at most as many. */
#define MARK_ROWS 256

/* Everything that going back has to restore; plain data. */
struct standing {
    struct detector detector;
    size_t n_verdicts;
    float score; /* highest so far, NaN before the first */
    enum verdict_state worst;
    int64_t alarm_step; /* -1: none */
};

struct scoring {
    const struct model *model;
    struct standing now;
    struct seismo_row *rows;
    size_t n_rows, rows_room;
    struct standing *marks; /* marks[i]: before row i * MARK_ROWS */
    size_t marks_room;
    struct verdict *verdicts;
    size_t verdicts_room;
};

struct scoring *scoring_new(const struct model *model)
{
    struct scoring *s = calloc(1, sizeof(*s));

    if (s == NULL) {
        return NULL;
    }
    s->model = model;
    s->now = (struct standing){.score = NAN, .worst = STATE_WARMING_UP, .alarm_step = -1};
    detector_init(&s->now.detector);
    return s;
}

void scoring_free(struct scoring **scoring)
{
    struct scoring *s = *scoring;

    *scoring = NULL;
    if (s != NULL) {
        free(s->rows);
        free(s->marks);
        free(s->verdicts);
        free(s);
    }
}

/* Room for at least `n` elements of `size` bytes. */
static int reserve(void **array, size_t *room, size_t n, size_t size)
{
    size_t more = *room > 0 ? 2 * *room : 64;
    void *grown;

    if (n <= *room) {
        return 0;
    }
    more = more > n ? more : n;
    grown = realloc(*array, more * size);
    if (grown == NULL) {
        return SEISMO_ENOMEM;
    }
    *array = grown;
    *room = more;
    return 0;
}

/* Room is there. */
static void take(struct scoring *s, const struct seismo_row *row)
{
    struct detector_result result;

    if (s->n_rows % MARK_ROWS == 0) {
        s->marks[s->n_rows / MARK_ROWS] = s->now;
    }
    s->rows[s->n_rows++] = *row;
    detector_step(&s->now.detector, s->model, row, &result);
    s->now.score = fmaxf(s->now.score, result.score);
    for (int i = 0; i < result.n_verdicts; i++) {
        const struct verdict *v = &result.verdict[i];

        s->verdicts[s->now.n_verdicts++] = *v;
        if (verdict_state_worse(v->state, s->now.worst)) {
            s->now.worst = v->state;
        }
        if (v->severity == SEVERITY_CRITICAL && s->now.alarm_step < 0) {
            s->now.alarm_step = v->step;
        }
    }
}

/* Takes back the rows whose step is not below `step`. */
static void go_back(struct scoring *s, int64_t step)
{
    size_t keep = s->n_rows, from;

    while (keep > 0 && s->rows[keep - 1].step >= step) {
        keep--;
    }
    from = keep / MARK_ROWS;
    s->now = s->marks[from];
    s->n_rows = from * MARK_ROWS;
    while (s->n_rows < keep) {
        take(s, &s->rows[s->n_rows]);
    }
}

int scoring_row(struct scoring *s, const struct seismo_row *row)
{
    if (reserve((void **)&s->rows, &s->rows_room, s->n_rows + 1, sizeof(*s->rows)) != 0 ||
        reserve((void **)&s->marks, &s->marks_room, s->n_rows / MARK_ROWS + 1, sizeof(*s->marks)) !=
            0 ||
        reserve((void **)&s->verdicts, &s->verdicts_room, s->now.n_verdicts + DETECTOR_MAX_VERDICTS,
                sizeof(*s->verdicts)) != 0) {
        return SEISMO_ENOMEM;
    }
    if (s->n_rows > 0 && row->step <= s->rows[s->n_rows - 1].step) {
        go_back(s, row->step);
    }
    take(s, row);
    return 0;
}

/* The fault that the alarm named; without an alarm there is none. */
static json_t *fault_json(const struct scoring *s)
{
    struct verdict none = {.fault = FAULT_UNKNOWN};
    const struct verdict *v = &none;
    json_t *document, *fault;

    for (size_t i = 0; i < s->now.n_verdicts && v == &none; i++) {
        if (s->verdicts[i].severity == SEVERITY_CRITICAL) {
            v = &s->verdicts[i];
        }
    }
    document = verdict_json(v, "", "");
    fault = json_incref(json_object_get(document, "fault"));
    json_decref(document);
    return fault;
}

json_t *scoring_json(const struct scoring *s, const char *run, const char *program)
{
    json_t *verdicts = json_array();
    json_t *alarm = s->now.alarm_step >= 0 ? json_integer(s->now.alarm_step) : json_null();

    for (size_t i = 0; i < s->now.n_verdicts; i++) {
        json_array_append_new(verdicts, verdict_json(&s->verdicts[i], run, program));
    }
    return json_pack("{s:i, s:s, s:s, s:I, s:s, s:o, s:o, s:o, s:o}", "schema", 1, "run", run,
                     "program", program, "steps", (json_int_t)s->n_rows, "state",
                     verdict_state_name(s->now.worst), "alarm_step", alarm, "score",
                     verdict_number(s->now.score), "fault", fault_json(s), "verdicts", verdicts);
}
