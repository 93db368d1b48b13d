/* The client spool: processes that die in turn, against a daemon that stores each batch once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/lib/link.h"

#define MAX_ROWS (1 << 20)

/* What the daemon has, and the process that talks to it. */
static struct world {
    char dir[64];
    struct ring ring;
    struct link link;
    bool alive;
    double now;
    int64_t next_step; /* of the job */

    bool up;
    double lose; /* share of answers that get lost */
    uint8_t session[LINK_SESSION];
    uint64_t last;
    int64_t *steps; /* stored, in order */
    uint32_t n_steps;
    int64_t *expected; /* given and not lost with a process */
    uint32_t n_expected;
    unsigned hellos, byes, first_batch;
    uint8_t answer[64][512]; /* to deliver after the link has spoken */
    size_t answer_n[64];
    unsigned n_answers;
} w;

static double chance(void)
{
    return (double)random() / RAND_MAX;
}

static void answer(const struct wire_buf *b)
{
    assert_false(b->overflow);
    if (w.n_answers < 64 && chance() >= w.lose) {
        memcpy(w.answer[w.n_answers], b->data, b->n);
        w.answer_n[w.n_answers++] = b->n;
    }
}

static void store_rows(struct wire_steps *steps)
{
    struct wire_layout layout;
    struct seismo_row row;
    char errmsg[SEISMO_ERRMSG];

    wire_layout_all(&layout);
    while (wire_next_row(&steps->rows, &layout, &row, errmsg) == 0) {
        assert_true(w.n_steps < MAX_ROWS);
        assert_float_equal(row.value[SEISMO_LOSS], (float)row.step, 0);
        w.steps[w.n_steps++] = row.step;
    }
}

static bool on_send(void *arg, const void *data, size_t n)
{
    uint8_t out[512];
    struct wire_buf b = {.data = out, .cap = sizeof(out)};
    char errmsg[SEISMO_ERRMSG];
    struct wire_msg m;

    (void)arg;
    if (!w.up) {
        return false;
    }
    assert_int_equal(wire_decode(data, n, &m, errmsg), 0);
    if (m.type == WIRE_HELLO) {
        w.hellos++;
        if (memcmp(w.session, m.hello.session.p, LINK_SESSION) != 0) {
            memcpy(w.session, m.hello.session.p, LINK_SESSION);
            w.last = 0;
        }
        struct wire_welcome welcome = {.version = SEISMO_PROTOCOL_VERSION,
                                       .run = m.hello.run,
                                       .last_batch = w.last,
                                       .max_rows = 1024,
                                       .max_bytes = SEISMO_MAX_MESSAGE,
                                       .max_unacked = 64};
        wire_put_welcome(&b, &welcome);
        answer(&b);
        return true;
    }
    uint64_t batch = m.type == WIRE_BYE ? m.bye.batch : m.steps.batch;
    if (batch == w.last + 1) {
        w.last = batch;
        if (m.type == WIRE_STEPS) {
            store_rows(&m.steps);
        } else {
            w.byes++;
        }
    }
    if (batch <= w.last) {
        wire_put_ack_head(&b, w.last, false, 0, 0);
    } else {
        struct wire_error e = {.code = {"out_of_order", 12},
                               .text = {"", 0},
                               .hint = {"", 0},
                               .has_ref = true,
                               .ref = batch};
        wire_put_error(&b, &e);
    }
    answer(&b);
    return true;
}

/* ---- the process ---- */

static void begin(void)
{
    static const struct link_identity identity = {
        .run = "r/\xc3\xa4", .program = "p", .meta = "{}", .rank = 3, .world = 4};

    assert_int_equal(ring_init(&w.ring, 4096), 0);
    assert_int_equal(link_init(&w.link, &w.ring, &identity, on_send, NULL, w.now), 0);
    link_spool(&w.link, w.dir);
    w.alive = true;
}

