/* Whole sessions of several peers against the clients' conversation.
 *
 * The input is a program: its first byte says whether the peers may name each other's runs, every
 * further operation is a byte (which operation, whose) and its arguments. fake_daemon.c stands in
 * for sockets and worker, and checks what goes through it. Besides:
 *
 * - Where every peer has runs of its own, the program is played twice: whole, and with nothing but
 *   the first peer's operations and the passing of time. That peer must be told the same both
 * times.
 * - After whatever came before, a new peer is served as if nothing had been. */
#include <math.h>
#include <string.h>

#include "daemon/log.h"
#include "tests/fuzz/fake_daemon.h"
#include "tests/fuzz/fuzz.h"

#define MAX_OPS 512

enum op {
    OP_HELLO,
    OP_STEPS,
    OP_STEPS_ANY,
    OP_BYE,
    OP_GARBAGE,
    OP_DAMAGED,
    OP_RECONNECT,
    OP_UNREACHABLE,
    OP_BUSY,
    OP_NEWS,
    OP_COMMIT,
    OP_FRAMES,
    /* Everybody's: */
    OP_FLUSH,
    OP_TIME,
    OP_REFUSE_OPEN,
    OP_RESTART,
};

struct program {
    const uint8_t *p, *end;
};

static uint8_t next(struct program *g)
{
    return g->p < g->end ? *g->p++ : 0;
}

/* ---- what clients send ---- */

static struct wire_str str(const char *text)
{
    return (struct wire_str){text, (uint32_t)strlen(text)};
}

/* Few names, so that sessions meet. */
static size_t make_hello(uint8_t *data, size_t cap, int peer, bool shared, uint8_t choice)
{
    char run[32], session[32];
    snprintf(run, sizeof run, "run-%c%d", shared ? 's' : 'A' + peer, choice & 1);
    snprintf(session, sizeof session, "session-%c%d", 'A' + peer, choice >> 1 & 3);
    struct wire_hello h = {.version = SEISMO_PROTOCOL_VERSION,
                           .run = str(run),
                           .program = str(choice & 8 ? "other.py" : "train.py"),
                           .session = str(session),
                           .rank = choice >> 4 & 1,
                           .world = 2,
                           .meta = str("{\"seed\":1}")};
    h.layout = (struct wire_layout){
        .n = 3,
        .position = {SEISMO_FIELD_STEP, SEISMO_FIELD_TIME, SEISMO_FIELD_VALUE0 + SEISMO_LOSS}};
    struct wire_buf b = {.data = data, .cap = cap};
    wire_put_hello(&b, &h);
    FUZZ_CHECK(!b.overflow, "HELLO");
    return b.n;
}

/* Rows that say whose they are, see fake_daemon.c. */
static size_t make_steps(uint8_t *data, size_t cap, int peer, uint64_t batch, uint32_t n)
{
    struct wire_layout layout = {
        .n = 3,
        .position = {SEISMO_FIELD_STEP, SEISMO_FIELD_TIME, SEISMO_FIELD_VALUE0 + SEISMO_LOSS}};
    struct wire_buf b = {.data = data, .cap = cap};
    wire_put_steps_head(&b, batch, n);
    for (uint32_t i = 0; i < n; i++) {
        struct seismo_row row = {.step = (int64_t)(batch % 1000 * 8 + i), .time = NAN};
        row_set(&row, SEISMO_LOSS, FAKE_LOSS(peer, batch));
        wire_put_row(&b, &layout, &row);
    }
    FUZZ_CHECK(!b.overflow, "STEPS");
    return b.n;
}

static size_t make_bye(uint8_t *data, size_t cap, uint64_t batch)
{
    struct wire_buf b = {.data = data, .cap = cap};
    struct wire_bye m = {.batch = batch, .outcome = WIRE_FINISHED, .text = str("done")};
    wire_put_bye(&b, &m);
    return b.n;
}

/* ---- playing ---- */

static void send_damaged(struct fake *f, int peer, struct program *g, uint8_t *data, size_t n)
{
    int flips = 1 + next(g) % 4;
    for (int i = 0; i < flips; i++) {
        size_t at = next(g) % n;
        data[at] ^= next(g);
    }
    n -= next(g) % 4 == 0 ? next(g) % n : 0;
    fake_receive(f, peer, data, n, 1, false);
}

