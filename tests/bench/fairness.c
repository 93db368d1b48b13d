/* Fairness: what one greedy or broken peer at full speed leaves to the others.
 *
 *   bench_fairness SEISMOD [SECONDS]
 *
 * PEERS well-behaved peers stream as much as goes through, 64 steps a message and 64 messages in
 * flight. First there are PEERS + 1 of them: what the slowest one gets is the fair share. Then one
 * is replaced by an attacker, a process of its own. Printed for each attack are the share that the
 * slowest well-behaved peer kept, what the attacker got through, and the daemon's memory at its
 * most; last, how long a peer at a normal rate (one step every 10 ms) waits for its
 * acknowledgements meanwhile. All of them share the machine's cores with the daemon, so what the
 * attacker's own sending costs counts against the daemon too. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/wire.h"
#include "tests/bench/bench.h"

#define PEERS 4
#define ROWS 64
#define WINDOW 64
#define NORMAL_INTERVAL 0.01 /* s between the steps of the peer at a normal rate */
#define MAX_SAMPLES 100000

struct peer {
    void *socket;
    uint64_t batch, acked;
    uint32_t rows;
    bool open;
    int64_t step;
    double sent_at; /* of the batch in flight, of the peer at a normal rate */
};

/* Shared between the processes. */
struct board {
    _Atomic uint64_t steps[PEERS + 1]; /* acknowledged */
    _Atomic uint64_t attack;           /* acknowledged steps of the attacker */
    _Atomic uint64_t attack_sent;      /* messages */
    _Atomic uint32_t n_samples;
    _Atomic bool stop;
    double sample[MAX_SAMPLES]; /* s */
};

static struct board *board;
static uint8_t out[SEISMO_MAX_MESSAGE];

static const struct wire_layout *layout(void)
{
    static const struct wire_layout fields = {
        .n = 4,
        .position = {SEISMO_FIELD_STEP, SEISMO_FIELD_VALUE0 + SEISMO_LOSS,
                     SEISMO_FIELD_VALUE0 + SEISMO_GRAD_NORM,
                     SEISMO_FIELD_VALUE0 + SEISMO_UPDATE_NORM}};
    return &fields;
}

static size_t encode_hello(const char *run, uint64_t session)
{
    struct wire_buf b = {.data = out, .cap = sizeof(out)};
    struct wire_hello h = {.version = SEISMO_PROTOCOL_VERSION,
                           .run = {run, (uint32_t)strlen(run)},
                           .program = {"bench", 5},
                           .session = {(const char *)&session, sizeof(session)},
                           .world = 1,
                           .meta = {"{}", 2}};
    h.layout = *layout();
    wire_put_hello(&b, &h);
    return b.n;
}

static size_t encode_steps(uint64_t batch, int64_t step, uint32_t rows)
{
    struct wire_buf b = {.data = out, .cap = sizeof(out)};
    wire_put_steps_head(&b, batch, rows);
    for (uint32_t i = 0; i < rows; i++) {
        struct seismo_row row = {.step = step + i};
        double noise = (double)((step + i) * 7919 % 101) / 101;
        row_set(&row, SEISMO_LOSS, 1 + 0.1 * noise);
        row_set(&row, SEISMO_GRAD_NORM, 0.5 + 0.1 * noise);
        row_set(&row, SEISMO_UPDATE_NORM, 0.01);
        wire_put_row(&b, layout(), &row);
    }
    return b.n;
}

static void peer_open(struct peer *p, void *context, const char *endpoint, const char *run,
                      uint32_t rows)
{
    int linger = 0;
    *p = (struct peer){.socket = zmq_socket(context, ZMQ_DEALER), .rows = rows};
    zmq_setsockopt(p->socket, ZMQ_LINGER, &linger, sizeof(linger));
    if (zmq_connect(p->socket, endpoint))
        fail("connect");
    zmq_send(p->socket, out, encode_hello(run, (uint64_t)getpid() << 20 | (uintptr_t)p % 4096), 0);
}

/* Takes what has come. As the protocol wants it, an answer of "busy" sends it back. Returns the
 * steps newly acknowledged. */
