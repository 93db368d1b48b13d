/* The database under a worker: what is refused at the start, and disks that fail. */
#include "tests/unit/worker_rig.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "daemon/queue.h"
#include "tests/unit/simulated.h"

/* ---- a disk that fails: SQLite's own file layer, with some writes and syncs refused ---- */

static struct {
    sqlite3_vfs vfs, *real;
    struct {
        const sqlite3_io_methods *real;
        sqlite3_io_methods ours;
    } kind[4]; /* of files: each has its own methods */
    atomic_int n_kinds;
    atomic_int code;      /* what a refused operation returns */
    atomic_int countdown; /* operations until one is refused; 0: none is */
    atomic_bool lasting;  /* and all after it */
    atomic_int refused;
    atomic_int open_code; /* what opening a database returns, when not 0 */
} disk;

static bool refuse(void)
{
    int left = atomic_load(&disk.countdown);
    while (left > 0) {
        bool now = left == 1;
        int next = now && atomic_load(&disk.lasting) ? 1 : left - 1;
        if (atomic_compare_exchange_weak(&disk.countdown, &left, next)) {
            atomic_fetch_add(&disk.refused, now);
            return now;
        }
    }
    return false;
}

static const sqlite3_io_methods *real_methods(sqlite3_file *file)
{
    for (int i = 0; i < disk.n_kinds; i++) {
        if (file->pMethods == &disk.kind[i].ours) {
            return disk.kind[i].real;
        }
    }
    fail_msg("a file of no kind");
    return NULL;
}

static int disk_write(sqlite3_file *file, const void *p, int n, sqlite3_int64 at)
{
    return refuse() ? disk.code : real_methods(file)->xWrite(file, p, n, at);
}

static int disk_sync(sqlite3_file *file, int flags)
{
    return refuse() ? disk.code : real_methods(file)->xSync(file, flags);
}

static int disk_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    return refuse() ? disk.code : real_methods(file)->xTruncate(file, size);
}

static int disk_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    (void)vfs;
    if (disk.open_code) {
        file->pMethods = NULL;
        return disk.open_code;
    }
    int rc = disk.real->xOpen(disk.real, name, file, flags, ret);
    if (!file->pMethods) {
        return rc;
    }
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < disk.n_kinds && disk.kind[i].real != file->pMethods) {
        i++;
    }
    if (i == disk.n_kinds) {
        assert_true(i < 4);
        disk.kind[i].real = file->pMethods;
        disk.kind[i].ours = *file->pMethods;
        disk.kind[i].ours.xWrite = disk_write;
        disk.kind[i].ours.xSync = disk_sync;
        disk.kind[i].ours.xTruncate = disk_truncate;
        disk.n_kinds++;
    }
    file->pMethods = &disk.kind[i].ours;
    pthread_mutex_unlock(&lock);
    return rc;
}

static void disk_fails(int code, int countdown, bool lasting)
{
    disk.refused = 0;
    disk.code = code;
    disk.lasting = lasting;
    disk.countdown = countdown;
}

static void disk_works(void)
{
    disk.countdown = 0;
}

/* Reading, below SQLite: the kernel's errors. In the place of the C library's, for SQLite too. */
static struct {
    atomic_int error;     /* errno of a reading of seismo.db that fails */
    atomic_int countdown; /* readings beyond its first page until one fails … */
    atomic_bool lasting;  /* … and all after it */
} reading;

ssize_t pread64(int fd, void *to, size_t n, off64_t at);
ssize_t pread64(int fd, void *to, size_t n, off64_t at)
{
    char link[64], path[256] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (reading.countdown > 0 && at + (off64_t)n > 4096 && readlink(link, path, 255) > 10 &&
        strcmp(path + strlen(path) - 10, "/seismo.db") == 0) {
        reading.countdown -= reading.countdown > 1 || !reading.lasting;
        if (reading.countdown <= reading.lasting) {
            errno = reading.error;
            return -1;
        }
    }
    return syscall(SYS_pread64, fd, to, n, at);
}

