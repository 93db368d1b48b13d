/* Ingest benchmark: seismod against a bare libzmq + SQLite pair, in one run on one machine.
 *
 *   bench_ingest SEISMOD TRACE [SECONDS]
 *
 * The sender plays the steps of TRACE (a healthy recorded run, forwards and backwards so that there
 * is no jump) as RUNS runs, each on a socket of its own. The bare receiver does what no daemon can
 * do without: receive a message, insert it as a BLOB, commit every 10 ms, acknowledge. It decodes
 * nothing, scores nothing and knows no run. Printed are, for both: acknowledged steps a second at
 * 64 steps a message, CPU time of the receiver a step, and the delay from send to acknowledgement
 * (which comes after the commit and carries the verdicts) at 5,000 single-step messages a second;
 * then the ratios. */
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "models/detector.h"
#include "proto/trace.h"
#include "proto/wire.h"
#include "tests/bench/bench.h"

#define RUNS 50
#define IN_FLIGHT 16 /* unacknowledged messages a run in the throughput part */
#define LATENCY_RATE 5000
#define MAX_TRACE 4096
#define MAX_SAMPLES 400000

struct sender {
    void *socket;
    uint64_t batch, acked;
    double sent_at[1024]; /* by batch number modulo */
};

static struct seismo_row trace[MAX_TRACE];
static size_t trace_n;
static double samples[MAX_SAMPLES];
static size_t n_samples;

static void sql(sqlite3 *db, const char *text)
{
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
        fail(sqlite3_errmsg(db));
}

/* ---- the bare pair ---- */

struct unacked {
    uint8_t id[16];
    size_t id_n;
    uint64_t batch;
};

static volatile sig_atomic_t stopping;

static void on_term(int signal_number)
{
    (void)signal_number;
    stopping = 1;
}

static void bare_send(void *router, const struct unacked *to, struct wire_buf *b)
{
    if (zmq_send(router, to->id, to->id_n, ZMQ_SNDMORE) < 0 ||
        zmq_send(router, b->data, b->n, 0) < 0)
        fail("bare: send");
}

static void bare_receiver(const char *endpoint, const char *path)
{
    static struct unacked waiting[65536];
    static uint8_t data[SEISMO_MAX_MESSAGE], out[4096];
    size_t n_waiting = 0;
    double due = 0;
    sqlite3 *db = NULL;
    sqlite3_stmt *insert = NULL;
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    if (zmq_bind(router, endpoint) || sqlite3_open(path, &db) != SQLITE_OK)
        fail("bare: open");
    sql(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
            "CREATE TABLE chunks(id INTEGER PRIMARY KEY, data BLOB NOT NULL)");
    if (sqlite3_prepare_v2(db, "INSERT INTO chunks(data) VALUES(?)", -1, &insert, NULL) !=
        SQLITE_OK)
        fail("bare: prepare");
    signal(SIGTERM, on_term);
    while (!stopping) {
        if (n_waiting && (now() >= due || n_waiting == 65536)) {
            sql(db, "COMMIT");
            for (size_t i = 0; i < n_waiting; i++) {
                struct wire_buf b = {.data = out, .cap = sizeof(out)};
                wire_put_ack_head(&b, waiting[i].batch, true, 0, 0);
                bare_send(router, &waiting[i], &b);
            }
            n_waiting = 0;
        }
        struct unacked from;
        long timeout = n_waiting ? (long)((due - now()) * 1e3) : 100;
        zmq_pollitem_t item = {.socket = router, .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, timeout < 0 ? 0 : timeout) <= 0)
            continue;
        for (int i = 0; i < 256 && n_waiting < 65536; i++) {
            int id_n = zmq_recv(router, from.id, sizeof(from.id), ZMQ_DONTWAIT);
            if (id_n < 0)
                break;
            from.id_n = (size_t)id_n;
            int n = zmq_recv(router, data, sizeof(data), 0);
            struct wire_msg msg;
            char errmsg[SEISMO_ERRMSG];
            if (n < 0 || wire_decode(data, (size_t)n, &msg, errmsg))
                fail("bare: message");
            if (msg.type == WIRE_HELLO) {
                struct wire_buf b = {.data = out, .cap = sizeof(out)};
                struct wire_welcome welcome = {.version = 1,
                                               .run = msg.hello.run,
                                               .max_rows = 1024,
                                               .max_bytes = SEISMO_MAX_MESSAGE,
                                               .max_unacked = 64,
                                               .probe_every = 10};
                wire_put_welcome(&b, &welcome);
                bare_send(router, &from, &b);
                continue;
            }
            if (!n_waiting) {
                sql(db, "BEGIN");
                due = now() + 0.010;
            }
            sqlite3_bind_blob(insert, 1, data, n, SQLITE_STATIC);
            if (sqlite3_step(insert) != SQLITE_DONE)
                fail("bare: insert");
            sqlite3_reset(insert);
            from.batch = msg.steps.batch;
            waiting[n_waiting++] = from;
        }
    }
    sqlite3_finalize(insert);
    sqlite3_close(db);
    int linger = 0;
    zmq_setsockopt(router, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_close(router);
    zmq_ctx_term(context);
}

