/* What seismo_step costs a training loop: bench_step INGEST-ENDPOINT-OF-A-RUNNING-SEISMOD
 *
 * Each call is timed on its own, with every field set; the cost of reading the clock, measured the
 * same way, is printed beside it and not taken off. A training fills the caches with other things
 * between two steps; lines that say so stand for that. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "client/lib/seismo.h"

static long long now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    long long x = *(const long long *)a, y = *(const long long *)b;

    return (x > y) - (x < y);
}

static void print_line(const char *what, long long *ns, size_t n, const char *rest)
{
    qsort(ns, n, sizeof(*ns), compare);
    printf("%-34s p50 %5lld   p99 %5lld   p99.9 %6lld   max %8lld ns%s\n", what, ns[n / 2],
           ns[n * 99 / 100], ns[n * 999 / 1000], ns[n - 1], rest);
}

enum between { NOTHING, PAUSE, MEMORY };

/* What lies between two steps: a pause of 50 us, or the caches are filled with other things. */
static void pass(enum between between)
{
    static volatile char other[8 << 20];

    if (between == PAUSE) {
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    } else if (between == MEMORY) {
        for (size_t i = 0; i < sizeof(other); i += 64) {
            other[i]++;
        }
    }
}

static void measure_clock(const char *what, size_t n, enum between between)
{
    long long *ns = malloc(n * sizeof(*ns));

    if (ns == NULL) {
        fprintf(stderr, "bench_step: out of memory\n");
        exit(1);
    }
    for (size_t i = 0; i < n; i++) {
        long long start = now_ns();

        ns[i] = now_ns() - start;
        pass(between);
    }
    print_line(what, ns, n, "");
    free(ns);
}

static void measure(const char *what, const char *endpoint, size_t n, enum between between)
{
    struct seismo_options options = {
        .program = "bench_step", .ingest = endpoint, .close_timeout = endpoint != NULL ? 60 : 0.01};
    struct seismo_stats stats;
    char errmsg[SEISMO_ERRMSG], rest[96];
    struct seismo *run;
    long long *ns = malloc(n * sizeof(*ns));

    if (endpoint == NULL) {
        options.ingest = "ipc:///tmp/seismo-bench-nobody-listens";
    }
    run = seismo_open(&options, errmsg);
    if (run == NULL || ns == NULL) {
        fprintf(stderr, "bench_step: %s\n", run == NULL ? errmsg : "out of memory");
        exit(1);
    }
    for (size_t i = 0; i < n; i++) {
        struct seismo_step s = seismo_at((int64_t)i, 1.0);
        long long start;

        for (int field = 1; field < SEISMO_FIELDS; field++) {
            seismo_set(&s, (enum seismo_field)field, 0.5);
        }
        start = now_ns();
        seismo_step(run, &s);
        ns[i] = now_ns() - start;
        pass(between);
    }
    seismo_stats(run, &stats);
    snprintf(rest, sizeof(rest), "   (%llu of %zu dropped)", (unsigned long long)stats.dropped, n);
    seismo_close(&run, SEISMO_FINISHED);
    print_line(what, ns, n, rest);
    free(ns);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: bench_step INGEST-ENDPOINT\n");
        return 2;
    }
    measure_clock("the clock alone", 100000, NOTHING);
    measure_clock("the clock, caches filled", 10000, MEMORY);
    measure("seismo_step, no daemon", NULL, 1000000, NOTHING);
    measure("seismo_step, caches filled", NULL, 10000, MEMORY);
    measure("seismo_step, 10,000 steps/s", argv[1], 50000, PAUSE);
    measure("seismo_step, without a pause", argv[1], 1000000, NOTHING);
    return 0;
}