static void reading_fails(int error, int countdown, bool lasting)
{
    reading.error = error;
    reading.lasting = lasting;
    reading.countdown = countdown;
}

static int group_setup(void **state)
{
    (void)state;
    disk.real = sqlite3_vfs_find(NULL);
    disk.vfs = *disk.real;
    disk.vfs.zName = "failing";
    disk.vfs.xOpen = disk_open;
    sqlite3_vfs_register(&disk.vfs, 1);
    rig.model = model_builtin(rig.errmsg);
    assert_non_null(rig.model);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    model_free(&rig.model);
    return 0;
}

/* ---- opening ---- */

static int setup_closed(void **state)
{
    reading_fails(0, 0, false);
    rig_setup(state);
    struct peer p = rig_open("a", "s1");
    struct seismo_row row = {.step = 0, .time = NAN};
    row_set(&row, SEISMO_LOSS, 1);
    rig_feed(&p, &row, 1);
    rig_stop();
    return 0;
}

static int teardown_closed(void **state)
{
    (void)state;
    rig_sh("rm -rf %s", rig.dir);
    return 0;
}

/* The start fails with this code, and the text names the file and has these words in it. */
static void expect_refused(int code, const char *words)
{
    struct worker *w = NULL;
    char path[128], errmsg[SEISMO_ERRMSG] = "";
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    assert_int_equal(worker_new(&rig.config, rig.model, rig_clock, rig_wake, NULL, &w, errmsg),
                     code);
    assert_null(w);
    if (!strstr(errmsg, path) || !strstr(errmsg, words)) {
        fail_msg("%s", errmsg);
    }
}

static void a_new_database_is_ours(void **state)
{
    (void)state;
    rig_expect("1\n", "PRAGMA user_version");
    rig_expect("1936025971\n", "PRAGMA application_id");
    rig_expect("wal\n", "PRAGMA journal_mode");
    rig_start(); /* and is taken again */
    rig_stop();
}

static void a_newer_schema_is_refused(void **state)
{
    (void)state;
    rig_execute("PRAGMA user_version = 2");
    expect_refused(SEISMO_EVERSION, "newer seismod");
    rig_expect("1\n", "SELECT count(*) FROM runs");
}

static void a_database_of_another_program_is_left_alone(void **state)
{
    (void)state;
    rig_sh("rm %s/seismo.db*", rig.dir);
    rig_execute("CREATE TABLE theirs(x); INSERT INTO theirs VALUES(1)");
    rig_sh("cp %s/seismo.db %s/before", rig.dir, rig.dir);
    expect_refused(SEISMO_EVERSION, "another program");
    rig_sh("cmp %s/seismo.db %s/before", rig.dir, rig.dir);
}

/* Starts, and what was there lies beside it now, byte for byte; or nothing was set aside (0). */
static void expect_set_aside(int files)
{
    rig_sh("rm -f %s/*.damaged-*; cp %s/seismo.db %s/before", rig.dir, rig.dir, rig.dir);
    rig_start();
    struct worker_stats stats;
    worker_stats(rig.worker, &stats);
    assert_int_equal(stats.set_aside_now, files > 0);
    assert_int_equal(stats.set_aside[0] != 0, files > 0);
    rig_sh("test $(ls %s | grep damaged- | grep -vc -e '-wal$' -e '-shm$') = %d", rig.dir, files);
    if (files > 0) {
        rig_sh("cmp %s/before %s/%s", rig.dir, rig.dir, stats.set_aside);
        rig_expect("0\n", "SELECT count(*) FROM runs");
        struct peer p = rig_open("b", "s1");
        struct seismo_row row = {.step = 0, .time = NAN};
        row_set(&row, SEISMO_LOSS, 1);
        rig_feed(&p, &row, 1);
    } else {
        rig_expect("1\n", "SELECT count(*) FROM runs");
    }
    rig_stop();
}

