#include "client/lib/heard.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "proto/err.h"
#include "proto/json_text.h"

static void copy_string(char *ret, size_t size, const json_t *value)
{
    const char *text = json_string_value(value);

    snprintf(ret, size, "%s", text != NULL ? text : "");
}

static double number_or_nan(const json_t *value)
{
    return json_is_number(value) ? json_number_value(value) : NAN;
}

int heard_verdict(const char *text, size_t n, struct seismo_verdict *ret)
{
    json_t *doc = json_text(text, n, 0, NULL, NULL);
    const json_t *reasons = json_object_get(doc, "reasons");
    struct seismo_verdict v = {.count = ret->count};

    if (!json_is_string(json_object_get(doc, "state"))) {
        json_decref(doc);
        return SEISMO_EMALFORMED;
    }
    v.step = json_integer_value(json_object_get(doc, "step"));
    copy_string(v.state, sizeof(v.state), json_object_get(doc, "state"));
    copy_string(v.severity, sizeof(v.severity), json_object_get(doc, "severity"));
    copy_string(v.fault, sizeof(v.fault), json_object_get(json_object_get(doc, "fault"), "class"));
    v.score = number_or_nan(json_object_get(doc, "score"));
    v.threshold = number_or_nan(json_object_get(doc, "threshold"));
    while (v.n_reasons < SEISMO_MAX_REASONS && v.n_reasons < json_array_size(reasons)) {
        copy_string(v.reason[v.n_reasons], sizeof(v.reason[0]),
                    json_object_get(json_array_get(reasons, v.n_reasons), "text"));
        v.n_reasons++;
    }
    *ret = v;
    json_decref(doc);
    return 0;
}
