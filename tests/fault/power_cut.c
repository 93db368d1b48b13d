/* power_cut [--long]: what is there after the power was cut, or the daemon killed, at any moment.
 *
 * A worker streams three runs while the file layer remembers every write and every sync. Then, for
 * each of these moments (without --long a sample of them), the files are laid out as a disk would
 * have them, and the daemon's own start must make a sound database of them that still has what was
 * promised. A second experiment cuts the log of a database at every frame and inside frames. */
#include "tests/fault/client_rig.h"
#include "tests/fault/vfs_shim.h"

#include <sys/stat.h>

#define PEERS 3
#define COMMITS 150 /* of each peer */
#define SAMPLES 60  /* moments looked at in the short form */
#define FRAME (24 + 4096)
#define LOG_HEAD 32

static bool is_long;
static char place[96]; /* directory of the files that are looked at */

/* ---- the streams ---- */

static const char *const session[PEERS] = {"s0", "s1", "s2"};
static const char *const name[PEERS] = {"r0", "r1", "r2"};

static struct peer peers[PEERS];
static uint32_t next_row[PEERS];

/* The third job goes back to a checkpoint again and again. */
static uint32_t advance(int p, uint32_t n)
{
    if (p == 2 && next_row[p] >= 400 && next_row[p] % 5 == 0) {
        next_row[p] -= 150;
    }
    uint32_t from = next_row[p];
    next_row[p] += n;
    return from;
}

static void stream(uint32_t commits, void (*acked)(int peer, uint64_t batch))
{
    for (int p = 0; p < PEERS; p++) {
        peers[p] = open_patiently(name[p], session[p]);
        next_row[p] = 0;
    }
    for (uint32_t i = 0; i < commits; i++) {
        for (int p = 0; p < PEERS; p++) {
            uint32_t n = 1 + (i + (uint32_t)p) % 9;
            give_rows(&peers[p], session[p], advance(p, n), n);
            acked(p, peers[p].batch);
        }
    }
}

static void open_rig(bool full)
{
    rig_begin();
    rig.config.synchronous_full = full;
    rig.config.n_hooks = 1;
    snprintf(rig.config.hook[0].name, sizeof rig.config.hook[0].name, "page");
    rig.config.hook[0].states = 1u << STATE_UNSTABLE;
    snprintf(place, sizeof place, "%s.cut", rig.dir);
    rig_sh("mkdir %s", place);
    rig_start();
}

static void close_rig(void)
{
    rig_stop();
    rig_sh("rm -rf %s %s", rig.dir, place);
}

/* ---- what is there ---- */

static void clear_place(void)
{
    static const char *const suffix[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/seismo.db%s", place, suffix[i]);
        unlink(path);
    }
}

static int64_t scalar(sqlite3 *db, const char *sql, const char *text)
{
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    sqlite3_bind_text(stmt, 1, text, -1, SQLITE_STATIC);
    int64_t value = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    return value;
}

/* The rows of the run are those that were sent, from the first on. */
static void expect_rows(sqlite3 *db, const char *run)
{
    struct history *h;
    struct pack_row row;
    char errmsg[SEISMO_ERRMSG];
    int err = history_new(db, scalar(db, "SELECT id FROM runs WHERE run = ?", run), -1, &h, errmsg);
    for (uint32_t i = 0; !err && (err = history_next(h, &row, errmsg)) == 0; i++) {
        uint8_t a[PACK_MAX], b[PACK_MAX];
        size_t n = pack_row(a, &row.row, 0, 0), m = pack_row(b, &rows[i], 0, 0);
        assert_true(n == m && memcmp(a, b, n) == 0);
    }
    assert_int_equal(err, SEISMO_EEOF);
    history_free(&h);
}

/* The daemon starts on what lies at `place`, sets nothing aside, finds it sound, and has these
 * batches. `moment`: what to say when not. */
static void look(uint64_t ret_batch[PEERS], const char *moment)
{
    char path[128], text[512], errmsg[SEISMO_ERRMSG];
    struct config config = rig.config;
    struct worker *w = NULL;
    struct worker_stats stats;
    snprintf(path, sizeof path, "%s/seismo.db", place);
    config.data = place;
    if (worker_new(&config, rig.model, rig_clock, rig_wake, NULL, &w, errmsg) != 0) {
        fail_msg("%s: does not start: %s", moment, errmsg);
    }
    worker_stats(w, &stats);
    worker_free(&w);
    if (stats.set_aside[0]) {
        fail_msg("%s: set aside", moment);
    }
    if (find_problem(path, text)) {
        fail_msg("%s: %s", moment, text);
    }
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    for (int p = 0; p < PEERS; p++) {
        ret_batch[p] = (uint64_t)scalar(db, "SELECT last_batch FROM runs WHERE run = ?", name[p]);
        expect_rows(db, name[p]);
    }
    sqlite3_close(db);
}