static void a_damaged_database_is_set_aside(void **state)
{
    (void)state;
    rig_sh("cp %s/seismo.db %s/good", rig.dir, rig.dir);
    expect_set_aside(0);
    rig_sh("echo 'this is no database, and long enough to be none' > %s/seismo.db", rig.dir);
    expect_set_aside(1);
    /* It is still told of after the next start, and a second one gets a name of its own. */
    rig_start();
    struct worker_stats stats;
    worker_stats(rig.worker, &stats);
    assert_false(stats.set_aside_now);
    assert_non_null(strstr(stats.set_aside, "seismo.db.damaged-20231114T221320Z"));
    rig_stop();
    /* A page in the middle is overwritten; the header is fine. */
    rig_sh("cp %s/good %s/seismo.db && "
           "head -c 4096 /dev/urandom | dd of=%s/seismo.db bs=4096 seek=2 conv=notrunc 2>/dev/null",
           rig.dir, rig.dir, rig.dir);
    expect_set_aside(1);
    rig_sh("cp %s/good %s/seismo.db && truncate -s 9000 %s/seismo.db", rig.dir, rig.dir, rig.dir);
    expect_set_aside(1);
    rig_sh("cp %s/good %s/seismo.db", rig.dir, rig.dir);
    expect_set_aside(0);
}

static void a_second_damaged_database_gets_a_name_of_its_own(void **state)
{
    (void)state;
    for (int i = 1; i <= 2; i++) {
        rig_sh("echo 'this is no database, and long enough to be none' > %s/seismo.db", rig.dir);
        rig_start();
        rig_stop();
        rig_sh("test $(ls %s | grep damaged- | grep -vc -e '-wal$' -e '-shm$') = %d", rig.dir, i);
    }
}

/* Database, log and what else belongs to it get the same name, and nothing of them is lost. */
static void the_log_goes_aside_with_its_database(void **state)
{
    (void)state;
    char path[128], name[ASIDE_NAME], found[ASIDE_NAME];
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    rig_sh("cd %s && rm -f seismo.db* && for s in '' -wal -shm -journal; do "
           "echo \"content$s\" > seismo.db$s; done",
           rig.dir);
    assert_int_equal(aside_move(path, 1.7e9, name, rig.errmsg), 0);
    assert_string_equal(name, "seismo.db.damaged-20231114T221320Z");
    rig_sh("cd %s && for s in '' -wal -shm -journal; do "
           "test \"content$s\" = \"$(cat %s$s)\" && test ! -e seismo.db$s || exit 1; done",
           rig.dir, name);
    rig_sh("echo again > %s", path);
    assert_int_equal(aside_move(path, 1.7e9 + 1, name, rig.errmsg), 0);
    assert_true(aside_find(path, found));
    assert_string_equal(found, name); /* the later one */
    assert_int_equal(aside_move(path, 1.7e9, name, rig.errmsg), SEISMO_EIO);
    assert_non_null(strstr(rig.errmsg, "by hand"));
}

/* SQLite would delete the log of a database that is not there, or has been emptied. */
static void a_log_without_its_database_is_kept(void **state)
{
    (void)state;
    static const char *const harm[] = {"truncate -s 0 seismo.db", "rm seismo.db"};
    for (int i = 0; i < 2; i++) {
        rig_start();
        struct peer p = rig_open("x", "s1");
        struct seismo_row row = {.step = 0, .time = NAN};
        rig_feed(&p, &row, 1);
        rig_crash();
        rig_sh("cd %s && rm -f *.damaged-* && cp seismo.db-wal log && test -s log && %s", rig.dir,
               harm[i]);
        for (int again = 0; again < 2; again++) {
            rig_start();
            struct worker_stats stats;
            worker_stats(rig.worker, &stats);
            assert_int_equal(stats.set_aside_now, !again);
            rig_sh("cmp %s/log %s/%s", rig.dir, rig.dir, stats.set_aside);
            rig_expect("0\n", "SELECT count(*) FROM runs");
            rig_stop();
        }
    }
}