/* ---- the sender ---- */

static void load_trace(const char *path)
{
    char errmsg[SEISMO_ERRMSG];
    struct trace_reader *reader;
    int err = trace_reader_new(path, &reader, errmsg);
    while (!err && trace_n < MAX_TRACE &&
           !(err = trace_reader_next(reader, &trace[trace_n], errmsg)))
        trace_n++;
    if ((err && err != SEISMO_EEOF) || trace_n < 2) {
        fprintf(stderr, "bench_ingest: %s\n", err ? errmsg : "the trace is too short");
        exit(1);
    }
    trace_reader_free(&reader);
}

/* Row number `step` of an endless healthy run: the second half of the trace, to and fro. */
static struct seismo_row row_at(uint64_t step)
{
    uint64_t half = trace_n / 2, start = trace_n - half, phase = step % (2 * half);
    struct seismo_row row =
        step < trace_n ? trace[step]
                       : trace[phase < half ? start + phase : start + 2 * half - 1 - phase];
    row.step = (int64_t)step;
    return row;
}

static size_t encode(uint8_t *out, size_t cap, uint64_t batch, uint32_t rows)
{
    static struct wire_layout layout;
    if (!layout.n)
        wire_layout_all(&layout);
    struct wire_buf b = {.data = out, .cap = cap};
    wire_put_steps_head(&b, batch, rows);
    for (uint32_t i = 0; i < rows; i++) {
        struct seismo_row row = row_at((batch - 1) * rows + i);
        wire_put_row(&b, &layout, &row);
    }
    if (b.overflow)
        fail("message does not fit");
    return b.n;
}

static void hello(struct sender *s, int index)
{
    char name[32], session[32];
    uint8_t out[4096];
    struct wire_hello h = {.version = SEISMO_PROTOCOL_VERSION, .world = 1};
    snprintf(name, sizeof(name), "bench-%d", index);
    snprintf(session, sizeof(session), "%d-%d-%d", getpid(), index, rand());
    h.run = (struct wire_str){name, (uint32_t)strlen(name)};
    h.program = (struct wire_str){"bench", 5};
    h.session = (struct wire_str){session, (uint32_t)strlen(session)};
    h.meta = (struct wire_str){"{}", 2};
    wire_layout_all(&h.layout);
    struct wire_buf b = {.data = out, .cap = sizeof(out)};
    wire_put_hello(&b, &h);
    if (b.overflow || zmq_send(s->socket, out, b.n, 0) < 0)
        fail("hello");
    int n = zmq_recv(s->socket, out, sizeof(out), 0);
    struct wire_msg msg;
    char errmsg[SEISMO_ERRMSG];
    if (n < 0 || wire_decode(out, (size_t)n, &msg, errmsg) || msg.type != WIRE_WELCOME)
        fail("no WELCOME");
}

