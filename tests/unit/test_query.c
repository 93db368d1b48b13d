/* The query socket with real clients, on one loop with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <sqlite3.h>
#include <zmq.h>

#include "daemon/query.h"
#include "daemon/reader.h"
#include "daemon/zsock.h"
#include "proto/wire.h"

#define CLIENTS 2
#define MAX_ANSWERS 1024
#define PATIENCE 30000 /* ms */

struct answer {
    int client;
    uint64_t id;                         /* of the query; 0 when an error has none */
    json_t *body;                        /* of a REPLY */
    char code[32], text[256], hint[512]; /* of an ERROR */
};

static struct {
    char dir[64], path[128], endpoint[128];
    uv_loop_t loop;
    uv_timer_t timer;
    void *zmq;
    struct model *model;
    sqlite3 *db;
    struct query *q;
    struct zsock *client[CLIENTS];
    struct answer answer[MAX_ANSWERS];
    int n, wanted;
    struct job *job; /* the last one submitted */
    int submit_err;
    bool closed;
    int turns;
} t;

static double fake_clock(void)
{
    return 1000;
}

static void on_live(void *arg, struct query_live *ret)
{
    static const char *const ingest[] = {"tcp://127.0.0.1:1", "ipc:///x", NULL};
    assert_ptr_equal(arg, &t);
    *ret = (struct query_live){.started = 900,
                               .peers = 7,
                               .worker = {.steps = 11,
                                          .batches = 12,
                                          .commits = 13,
                                          .verdicts = 14,
                                          .duplicate_batches = 15,
                                          .expired = 16,
                                          .queued_jobs = 16,
                                          .queued_rows = 17,
                                          .storage_failing = true,
                                          .storage_error = "disk full"},
                               .ingest = ingest,
                               .query = "ipc:///q",
                               .events = "ipc:///e"};
}

static int on_submit(void *arg, struct job *job)
{
    assert_ptr_equal(arg, &t);
    if (t.submit_err) {
        return t.submit_err;
    }
    assert_null(t.job);
    t.job = job;
    uv_stop(&t.loop);
    return 0;
}

static void copy(char *to, size_t size, struct wire_str s)
{
    snprintf(to, size, "%.*s", (int)s.n, s.p);
}

static void on_answer(void *arg, const struct zsock_msg *msg)
{
    struct wire_msg wire;
    char errmsg[SEISMO_ERRMSG];
    assert_true(t.n < MAX_ANSWERS);
    struct answer *a = &t.answer[t.n++];
    a->client = (int)((struct zsock **)arg - t.client);
    assert_int_equal(msg->frames, 1);
    assert_int_equal(wire_decode(msg->data, msg->n, &wire, errmsg), 0);
    if (wire.type == WIRE_REPLY) {
        a->id = wire.reply.id;
        a->body = json_loadb(wire.reply.body.p, wire.reply.body.n, 0, NULL);
        assert_non_null(a->body);
    } else {
        assert_int_equal(wire.type, WIRE_ERROR);
        a->id = wire.error.has_ref ? wire.error.ref : 0;
        copy(a->code, sizeof a->code, wire.error.code);
        copy(a->text, sizeof a->text, wire.error.text);
        copy(a->hint, sizeof a->hint, wire.error.hint);
    }
    if (t.n >= t.wanted) {
        uv_stop(&t.loop);
    }
}

static void on_patience_lost(uv_timer_t *timer)
{
    (void)timer;
    fail_msg("no answer");
}

static void wait_answers(int n)
{
    t.wanted = n;
    uv_timer_start(&t.timer, on_patience_lost, PATIENCE, 0);
    while (t.n < n) {
        uv_run(&t.loop, UV_RUN_DEFAULT);
    }
    uv_timer_stop(&t.timer);
}

static void ask(int client, uint64_t id, const char *method, const char *params)
{
    uint8_t data[SEISMO_MAX_QUERY + 256];
    struct wire_buf b = {.data = data, .cap = sizeof data};
    struct wire_query query = {.id = id,
                               .method = {method, (uint32_t)strlen(method)},
                               .params = {params, (uint32_t)strlen(params)}};
    wire_put_query(&b, &query);
    assert_false(b.overflow);
    assert_int_equal(zsock_send(t.client[client], NULL, 0, data, b.n), 0);
}

/* The answer to one request. */
static struct answer *answer_to(const char *method, const char *params)
{
    static uint64_t id = 1000;
    ask(0, ++id, method, params);
    wait_answers(t.n + 1);
    assert_int_equal(t.answer[t.n - 1].id, id);
    return &t.answer[t.n - 1];
}