/* A large database is not read whole at each start, but it is when a page was found damaged. */
static void damage_found_while_running_is_looked_for_at_the_start(void **state)
{
    (void)state;
    rig_execute("CREATE TABLE filler(x); "
                "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) "
                "INSERT INTO filler SELECT zeroblob(1 << 20) FROM n");
    rig_sh("head -c 4096 /dev/urandom | "
           "dd of=%s/seismo.db bs=4096 seek=2000 conv=notrunc 2>/dev/null",
           rig.dir);
    expect_set_aside(0);
    rig_sh("touch %s/seismo.db-check", rig.dir);
    expect_set_aside(1);
    rig_sh("test ! -e %s/seismo.db-check", rig.dir);
}

/* What passes is no damage: the file stays where it is, and the start says what to do. */
static void trouble_of_the_disk_sets_nothing_aside(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *words;
    } trouble[] = {{SQLITE_IOERR_READ, "errors of its disk"},
                   {SQLITE_BUSY, "write lock"},
                   {SQLITE_CANTOPEN, "must exist"},
                   {SQLITE_PERM, "must exist"}};
    for (unsigned i = 0; i < sizeof trouble / sizeof *trouble; i++) {
        atomic_store(&disk.open_code, trouble[i].code);
        expect_refused(SEISMO_EIO, trouble[i].words);
        atomic_store(&disk.open_code, 0);
        rig_sh("test $(ls %s | grep damaged- | grep -vc -e '-wal$' -e '-shm$') = 0", rig.dir);
    }
    rig_expect("1\n", "SELECT count(*) FROM runs");
}

static void expect_nothing_aside(void)
{
    rig_sh("test $(ls %s | grep -c damaged-) = 0", rig.dir);
}

/* A disk that cannot read is told from one that has read damage, which SQLite does not do: EIO
 * becomes "malformed" on its way, others a line like those about damage. */
static void a_disk_that_cannot_read_sets_nothing_aside(void **state)
{
    (void)state;
    static const int error[] = {EIO, EREMOTEIO};
    for (int k = 0; k < 2; k++) {
        reading_fails(error[k], 1, true);
        expect_refused(SEISMO_EIO, "errors of its disk");
        expect_nothing_aside();
        /* One that passes: the start goes well, or the next one does. */
        bool hit = true;
        for (int n = 1; hit; n++) {
            struct worker *w = NULL;
            char errmsg[SEISMO_ERRMSG] = "";
            reading_fails(error[k], n, false);
            int err = worker_new(&rig.config, rig.model, rig_clock, rig_wake, NULL, &w, errmsg);
            hit = reading.countdown == 0;
            reading_fails(0, 0, false);
            if (err != 0 && err != SEISMO_EIO) {
                fail_msg("%s", errmsg);
            }
            worker_free(&w);
            expect_nothing_aside();
        }
    }
    rig_expect("1\n", "SELECT count(*) FROM runs");
}

static void a_missing_directory_is_named(void **state)
{
    (void)state;
    rig_sh("mv %s %s.away", rig.dir, rig.dir);
    expect_refused(SEISMO_EIO, "must exist");
    rig_sh("mv %s.away %s", rig.dir, rig.dir);
}