/* As if killed: what is in the ring is gone. */
static void die(void)
{
    uint64_t lost = ring_count(&w.ring);

    w.n_expected -= (uint32_t)lost;
    link_close(&w.link);
    ring_close(&w.ring);
    w.alive = false;
    w.n_answers = 0;
}

static void push(int n)
{
    for (int i = 0; i < n; i++) {
        struct seismo_row row = {.step = w.next_step++};

        row_set(&row, SEISMO_LOSS, (float)row.step);
        if (ring_offer(&w.ring, &row)) {
            w.expected[w.n_expected++] = row.step;
        }
    }
}

static void run(double seconds)
{
    w.now += seconds;
    link_run(&w.link, w.now);
    for (unsigned i = 0; i < w.n_answers; i++) {
        link_receive(&w.link, w.answer[i], w.answer_n[i], w.now);
    }
    w.n_answers = 0;
}

/* Lets everything come through and ends the run. */
static void finish(void)
{
    w.up = true;
    w.lose = 0;
    link_finish(&w.link, WIRE_FINISHED);
    for (int i = 0; i < 20000 && !link_done(&w.link); i++) {
        run(0.3);
    }
    assert_true(link_done(&w.link));
}

static void expect_all(void)
{
    assert_int_equal(w.n_steps, w.n_expected);
    assert_memory_equal(w.steps, w.expected, w.n_steps * sizeof(*w.steps));
}

static unsigned files(void)
{
    unsigned n = 0;
    DIR *dir = opendir(w.dir);

    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        n += strstr(e->d_name, ".spool") != NULL;
    }
    closedir(dir);
    return n;
}

static int setup(void **state)
{
    (void)state;
    int64_t *steps = w.steps, *expected = w.expected;
    memset(&w, 0, sizeof(w));
    w.steps = steps != NULL ? steps : malloc(MAX_ROWS * sizeof(*steps));
    w.expected = expected != NULL ? expected : malloc(MAX_ROWS * sizeof(*steps));
    snprintf(w.dir, sizeof(w.dir), "/tmp/seismo-spool-XXXXXX");
    assert_non_null(mkdtemp(w.dir));
    strcat(w.dir, "/new"); /* is made */
    w.now = 1000;
    begin();
    return 0;
}

static int teardown(void **state)
{
    char command[128];

    (void)state;
    if (w.alive) {
        die();
    }
    snprintf(command, sizeof(command), "d=%s; rm -rf \"${d%%/new}\"", w.dir);
    assert_int_equal(system(command), 0);
    return 0;
}

/* ---- tests ---- */

static void the_next_process_carries_on(void **state)
{
    (void)state;
    uint8_t session[LINK_SESSION];

    push(1000);
    run(0.2);
    run(0.2); /* the last batch is not full */
    assert_int_equal(ring_count(&w.ring), 0);
    assert_int_equal(w.link.spooled, 1000);
    memcpy(session, w.link.identity.session, LINK_SESSION);
    die();
    begin();
    assert_memory_equal(w.link.identity.session, session, LINK_SESSION);
    assert_int_equal(w.link.inherited, 1000);
    push(100);
    finish();
    assert_int_equal(w.link.acknowledged, 1100);
    assert_int_equal(w.link.spooled, 0);
    assert_int_equal(w.byes, 1);
    expect_all();
    assert_int_equal(files(), 1);
    die();
    assert_int_equal(files(), 0); /* everything is acknowledged */
}

/* More than the window and the ring hold, while there is no daemon. */
static void a_long_outage_is_kept(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++) {
        push(1000);
        run(0.2);
    }
    run(0.2);
    assert_int_equal(w.link.spooled, 300000);
    die();
    begin();
    run(0.1);
    w.up = true;
    for (int i = 0; i < 100; i++) {
        run(0.1);
    }
    finish();
    expect_all();
    assert_int_equal(w.link.dropped, 0);
}