static uint64_t peer_receive(struct peer *p)
{
    static uint8_t data[1 << 16];
    uint64_t before = p->acked;
    int n;
    while ((n = zmq_recv(p->socket, data, sizeof(data), ZMQ_DONTWAIT)) >= 0) {
        struct wire_msg msg;
        char errmsg[SEISMO_ERRMSG];
        if (wire_decode(data, (size_t)n, &msg, errmsg))
            fail("an answer is malformed");
        if (msg.type == WIRE_WELCOME)
            p->open = true;
        else if (msg.type == WIRE_ACK && msg.ack.batch > p->acked)
            p->acked = msg.ack.batch;
        else if (msg.type == WIRE_ERROR && msg.error.has_ref && msg.error.ref > p->acked)
            p->batch = msg.error.ref - 1;
    }
    return (p->acked - before) * p->rows;
}

static bool peer_send(struct peer *p)
{
    size_t n = encode_steps(p->batch + 1, (int64_t)(p->batch * p->rows), p->rows);
    if (zmq_send(p->socket, out, n, ZMQ_DONTWAIT) < 0)
        return false;
    p->batch++;
    return true;
}

/* ---- processes ---- */

/* One process for all well-behaved ones. */
static void behave(const char *endpoint, int n)
{
    void *context = zmq_ctx_new();
    struct peer peer[PEERS + 1];
    zmq_pollitem_t item[PEERS + 1];
    for (int i = 0; i < n; i++) {
        char run[16];
        snprintf(run, sizeof(run), "good-%d", i);
        peer_open(&peer[i], context, endpoint, run, ROWS);
        item[i] = (zmq_pollitem_t){.socket = peer[i].socket, .events = ZMQ_POLLIN};
    }
    while (!board->stop) {
        bool sent = false;
        for (int i = 0; i < n; i++) {
            board->steps[i] += peer_receive(&peer[i]);
            for (int k = 0; k < 8 && peer[i].open && peer[i].batch - peer[i].acked < WINDOW; k++)
                sent = peer_send(&peer[i]) || sent;
        }
        if (!sent)
            zmq_poll(item, n, 5);
    }
    _exit(0);
}

/* One step every 10 ms, and how long each takes to be acknowledged. */
static void stroll(const char *endpoint)
{
    struct peer p;
    peer_open(&p, zmq_ctx_new(), endpoint, "normal", 1);
    double due = now();
    zmq_pollitem_t item = {.socket = p.socket, .events = ZMQ_POLLIN};
    while (!board->stop) {
        zmq_poll(&item, 1, 1);
        if (peer_receive(&p) > 0 && p.acked == p.batch && board->n_samples < MAX_SAMPLES) {
            board->sample[board->n_samples] = now() - p.sent_at;
            board->n_samples++;
        }
        if (p.open && now() >= due && p.acked == p.batch && peer_send(&p)) {
            p.sent_at = now();
            due = p.sent_at + NORMAL_INTERVAL;
        }
    }
    _exit(0);
}

static void send_on(void *socket, size_t n)
{
    if (zmq_send(socket, out, n, 0) >= 0)
        board->attack_sent++;
}

static void attack(const char *endpoint, const char *kind)
{
    struct peer p;
    peer_open(&p, zmq_ctx_new(), endpoint, "attack", SEISMO_MAX_ROWS);
    bool big = strcmp(kind, "large batches") == 0;
    for (uint64_t i = 1; !board->stop; i++) {
        if (big || strcmp(kind, "no window") == 0) {
            /* The largest batches that may be; with the window kept, or without end. */
            board->attack += peer_receive(&p);
            if (p.open && (!big || p.batch - p.acked < WINDOW) && peer_send(&p))
                board->attack_sent++;
            else
                usleep(100);
        } else if (strcmp(kind, "never reads") == 0) {
            if (i == 1)
                usleep(500000);
            send_on(p.socket, encode_steps(i, (int64_t)(i * ROWS), ROWS));
        } else if (strcmp(kind, "garbage") == 0) {
            memcpy(out, "\x93\x02\x01\xc1\xc1\xc1\xc1\xc1", 8);
            send_on(p.socket, 8);
        } else if (strcmp(kind, "large garbage") == 0) {
            memset(out, 0xc1, 3);
            send_on(p.socket, sizeof(out));
        } else { /* HELLO, each time another session and run */
            char run[32];
            snprintf(run, sizeof(run), "attack-%llu", (unsigned long long)i);
            send_on(p.socket, encode_hello(run, i));
        }
    }
    _exit(0);
}

