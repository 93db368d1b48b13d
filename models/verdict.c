#include "models/verdict.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *verdict_state_name(enum verdict_state s)
{
    static const char *const names[STATES_N] = {
#define X(constant, name) [constant] = name,
        SEISMO_STATE_MAP(X)
#undef X
    };
    return names[s];
}

bool verdict_state_worse(enum verdict_state a, enum verdict_state b)
{
    static const int rank[STATES_N] = {
        [STATE_WARMING_UP] = 0, [STATE_HEALTHY] = 1,  [STATE_STALLED] = 2,
        [STATE_MISMATCH] = 3,   [STATE_UNSTABLE] = 4,
    };
    return rank[a] > rank[b];
}

const char *verdict_severity_name(enum verdict_severity s)
{
    static const char *const names[SEVERITIES_N] = {
#define X(constant, name) [constant] = name,
        SEISMO_SEVERITY_MAP(X)
#undef X
    };
    return names[s];
}

const char *fault_name(enum fault_class f)
{
    static const char *const names[FAULTS_N] = {
#define X(constant, name) [constant] = name,
        SEISMO_FAULT_MAP(X)
#undef X
    };
    return names[f];
}

json_t *verdict_number(float x)
{
    char text[32];
    double y = x;

    if (isnan(x))
        return json_null();
    if (isinf(x))
        return json_string(x > 0 ? "inf" : "-inf");
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)x);
        y = strtod(text, NULL);
        if ((float)y == x)
            break;
    }
    return json_real(y);
}

static json_t *fault_json(const struct verdict *v)
{
    json_t *distribution = json_object();

    for (int f = 0; f < FAULTS_N; f++)
        if (v->fault_p[f] > 0)
            json_object_set_new(distribution, fault_name((enum fault_class)f),
                                verdict_number(v->fault_p[f]));
    return json_pack("{s:s, s:o}", "class", fault_name(v->fault), "distribution", distribution);
}

static json_t *reasons_json(const struct verdict *v)
{
    json_t *list = json_array();

    for (int i = 0; i < v->n_reasons; i++) {
        const struct verdict_reason *r = &v->reason[i];
        json_t *reason = json_pack("{s:s, s:o, s:o, s:s}", "feature", r->feature, "value",
                                   verdict_number(r->value), "contribution",
                                   verdict_number(r->contribution), "text", r->text);
        if (json_array_append_new(list, reason)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

json_t *verdict_json(const struct verdict *v, const char *run, const char *program)
{
    return json_pack("{s:s, s:s, s:I, s:o, s:s, s:s, s:o, s:o, s:o, s:o}", "run", run, "program",
                     program, "step", (json_int_t)v->step, "time",
                     isfinite(v->time) ? json_real(v->time) : json_null(), "state",
                     verdict_state_name(v->state), "severity", verdict_severity_name(v->severity),
                     "score", verdict_number(v->score), "threshold", verdict_number(v->threshold),
                     "fault", fault_json(v), "reasons", reasons_json(v));
}