/* Whatever dies when and whatever gets lost: each row once, in order. */
static void every_row_once_whoever_dies(void **state)
{
    (void)state;
    const char *given = getenv("SEISMO_TEST_SEED");
    unsigned seed = given != NULL ? (unsigned)atol(given) : (unsigned)time(NULL);
    unsigned deaths = 0;

    print_message("SEISMO_TEST_SEED=%u\n", seed);
    srandom(seed);
    w.link.spool.compact = 4096;
    for (int i = 0; i < 20000; i++) {
        double kind = chance();
        if (kind < 0.02) {
            die();
            begin();
            w.link.spool.compact = 4096;
            deaths++;
        } else if (kind < 0.04) {
            w.up = !w.up;
            if (!w.up) {
                link_disconnected(&w.link);
            } else {
                link_connected(&w.link, w.now);
            }
        } else if (kind < 0.06) {
            w.lose = chance() < 0.5 ? 0 : 0.3;
        } else if (kind < 0.5) {
            push((int)(chance() * 40));
        } else {
            run(chance() * 0.3);
        }
    }
    finish();
    assert_true(deaths > 100);
    assert_int_equal(w.link.dropped, 0);
    expect_all();
    die();
    assert_int_equal(files(), 0);
}

static void path_of_file(char ret[512])
{
    DIR *dir = opendir(w.dir);

    ret[0] = '\0';
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (strstr(e->d_name, ".spool") != NULL) {
            snprintf(ret, 512, "%s/%s", w.dir, e->d_name);
        }
    }
    closedir(dir);
    assert_true(ret[0] != '\0');
}

/* A file that was cut anywhere, as by a process that died while it wrote, or that has a wrong byte,
 * gives whole batches up to there, and is fit for use. */
static void a_torn_file_is_cut(void **state)
{
    (void)state;
    char path[512], copy[600];
    struct stat st;

    for (int i = 0; i < 6; i++) {
        push(7);
        run(0.2);
    }
    die();
    path_of_file(path);
    snprintf(copy, sizeof(copy), "cp %s %s/../whole", path, w.dir);
    assert_int_equal(system(copy), 0);
    assert_int_equal(stat(path, &st), 0);
    for (off_t at = st.st_size; at >= 0; at -= 3) {
        bool flip = at % 2 == 1 && at < st.st_size;
        snprintf(copy, sizeof(copy), "cp %s/../whole %s", w.dir, path);
        assert_int_equal(system(copy), 0);
        if (flip) {
            int fd = open(path, O_RDWR);
            uint8_t byte;
            assert_int_equal(pread(fd, &byte, 1, at), 1);
            byte ^= 0x40;
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
            close(fd);
        } else {
            assert_int_equal(truncate(path, at), 0);
        }
        w.n_steps = w.n_expected = w.up = 0;
        w.last = 0;
        memset(w.session, 0, sizeof(w.session));
        begin();
        uint32_t whole = (uint32_t)w.link.inherited;
        assert_true(whole <= 42 && whole % 7 == 0);
        assert_true(at < st.st_size || flip || whole == 42);
        for (uint32_t i = 0; i < whole; i++) {
            w.expected[w.n_expected++] = i;
        }
        push(5);
        finish();
        expect_all();
        die();
    }
}

/* What was acknowledged does not go again, not even to a daemon that no longer knows the session
 * because another job has gone on with the run. */
static void what_is_acknowledged_does_not_go_again(void **state)
{
    (void)state;
    w.up = true;
    push(100);
    run(0.2);
    run(0.2);
    run(0.2);
    assert_int_equal(w.link.acknowledged, 100);
    w.up = false;
    push(10);
    run(0.2);
    die();
    memset(w.session, 0, sizeof(w.session)); /* somebody else's now */
    w.last = 0;
    begin();
    finish();
    expect_all(); /* of 110 rows the first 100 came once */
}

/* A process that is killed when the file is cut down to its HELLO, as everything is acknowledged,
 * and before it has noted so: nobody knows any more which numbers are taken. */
