/* What the programs of tests/bench share. */
#ifndef SEISMO_TESTS_BENCH_H
#define SEISMO_TESTS_BENCH_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <zmq.h>

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline void fail(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what,
            errno ? zmq_strerror(errno) : "failed");
    exit(1);
}

/* For qsort of doubles. */
static inline int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A line of /proc/PID/status in kB ("VmRSS", "VmHWM"); -1 when there is none. */
static inline long status_kb(pid_t pid, const char *name)
{
    char path[64], line[256];
    size_t n = strlen(name);
    long kb = -1;
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    while (f && kb < 0 && fgets(line, sizeof(line), f))
        if (strncmp(line, name, n) == 0 && line[n] == ':')
            kb = atol(line + n + 1);
    if (f)
        fclose(f);
    return kb;
}

/* A daemon with its data and sockets in `directory`; `quiet`: its log is thrown away. */
static inline pid_t start_seismod(const char *seismod, const char *directory, const char *endpoint,
                                  bool quiet)
{
    char data[512], query[512], events[512];
    snprintf(data, sizeof(data), "%s/data", directory);
    snprintf(query, sizeof(query), "ipc://%s/query", directory);
    snprintf(events, sizeof(events), "ipc://%s/events", directory);
    pid_t pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stdout) || (quiet && !freopen("/dev/null", "w", stderr)))
            _exit(126);
        execl(seismod, seismod, "--data", data, "--ingest", endpoint, "--query", query, "--events",
              events, (char *)NULL);
        _exit(127);
    }
    return pid;
}

#endif