/* Takes what has come; returns the batches newly acknowledged. */
static uint64_t receive(struct sender *s)
{
    static uint8_t data[SEISMO_MAX_MESSAGE];
    uint64_t before = s->acked;
    int n;
    while ((n = zmq_recv(s->socket, data, sizeof(data), ZMQ_DONTWAIT)) >= 0) {
        struct wire_msg msg;
        char errmsg[SEISMO_ERRMSG];
        if (wire_decode(data, (size_t)n, &msg, errmsg))
            fail("answer is malformed");
        if (msg.type == WIRE_ERROR) {
            fprintf(stderr, "bench_ingest: refused: %.*s\n", (int)msg.error.text.n,
                    msg.error.text.p);
            exit(1);
        }
        if (msg.type != WIRE_ACK)
            continue;
        double t = now();
        for (uint64_t b = s->acked + 1; b <= msg.ack.batch; b++)
            if (n_samples < MAX_SAMPLES)
                samples[n_samples++] = t - s->sent_at[b % 1024];
        if (msg.ack.batch > s->acked)
            s->acked = msg.ack.batch;
    }
    return s->acked - before;
}

static void send_batch(struct sender *s, uint32_t rows)
{
    static uint8_t out[SEISMO_MAX_MESSAGE];
    size_t n = encode(out, sizeof(out), ++s->batch, rows);
    s->sent_at[s->batch % 1024] = now();
    if (zmq_send(s->socket, out, n, 0) < 0)
        fail("send");
}

static double cpu_of(pid_t pid)
{
    char path[64], line[1024];
    unsigned long user = 0, kernel = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f || !fgets(line, sizeof(line), f))
        fail("/proc");
    fclose(f);
    const char *after = strrchr(line, ')');
    if (!after ||
        sscanf(after, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) != 2)
        fail("/proc stat");
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

struct result {
    double steps_per_s, cpu_us, p50_ms, p99_ms, cpu_share;
    long idle_kb, busy_kb;
};

static void open_senders(void *context, struct sender *senders, const char *endpoint)
{
    for (int i = 0; i < RUNS; i++) {
        int hwm = 4096, linger = 0;
        senders[i] = (struct sender){.socket = zmq_socket(context, ZMQ_DEALER)};
        zmq_setsockopt(senders[i].socket, ZMQ_SNDHWM, &hwm, sizeof(hwm));
        zmq_setsockopt(senders[i].socket, ZMQ_LINGER, &linger, sizeof(linger));
        if (zmq_connect(senders[i].socket, endpoint))
            fail("connect");
        hello(&senders[i], i);
    }
}

static void close_senders(struct sender *senders)
{
    for (int i = 0; i < RUNS; i++)
        zmq_close(senders[i].socket);
}

/* As much as goes through, 64 steps a message. */
static void throughput(struct sender *senders, double seconds, pid_t pid, struct result *ret)
{
    double start = now(), cpu = cpu_of(pid);
    uint64_t acked = 0;
    zmq_pollitem_t items[RUNS];
    for (int i = 0; i < RUNS; i++)
        items[i] = (zmq_pollitem_t){.socket = senders[i].socket, .events = ZMQ_POLLIN};
    while (now() - start < seconds) {
        bool sent = false;
        for (int i = 0; i < RUNS; i++) {
            acked += receive(&senders[i]);
            while (senders[i].batch - senders[i].acked < IN_FLIGHT) {
                send_batch(&senders[i], 64);
                sent = true;
            }
        }
        if (!sent)
            zmq_poll(items, RUNS, 10);
    }
    double took = now() - start;
    ret->steps_per_s = (double)acked * 64 / took;
    ret->cpu_us = (cpu_of(pid) - cpu) / ((double)acked * 64) * 1e6;
    for (int i = 0; i < RUNS; i++)
        while (senders[i].acked < senders[i].batch)
            receive(&senders[i]);
}

/* LATENCY_RATE messages of one step a second, evenly over the runs. */
static void latency(struct sender *senders, double seconds, pid_t pid, struct result *ret)
{
    double start = now(), cpu = cpu_of(pid);
    uint64_t sent = 0;
    zmq_pollitem_t items[RUNS];
    for (int i = 0; i < RUNS; i++)
        items[i] = (zmq_pollitem_t){.socket = senders[i].socket, .events = ZMQ_POLLIN};
    n_samples = 0;
    while (now() - start < seconds) {
        while ((double)sent < (now() - start) * LATENCY_RATE)
            send_batch(&senders[sent++ % RUNS], 1);
        zmq_poll(items, RUNS, 0);
        for (int i = 0; i < RUNS; i++)
            if (items[i].revents)
                receive(&senders[i]);
        struct timespec pause = {.tv_nsec = 100000};
        nanosleep(&pause, NULL);
    }
    ret->cpu_share = (cpu_of(pid) - cpu) / (now() - start);
    for (int i = 0; i < RUNS; i++)
        while (senders[i].acked < senders[i].batch)
            receive(&senders[i]);
    qsort(samples, n_samples, sizeof(samples[0]), by_value);
    ret->p50_ms = samples[n_samples / 2] * 1e3;
    ret->p99_ms = samples[n_samples * 99 / 100] * 1e3;
}