static void a_file_without_numbers_is_begun_anew(void **state)
{
    (void)state;
    char path[512], command[1200];
    uint8_t session[LINK_SESSION];
    uint32_t head;

    w.up = true;
    push(100);
    run(0.2);
    run(0.2);
    run(0.2);
    assert_int_equal(w.link.acknowledged, 100);
    memcpy(session, w.link.identity.session, LINK_SESSION);
    path_of_file(path);
    snprintf(command, sizeof(command), "cp %s %s/../cut", path, w.dir);
    assert_int_equal(system(command), 0);
    die();
    snprintf(command, sizeof(command), "mv %s/../cut %s", w.dir, path);
    assert_int_equal(system(command), 0);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &head, sizeof(head), 0), sizeof(head));
    assert_int_equal(ftruncate(fd, 8 + le32toh(head)), 0);
    close(fd);
    begin();
    assert_memory_not_equal(w.link.identity.session, session, LINK_SESSION);
    push(10);
    finish();
    expect_all();
}

/* A run that was closed while the daemon was away has its farewell in the spool. The next process
 * goes on with the run, so that it is void. */
static void a_farewell_is_void_when_the_job_goes_on(void **state)
{
    (void)state;
    push(10);
    link_finish(&w.link, WIRE_FINISHED);
    run(0.2);
    assert_true(w.link.bye_made);
    die();
    begin();
    push(10);
    run(0.2);
    w.up = true;
    for (int i = 0; i < 30; i++) {
        run(0.3);
    }
    assert_int_equal(w.n_steps, 20);
    assert_int_equal(w.byes, 0);
    finish();
    assert_int_equal(w.byes, 1);
    expect_all();
}

/* A spool of the same run, program and rank. */
static int open_another(struct spool *s)
{
    struct wire_hello hello = {.version = SEISMO_PROTOCOL_VERSION,
                               .run = {"r/\xc3\xa4", 4},
                               .program = {"p", 1},
                               .session = {"0123456789abcdef", 16},
                               .rank = 3,
                               .world = 4,
                               .meta = {"{}", 2}};
    uint8_t session[LINK_SESSION] = "0123456789abcdef";
    char errmsg[SEISMO_ERRMSG];

    wire_layout_all(&hello.layout);
    return spool_open(s, w.dir, &hello, session, errmsg);
}

