#include "client/cli/body.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *body_string(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text != NULL ? text : "";
}

double body_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    const char *word = json_string_value(value);

    if (word != NULL) {
        return strcmp(word, "inf") == 0 ? INFINITY : strcmp(word, "-inf") == 0 ? -INFINITY : NAN;
    }
    return json_is_number(value) ? json_number_value(value) : NAN;
}

json_int_t body_integer(const json_t *object, const char *key, json_int_t otherwise)
{
    const json_t *value = json_object_get(object, key);

    return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

bool body_is_null(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return value == NULL || json_is_null(value);
}

/* DEL is the one control character that JSON lets stand. */
static int print_part(const char *text, size_t n, void *arg)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] == 0x7f) {
            fputs("\\u007f", arg);
        } else {
            fputc(text[i], arg);
        }
    }
    return 0;
}

void body_print(const json_t *document)
{
    json_dump_callback(document, print_part, stdout, BODY_FLAGS);
    putchar('\n');
}
