#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "proto/json_text.h"
#include "proto/trace.h"
#include "proto/wire.h"

#define READ_SIZE 8192     /* bytes asked of zlib at once; what a damaged read had got is lost */
#define MAX_SHOWN_PATH 100 /* bytes of a path in an error text, so that the rest fits too */

struct trace_reader {
    gzFile file;
    char shown[MAX_SHOWN_PATH + 4]; /* the path's end, for error texts */
    int64_t size;                   /* bytes of the file, 0 when unknown */
    uint64_t line;                  /* number of the line read last, from 1 */
    json_t *header;
    char *buf;         /* TRACE_MAX_LINE + 1 bytes */
    size_t start, end; /* what of it has been read but not used */
    bool eof;
};

__attribute__((format(printf, 4, 5))) static int fail(const struct trace_reader *r, int err,
                                                      char *errmsg, const char *format, ...)
{
    int n = snprintf(errmsg, SEISMO_ERRMSG, "%s:%" PRIu64 ": ", r->shown, r->line);
    va_list args;
    va_start(args, format);
    vsnprintf(errmsg + n, SEISMO_ERRMSG - (size_t)n, format, args);
    va_end(args);
    return err;
}

/* Refill the buffer behind what is left in it. */
static int refill(struct trace_reader *r, char *errmsg)
{
    memmove(r->buf, r->buf + r->start, r->end - r->start);
    r->end -= r->start;
    r->start = 0;
    size_t room = TRACE_MAX_LINE + 1 - r->end;
    int got = gzread(r->file, r->buf + r->end, (unsigned)(room < READ_SIZE ? room : READ_SIZE));
    int code = Z_OK;
    const char *text = gzerror(r->file, &code);
    if (got > 0) {
        r->end += (size_t)got;
        return 0;
    }
    switch (code) {
    case Z_OK:
    case Z_STREAM_END:
        r->eof = true;
        return 0;
    case Z_BUF_ERROR:
        return fail(r, SEISMO_ECORRUPT, errmsg,
                    "the gzip data ends too early; the file is cut short, copy or record it again");
    case Z_ERRNO:
        return fail(r, SEISMO_EIO, errmsg, "reading failed: %s", strerror(errno));
    case Z_MEM_ERROR:
        return fail(r, SEISMO_ENOMEM, errmsg, "out of memory");
    default:
        return fail(r, SEISMO_ECORRUPT, errmsg,
                    "the gzip data is damaged (%.60s); copy or record the file again", text);
    }
}

static bool is_blank(const char *line, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    }
    return true;
}

/* The next line that is not blank, without its end. `ret_whole`: it had an end. */
static int next_line(struct trace_reader *r, char **ret, size_t *ret_n, bool *ret_whole,
                     char *errmsg)
{
    size_t searched = 0;
    r->line++;
    for (;;) {
        char *line = r->buf + r->start;
        size_t have = r->end - r->start;
        char *newline = memchr(line + searched, '\n', have - searched);
        if (newline == NULL && !r->eof) {
            if (have > TRACE_MAX_LINE)
                return fail(r, SEISMO_ETOOBIG, errmsg,
                            "the line is longer than %u bytes; a trace has one object a line",
                            TRACE_MAX_LINE);
            searched = have;
            int err = refill(r, errmsg);
            if (err != 0)
                return err;
            continue;
        }
        size_t n = newline != NULL ? (size_t)(newline - line) : have;
        r->start += newline != NULL ? n + 1 : n;
        if (!is_blank(line, n)) {
            *ret = line;
            *ret_n = n;
            *ret_whole = newline != NULL;
            return 0;
        }
        if (newline == NULL)
            return SEISMO_EEOF;
        r->line++;
        searched = 0;
    }
}