static pid_t run_process(void (*f)(const char *endpoint, const char *kind), const char *endpoint,
                         const char *kind)
{
    pid_t pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0)
        f(endpoint, kind);
    return pid;
}

static void behave_all(const char *endpoint, const char *kind)
{
    behave(endpoint, kind ? PEERS : PEERS + 1);
}

static void stroll_alone(const char *endpoint, const char *kind)
{
    (void)kind;
    stroll(endpoint);
}

struct result {
    double slowest, attacker; /* steps a second */
    double messages;          /* of the attacker, a second */
    double mb, p50_ms, p99_ms;
};

/* `kind` NULL: no attacker, one more that behaves. */
static void measure(const char *seismod, double seconds, const char *kind, struct result *ret)
{
    char directory[] = "/tmp/seismo-fair-XXXXXX", endpoint[64], command[64];
    if (!mkdtemp(directory))
        fail("mkdtemp");
    snprintf(endpoint, sizeof(endpoint), "ipc://%s/ingest", directory);
    memset(board, 0, sizeof(*board));
    pid_t daemon = start_seismod(seismod, directory, endpoint, true), child[3];
    sleep(1);
    int n = 0;
    child[n++] = run_process(behave_all, endpoint, kind);
    child[n++] = run_process(stroll_alone, endpoint, kind);
    if (kind)
        child[n++] = run_process(attack, endpoint, kind);
    sleep(1); /* until all have found their speed */
    uint64_t before[PEERS + 1], attacked = board->attack, messages = board->attack_sent;
    for (int i = 0; i <= PEERS; i++)
        before[i] = board->steps[i];
    board->n_samples = 0;
    double start = now();
    usleep((useconds_t)(seconds * 1e6));
    double took = now() - start;
    *ret = (struct result){.slowest = 1e18};
    for (int i = 0; i < (kind ? PEERS : PEERS + 1); i++) {
        double rate = (double)(board->steps[i] - before[i]) / took;
        ret->slowest = rate < ret->slowest ? rate : ret->slowest;
    }
    ret->attacker = (double)(board->attack - attacked) / took;
    ret->messages = (double)(board->attack_sent - messages) / took;
    ret->mb = (double)status_kb(daemon, "VmHWM") / 1024;
    uint32_t samples = board->n_samples;
    if (samples > 0) {
        qsort(board->sample, samples, sizeof(double), by_value);
        ret->p50_ms = board->sample[samples / 2] * 1e3;
        ret->p99_ms = board->sample[samples * 99 / 100] * 1e3;
    }
    board->stop = true;
    for (int i = 0; i < n; i++) {
        kill(child[i], SIGKILL);
        waitpid(child[i], NULL, 0);
    }
    kill(daemon, SIGTERM);
    int status;
    if (waitpid(daemon, &status, 0) < 0 || status != 0)
        fail("the daemon did not stop cleanly");
    snprintf(command, sizeof(command), "rm -rf %s", directory);
    if (system(command))
        fail("rm");
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"large batches", "no window",     "never reads",
                                        "garbage",       "large garbage", "HELLO flood"};
    if (argc < 2) {
        fprintf(stderr, "usage: bench_fairness SEISMOD [SECONDS]\n");
        return 2;
    }
    double seconds = argc > 2 ? atof(argv[2]) : 10, worst = 1;
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED)
        fail("mmap");
    struct result fair, r;
    measure(argv[1], seconds, NULL, &fair);
    printf("| attack on %d peers | slowest peer, steps/s | of its fair share | attacker, steps/s | "
           "attacker, messages/s | daemon's peak MB | normal peer's ack p50, ms | p99, ms |\n"
           "|---|---|---|---|---|---|---|---|\n"
           "| none: one more peer | %.0f | 1.00 | | | %.0f | %.1f | %.1f |\n",
           PEERS, fair.slowest, fair.mb, fair.p50_ms, fair.p99_ms);
    fflush(stdout);
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        measure(argv[1], seconds, kinds[i], &r);
        double share = r.slowest / fair.slowest;
        worst = share < worst ? share : worst;
        printf("| %s | %.0f | %.2f | %.0f | %.0f | %.0f | %.1f | %.1f |\n", kinds[i], r.slowest,
               share, r.attacker, r.messages, r.mb, r.p50_ms, r.p99_ms);
        fflush(stdout);
    }
    printf("\nLeast share: %.2f\n", worst);
    return worst >= 0.8 ? 0 : 1;
}
