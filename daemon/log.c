#include "daemon/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/text.h"

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
    if (size > sizeof(line) - 1)
        size = sizeof(line) - 1;
    /* Whatever comes here unquoted all the same makes no second line and no command of a terminal.
     */
    char plain[LOG_LINE];
    text_escape(plain, sizeof(plain) - 1, line, size);
    size = strlen(plain);
    plain[size++] = '\n';
    /* A log that cannot be written has nowhere to complain to. */
    ssize_t written = write(STDERR_FILENO, plain, size);
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

char *log_quote(char *ret, size_t size, const void *data, size_t n)
{
    static const char end[] = "\"…";
    const uint8_t *p = data;
    size_t out = 0, room = size - sizeof(end);
    ret[out++] = '"';
    for (size_t i = 0; i < n;) {
        char shown[TEXT_ESCAPED];
        size_t used, length = text_escape_char(shown, p + i, n - i, &used);
        if (p[i] == '"' || p[i] == '\\')
            length = (size_t)snprintf(shown, sizeof(shown), "\\%c", p[i]);
        if (out + length > room) {
            memcpy(ret + out, end, sizeof(end));
            return ret;
        }
        memcpy(ret + out, shown, length);
        out += length;
        i += used;
    }
    ret[out++] = '"';
    ret[out] = 0;
    return ret;
}