/* Python writes NaN and Infinity bare, which is not JSON: say what to write instead. */
static bool is_bare_nonfinite(const json_error_t *error, const char *line, size_t n)
{
    size_t at = error->position > 0 ? (size_t)error->position : 0;
    return strstr(error->text, "near 'NaN'") != NULL ||
           strstr(error->text, "near 'Infinity'") != NULL ||
           (strstr(error->text, "near '-'") != NULL && at < n && line[at] == 'I');
}

static int next_object(struct trace_reader *r, json_t **ret, char *errmsg)
{
    char *line = NULL;
    size_t n = 0;
    bool whole = false;
    int err = next_line(r, &line, &n, &whole, errmsg);
    if (err != 0)
        return err;
    json_error_t error;
    bool no_memory;
    json_t *object = json_text(line, n, JSON_REJECT_DUPLICATES, &error, &no_memory);
    if (json_is_object(object)) {
        *ret = object;
        return 0;
    }
    bool parsed = object != NULL;
    json_decref(object);
    if (parsed)
        return fail(r, SEISMO_EMALFORMED, errmsg, "the line must be a JSON object");
    if (no_memory)
        return fail(r, SEISMO_ENOMEM, errmsg, "out of memory");
    if (is_bare_nonfinite(&error, line, n))
        return fail(r, SEISMO_EMALFORMED, errmsg,
                    "NaN and Infinity are not JSON; write the strings \"nan\", \"inf\", \"-inf\"");
    if (!whole)
        return fail(r, SEISMO_ECORRUPT, errmsg,
                    "the last line is cut short; delete it to keep the rows before it");
    return fail(r, SEISMO_EMALFORMED, errmsg,
                "the line is not JSON from its byte %d on; write one object a line",
                error.position);
}

static int check_header(const struct trace_reader *r, char *errmsg)
{
    static const char *const keys[] = {"run", "program"};
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(r->header, keys[i]);
        if (value == NULL)
            return fail(r, SEISMO_EMALFORMED, errmsg,
                        "the header lacks \"%s\"; the first line names run and program", keys[i]);
        if (!json_is_string(value))
            return fail(r, SEISMO_EMALFORMED, errmsg, "\"%s\" must be a string", keys[i]);
        struct wire_str name = {json_string_value(value), (uint32_t)json_string_length(value)};
        if (!wire_name_valid(name))
            return fail(r, SEISMO_EMALFORMED, errmsg,
                        "\"%s\" must have 1 to %d bytes and no control characters", keys[i],
                        SEISMO_MAX_NAME);
    }
    return 0;
}

static int open_file(struct trace_reader *r, const char *path, char *errmsg)
{
    bool is_stdin = strcmp(path, "-") == 0;
    size_t n = strlen(path);
    if (is_stdin)
        snprintf(r->shown, sizeof r->shown, "stdin");
    else if (n <= MAX_SHOWN_PATH)
        snprintf(r->shown, sizeof r->shown, "%s", path);
    else
        snprintf(r->shown, sizeof r->shown, "...%s", path + n - MAX_SHOWN_PATH);

    struct stat st;
    if (!is_stdin && stat(path, &st) == 0 && S_ISREG(st.st_mode))
        r->size = st.st_size;
    int fd = is_stdin ? dup(STDIN_FILENO) : -1;
    errno = 0;
    if (!is_stdin)
        r->file = gzopen(path, "rbe");
    else if (fd >= 0)
        r->file = gzdopen(fd, "rb");
    if (r->file != NULL)
        return 0;
    int reason = errno;
    if (fd >= 0)
        close(fd);
    bool memory = reason == 0 || reason == ENOMEM;
    snprintf(errmsg, SEISMO_ERRMSG, "%s: cannot open: %s", r->shown,
             memory ? "out of memory" : strerror(reason));
    return memory ? SEISMO_ENOMEM : reason == ENOENT ? SEISMO_ENOTFOUND : SEISMO_EIO;
}