/* Two jobs of one name, in one process or in two, never share a file. */
static void a_file_has_one_owner(void **state)
{
    (void)state;
    struct spool second, third;
    int status;

    push(10);
    run(0.2);
    assert_int_equal(open_another(&second), 0);
    assert_string_not_equal(second.path, w.link.spool.path);
    pid_t child = fork();
    if (child == 0) {
        int err = open_another(&third);
        _exit(err == 0 && strstr(third.path, ".3.spool") != NULL ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    spool_close(&second, true);
    /* And the child's closing has not cost us our lock. */
    child = fork();
    if (child == 0) {
        int err = open_another(&third);
        _exit(err == 0 && strcmp(third.path, w.link.spool.path) != 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    finish();
    expect_all();
}

/* What happens as soon as a file has been replaced. */
static void (*on_rename)(void);

int rename(const char *from, const char *to)
{
    int err = renameat(AT_FDCWD, from, AT_FDCWD, to);

    if (on_rename != NULL) {
        on_rename();
    }
    return err;
}

static void replace_file(void (*meanwhile)(void))
{
    w.link.spool.compact = 1000;
    w.up = true;
    on_rename = meanwhile;
    for (int i = 0; i < 100 && on_rename != NULL; i++) {
        push(200);
        run(0.2);
    }
    assert_null(on_rename);
}

static struct {
    pthread_t thread;
    struct spool spool;
    int err;
} other_handle;

static void *open_other_handle(void *unused)
{
    (void)unused;
    other_handle.err = open_another(&other_handle.spool);
    return NULL;
}

static void open_in_a_thread(void)
{
    on_rename = NULL;
    assert_int_equal(pthread_create(&other_handle.thread, NULL, open_other_handle, NULL), 0);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL); /* it does what it can */
}

/* A handle of the same run that opens while the file is replaced does not take the new one. */
static void a_file_that_is_replaced_has_one_owner(void **state)
{
    (void)state;
    replace_file(open_in_a_thread);
    assert_int_equal(pthread_join(other_handle.thread, NULL), 0);
    assert_int_equal(other_handle.err, 0);
    assert_string_not_equal(other_handle.spool.path, w.link.spool.path);
    spool_close(&other_handle.spool, true);
    finish();
    expect_all();
}

static int child_status;

static void open_in_a_child(void)
{
    struct spool spool;

    on_rename = NULL;
    pid_t child = fork();
    if (child == 0) {
        alarm(5);
        _exit(open_another(&spool) == 0 && strcmp(spool.path, w.link.spool.path) != 0 ? 0 : 1);
    }
    waitpid(child, &child_status, 0);
}

/* The list of open files is taken when the child is forked, and nobody there gives it back. */
static void a_child_opens_whatever_its_parent_does(void **state)
{
    (void)state;
    replace_file(open_in_a_child);
    assert_true(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
    finish();
    expect_all();
}

/* A file that is whole and not of our making stays as it is. */
static void a_file_of_another_kind_is_left_alone(void **state)
{
    (void)state;
    const uint8_t record[] = {3, 0, 0, 0, 0xed, 7, 0x75, 0xf5, 0x92, 1, 0x80};
    uint8_t found[sizeof(record) + 1];
    char path[512];

    die();
    path_of_file(path);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, record, sizeof(record)), sizeof(record));
    close(fd);
    begin();
    assert_string_not_equal(w.link.spool.path, path);
    fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, found, sizeof(found)), sizeof(record));
    assert_memory_equal(found, record, sizeof(record));
    close(fd);
    push(10);
    finish();
    expect_all();
}

/* No file may grow beyond `bytes`: writing fails as on a full disk. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A full disk is counted and noted; nothing is lost as long as the process lives, and the spool
 * works again once there is room and nothing waits. */
static void a_full_disk_is_survived(void **state)
{
    (void)state;

    limit_files(20000);
    for (int i = 0; i < 30; i++) {
        bool failed_before = w.link.spool_errors > 0;
        push(64);
        run(0.2);
        if (!failed_before && w.link.spool_errors > 0) {
            assert_non_null(strstr(w.link.error, "cannot write: File too large"));
        }
    }
    assert_int_equal(w.link.spool_errors, 1);
    assert_true(w.link.spooled > 0 && w.link.spooled < 30 * 64);
    w.up = true;
    for (int i = 0; i < 60; i++) {
        push(3);
        run(0.2);
    }
    assert_int_equal(w.n_steps, w.n_expected);
    limit_files(RLIM_INFINITY);
    w.up = false;
    push(64);
    run(0.2);
    assert_int_equal(w.link.spooled, 64);
    die();
    begin();
    assert_int_equal(w.link.inherited, 64);
    finish();
    expect_all();
}

/* Batches that the file could not take go to the daemon from memory, which is never done with them;
 * then the process is killed, and there is room again. */
static void what_goes_past_a_full_disk_takes_no_number_from_the_next_process(void **state)
{
    (void)state;

    limit_files(20000);
    for (int i = 0; i < 100; i++) {
        w.up = i >= 30;
        push(i < 30 ? 64 : 3);
        w.now += 0.2;
        link_run(&w.link, w.now);
        unsigned kept = w.link.state == LINK_OPEN; /* the last answer */
        for (unsigned k = 0; k + kept < w.n_answers; k++) {
            link_receive(&w.link, w.answer[k], w.answer_n[k], w.now);
        }
        w.n_answers = 0;
        link_run(&w.link, w.now);
    }
    assert_int_equal(w.link.spool_errors, 1);
    assert_int_equal(w.link.spooled, 0);
    assert_true(w.link.n_batches > 0 && !w.link.has_pending);
    limit_files(RLIM_INFINITY);
    die();
    begin();
    push(10);
    finish();
    expect_all();
}