/* Damage in one run's rows costs that run its history and nobody else anything. */
static void damaged_rows_disturb_nobody_else(void **state)
{
    (void)state;
    static struct seismo_row rows[300];
    simulated_run(rows, 300, 5, 0.2, 0.05, 300, 0.05);
    rig_start();
    struct peer bad = rig_open("bad", "s2"), good = rig_open("good", "s3");
    rig_feed(&bad, rows, 290);
    rig_feed(&good, rows, 290);
    rig_stop();
    rig_execute("UPDATE tail SET rows = zeroblob(40) WHERE run_id = "
                "(SELECT id FROM runs WHERE run = 'bad')");
    rig_start();
    rig_expect("bad|256|255\ngood|290|289\n",
               "SELECT run, steps, step FROM runs WHERE run <> 'a' ORDER BY run");
    bad = rig_open("bad", "s2");
    good = rig_open("good", "s3");
    rig_feed(&bad, rows + 256, 44);
    rig_feed(&good, rows + 290, 10);
    char *a = rig_portrait(good.run_id), *b = rig_portrait(bad.run_id);
    rig_same(a, b);
    rig_stop();
}

/* ---- failing ---- */

static struct seismo_row rows[1024];

static int setup_rows(void **state)
{
    reading_fails(0, 0, false);
    simulated_run(rows, 1024, 3, 0.2, 0.05, 1024, 0.05);
    return rig_setup(state);
}

static void a_full_disk_holds_steps_back_and_loses_none(void **state)
{
    (void)state;
    struct peer straight = rig_open("straight", "s1"), p = rig_open("p", "s2");
    for (int i = 0; i < 640; i += 10) {
        rig_feed(&straight, rows + i, 10);
    }
    rig_feed(&p, rows, 10);
    disk_fails(SQLITE_FULL, 1, true);
    struct job *job[63];
    for (int i = 0; i < 63; i++) {
        job[i] = rig_steps_job(&p, rows + 10 * (i + 1), 10);
        assert_int_equal(worker_submit(rig.worker, job[i]), 0);
    }
    struct worker_stats stats;
    for (int i = 0; i < 300; i++) {
        worker_stats(rig.worker, &stats);
        if (stats.storage_failing) {
            break;
        }
        usleep(10000);
    }
    assert_true(stats.storage_failing);
    assert_non_null(strstr(stats.storage_error, rig.dir));
    assert_non_null(strstr(stats.storage_error, "free space"));
    usleep(200000);
    assert_null(worker_drain(rig.worker));
    rig_expect("10\n", "SELECT steps FROM runs WHERE run = 'p'");
    /* The queue is bounded: in the end the loop is refused and stops reading. */
    int refused = 0;
    for (int i = 0; i < 2 * QUEUE_MAX_JOBS && !refused; i++) {
        struct job *extra = job_new(JOB_ALERT, 0);
        refused = worker_submit(rig.worker, extra);
        if (refused) {
            job_free(&extra);
        }
    }
    assert_int_equal(refused, SEISMO_EBUSY);

    disk_works();
    for (int i = 0; i < 63; i++) {
        rig_wait(job[i]);
        assert_int_equal(job[i]->err, 0);
        job_free(&job[i]);
    }
    worker_stats(rig.worker, &stats);
    assert_false(stats.storage_failing);
    assert_string_equal(stats.storage_error, "");
    rig_same(rig_portrait(p.run_id), rig_portrait(straight.run_id));
    rig_expect("ok\n", "PRAGMA integrity_check");
}

/* Pages of the file are overwritten by something else. */
static void damage_while_running_is_known(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    struct seismo_row row = {.step = 1, .time = NAN};
    row_set(&row, SEISMO_LOSS, 1);
    rig_feed(&p, &row, 1);
    rig_sh("sqlite3 %s/seismo.db 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null && "
           "head -c 100000 /dev/urandom | "
           "dd of=%s/seismo.db bs=4096 seek=1 conv=notrunc 2>/dev/null",
           rig.dir, rig.dir);
    /* The writer's own cache would still serve it. */
    sqlite3_release_memory(1 << 30);
    row.step = 2;
    struct job *job = rig_steps_job(&p, &row, 1);
    assert_int_equal(worker_submit(rig.worker, job), 0);
    struct worker_stats stats = {0};
    for (int i = 0; i < 3000 && !stats.storage_damaged; i++) {
        worker_stats(rig.worker, &stats);
        usleep(10000);
    }
    assert_true(stats.storage_damaged);
    assert_non_null(strstr(stats.storage_error, "start the daemon again"));
    rig_sh("test -e %s/seismo.db-check", rig.dir);
}