static void play_peer(struct fake *f, struct program *g, enum op op, int peer, bool shared)
{
    uint8_t data[2048], a = next(g);
    struct fake_peer *p = &f->peer[peer];
    switch (op) {
    case OP_HELLO:
        fake_receive(f, peer, data, make_hello(data, sizeof data, peer, shared, a), 1, true);
        break;
    case OP_STEPS: /* the next one, as a client would */
        fake_batch(f, peer, p->sent + 1);
        fake_receive(f, peer, data, make_steps(data, sizeof data, peer, ++p->sent, a % 5), 1, true);
        break;
    case OP_STEPS_ANY: /* near where it stands, or anywhere */
        p->sent =
            a < 0xf0 ? p->sent + a % 9 - (p->sent < 4 ? p->sent : 4) : UINT64_C(1) << (a % 63);
        p->sent = p->sent > INT64_MAX || p->sent == 0 ? 1 : p->sent;
        fake_batch(f, peer, p->sent);
        fake_receive(f, peer, data, make_steps(data, sizeof data, peer, p->sent, a % 3), 1, true);
        break;
    case OP_BYE:
        fake_batch(f, peer, p->sent + 1);
        fake_receive(f, peer, data, make_bye(data, sizeof data, ++p->sent), 1, true);
        break;
    case OP_GARBAGE: {
        size_t n = 0;
        for (; n < a % 32u; n++)
            data[n] = next(g);
        fake_receive(f, peer, data, n, 1, false);
        break;
    }
    case OP_DAMAGED:
        send_damaged(f, peer, g, data,
                     a & 1 ? make_hello(data, sizeof data, peer, shared, a >> 1)
                           : make_steps(data, sizeof data, peer, p->sent + 1, a / 2 % 4));
        break;
    case OP_RECONNECT:
        fake_reconnect(f, peer);
        p->sent = a % 3 == 0 ? 0 : p->sent;
        break;
    case OP_UNREACHABLE:
        p->unreachable = !p->unreachable;
        break;
    case OP_BUSY:
        p->busy = !p->busy;
        break;
    case OP_NEWS:
        fake_news(f, peer, a);
        break;
    case OP_COMMIT:
        fake_commit(f, peer, 1 + a % 16);
        break;
    case OP_FRAMES:
        fake_receive(f, peer, data, make_bye(data, sizeof data, p->sent + 1), 2 + a % 3, false);
        break;
    default:
        break;
    }
}

static void play_all(struct fake *f, struct program *g, enum op op)
{
    uint8_t a = next(g);
    switch (op) {
    case OP_FLUSH:
        ingest_flush(f->ingest);
        break;
    case OP_TIME:
        fake_pass(f, a < 128 ? a / 64.0 : a - 120.0);
        break;
    case OP_REFUSE_OPEN:
        f->refuse_open = a % 3;
        break;
    case OP_RESTART:
        fake_restart(f);
        break;
    default:
        break;
    }
}

/* `only`: this peer's operations and everybody's; -1: all. */
static void play(struct fake *f, struct program g, int only, bool shared)
{
    for (int i = 0; i < MAX_OPS && g.p < g.end; i++) {
        uint8_t byte = next(&g);
        enum op op = byte & 15;
        int peer = byte >> 4 & 3;
        if (op >= OP_FLUSH) {
            play_all(f, &g, op);
            continue;
        }
        /* What is left out still takes its arguments from the program. */
        struct program before = g;
        bool out = only >= 0 && peer != only;
        if (out)
            fake_skip(f, true);
        play_peer(f, &g, op, peer, shared);
        if (out)
            fake_skip(f, false);
        FUZZ_CHECK(g.p > before.p || g.p == g.end, "an operation without arguments");
        fake_check_memory(f);
    }
}

/* A client that does everything right is served at once. */
static void serve_newcomer(struct fake *f)
{
    uint8_t data[1024];
    int peer = FAKE_PEERS - 1; /* takes no part in programs */
    f->refuse_open = 0;
    fake_reconnect(f, peer);
    fake_receive(f, peer, data, make_hello(data, sizeof data, peer, false, 0), 1, true);
    fake_commit(f, peer, INT32_MAX);
    FUZZ_CHECK(f->peer[peer].welcomes == 1, "a newcomer gets no WELCOME");
    fake_receive(f, peer, data, make_steps(data, sizeof data, peer, 1, 3), 1, true);
    fake_receive(f, peer, data, make_bye(data, sizeof data, 2), 1, true);
    fake_commit(f, peer, INT32_MAX);
    ingest_flush(f->ingest);
    FUZZ_CHECK(f->peer[peer].acks == 1 && f->peer[peer].acked == 2,
               "a newcomer's batches are not acknowledged: %u ACKs", (unsigned)f->peer[peer].acks);
    FUZZ_CHECK(f->peer[peer].errors == 0, "a newcomer gets an ERROR");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_set_level(LOG_ERROR);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    bool shared = data[0] & 1;
    struct program g = {data + 1, data + n};
    struct fake *whole = fake_new(shared);
    play(whole, g, -1, shared);
    if (!shared) {
        struct fake *alone = fake_new(shared);
        play(alone, g, 0, shared);
        fake_same(&whole->peer[0], &alone->peer[0]);
        fake_free(&alone);
    }
    serve_newcomer(whole);
    fake_all_gone(whole);
    fake_free(&whole);
    return 0;
}