/* The file is bounded: beyond, rows wait in the ring. */
static void the_file_is_bounded(void **state)
{
    (void)state;
    struct stat st;

    w.link.spool.max = 200000;
    for (int i = 0; i < 300; i++) {
        push(64);
        run(0.2);
    }
    assert_int_equal(stat(w.link.spool.path, &st), 0);
    assert_true(st.st_size <= 200000);
    assert_true(ring_count(&w.ring) > 0);
    finish();
    expect_all();
}

/* The daemon is silent until it has been asked again; then its last ACK and its WELCOME come in one
 * look, and with them the window is empty while more waits in the file. */
static void settle_the_window_at_once(void)
{
    w.up = true;
    link_connected(&w.link, w.now);
    run(0.2);
    link_run(&w.link, w.now);
    memcpy(w.answer[0], w.answer[w.n_answers - 1], w.answer_n[w.n_answers - 1]);
    w.answer_n[0] = w.answer_n[w.n_answers - 1];
    w.n_answers = 1;
    w.now += LINK_PATIENCE;
    link_run(&w.link, w.now);
    assert_int_equal(w.n_answers, 2);
    link_receive(&w.link, w.answer[0], w.answer_n[0], w.now);
    assert_int_equal(w.link.n_batches, 0);
    link_receive(&w.link, w.answer[1], w.answer_n[1], w.now);
    assert_int_equal(w.link.state, LINK_OPEN);
    w.n_answers = 0;
}

static void what_is_still_in_the_file_was_not_lost_by_the_daemon(void **state)
{
    (void)state;
    push(3000);
    run(0.2);
    push(3400);
    run(0.2);
    settle_the_window_at_once();
    finish();
    expect_all();
}

static void what_the_file_refused_was_not_lost_by_the_daemon(void **state)
{
    (void)state;
    limit_files(20000);
    push(2000);
    run(0.2);
    assert_true(w.link.has_pending);
    settle_the_window_at_once();
    finish();
    limit_files(RLIM_INFINITY);
    expect_all();
}

/* No spool is no reason not to watch. */
static void a_spool_that_cannot_be_is_done_without(void **state)
{
    (void)state;
    die();
    strcpy(w.dir + strlen(w.dir), "/no/such");
    begin();
    assert_int_equal(w.link.spool_errors, 1);
    assert_non_null(strstr(w.link.error, "no spool in"));
    w.dir[strlen(w.dir) - strlen("/no/such")] = '\0';
    push(500);
    finish();
    expect_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(the_next_process_carries_on),
        TEST(a_long_outage_is_kept),
        TEST(every_row_once_whoever_dies),
        TEST(a_torn_file_is_cut),
        TEST(what_is_acknowledged_does_not_go_again),
        TEST(a_file_without_numbers_is_begun_anew),
        TEST(a_farewell_is_void_when_the_job_goes_on),
        TEST(a_file_has_one_owner),
        TEST(a_file_that_is_replaced_has_one_owner),
        TEST(a_child_opens_whatever_its_parent_does),
        TEST(a_file_of_another_kind_is_left_alone),
        TEST(a_full_disk_is_survived),
        TEST(what_goes_past_a_full_disk_takes_no_number_from_the_next_process),
        TEST(the_file_is_bounded),
        TEST(what_is_still_in_the_file_was_not_lost_by_the_daemon),
        TEST(what_the_file_refused_was_not_lost_by_the_daemon),
        TEST(a_spool_that_cannot_be_is_done_without),
    };
    return cmocka_run_group_tests_name("spool", tests, NULL, NULL);
}