/* What is written goes out of every cache, so that it must be read from the disk. */
static void forget_pages(void)
{
    rig_sh("sqlite3 %s/seismo.db 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null", rig.dir);
    sqlite3_release_memory(1 << 30);
}

/* The disk cannot read for a while: steps are held back, and what is there is not called damaged.
 */
static void reading_fails_while_running(void **state)
{
    (void)state;
    struct peer p = rig_open("a", "s1");
    rig_feed(&p, rows, 600);
    forget_pages();
    reading_fails(EIO, 1, true);
    struct job *job = rig_steps_job(&p, rows + 100, 500); /* needs what lies in a chunk */
    assert_int_equal(worker_submit(rig.worker, job), 0);
    struct worker_stats stats = {0};
    for (int i = 0; i < 500 && !strstr(stats.storage_error, "errors of its disk"); i++) {
        worker_stats(rig.worker, &stats);
        usleep(10000);
    }
    assert_non_null(strstr(stats.storage_error, "errors of its disk"));
    assert_true(stats.storage_failing);
    assert_false(stats.storage_damaged);
    rig_sh("test ! -e %s/seismo.db-check", rig.dir);
    reading_fails(0, 0, false);
    rig_wait(job);
    assert_int_equal(job->err, 0);
    job_free(&job);
    rig_expect("600|599\n", "SELECT steps, step FROM runs");
    expect_nothing_aside();
}

/* Ends, comes back and goes back, with the n-th reading failing at each; true when one did. */
static bool live_with_reading(const char *name, int n, struct peer *ret)
{
    struct peer p = rig_open(name, name);
    rig_feed(&p, rows, 400);
    struct job *job = rig_bye(&p, WIRE_FINISHED, "");
    job_free(&job);
    forget_pages();
    reading_fails(EREMOTEIO, n, false);
    job = rig_call(rig_open_job(name, "train.py", 0, name));
    bool hit = n > 0 && reading.countdown == 0;
    reading_fails(0, 0, false);
    if (job->err) {
        assert_int_equal(job->err, SEISMO_EBUSY); /* the client asks again */
        assert_non_null(strstr(job->errmsg, "seismo.db"));
        job_free(&job);
        job = rig_call(rig_open_job(name, "train.py", 0, name));
    }
    assert_int_equal(job->err, 0);
    p = rig_opened(job);
    job_free(&job);
    forget_pages();
    reading_fails(EREMOTEIO, n, false);
    rig_feed(&p, rows + 256, 400);
    hit |= n > 0 && reading.countdown == 0;
    reading_fails(0, 0, false);
    *ret = p;
    return hit;
}

/* Steps that cannot be read just now are not lost: the detector does not start anew for them. */
static void reading_that_fails_takes_no_detector_back(void **state)
{
    (void)state;
    struct peer straight, p;
    live_with_reading("straight", 0, &straight);
    bool hit = true;
    for (int n = 1; hit; n++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", n);
        hit = live_with_reading(name, n, &p);
        rig_same(rig_portrait(p.run_id), rig_portrait(straight.run_id));
    }
}

/* Alerts of what is over are resolved when their run is loaded: once, and not at all when one of
 * them cannot be read, and the run is given up. */
