#include "daemon/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic int log_level = LOG_INFO;

void log_set_level(enum log_priority level)
{
    atomic_store(&log_level, level);
}

static const char *log_level_name(enum log_priority level)
{
    static const char *const names[] = {
#define X(constant, name, priority) name,
        LOG_LEVEL_MAP(X)
#undef X
    };
    return names[level];
}

static int log_priority(enum log_priority level)
{
    static const int priorities[] = {
#define X(constant, name, priority) priority,
        LOG_LEVEL_MAP(X)
#undef X
    };
    return priorities[level];
}

void log_write(enum log_priority level, const char *group, const char *format, ...)
{
    if ((int)level > atomic_load(&log_level))
        return;
    char line[LOG_LINE];
    int n;
    if (getenv("JOURNAL_STREAM")) {
        n = snprintf(line, sizeof(line), "<%d>%s: ", log_priority(level), group);
    } else {
        struct timespec now;
        struct tm utc;
        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &utc);
        n = (int)strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &utc);
        n += snprintf(line + n, sizeof(line) - (size_t)n, ".%03ldZ %s %s: ", now.tv_nsec / 1000000,
                      log_level_name(level), group);
    }
    va_list args;
    va_start(args, format);
    int text = vsnprintf(line + n, sizeof(line) - (size_t)n, format, args);
    va_end(args);
    size_t size = text < 0 ? (size_t)n : (size_t)n + (size_t)text;
    if (size > sizeof(line) - 2)
        size = sizeof(line) - 2;
    line[size++] = '\n';
    /* A log that cannot be written has nowhere to complain to. */
    ssize_t written = write(STDERR_FILENO, line, size);
    (void)written;
}

int log_limit_pass(struct log_limit *l, double now, uint32_t *ret_suppressed)
{
    if (l->written == 0 || now - l->since >= LOG_LIMIT_INTERVAL) {
        l->since = now;
        l->written = 0;
    }
    if (l->written >= LOG_LIMIT_BURST) {
        l->suppressed++;
        return false;
    }
    l->written++;
    *ret_suppressed = l->suppressed;
    l->suppressed = 0;
    return true;
}

/* Length of the valid, printable UTF-8 sequence at p, or 0. */
static size_t printable(const uint8_t *p, size_t n)
{
    if (p[0] >= 0x20 && p[0] < 0x7f)
        return 1;
    size_t length = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : p[0] >= 0xe0 && p[0] <= 0xef ? 3 : 0;
    if (length == 0 || length > n)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    /* C1 controls, overlong forms, surrogates, and the marks that turn or hide text on a terminal
     * (U+2000 to U+2FFF holds them; nobody's run is named with the rest of that block). */
    if ((p[0] == 0xc2 && p[1] < 0xa0) || (p[0] == 0xe0 && p[1] < 0xa0) ||
        (p[0] == 0xed && p[1] >= 0xa0) || (p[0] == 0xe2) || (p[0] == 0xef && p[1] >= 0xb8))
        return 0;
    return length;
}

char *log_quote(char *ret, size_t size, const void *data, size_t n)
{
    static const char end[] = "\"…";
    const uint8_t *p = data;
    size_t out = 0, room = size - sizeof(end);
    ret[out++] = '"';
    for (size_t i = 0; i < n;) {
        char escaped[5];
        size_t length = printable(p + i, n - i), used = length;
        const char *from = (const char *)p + i;
        if (length == 0 || p[i] == '"' || p[i] == '\\') {
            used = 1;
            length = (size_t)snprintf(escaped, sizeof(escaped), length ? "\\%c" : "\\x%02x", p[i]);
            from = escaped;
        }
        if (out + length > room) {
            memcpy(ret + out, end, sizeof(end));
            return ret;
        }
        memcpy(ret + out, from, length);
        out += length;
        i += used;
    }
    ret[out++] = '"';
    ret[out] = 0;
    return ret;
}