int trace_reader_new(const char *path, struct trace_reader **ret_reader, char errmsg[SEISMO_ERRMSG])
{
    struct trace_reader *r = calloc(1, sizeof *r);
    if (r != NULL)
        r->buf = malloc(TRACE_MAX_LINE + 1);
    if (r == NULL || r->buf == NULL) {
        snprintf(errmsg, SEISMO_ERRMSG, "out of memory");
        trace_reader_free(&r);
        return SEISMO_ENOMEM;
    }
    int err = open_file(r, path, errmsg);
    if (err == 0) {
        err = next_object(r, &r->header, errmsg);
        if (err == SEISMO_EEOF)
            err = fail(r, SEISMO_EMALFORMED, errmsg,
                       "the file is empty; a trace begins with a header object");
    }
    if (err == 0)
        err = check_header(r, errmsg);
    if (err != 0) {
        trace_reader_free(&r);
        return err;
    }
    *ret_reader = r;
    return 0;
}

void trace_reader_free(struct trace_reader **reader)
{
    struct trace_reader *r = *reader;
    if (r == NULL)
        return;
    if (r->file != NULL)
        gzclose(r->file);
    json_decref(r->header);
    free(r->buf);
    free(r);
    *reader = NULL;
}

const json_t *trace_reader_header(const struct trace_reader *reader)
{
    return reader->header;
}

int trace_reader_next(struct trace_reader *reader, struct seismo_row *ret,
                      char errmsg[SEISMO_ERRMSG])
{
    json_t *object;
    char what[SEISMO_ERRMSG];
    int err = next_object(reader, &object, errmsg);
    if (err != 0)
        return err;
    err = trace_row_from_json(object, ret, what);
    if (err != 0)
        fail(reader, err, errmsg, "%.140s", what);
    json_decref(object);
    return err;
}

double trace_reader_progress(const struct trace_reader *reader)
{
    if (reader->size == 0)
        return -1;
    double progress = (double)gzoffset(reader->file) / (double)reader->size;
    return progress < 0 ? 0 : progress > 1 ? 1 : progress;
}

/* The string that stands for a non-finite number, or NULL when x is finite. */
static const char *nonfinite_name(double x)
{
    if (isnan(x))
        return "nan";
    if (isinf(x))
        return x > 0 ? "inf" : "-inf";
    return NULL;
}

/* The double nearest to the 9 digits that say which float32 it is. */
static json_t *short_real(double x)
{
    char text[32];
    snprintf(text, sizeof text, "%.9g", x);
    return json_real(strtod(text, NULL));
}

json_t *trace_row_json(const struct seismo_row *row)
{
    json_t *object = json_object();
    int err = json_object_set_new_nocheck(object, "step", json_integer(row->step));
    if (!isnan(row->time))
        err |= json_object_set_new_nocheck(object, "time", json_real(row->time));
    for (unsigned i = 0; i < SEISMO_N_VALUES; i++) {
        if (!row_has(row, (enum seismo_value)i))
            continue;
        double x = (double)row->value[i];
        const char *name = nonfinite_name(x);
        json_t *value = name != NULL ? json_string_nocheck(name) : short_real(x);
        err |= json_object_set_new_nocheck(
            object, seismo_field_name((int)(SEISMO_FIELD_VALUE0 + i)), value);
    }
    if (err != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* Print a finite number with so many digits, with a point or an exponent in any case: "-0" would be
 * read as the integer 0. Returns its length. */
static size_t print_number(char *ret, size_t n, int digits, double x)
{
    size_t length = (size_t)snprintf(ret, n, "%.*g", digits, x);
    char *point = strstr(ret, localeconv()->decimal_point);
    if (point != NULL)
        *point = '.';
    else if (strchr(ret, 'e') == NULL)
        length += (size_t)snprintf(ret + length, n - length, ".0");
    return length;
}

/* Digits that a float64 needs to read back the same, 15 to 17. */
static int digits_of(double x)
{
    char text[32];
    int digits = 15;
    while (digits < 17) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x)
            break;
        digits++;
    }
    return digits;
}

