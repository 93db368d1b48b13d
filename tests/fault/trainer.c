/* A training job in C for the fault programs: hands a trace's rows to libseismo, as a training loop
 * would, and tells on stdout how far it has come.
 *
 *     trainer TRACE INGEST RUN PROGRAM ROWS_PER_SECOND FROM SPOOL
 *
 * FROM is the first row (from 0); SPOOL a directory, or "" for none. Lines "given N acked N safe N
 * dropped N": rows of this process, of which the first "safe" ones are acknowledged or in the spool
 * (negative: not even those of an earlier process yet); the last line is "closed 1" when all of
 * them are stored, else "closed 0". */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/lib/seismo.h"
#include "proto/trace.h"

static double monotonic(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void tell(struct seismo *run, uint64_t given)
{
    struct seismo_stats stats;

    seismo_stats(run, &stats);
    printf("given %" PRIu64 " acked %" PRIu64 " safe %" PRId64 " dropped %" PRIu64 "\n", given,
           stats.acknowledged,
           (int64_t)(stats.acknowledged + stats.spooled) - (int64_t)(stats.steps - given),
           stats.dropped);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct trace_reader *trace;
    struct seismo_row row;
    char errmsg[SEISMO_ERRMSG];
    uint64_t given = 0;
    double told = 0, begun = monotonic();

    if (argc != 8) {
        fprintf(stderr, "usage: trainer TRACE INGEST RUN PROGRAM ROWS_PER_SECOND FROM SPOOL\n");
        return 2;
    }
    double rate = atof(argv[5]);
    if (trace_reader_new(argv[1], &trace, errmsg) != 0) {
        fprintf(stderr, "%s\n", errmsg);
        return 1;
    }
    struct seismo *run = seismo_open(&(struct seismo_options){.ingest = argv[2],
                                                              .run = argv[3],
                                                              .program = argv[4],
                                                              .spool = argv[7],
                                                              .close_timeout = 600},
                                     errmsg);
    if (run == NULL) {
        fprintf(stderr, "%s\n", errmsg);
        return 1;
    }
    for (long skip = atol(argv[6]); skip > 0; skip--) {
        trace_reader_next(trace, &row, errmsg);
    }
    while (trace_reader_next(trace, &row, errmsg) == 0) {
        struct seismo_step step = {.step = row.step, .present = row.present};

        memcpy(step.value, row.value, sizeof(row.value));
        seismo_step(run, &step);
        given++;
        if (monotonic() - told > 0.02) {
            told = monotonic();
            tell(run, given);
        }
        double ahead = begun + (double)given / rate - monotonic();
        if (ahead > 0) {
            nanosleep(&(struct timespec){.tv_nsec = (long)(1e9 * (ahead < 0.5 ? ahead : 0.5))},
                      NULL);
        }
    }
    trace_reader_free(&trace);
    tell(run, given);
    printf("closed %d\n", (int)seismo_close(&run, SEISMO_FINISHED));
    return 0;
}
