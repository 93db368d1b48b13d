#include "daemon/document.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "models/verdict.h"
#include "proto/json_text.h"

/* Columns that are not float32. */
static bool holds_time(const char *column)
{
    static const char *const names[] = {"time", "recorded", "started", "updated", "ended"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(column, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool holds_json(const char *column)
{
    return strcmp(column, "meta") == 0 || strcmp(column, "reasons") == 0 ||
           strcmp(column, "fault_distribution") == 0;
}

static json_t *column_json(sqlite3_stmt *s, int i)
{
    switch (sqlite3_column_type(s, i)) {
    case SQLITE_INTEGER:
        return json_integer(sqlite3_column_int64(s, i));
    case SQLITE_FLOAT: {
        double x = sqlite3_column_double(s, i);
        bool time = holds_time(sqlite3_column_name(s, i)) && isfinite(x);
        return time ? json_real(x) : verdict_number((float)x);
    }
    case SQLITE_TEXT: {
        const char *text = (const char *)sqlite3_column_text(s, i);
        if (!text) {
            return NULL;
        }
        bool no_memory = false;
        /* Text that people have damaged by hand in the database is shown as missing. */
        json_t *value = holds_json(sqlite3_column_name(s, i))
                            ? json_text(text, strlen(text), JSON_DECODE_ANY, NULL, &no_memory)
                            : json_string(text);
        return value || no_memory ? value : json_null();
    }
    default:
        return json_null();
    }
}

json_t *document_row(sqlite3_stmt *s)
{
    json_t *object = json_object();
    for (int i = 0; object && i < sqlite3_column_count(s); i++) {
        if (json_object_set_new(object, sqlite3_column_name(s, i), column_json(s, i)) < 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

json_t *document_verdict(sqlite3_stmt *s)
{
    json_t *object = document_row(s);
    json_t *fault = json_object();
    bool ok =
        object && fault && json_object_set(fault, "class", json_object_get(object, "fault")) == 0 &&
        json_object_set(fault, "distribution", json_object_get(object, "fault_distribution")) ==
            0 &&
        json_object_set(object, "fault", fault) == 0 &&
        json_object_del(object, "fault_distribution") == 0 &&
        json_object_set_new(
            object, "superseded",
            json_boolean(json_integer_value(json_object_get(object, "superseded")))) == 0;
    json_decref(fault);
    if (!ok) {
        json_decref(object);
        return NULL;
    }
    return object;
}