static pid_t start_receiver(const char *seismod, const char *directory, const char *endpoint)
{
    char path[512];
    if (seismod)
        return start_seismod(seismod, directory, endpoint, false);
    snprintf(path, sizeof(path), "%s/bare.db", directory);
    pid_t pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0) {
        bare_receiver(endpoint, path);
        _exit(0);
    }
    return pid;
}

static void measure(const char *seismod, double seconds, struct result *ret)
{
    char directory[] = "/tmp/seismo-bench-XXXXXX", endpoint[128], command[256];
    if (!mkdtemp(directory))
        fail("mkdtemp");
    for (int part = 0; part < 2; part++) {
        struct sender *senders = calloc(RUNS, sizeof(*senders));
        snprintf(endpoint, sizeof(endpoint), "ipc://%s/ingest-%d", directory, part);
        pid_t pid = start_receiver(seismod, directory, endpoint);
        struct timespec settle = {.tv_sec = 1};
        nanosleep(&settle, NULL);
        if (part == 0)
            ret->idle_kb = status_kb(pid, "VmRSS");
        void *context = zmq_ctx_new();
        open_senders(context, senders, endpoint);
        if (part == 0)
            throughput(senders, seconds, pid, ret);
        else
            latency(senders, seconds, pid, ret);
        ret->busy_kb = status_kb(pid, "VmRSS");
        close_senders(senders);
        zmq_ctx_term(context);
        free(senders);
        kill(pid, SIGTERM);
        int status = 0;
        if (waitpid(pid, &status, 0) < 0 || status)
            fail("the receiver did not stop cleanly");
        snprintf(command, sizeof(command), "rm -rf %s/*", directory);
        if (system(command))
            fail("rm");
    }
    rmdir(directory);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: bench_ingest SEISMOD TRACE [SECONDS]\n");
        return 2;
    }
    double seconds = argc > 3 ? atof(argv[3]) : 10;
    struct result bare = {0}, seismo = {0};
    load_trace(argv[2]);
    measure(NULL, seconds, &bare);
    measure(argv[1], seconds, &seismo);
    printf("| ingest, %d runs | bare libzmq + SQLite | seismod | ratio |\n|---|---|---|---|\n",
           RUNS);
    printf("| durable steps/s, 64 a message | %.0f | %.0f | %.2f |\n", bare.steps_per_s,
           seismo.steps_per_s, seismo.steps_per_s / bare.steps_per_s);
    printf("| receiver CPU a step, us | %.3f | %.3f | %.2f |\n", bare.cpu_us, seismo.cpu_us,
           seismo.cpu_us / bare.cpu_us);
    printf("| send to commit at %d steps/s, p50 ms | %.1f | %.1f | %.2f |\n", LATENCY_RATE,
           bare.p50_ms, seismo.p50_ms, seismo.p50_ms / bare.p50_ms);
    printf("| send to commit at %d steps/s, p99 ms | %.1f | %.1f | %.2f |\n", LATENCY_RATE,
           bare.p99_ms, seismo.p99_ms, seismo.p99_ms / bare.p99_ms);
    printf("| CPU of a core at %d steps/s | %.2f | %.2f | %.2f |\n", LATENCY_RATE, bare.cpu_share,
           seismo.cpu_share, seismo.cpu_share / bare.cpu_share);
    printf("| resident memory idle, MB | %.1f | %.1f | %.2f |\n", (double)bare.idle_kb / 1024,
           (double)seismo.idle_kb / 1024, (double)seismo.idle_kb / (double)bare.idle_kb);
    printf("| detector state a run, B | | %zu | |\n", sizeof(struct detector));
    return 0;
}