static void reading_that_fails_resolves_nothing(void **state)
{
    (void)state;
    rig_stop();
    rig.config.n_hooks = 1;
    snprintf(rig.config.hook[0].name, sizeof rig.config.hook[0].name, "page");
    rig_start();
    struct peer p = rig_open("p", "s1");
    rig_feed(&p, rows, 100);
    struct job *job = rig_bye(&p, WIRE_FINISHED, "");
    job_free(&job);
    bool hit = true;
    for (int n = 1; hit; n++) {
        rig_stop();
        rig_execute(
            "DELETE FROM alerts; INSERT INTO alerts(id, verdict, run_id, run, event, state, "
            "hook, document, created, delivered) SELECT id, 1, 1, 'p', 'entered', state, "
            "'page', '{\"pad\":\"' || hex(zeroblob(5000)) || '\"}', 1, 1 FROM (SELECT 1 AS id, "
            "'unstable' AS state UNION SELECT 2, 'stalled' UNION SELECT 3, 'mismatch')");
        rig_start();
        forget_pages();
        reading_fails(EREMOTEIO, n, false);
        job = rig_call(rig_open_job("p", "train.py", 0, "s1"));
        hit = reading.countdown == 0;
        reading_fails(0, 0, false);
        int err = job->err;
        job_free(&job);
        job = !err ? NULL : rig_call(rig_open_job("p", "train.py", 0, "s1"));
        job_free(&job);
        rig_pass(1);
        rig_expect("1|3\n", "SELECT run_id, count(*) FROM alerts WHERE event = 'resolved' "
                            "GROUP BY run_id");
    }
}

/* Each write and each sync of a run's life fails once, one after the other. */
static void each_failure_is_overcome(void **state)
{
    (void)state;
    struct peer straight = rig_open("straight", "s0");
    rig_feed(&straight, rows, 700);
    struct job *job = rig_bye(&straight, WIRE_FINISHED, "");
    job_free(&job);
    static const int code[] = {SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC};
    bool passed = false;
    for (int n = 1; !passed; n++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", n);
        disk_fails(code[n % 3], n, false);
        struct peer p = rig_open(name, name);
        rig_feed(&p, rows, 300);
        rig_feed(&p, rows + 300, 300);
        rig_feed(&p, rows + 200, 500); /* supersedes */
        job = rig_bye(&p, WIRE_FINISHED, "");
        assert_int_equal(job->err, 0);
        job_free(&job);
        passed = disk.refused == 0;
        disk_works();
        char *stored = rig_portrait(p.run_id), *expected = rig_portrait(straight.run_id);
        /* The time of the end is the clock's, which stands still here. */
        rig_same(stored, expected);
        assert_true(n < 1000);
    }
    rig_expect("ok\n", "PRAGMA integrity_check");
}

/* The same of a group in which two runs go back, so that it has been written in part before. */
static void each_failure_of_going_back_is_overcome(void **state)
{
    (void)state;
    static const uint32_t span[][2] = {{240, 300}, {200, 290}, {270, 400}, {230, 400}};
    struct peer straight = rig_open("straight", "s0"), p[2];
    rig_feed(&straight, rows, 400);
    for (int n = 1; n == 1 || disk.refused; n += 3) {
        struct job *job[4];
        for (int i = 0; i < 2; i++) {
            char name[32];
            snprintf(name, sizeof name, "n%d-%d", n, i);
            p[i] = rig_open(name, name);
            rig_feed(&p[i], rows, 250);
        }
        disk_fails(n % 2 ? SQLITE_FULL : SQLITE_IOERR_WRITE, n, false);
        for (int i = 0; i < 4; i++) {
            job[i] = rig_steps_job(&p[i % 2], rows + span[i][0], span[i][1] - span[i][0]);
            assert_int_equal(worker_submit(rig.worker, job[i]), 0);
        }
        for (int i = 0; i < 4; i++) {
            rig_wait(job[i]);
            job_free(&job[i]);
        }
        disk_works();
        rig_same(rig_portrait(p[0].run_id), rig_portrait(straight.run_id));
        rig_same(rig_portrait(p[1].run_id), rig_portrait(straight.run_id));
    }
}