static void exec(const char *sql)
{
    if (sqlite3_exec(t.db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        fail_msg("%s: %s", sqlite3_errmsg(t.db), sql);
    }
}

static int setup(void **state)
{
    (void)state;
    char errmsg[SEISMO_ERRMSG];
    memset(&t, 0, sizeof t);
    snprintf(t.dir, sizeof t.dir, "/tmp/seismo-query-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    snprintf(t.path, sizeof t.path, "%s/seismo.db", t.dir);
    snprintf(t.endpoint, sizeof t.endpoint, "ipc://%s/query.sock", t.dir);
    assert_int_equal(sqlite3_open(t.path, &t.db), SQLITE_OK);
    static char schema[1 << 16];
    FILE *file = fopen(SEISMO_SOURCE_ROOT "/daemon/schema.sql", "r");
    assert_non_null(file);
    schema[fread(schema, 1, sizeof schema - 1, file)] = '\0';
    fclose(file);
    exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF");
    exec(schema);
    exec(
        "INSERT INTO runs (id, run, name, program, rank, world, session, last_batch, meta, started,"
        " updated, state, severity, worst, steps, model) VALUES (1, 'alpha', 'alpha', 'p', 0, 1,"
        " x'00', 0, '{}', 1, 1, 'healthy', 'info', 'healthy', 0, 'm')");
    assert_int_equal(uv_loop_init(&t.loop), 0);
    uv_timer_init(&t.loop, &t.timer);
    t.zmq = zmq_ctx_new();
    t.model = model_builtin(errmsg);
    assert_non_null(t.model);
    struct query_ops ops = {.peers = 100, .live = on_live, .submit = on_submit, .clock = fake_clock};
    if (query_new(&t.loop, t.zmq, t.endpoint, t.path, t.model, &ops, &t, &t.q, errmsg) != 0) {
        fail_msg("%s", errmsg);
    }
    assert_string_equal(query_endpoint(t.q), t.endpoint);
    for (int i = 0; i < CLIENTS; i++) {
        assert_int_equal(zsock_new(&t.loop, t.zmq, ZMQ_DEALER, SEISMO_MAX_MESSAGE, on_answer,
                                   &t.client[i], &t.client[i], errmsg),
                         0);
        assert_int_equal(zsock_connect(t.client[i], t.endpoint, errmsg), 0);
    }
    return 0;
}

static void on_query_closed(void *arg)
{
    assert_ptr_equal(arg, &t);
    t.closed = true;
}

static void close_query(void)
{
    query_close(t.q, on_query_closed, &t);
    t.q = NULL;
    while (!t.closed) {
        uv_run(&t.loop, UV_RUN_ONCE);
    }
}

static int teardown(void **state)
{
    (void)state;
    if (t.q) {
        close_query();
    }
    for (int i = 0; i < CLIENTS; i++) {
        zsock_close(&t.client[i], NULL, NULL);
    }
    uv_close((uv_handle_t *)&t.timer, NULL);
    uv_run(&t.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&t.loop), 0);
    assert_int_equal(zmq_ctx_term(t.zmq), 0);
    for (int i = 0; i < t.n; i++) {
        json_decref(t.answer[i].body);
    }
    job_free(&t.job);
    model_free(&t.model);
    assert_int_equal(sqlite3_close(t.db), SQLITE_OK);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", t.dir);
    return system(command);
}

static const json_t *get(const json_t *object, const char *a, const char *b)
{
    const json_t *value = json_object_get(object, a);
    value = b ? json_object_get(value, b) : value;
    if (!value) {
        fail_msg("no %s %s", a, b ? b : "");
    }
    return value;
}

/* ---- the tests ---- */

static void test_status_is_merged(void **state)
{
    (void)state;
    const json_t *body = answer_to("status", "{}")->body;
    assert_non_null(body);
    assert_int_equal(json_integer_value(get(body, "schema", NULL)), 1);
    assert_string_equal(json_string_value(get(body, "version", NULL)), SEISMO_VERSION);
    assert_int_equal(json_integer_value(get(body, "pid", NULL)), getpid());
    assert_float_equal(json_real_value(get(body, "started", NULL)), 900, 0);
    assert_float_equal(json_real_value(get(body, "uptime", NULL)), 100, 0);
    assert_string_equal(json_string_value(get(body, "model", "name")), model_name(t.model));
    assert_int_equal(json_string_length(get(body, "model", "id")), 16);
    const char *counter[] = {
        "peers", "steps", "batches", "commits", "verdicts", "duplicate_batches", "expired"};
    const int value[] = {7, 11, 12, 13, 14, 15, 16};
    for (int i = 0; i < 7; i++) {
        assert_int_equal(json_integer_value(get(body, counter[i], NULL)), value[i]);
    }
    assert_int_equal(json_integer_value(get(body, "queued", "jobs")), 16);
    assert_int_equal(json_integer_value(get(body, "queued", "rows")), 17);
    assert_true(json_is_false(get(body, "storage", "ok")));
    assert_string_equal(json_string_value(get(body, "storage", "error")), "disk full");
    assert_string_equal(json_string_value(get(body, "storage", "path")), t.path);
    assert_true(json_integer_value(get(body, "storage", "bytes")) > 0);
    assert_int_equal(json_integer_value(get(body, "runs", "total")), 1);
    assert_int_equal(json_integer_value(get(get(body, "runs", NULL), "by_state", "healthy")), 1);
    assert_int_equal(json_array_size(get(body, "endpoints", "ingest")), 2);
    assert_string_equal(json_string_value(get(body, "endpoints", "events")), "ipc:///e");
}

static void test_errors(void **state)
{
    (void)state;
    const struct answer *a = answer_to("run", "{\"run\":\"alhpa\"}");
    assert_string_equal(a->code, "not_found");
    assert_non_null(strstr(a->hint, "'alpha'"));
    a = answer_to("runs", "{\"foo\":1}");
    assert_string_equal(a->code, "invalid");
    assert_non_null(strstr(a->text, "known: state, program, limit"));
    a = answer_to("what", "{}");
    assert_string_equal(a->code, "invalid");
    assert_non_null(strstr(a->hint, "explain"));

    const char *raw[] = {"", "\xc1", "\x91\x15", "\x93\x04\x01\xa3run"};
    const size_t n[] = {0, 1, 2, 7};
    for (int i = 0; i < 4; i++) {
        zsock_send(t.client[0], NULL, 0, raw[i], n[i]);
        wait_answers(t.n + 1);
        assert_string_equal(t.answer[t.n - 1].code, "malformed");
        assert_non_null(strstr(t.answer[t.n - 1].hint, "PROTOCOL.md"));
    }
    zsock_send(t.client[0], "two", 3, "frames", 6);
    wait_answers(t.n + 1);
    assert_string_equal(t.answer[t.n - 1].code, "malformed");
    assert_non_null(answer_to("status", "{}")->body); /* and goes on */
}

/* An error text that quotes a peer's bytes, cut in the middle of a character, stays valid UTF-8. */
static void test_error_texts_are_printable(void **state)
{
    (void)state;
    char params[256];
    snprintf(params, sizeof params, "{\"x%s\\u0007\":1}", "ééééééééééééééééééééééééé");
    const struct answer *a = answer_to("status", params);
    json_t *text = json_string(a->text);
    assert_non_null(text);
    json_decref(text);
    assert_non_null(strstr(a->text, "éé?'"));
    a = answer_to("status", "{\"\\u0007\":1}");
    assert_non_null(strstr(a->text, "'?'"));
}

static void test_label(void **state)
{
    (void)state;
    assert_string_equal(answer_to("label", "{\"run\":\"alhpa\",\"outcome\":\"x\"}")->code,
                        "not_found");
    assert_null(t.job);
    int before = t.n;
    ask(0, 5, "label", "{\"run\":\"alpha\",\"outcome\":\"good\"}");
    while (!t.job) {
        uv_run(&t.loop, UV_RUN_ONCE);
    }
    assert_int_equal(t.job->type, JOB_LABEL);
    assert_string_equal(t.job->label.run, "alpha");
    assert_string_equal(t.job->label.outcome, "good");
    assert_int_equal(t.n, before); /* not answered before it is stored */
    assert_non_null(answer_to("status", "{}")->body);
    exec("UPDATE runs SET label = 'good' WHERE id = 1");
    struct job stranger = {.type = JOB_LABEL, .owner = t.job->owner + 1};
    query_label_done(t.q, &stranger);
    query_label_done(t.q, t.job);
    wait_answers(t.n + 1);
    struct answer *a = &t.answer[t.n - 1];
    assert_int_equal(a->id, 5);
    assert_string_equal(json_string_value(get(a->body, "run", "label")), "good");
    job_free(&t.job);
}

static void test_label_that_fails(void **state)
{
    (void)state;
    t.submit_err = SEISMO_EBUSY;
    assert_string_equal(answer_to("label", "{\"run\":\"alpha\",\"outcome\":\"x\"}")->code, "busy");
    t.submit_err = 0;
    ask(0, 6, "label", "{\"run\":\"alpha\",\"outcome\":\"good\"}");
    while (!t.job) {
        uv_run(&t.loop, UV_RUN_ONCE);
    }
    t.job->err = SEISMO_ENOTFOUND;
    snprintf(t.job->errmsg, sizeof t.job->errmsg, "it is gone");
    query_label_done(t.q, t.job);
    wait_answers(t.n + 1);
    assert_int_equal(t.answer[t.n - 1].id, 6);
    assert_string_equal(t.answer[t.n - 1].code, "not_found");
    assert_string_equal(t.answer[t.n - 1].text, "it is gone");
}

/* One client asks much more than is taken at once: everything is answered, and another client does
 * not wait for the end of it. */
static void test_flood_is_fair(void **state)
{
    (void)state;
    const int n = 100; /* as many answers as wait for a client that does not read yet */
    for (int i = 1; i <= n; i++) {
        ask(0, (uint64_t)i, "status", "{}");
    }
    wait_answers(QUERY_MAX_REQUESTS);
    ask(1, 9999, "status", "{}");
    wait_answers(n + 1);
    bool seen[101] = {false};
    int other = -1;
    for (int i = 0; i < t.n; i++) {
        assert_non_null(t.answer[i].body);
        if (t.answer[i].client == 1) {
            other = i;
        } else {
            seen[t.answer[i].id] = true;
        }
    }
    for (int i = 1; i <= n; i++) {
        assert_true(seen[i]);
    }
    assert_in_range(other, 0, n - n / 8);
}

static void on_turn(uv_timer_t *timer)
{
    (void)timer;
    if (++t.turns == 30) {
        uv_stop(&t.loop);
    }
}

/* Makes every look at the table of runs count to `n` first. */
static void slow_down(const char *n)
{
    char sql[512];
    snprintf(sql, sizeof sql,
             "ALTER TABLE runs RENAME TO fast; CREATE VIEW runs AS SELECT fast.* FROM fast,"
             " (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < %s)"
             " SELECT max(x) FROM c)",
             n);
    exec(sql);
}

/* While every reader is busy the loop turns; what was asked is answered in the end. */
static void test_slow_reading_does_not_hold_up_the_loop(void **state)
{
    (void)state;
    slow_down("1500000");
    for (int i = 1; i <= QUERY_READERS; i++) {
        ask(0, (uint64_t)i, "runs", "{}");
    }
    t.wanted = MAX_ANSWERS;
    uv_timer_start(&t.timer, on_turn, 2, 2);
    uv_run(&t.loop, UV_RUN_DEFAULT);
    assert_int_equal(t.turns, 30);
    assert_int_equal(t.n, 0);
    wait_answers(QUERY_READERS);
    for (int i = 0; i < QUERY_READERS; i++) {
        assert_string_equal(t.answer[i].text, "");
        assert_int_equal(json_array_size(get(t.answer[i].body, "runs", NULL)), 1);
    }
}

/* Closing interrupts what is under way and forgets what waits. */
static void test_close_in_the_middle(void **state)
{
    (void)state;
    slow_down("1e12");
    for (int i = 1; i <= 40; i++) {
        ask(0, (uint64_t)i, "runs", "{}");
    }
    t.wanted = MAX_ANSWERS;
    uv_timer_start(&t.timer, on_turn, 2, 2);
    uv_run(&t.loop, UV_RUN_DEFAULT);
    assert_int_equal(t.turns, 30);
    assert_int_equal(t.n, 0);
    uint64_t start = uv_hrtime();
    close_query();
    assert_true((double)(uv_hrtime() - start) / 1e9 < READER_DEADLINE / 2);
}

static void test_close_with_a_label_under_way(void **state)
{
    (void)state;
    ask(0, 6, "label", "{\"run\":\"alpha\",\"outcome\":\"good\"}");
    while (!t.job) {
        uv_run(&t.loop, UV_RUN_ONCE);
    }
    close_query();
}

static void test_bind_fails(void **state)
{
    (void)state;
    char errmsg[SEISMO_ERRMSG] = "";
    struct query *q = NULL;
    struct query_ops ops = {.peers = 100, .live = on_live, .submit = on_submit, .clock = fake_clock};
    assert_true(query_new(&t.loop, t.zmq, "ipc:///nonexistent/q.sock", t.path, t.model, &ops, &t,
                          &q, errmsg) < 0);
    assert_null(q);
    assert_non_null(strstr(errmsg, "/nonexistent/q.sock"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_status_is_merged),
        TEST(test_errors),
        TEST(test_error_texts_are_printable),
        TEST(test_label),
        TEST(test_label_that_fails),
        TEST(test_flood_is_fair),
        TEST(test_slow_reading_does_not_hold_up_the_loop),
        TEST(test_close_in_the_middle),
        TEST(test_close_with_a_label_under_way),
        TEST(test_bind_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