size_t trace_row_print(const struct seismo_row *row, char ret[TRACE_MAX_ROW])
{
    size_t n = (size_t)snprintf(ret, TRACE_MAX_ROW, "{\"step\": %" PRId64, row->step);
    if (!isnan(row->time)) {
        n += (size_t)snprintf(ret + n, TRACE_MAX_ROW - n, ", \"time\": ");
        n += print_number(ret + n, TRACE_MAX_ROW - n, digits_of(row->time), row->time);
    }
    for (unsigned i = 0; i < SEISMO_N_VALUES; i++) {
        if (!row_has(row, (enum seismo_value)i))
            continue;
        double x = (double)row->value[i];
        const char *name = nonfinite_name(x);
        n += (size_t)snprintf(ret + n, TRACE_MAX_ROW - n,
                              ", \"%s\": ", seismo_field_name((int)(SEISMO_FIELD_VALUE0 + i)));
        if (name != NULL)
            n += (size_t)snprintf(ret + n, TRACE_MAX_ROW - n, "\"%s\"", name);
        else
            n += print_number(ret + n, TRACE_MAX_ROW - n, 9, x);
    }
    n += (size_t)snprintf(ret + n, TRACE_MAX_ROW - n, "}");
    return n;
}

static const char *json_kind(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_NULL:
        return "null (leave the key out when there is no value)";
    default:
        return "a boolean";
    }
}

/* Rounds to float32, once: integers directly, so that no double lies in between. */
static bool value_from_json(const json_t *value, float *ret)
{
    if (json_is_integer(value)) {
        *ret = (float)json_integer_value(value);
    } else if (json_is_real(value)) {
        *ret = (float)json_real_value(value);
    } else if (json_is_string(value)) {
        const char *text = json_string_value(value);
        if (strcasecmp(text, "nan") == 0)
            *ret = NAN;
        else if (strcasecmp(text, "inf") == 0)
            *ret = INFINITY;
        else if (strcasecmp(text, "-inf") == 0)
            *ret = -INFINITY;
        else
            return false;
    } else {
        return false;
    }
    return true;
}

int trace_row_from_json(const json_t *object, struct seismo_row *ret, char errmsg[SEISMO_ERRMSG])
{
    struct seismo_row row = {.time = NAN};
    const json_t *step = json_object_get(object, "step");
    const json_t *time = json_object_get(object, "time");
    if (step == NULL) {
        snprintf(errmsg, SEISMO_ERRMSG, "\"step\" is missing; every row must have it");
        return SEISMO_EMALFORMED;
    }
    if (!json_is_integer(step) || json_integer_value(step) < 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "\"step\" must be an integer >= 0, found %s",
                 json_is_integer(step) ? "a negative one" : json_kind(step));
        return SEISMO_EMALFORMED;
    }
    row.step = json_integer_value(step);
    if (json_is_number(time)) {
        row.time = json_number_value(time);
    } else if (time != NULL) {
        snprintf(errmsg, SEISMO_ERRMSG, "\"time\" must be seconds since the epoch, found %s",
                 json_kind(time));
        return SEISMO_EMALFORMED;
    }
    for (unsigned i = 0; i < SEISMO_N_VALUES; i++) {
        const char *name = seismo_field_name((int)(SEISMO_FIELD_VALUE0 + i));
        const json_t *value = json_object_get(object, name);
        if (value == NULL)
            continue;
        if (!value_from_json(value, &row.value[i])) {
            snprintf(errmsg, SEISMO_ERRMSG,
                     "\"%s\" must be a number, \"nan\", \"inf\" or \"-inf\", found %s", name,
                     json_kind(value));
            return SEISMO_EMALFORMED;
        }
        row.present |= 1u << i;
    }
    if (!row_has(&row, SEISMO_LOSS)) {
        snprintf(errmsg, SEISMO_ERRMSG, "\"loss\" is missing; write \"nan\" if it is not a number");
        return SEISMO_EMALFORMED;
    }
    *ret = row;
    return 0;
}
