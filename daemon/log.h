/* The log: one line a message to stderr, with a level and a group ("ingest", "store", …).
 *
 * Every line is one write, so lines of several threads do not mix. Under the journal a line begins
 * with the priority that systemd understands, elsewhere with the time. The level is the one setting
 * of the process that every thread reads and a reload changes, so it lives here and not in a
 * context. Text that a peer chose goes through log_quote first. */
#ifndef SEISMO_DAEMON_LOG_H
#define SEISMO_DAEMON_LOG_H

#include <stddef.h>
#include <stdint.h>

/*  X(constant, name, syslog priority) */
#define LOG_LEVEL_MAP(X)         \
    X(LOG_ERROR, "error", 3)     \
    X(LOG_WARNING, "warning", 4) \
    X(LOG_INFO, "info", 6)       \
    X(LOG_DEBUG, "debug", 7)

enum log_priority {
#define X(constant, name, priority) constant,
    LOG_LEVEL_MAP(X)
#undef X
        LOG_LEVELS_N
};

#define LOG_LINE 1024 /* bytes of one line; longer ones are cut */

/* Any thread. Messages above this level are not written; LOG_INFO at the start. */
void log_set_level(enum log_priority level);

void log_write(enum log_priority level, const char *group, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

/* Lets `burst` messages through in each `interval`, and counts the others; they are reported with
 * the first message of a later interval. Zeroed is ready for use; one thread. */
struct log_limit {
    double since; /* s, start of the interval */
    uint32_t written, suppressed;
};
#define LOG_LIMIT_BURST 5
#define LOG_LIMIT_INTERVAL 10.0 /* s */

/* True when a message may be written at time `now` (s, any clock that does not run backwards);
 * *ret_suppressed says how many were not since the last one that was. */
int log_limit_pass(struct log_limit *l, double now, uint32_t *ret_suppressed);

/* Writes the `n` bytes at `p` as a quoted, printable string into `ret` and returns `ret`: quotes,
 * backslashes, control characters and bytes that are not UTF-8 are escaped; what does not fit is
 * cut and ends in "…" after the closing quote. `size` >= 8. */
char *log_quote(char *ret, size_t size, const void *p, size_t n);

#endif