static void stopping_a_failing_worker_gives_up_what_nobody_was_promised(void **state)
{
    (void)state;
    struct peer p = rig_open("p", "s1");
    rig_feed(&p, rows, 100);
    disk_fails(SQLITE_IOERR_WRITE, 1, true);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(worker_submit(rig.worker, rig_steps_job(&p, rows + 100 + 50 * i, 50)), 0);
    }
    usleep(50000);
    rig_stop();
    disk_works();
    rig_start();
    p = rig_open("p", "s1");
    assert_int_equal(p.welcome_batch, 1);
    assert_int_equal(p.last_step, 99);
}

/* ---- checkpoints ---- */

static long file_size(const char *suffix)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/seismo.db%s", rig.dir, suffix);
    return stat(path, &st) == 0 ? (long)st.st_size : -1;
}

/* Feeds until this much has been written to chunks. */
static void feed_much(struct peer *p, int batches)
{
    static struct seismo_row many[1024];
    for (int b = 0; b < batches; b++) {
        for (int i = 0; i < 1024; i++) {
            many[i] = (struct seismo_row){.step = p->has_step ? p->last_step + 1 + i : i};
            many[i].present = (1u << SEISMO_N_VALUES) - 1;
            many[i].value[SEISMO_LOSS] = 1;
        }
        struct job *job = rig_send(p, many, 1024);
        p->has_step = true;
        p->last_step = job->last_step;
        job_free(&job);
    }
}

static void the_log_does_not_grow_for_ever(void **state)
{
    (void)state;
    struct peer p = rig_open("p", "s1");
    feed_much(&p, 400);
    long log = file_size("-wal"), database = file_size("");
    assert_true(database > 30 << 20); /* most of 50 MB is where it belongs */
    assert_true(log < 20 << 20);

    /* A reader that does not let go makes the log grow, and letting go makes it begin anew. */
    char path[128];
    snprintf(path, sizeof path, "%s/seismo.db", rig.dir);
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    sqlite3_exec(db, "BEGIN; SELECT count(*) FROM runs", NULL, NULL, NULL);
    feed_much(&p, 300);
    assert_true(file_size("-wal") > 30 << 20);
    sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    sqlite3_close(db);
    feed_much(&p, 300);
    assert_true(file_size("-wal") < 20 << 20);
    rig_stop();
    assert_int_equal(file_size("-wal"), -1);
    rig_start();
}

int main(void)
{
#define CLOSED(name) cmocka_unit_test_setup_teardown(name, setup_closed, teardown_closed)
#define OPEN(name) cmocka_unit_test_setup_teardown(name, setup_rows, rig_teardown)
    const struct CMUnitTest tests[] = {
        CLOSED(a_new_database_is_ours),
        CLOSED(a_newer_schema_is_refused),
        CLOSED(a_database_of_another_program_is_left_alone),
        CLOSED(a_damaged_database_is_set_aside),
        CLOSED(a_second_damaged_database_gets_a_name_of_its_own),
        CLOSED(the_log_goes_aside_with_its_database),
        CLOSED(a_log_without_its_database_is_kept),
        CLOSED(damage_found_while_running_is_looked_for_at_the_start),
        CLOSED(trouble_of_the_disk_sets_nothing_aside),
        CLOSED(a_disk_that_cannot_read_sets_nothing_aside),
        CLOSED(a_missing_directory_is_named),
        CLOSED(damaged_rows_disturb_nobody_else),
        OPEN(damage_while_running_is_known),
        OPEN(reading_fails_while_running),
        OPEN(reading_that_fails_takes_no_detector_back),
        OPEN(reading_that_fails_resolves_nothing),
        OPEN(a_full_disk_holds_steps_back_and_loses_none),
        OPEN(each_failure_is_overcome),
        OPEN(each_failure_of_going_back_is_overcome),
        OPEN(stopping_a_failing_worker_gives_up_what_nobody_was_promised),
        OPEN(the_log_does_not_grow_for_ever),
    };
    return cmocka_run_group_tests_name("store", tests, group_setup, group_teardown);
}