/* ---- the power ---- */

#define MARK(peer, batch) ((int64_t)(peer)*1000000 + (int64_t)(batch))

static void mark(int p, uint64_t batch)
{
    shim_mark(MARK(p, batch));
}

/* What was acknowledged before event `n`. */
static void acknowledged(const struct shim_event *events, size_t n, uint64_t ret[PEERS])
{
    memset(ret, 0, PEERS * sizeof *ret);
    for (size_t i = 0; i < n; i++) {
        if (events[i].what == SHIM_MARK) {
            ret[events[i].at / 1000000] = (uint64_t)(events[i].at % 1000000);
        }
    }
}

struct sums {
    unsigned cuts;
    uint64_t most_lost; /* acknowledged batches that a cut took */
    double oldest_lost; /* s between an acknowledgement and the cut that took it, at most */
};

/* How long before event `at` the first of the batches that are lost was acknowledged. */
static double age(const struct shim_event *events, size_t at, const uint64_t there[PEERS])
{
    for (size_t i = 0; i < at; i++) {
        if (events[i].what == SHIM_MARK &&
            (uint64_t)(events[i].at % 1000000) > there[events[i].at / 1000000]) {
            return events[at].when - events[i].when;
        }
    }
    return 0;
}

static void cut(const struct shim_disk *disk, const struct shim_event *events, size_t at,
                enum shim_cut how, const uint64_t acked[PEERS], const uint64_t promised[PEERS],
                struct sums *sums)
{
    char moment[64], path[128];
    uint64_t there[PEERS], lost = 0;
    snprintf(moment, sizeof moment, "event %zu, cut %d", at, (int)how);
    snprintf(path, sizeof path, "%s/seismo.db", place);
    clear_place();
    shim_disk_write(disk, events, how, at, path);
    look(there, moment);
    for (int p = 0; p < PEERS; p++) {
        if (there[p] < promised[p]) {
            fail_msg("%s: run %d has batch %llu, promised was %llu", moment, p,
                     (unsigned long long)there[p], (unsigned long long)promised[p]);
        }
        lost += there[p] < acked[p] ? acked[p] - there[p] : 0;
    }
    double old = lost ? age(events, at, there) : 0;
    sums->cuts++;
    sums->most_lost = lost > sums->most_lost ? lost : sums->most_lost;
    sums->oldest_lost = fmax(sums->oldest_lost, old);
}

static void cut_everywhere(bool full)
{
    struct sums killed = {0}, dark = {0};
    open_rig(full);
    rig_stop();
    rig_sh("rm -f %s/seismo.db*", rig.dir);
    shim_record_start();
    rig_start();
    stream(COMMITS, mark);
    size_t n;
    const struct shim_event *events = shim_record_stop(&n);
    size_t checkpoints = 0, restarts = 0;
    for (size_t i = 0; i < n; i++) {
        checkpoints += events[i].what == SHIM_SYNCED && events[i].file == SHIM_DATABASE;
        restarts += events[i].what == SHIM_WRITTEN && events[i].file == SHIM_LOG && !events[i].at;
    }
    assert_true(checkpoints >= 2 && restarts >= 2); /* one of each is the making of the database */

    struct shim_disk *disk = shim_disk_new();
    uint64_t acked[PEERS], synced[PEERS] = {0};
    size_t stride = is_long ? 1 : n / SAMPLES;
    for (size_t i = 0; i < n; i++) {
        shim_disk_take(disk, events, i);
        if (events[i].what == SHIM_SYNCED && events[i].file == SHIM_LOG) {
            acknowledged(events, events[i].covered, synced);
        }
        if (i % stride != 0) {
            continue;
        }
        acknowledged(events, i + 1, acked);
        cut(disk, events, i, SHIM_LOSE_NONE, acked, acked, &killed);
        cut(disk, events, i, SHIM_LOSE_ALL, acked, full ? acked : synced, &dark);
        cut(disk, events, i, SHIM_LOSE_SOME, acked, full ? acked : synced, &dark);
    }
    shim_disk_free(&disk);
    shim_record_free();
    close_rig();
    printf(
        "power_cut: synchronous %s: %zu writes and syncs, %zu checkpoints; killed at %u of them: "
        "%llu acknowledged batches lost; power cut at %u: at most %llu lost, acknowledged at most "
        "%.2f s before; every database sound\n",
        full ? "full" : "normal", n, checkpoints, killed.cuts, (unsigned long long)killed.most_lost,
        dark.cuts, (unsigned long long)dark.most_lost, dark.oldest_lost);
    assert_int_equal(killed.most_lost, 0);
    assert_true(!full || dark.most_lost == 0);
}

