/* Memory that runs out in libseismo, at every allocation in turn: the training goes on as if
 * nothing had been, and no step is lost that the library took. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "client/lib/seismo.h"
#include "proto/json_text.h"
#include "proto/wire.h"
#include "tests/unit/fail_alloc.h"
#include "tests/unit/serving.h"

#define STEPS 200

/* A daemon that takes everything, one a pass. Its memory never runs out. */
struct daemon {
    void *zmq;
    struct serving ingest;
    uint64_t last_batch;
};

static struct {
    char dir[64], spool[96], endpoint[96];
    struct seismo_options options;
} t;

static void answer(void *arg, const struct wire_msg *m, struct wire_buf *b)
{
    static const char verdict[] =
        "{\"state\": \"unstable\", \"severity\": \"critical\", \"step\": 3,"
        " \"fault\": {\"class\": \"data\"}, \"score\": 0.75,"
        " \"reasons\": [{\"text\": \"the loss grows for no reason\"}]}";
    struct daemon *d = arg;
    serving_take(m, &d->last_batch, 1, b);
    if (m->type != WIRE_HELLO)
        wire_put_text(b, verdict, sizeof verdict - 1);
}

static void start(struct daemon *d)
{
    d->zmq = zmq_ctx_new();
    d->ingest.answer = answer;
    d->ingest.arg = d;
    serving_start(&d->ingest, d->zmq, t.endpoint, 2);
}

static void stop(struct daemon *d)
{
    serving_stop(&d->ingest);
    zmq_ctx_term(d->zmq);
}

static void train(struct seismo *run, struct fail_result *ret)
{
    struct seismo_stats stats;
    struct seismo_verdict verdict;
    for (int i = 0; i < STEPS; i++) {
        struct seismo_step s = seismo_at(i, 1.0 / (i + 1));
        SEISMO_SET(s, grad_norm, 1);
        seismo_step(run, &s);
        if (i % 50 == 0)
            usleep(500); /* so that the library's thread takes part */
    }
    seismo_verdict(run, &verdict);
    seismo_stats(run, &stats);
    assert_int_equal(stats.steps, STEPS);
    assert_int_equal(stats.dropped + stats.rejected, 0);
    if (fail_alloc.all)
        fail_alloc.armed = false; /* memory does not stay out for ever */
    if (!seismo_close(&run, SEISMO_FINISHED)) {
        ret->err = SEISMO_EINTERNAL;
        snprintf(ret->errmsg, sizeof ret->errmsg, "memory, and not all steps were stored");
    }
    assert_null(run);
}

/* What an earlier session has left in its spool would be the next one's. */
static void empty_spool(void)
{
    DIR *dir = opendir(t.spool);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", t.spool, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (dir != NULL)
        closedir(dir);
}

static void session(struct fail_result *ret)
{
    struct daemon d = {0};
    fail_spared_thread = true;
    empty_spool();
    start(&d);
    fail_spared_thread = false;
    struct seismo *run = seismo_open(&t.options, ret->errmsg);
    if (run == NULL)
        ret->err = SEISMO_ENOMEM;
    else
        train(run, ret);
    fail_spared_thread = true;
    stop(&d);
    fail_spared_thread = false;
}

static void out_of_memory(const char *what, const struct fail_result *result)
{
    if (result->err != SEISMO_ENOMEM ||
        (strstr(result->errmsg, "memory") == NULL &&
         strstr(result->errmsg, "Resource temporarily unavailable") == NULL)) /* of a thread */
        fail_msg("%s: memory is out, and it says %d: %s", what, result->err, result->errmsg);
}

static int set_up(void **state)
{
    (void)state;
    json_text_init();
    snprintf(t.dir, sizeof t.dir, "/tmp/seismo-nomem-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    snprintf(t.endpoint, sizeof t.endpoint, "ipc://%s/ingest", t.dir);
    snprintf(t.spool, sizeof t.spool, "%s/spool", t.dir);
    assert_int_equal(mkdir(t.spool, 0700), 0);
    t.options = (struct seismo_options){.run = "run",
                                        .program = "train.py",
                                        .ingest = t.endpoint,
                                        .meta = "{\"optimizer\": \"adam\", \"seed\": 1}",
                                        .ring = 1024};
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    empty_spool();
    rmdir(t.spool);
    unlink(t.endpoint + strlen("ipc://"));
    rmdir(t.dir);
    return 0;
}

static void test_session(void **state)
{
    (void)state;
    assert_true(fail_each("libseismo", 0, session, out_of_memory) > 10);
}

static void test_spool(void **state)
{
    (void)state;
    t.options.spool = t.spool;
    assert_true(fail_each("libseismo with a spool", 0, session, out_of_memory) > 10);
    t.options.spool = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_session),
                                       cmocka_unit_test(test_spool)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