static void normal_keeps_what_was_synced(void **state)
{
    (void)state;
    cut_everywhere(false);
}

static void full_keeps_what_was_acknowledged(void **state)
{
    (void)state;
    cut_everywhere(true);
}

/* A commit is synced by and by, although nothing follows it. */
static void the_last_commit_is_synced_too(void **state)
{
    (void)state;
    open_rig(false);
    shim_record_start();
    stream(1, mark);
    size_t n = 0;
    bool synced = false;
    for (int i = 0; i < 2000 && !synced; i++) {
        usleep(10000);
        const struct shim_event *events = shim_record_stop(&n);
        synced = events[n - 1].what == SHIM_SYNCED && events[n - 1].file == SHIM_LOG;
        shim_record_resume();
    }
    assert_true(synced);
    close_rig();
}

/* ---- the log ---- */

static struct {
    long size;
    int peer;
    uint64_t batch;
} grown[3 * COMMITS];
static size_t n_grown;

static long log_size(void)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/seismo.db-wal", rig.dir);
    assert_int_equal(stat(path, &st), 0);
    return (long)st.st_size;
}

static void note_size(int p, uint64_t batch)
{
    grown[n_grown].size = log_size();
    grown[n_grown].peer = p;
    grown[n_grown++].batch = batch;
}

struct bytes {
    uint8_t *p;
    long n;
};

static struct bytes read_file(const char *suffix)
{
    char path[128];
    snprintf(path, sizeof path, "%s/seismo.db%s", rig.dir, suffix);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    fseek(in, 0, SEEK_END);
    struct bytes b = {.n = ftell(in)};
    rewind(in);
    b.p = malloc((size_t)b.n);
    assert_int_equal(fread(b.p, 1, (size_t)b.n, in), b.n);
    fclose(in);
    return b;
}

static void write_file(const char *suffix, struct bytes b, long n, long rest)
{
    char path[128];
    snprintf(path, sizeof path, "%s/seismo.db%s", place, suffix);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(b.p, 1, (size_t)n, out), n);
    for (long i = 0; i < rest; i++) {
        fputc((int)((i * 2654435761u) >> 7) & 0xff, out);
    }
    fclose(out);
}

/* The database with the first `at` bytes of its log, and behind them nothing, or `rest` bytes that
 * were never written. */
static void cut_log(struct bytes database, struct bytes log, long at, long rest)
{
    char moment[64];
    uint64_t there[PEERS];
    snprintf(moment, sizeof moment, "log of %ld bytes and %ld more", at, rest);
    clear_place();
    write_file("", database, database.n, 0);
    write_file("-wal", log, at, rest);
    look(there, moment);
    for (size_t i = 0; i < n_grown && grown[i].size <= at; i++) {
        if (there[grown[i].peer] < grown[i].batch) {
            fail_msg("%s: run %d has batch %llu and not %llu", moment, grown[i].peer,
                     (unsigned long long)there[grown[i].peer], (unsigned long long)grown[i].batch);
        }
    }
}

static void the_log_may_end_anywhere(void **state)
{
    (void)state;
    static const long inside[] = {0, 1, 24, 24 + 512, FRAME - 1};
    open_rig(false);
    n_grown = 0;
    stream(50, note_size);
    struct bytes database = read_file(""), log = read_file("-wal");
    long size = log.n, frames = (size - LOG_HEAD) / FRAME;
    assert_true(frames > 300 && frames < 1000);
    unsigned cuts = 0;
    for (long f = 0, step = is_long ? 1 : frames / 12; f <= frames; f += step) {
        for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
            long at = LOG_HEAD + f * FRAME + inside[i];
            if (at <= size) {
                cut_log(database, log, at, i % 2 ? FRAME - inside[i] : 0);
                cuts++;
            }
        }
    }
    cut_log(database, log, 0, 0);
    cut_log(database, log, LOG_HEAD - 1, 0);
    free(database.p);
    free(log.p);
    close_rig();
    printf("power_cut: a log of %ld frames cut at %u places, every database sound, no committed "
           "batch before the cut lost\n",
           frames, cuts + 2);
}

int main(int argc, char **argv)
{
    is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    shim_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_keeps_what_was_acknowledged),
        cmocka_unit_test(normal_keeps_what_was_synced),
        cmocka_unit_test(the_last_commit_is_synced_too),
        cmocka_unit_test(the_log_may_end_anywhere),
    };
    return cmocka_run_group_tests_name("power_cut", tests, group_setup, group_teardown);
}
