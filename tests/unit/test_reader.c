/* The reader against a database made by hand, with rows and snapshots as the worker writes them. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "daemon/archive/history.h"
#include "daemon/reader.h"
#include "proto/trace.h"

#define STEPS 600
#define CHUNKS 2
#define FIRST_STEP 100 /* of the run; steps are FIRST_STEP + i */

static struct {
    char dir[64], path[128];
    struct model *model;
    sqlite3 *db; /* the writer's */
    struct reader *reader;
    float score[STEPS];
    enum verdict_state state[STEPS];
    char errmsg[SEISMO_ERRMSG], hint[READER_MAX_HINT];
} t;

/* Formats as SQLite does: %Q is a quoted string. */
static void sql(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    char *text = sqlite3_vmprintf(format, ap);
    va_end(ap);
    if (sqlite3_exec(t.db, text, NULL, NULL, NULL) != SQLITE_OK) {
        fail_msg("%s: %.200s", sqlite3_errmsg(t.db), text);
    }
    sqlite3_free(text);
}

/* One blob or two into a statement's parameters ?1 and ?2. */
static void sql_blobs(const char *text, const void *a, size_t a_n, const void *b, size_t b_n)
{
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_prepare_v2(t.db, text, -1, &s, NULL), SQLITE_OK);
    sqlite3_bind_blob(s, 1, a, (int)a_n, SQLITE_STATIC);
    if (b) {
        sqlite3_bind_blob(s, 2, b, (int)b_n, SQLITE_STATIC);
    }
    assert_int_equal(sqlite3_step(s), SQLITE_DONE);
    sqlite3_finalize(s);
}

static void insert_run(int id, const char *run, const char *program, const char *state,
                       const char *meta)
{
    sql("INSERT INTO runs (id, run, name, program, rank, world, session, last_batch, meta, started,"
        " updated, state, severity, worst, steps, model)"
        " VALUES (%d, %Q, %Q, %Q, 0, 1, x'00', 0, %Q, 1700000000.25, 1700000001, %Q, 'info',"
        " 'healthy', 0, 'm')",
        id, run, run, program, meta, state);
}

static void make_row(int i, struct seismo_row *ret)
{
    *ret = (struct seismo_row){.step = FIRST_STEP + i, .time = 1.7e9 + 0.125 * i};
    row_set(ret, SEISMO_LOSS, i == 420 ? NAN : 0.1 + exp(-i / 100.0) + 0.01 * sin(i * 12.9898));
    row_set(ret, SEISMO_GRAD_NORM, i == 421 ? INFINITY : 1.0 + 0.1 * cos(i * 78.233));
    if (i % 3 == 0) {
        row_set(ret, SEISMO_VAL_LOSS, 0.5);
    }
}

/* STEPS rows of run 1: CHUNKS chunks, then a tail of parts of ten. */
static void insert_rows(void)
{
    struct detector d;
    detector_init(&d);
    uint8_t snapshot[DETECTOR_SNAPSHOT_MAX];
    static uint8_t rows[CHUNK_ROWS * PACK_MAX];
    size_t snapshot_n = 0, bytes = 0;
    int from = 0;
    for (int i = 0; i < STEPS; i++) {
        bool tail = i >= CHUNKS * CHUNK_ROWS;
        if (i == from && (!tail || i == CHUNKS * CHUNK_ROWS)) {
            snapshot_n = detector_snapshot(&d, t.model, snapshot);
        }
        struct seismo_row row;
        struct detector_result result;
        make_row(i, &row);
        detector_step(&d, t.model, &row, &result);
        t.score[i] = result.score;
        t.state[i] = result.state;
        bytes += pack_row(rows + bytes, &row, result.score, result.curvature);
        if (i + 1 - from == (tail ? 10 : CHUNK_ROWS) || i == STEPS - 1) {
            char text[256];
            snprintf(text, sizeof text,
                     tail ? "INSERT INTO tail (id, run_id, first_step, last_step, n, rows)"
                            " VALUES (%4$d, 1, %1$d, %2$d, %3$d, ?1)"
                          : "INSERT INTO chunks (run_id, first_step, last_step, n, rows, snapshot)"
                            " VALUES (1, %1$d, %2$d, %3$d, ?1, ?2)",
                     FIRST_STEP + from, FIRST_STEP + i, i + 1 - from, (int)TAIL_FIRST(1) + i);
            sql_blobs(text, rows, bytes, tail ? NULL : snapshot, snapshot_n);
            from = i + 1;
            bytes = 0;
        }
    }
    sql_blobs("INSERT INTO tail_state VALUES (1, ?1)", snapshot, snapshot_n, NULL, 0);
    sql("UPDATE runs SET steps = %d, first_step = %d, step = %d, loss = 0.10000000149011612,"
        " max_score = 9e999 WHERE id = 1",
        STEPS, FIRST_STEP, FIRST_STEP + STEPS - 1);
}

static void insert_verdict(int id, int run_id, const char *run, int step, int superseded)
{
    sql("INSERT INTO verdicts VALUES (%d, %d, %Q, 'train.py', %d, NULL, 1700000000.5, 'unstable',"
        " 'critical', 0.75, 0.5, 'learning_rate', '{\"learning_rate\":0.5}',"
        " '[{\"feature\":\"f\",\"value\":null,\"contribution\":1.5,\"text\":\"words\"}]', %d)",
        id, run_id, run, step, superseded);
}

static char *read_schema(void)
{
    FILE *file = fopen(SEISMO_SOURCE_ROOT "/daemon/schema.sql", "r");
    assert_non_null(file);
    char *text = calloc(1, 1 << 16);
    assert_true(fread(text, 1, (1 << 16) - 1, file) > 0);
    fclose(file);
    return text;
}

static int setup(void **state)
{
    (void)state;
    t.model = model_builtin(t.errmsg);
    if (!t.model) {
        fail_msg("%s", t.errmsg);
    }
    snprintf(t.dir, sizeof t.dir, "/tmp/seismo-reader-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    snprintf(t.path, sizeof t.path, "%s/seismo.db", t.dir);
    assert_int_equal(sqlite3_open(t.path, &t.db), SQLITE_OK);
    char *schema = read_schema();
    sql("PRAGMA journal_mode = WAL");
    sql("%s", schema);
    free(schema);
    sql("PRAGMA user_version = 1; BEGIN");
    insert_run(1, "alpha", "train.py", "healthy", "{\"lr\": 0.1}");
    insert_run(2, "alpha#2", "train.py", "unstable", "{}");
    insert_run(3, "beta", "gan.py", "ended", "{}");
    insert_rows();
    insert_verdict(1, 1, "alpha", FIRST_STEP + 50, 0);
    insert_verdict(2, 2, "alpha#2", 10, 0);
    insert_verdict(3, 1, "alpha", FIRST_STEP + 300, 1);
    insert_verdict(4, 1, "alpha", FIRST_STEP + 400, 0);
    sql("COMMIT");
    if (reader_new(t.path, t.model, &t.reader, t.errmsg) != 0) {
        fail_msg("%s", t.errmsg);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    reader_free(&t.reader);
    reader_free(&t.reader);
    model_free(&t.model);
    assert_int_equal(sqlite3_close(t.db), SQLITE_OK);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", t.dir);
    return system(command);
}

static int ask(const char *method, const char *params, json_t **ret_body)
{
    return reader_query(t.reader, method, params, strlen(params), ret_body, t.errmsg, t.hint);
}

/* The body of a request that must succeed. */
static json_t *body_of(const char *method, const char *params)
{
    json_t *body = NULL;
    if (ask(method, params, &body) != 0) {
        fail_msg("%s %s: %s (%s)", method, params, t.errmsg, t.hint);
    }
    assert_int_equal(json_integer_value(json_object_get(body, "schema")), 1);
    assert_true(json_dumpb(body, NULL, 0, READER_DUMP) <= READER_MAX_BODY);
    return body;
}

static void assert_refused(const char *method, const char *params, int err, const char *text,
                           const char *hint)
{
    json_t *body = NULL;
    assert_int_equal(ask(method, params, &body), err);
    assert_null(body);
    if (!strstr(t.errmsg, text) || !strstr(t.hint, hint)) {
        fail_msg("%s %s: got '%s' (%s)", method, params, t.errmsg, t.hint);
    }
}

static int64_t integer(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static const char *string(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    assert_non_null(value);
    return value;
}

/* ---- the tests ---- */

static void test_bad_requests(void **state)
{
    (void)state;
    assert_refused("nonsense", "{}", SEISMO_EINVAL, "unknown method 'nonsense'", "status, runs");
    assert_refused("status", "{\"run\":\"a\"}", SEISMO_EINVAL, "known: none", "");
    assert_refused("runs", "{\"stat\":\"healthy\"}", SEISMO_EINVAL,
                   "unknown parameter 'stat' of 'runs'; known: state, program, limit", "");
    assert_refused("runs", "{\"state\":\"fine\"}", SEISMO_EINVAL, "unknown state 'fine'",
                   "warming_up, healthy, unstable");
    assert_refused("runs", "{\"limit\":0}", SEISMO_EINVAL, "integer from 1 to 1000", "");
    assert_refused("runs", "{\"limit\":\"9\"}", SEISMO_EINVAL, "'limit'", "");
    assert_refused("run", "", SEISMO_EINVAL, "needs the parameter 'run'", "");
    assert_refused("run", "{\"run\":\"\"}", SEISMO_EINVAL, "string of 1 to", "");
    assert_refused("run", "{\"run\":\"a\",\"run\":\"b\"}", SEISMO_EMALFORMED, "not JSON", "");
    assert_refused("run", "{\"run\":", SEISMO_EMALFORMED, "not JSON", "");
    assert_refused("run", "[1]", SEISMO_EMALFORMED, "must be one JSON object", "");
    assert_refused("verdicts", "{\"superseded\":1}", SEISMO_EINVAL, "true or false", "");
    assert_refused("steps", "{\"run\":\"alpha\",\"after\":-2}", SEISMO_EINVAL, "'after'", "");
    assert_refused("label", "{\"run\":\"alpha\"}", SEISMO_EINVAL, "'outcome'", "");
    static char big[SEISMO_MAX_QUERY + 2];
    memset(big, ' ', sizeof big - 1);
    assert_refused("status", big, SEISMO_ETOOBIG, "at most", "");
    /* null is the same as leaving the parameter out. */
    json_decref(body_of("runs", "{\"state\":null}"));
}

static void test_unknown_run(void **state)
{
    (void)state;
    const char *method[] = {"run", "series", "verdicts", "explain", "steps"};
    for (int i = 0; i < 5; i++) {
        assert_refused(method[i], "{\"run\":\"alpa\"}", SEISMO_ENOTFOUND, "no run 'alpa'",
                       "nearest names: 'alpha', ");
    }
    assert_refused("run", "{\"run\":\"x' OR '1'='1\"}", SEISMO_ENOTFOUND, "no run", "nearest");
    sql("BEGIN; DELETE FROM runs");
    assert_refused("run", "{\"run\":\"b\"}", SEISMO_ENOTFOUND, "no run", "'beta'"); /* not yet */
    sql("ROLLBACK");
}

static void test_runs(void **state)
{
    (void)state;
    json_t *body = body_of("runs", "{}");
    const json_t *runs = json_object_get(body, "runs");
    assert_int_equal(json_array_size(runs), 3);
    assert_true(json_is_false(json_object_get(body, "more")));
    const json_t *first = json_array_get(runs, 2); /* the newest stands first */
    assert_string_equal(string(first, "run"), "alpha");
    assert_null(json_object_get(first, "session"));
    assert_float_equal(json_real_value(json_object_get(json_object_get(first, "meta"), "lr")), 0.1,
                       1e-12);
    assert_true(json_is_null(json_object_get(first, "ended")));
    assert_string_equal(string(first, "max_score"), "inf");
    /* Every column but the session, under its own name. */
    sqlite3_stmt *s;
    sqlite3_prepare_v2(t.db, "SELECT * FROM runs", -1, &s, NULL);
    for (int i = 0; i < sqlite3_column_count(s); i++) {
        const char *name = sqlite3_column_name(s, i);
        assert_true((json_object_get(first, name) != NULL) == (strcmp(name, "session") != 0));
    }
    sqlite3_finalize(s);
    char *text = json_dumps(first, READER_DUMP);
    assert_non_null(strstr(text, "\"loss\":0.1,"));
    assert_non_null(strstr(text, "\"started\":1700000000.25,"));
    free(text);
    json_decref(body);

    body = body_of("runs", "{\"program\":\"train.py\",\"limit\":1}");
    assert_int_equal(json_array_size(json_object_get(body, "runs")), 1);
    assert_string_equal(string(json_array_get(json_object_get(body, "runs"), 0), "run"), "alpha#2");
    assert_true(json_is_true(json_object_get(body, "more")));
    json_decref(body);
    body = body_of("runs", "{\"state\":\"stalled\"}");
    assert_int_equal(json_array_size(json_object_get(body, "runs")), 0);
    json_decref(body);
    body = body_of("run", "{\"run\":\"beta\"}");
    assert_string_equal(string(json_object_get(body, "run"), "program"), "gan.py");
    json_decref(body);
}

/* More than fits into one message: the list is cut and says so (body_of checks the size). */
static void test_runs_with_large_metadata(void **state)
{
    (void)state;
    static char meta[SEISMO_MAX_META];
    snprintf(meta, sizeof meta, "{\"x\": \"%0*d\"}", SEISMO_MAX_META - 16, 0);
    sql("BEGIN");
    for (int i = 0; i < 300; i++) {
        char run[16];
        snprintf(run, sizeof run, "big %d", i);
        insert_run(1000 + i, run, "p", "healthy", meta);
    }
    sql("COMMIT");
    json_t *body = body_of("runs", "{}");
    assert_in_range(json_array_size(json_object_get(body, "runs")), 100, 130);
    assert_true(json_is_true(json_object_get(body, "more")));
    json_decref(body);
}

static void test_status(void **state)
{
    (void)state;
    json_t *body = body_of("status", "");
    const json_t *runs = json_object_get(body, "runs");
    assert_int_equal(integer(runs, "total"), 3);
    assert_int_equal(integer(json_object_get(runs, "by_state"), "unstable"), 1);
    assert_int_equal(integer(json_object_get(runs, "by_state"), "silent"), 0);
    const json_t *storage = json_object_get(body, "storage");
    assert_string_equal(string(storage, "path"), t.path);
    assert_int_equal(integer(storage, "schema"), 1);
    assert_true(integer(storage, "bytes") > 10000);
    json_decref(body);
}

static void test_steps_page_by_page(void **state)
{
    (void)state;
    int64_t after = -1;
    int i = 0, pages = 0;
    for (bool more = true; more; pages++) {
        char params[64];
        snprintf(params, sizeof params, "{\"run\":\"alpha\",\"after\":%d,\"limit\":70}",
                 (int)after);
        json_t *body = body_of("steps", params), *object;
        size_t k;
        json_array_foreach (json_object_get(body, "rows"), k, object) {
            struct seismo_row row, expected;
            make_row(i++, &expected);
            assert_int_equal(trace_row_from_json(object, &row, t.errmsg), 0);
            assert_int_equal(row.step, expected.step);
            assert_int_equal(row.present, expected.present);
            assert_memory_equal(row.value, expected.value, sizeof row.value);
            assert_true(row.time == expected.time);
            after = row.step;
        }
        more = json_is_true(json_object_get(body, "more"));
        assert_int_equal(json_array_size(json_object_get(body, "rows")), more ? 70 : STEPS % 70);
        json_decref(body);
    }
    assert_int_equal(i, STEPS);
    assert_int_equal(pages, STEPS / 70 + 1);
    json_t *body = body_of("steps", "{\"run\":\"beta\"}");
    assert_int_equal(json_array_size(json_object_get(body, "rows")), 0);
    assert_true(json_is_false(json_object_get(body, "more")));
    json_decref(body);
}

static void test_damaged_rows(void **state)
{
    (void)state;
    sql("UPDATE chunks SET rows = x'0102' WHERE first_step = %d", FIRST_STEP + CHUNK_ROWS);
    assert_refused("steps", "{\"run\":\"alpha\"}", SEISMO_ECORRUPT, "", "");
    json_decref(body_of("steps", "{\"run\":\"alpha\",\"limit\":100}")); /* before the damage */
    json_decref(body_of("run", "{\"run\":\"alpha\"}"));
}

static void check_explain(int i)
{
    char params[64];
    snprintf(params, sizeof params, "{\"run\":\"alpha\",\"step\":%d}", FIRST_STEP + i);
    json_t *body = body_of("explain", params), *reason;
    int stored = i < STEPS ? i : STEPS - 1;
    assert_int_equal(integer(body, "step"), FIRST_STEP + stored);
    assert_true((float)json_number_value(json_object_get(body, "score")) == t.score[stored]);
    assert_string_equal(string(body, "state"), verdict_state_name(t.state[stored]));
    double sum = json_number_value(json_object_get(body, "bias"));
    double last = INFINITY;
    size_t k;
    json_array_foreach (json_object_get(body, "reasons"), k, reason) {
        double c = json_number_value(json_object_get(reason, "contribution"));
        assert_true(fabs(c) <= last);
        last = fabs(c);
        sum += c;
        string(reason, "feature");
        string(reason, "text");
    }
    assert_true(k > 5);
    assert_float_equal(sum, json_number_value(json_object_get(body, "margin")), 1e-3);
    const json_t *verdict = json_object_get(body, "verdict");
    if (i < 50) {
        assert_true(json_is_null(verdict));
    } else {
        assert_int_equal(integer(verdict, "id"), i < 400 ? 1 : 4); /* 3 is superseded */
    }
    json_decref(body);
}

static void test_explain(void **state)
{
    (void)state;
    const int step[] = {0, 1, 49, 50, 255, 256, 399, 400, 425, 511, 512, 513, 599, 5000};
    for (size_t i = 0; i < sizeof step / sizeof step[0]; i++) {
        check_explain(step[i]);
    }
    json_t *body = body_of("explain", "{\"run\":\"alpha\"}");
    assert_int_equal(integer(body, "step"), FIRST_STEP + STEPS - 1);
    json_decref(body);
    assert_refused("explain", "{\"run\":\"alpha\",\"step\":5}", SEISMO_ENOTFOUND, "no step 5",
                   "the steps 100 to 699");
    assert_refused("explain", "{\"run\":\"beta\"}", SEISMO_ENOTFOUND, "no steps yet", "");
    /* A snapshot of no use: the same from the run's first row. */
    sql("UPDATE chunks SET snapshot = x'00'; UPDATE tail_state SET snapshot = x''");
    check_explain(300);
    check_explain(599);
}

static void test_verdicts(void **state)
{
    (void)state;
    json_t *body = body_of("verdicts", "{}");
    const json_t *list = json_object_get(body, "verdicts");
    assert_int_equal(json_array_size(list), 3);
    assert_int_equal(integer(body, "last"), 4);
    const json_t *v = json_array_get(list, 0);
    assert_int_equal(integer(v, "id"), 1);
    assert_string_equal(string(json_object_get(v, "fault"), "class"), "learning_rate");
    assert_float_equal(
        json_real_value(json_object_get(
            json_object_get(json_object_get(v, "fault"), "distribution"), "learning_rate")),
        0.5, 0);
    assert_string_equal(string(json_array_get(json_object_get(v, "reasons"), 0), "text"), "words");
    assert_true(json_is_null(json_object_get(v, "time")));
    assert_true(json_is_false(json_object_get(v, "superseded")));
    assert_null(json_object_get(v, "fault_distribution"));
    json_decref(body);

    body = body_of("verdicts", "{\"run\":\"alpha\",\"superseded\":true,\"after\":1,\"limit\":1}");
    list = json_object_get(body, "verdicts");
    assert_int_equal(json_array_size(list), 1);
    assert_int_equal(integer(json_array_get(list, 0), "id"), 3);
    assert_true(json_is_true(json_object_get(json_array_get(list, 0), "superseded")));
    assert_int_equal(integer(body, "last"), 3);
    assert_true(json_is_true(json_object_get(body, "more")));
    json_decref(body);
    body = body_of("verdicts", "{\"after\":77}");
    assert_int_equal(integer(body, "last"), 77);
    json_decref(body);
}

static void test_series(void **state)
{
    (void)state;
    const int n = 3 * READER_MAX_POINTS;
    sql("BEGIN");
    for (int i = 0; i < n; i++) {
        sql("INSERT INTO series_points VALUES (3, %d, 1, 0.5, NULL, 9e999, 0.25, 0.125)", i);
    }
    sql("INSERT INTO series_points VALUES (2, 7, 1, 0.5, 0.75, 1, 0.25, 0.125)");
    sql("COMMIT");
    json_t *body = body_of("series", "{\"run\":\"beta\"}");
    const json_t *points = json_object_get(body, "points");
    assert_string_equal(string(json_object_get(body, "run"), "run"), "beta");
    assert_int_equal(json_array_size(points), READER_MAX_POINTS);
    const json_t *last = json_array_get(points, READER_MAX_POINTS - 1);
    assert_int_equal(integer(last, "step"), n - 1);
    assert_int_equal(integer(json_array_get(points, 0), "step"), 2);
    assert_true(json_is_null(json_object_get(last, "loss_max")));
    assert_string_equal(string(last, "grad_norm"), "inf");
    json_decref(body);
    body = body_of("series", "{\"run\":\"alpha#2\"}");
    points = json_object_get(body, "points");
    assert_int_equal(json_array_size(points), 1);
    assert_int_equal(integer(json_array_get(points, 0), "step"), 7);
    assert_int_equal(json_object_size(json_array_get(points, 0)), 7);
    json_decref(body);
}

static void test_label_is_only_checked(void **state)
{
    (void)state;
    json_t *body = body_of("label", "{\"run\":\"beta\",\"outcome\":\"good\"}");
    assert_string_equal(string(body, "outcome"), "good");
    assert_string_equal(string(json_object_get(body, "run"), "run"), "beta");
    json_decref(body);
    body = body_of("run", "{\"run\":\"beta\"}");
    assert_true(json_is_null(json_object_get(json_object_get(body, "run"), "label")));
    json_decref(body);
}

static atomic_bool stop;

/* Commits a thousand times a second at most, always two tables together, and cuts the log back now
 * and then; ends before a series is longer than the reader gives whole. */
static void *write_on(void *arg)
{
    sqlite3 *db = arg;
    for (int i = 0; !atomic_load(&stop) && i < READER_MAX_POINTS / 2; i++) {
        usleep(1000);
        sqlite3_exec(db,
                     "BEGIN IMMEDIATE; UPDATE runs SET steps = steps + 1 WHERE id = 2;"
                     "INSERT INTO series_points SELECT 2, steps, 1, 0.5, 1, 1, 1, 1 FROM runs"
                     " WHERE id = 2; COMMIT",
                     NULL, NULL, NULL);
        if (i % 50 == 49) {
            sqlite3_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
        }
    }
    return NULL;
}

/* While the writer commits and checkpoints, no request fails and each sees one moment. */
static void test_reading_while_writing(void **state)
{
    (void)state;
    pthread_t writer;
    int last = 0, changes = 0;
    sqlite3_busy_timeout(t.db, 5000);
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&writer, NULL, write_on, t.db), 0);
    for (int i = 0; i < 400 || (changes <= 10 && i < 100000); i++) {
        json_t *body = body_of("series", "{\"run\":\"alpha#2\"}");
        int steps = (int)integer(json_object_get(body, "run"), "steps");
        assert_int_equal(json_array_size(json_object_get(body, "points")), steps);
        changes += steps != last;
        last = steps;
        json_decref(body);
    }
    atomic_store(&stop, true);
    pthread_join(writer, NULL);
    assert_true(changes > 10);
}

static void *release(void *arg)
{
    usleep(300000);
    sqlite3_exec(arg, "COMMIT", NULL, NULL, NULL);
    return NULL;
}

/* Whoever has the database for itself for a moment is waited for. */
static void test_locked_for_a_moment(void **state)
{
    (void)state;
    pthread_t thread;
    reader_free(&t.reader);
    sql("PRAGMA journal_mode = DELETE"); /* where a writer does lock readers out */
    assert_int_equal(reader_new(t.path, t.model, &t.reader, t.errmsg), 0);
    sql("BEGIN EXCLUSIVE");
    pthread_create(&thread, NULL, release, t.db);
    json_decref(body_of("runs", "{}"));
    pthread_join(thread, NULL);
}

static void test_interrupt(void **state)
{
    (void)state;
    reader_interrupt(t.reader);
    assert_refused("status", "", SEISMO_EBUSY, "stopping", "");
}

static void test_no_database(void **state)
{
    (void)state;
    struct reader *r = NULL;
    assert_int_equal(reader_new("/nonexistent/seismo.db", t.model, &r, t.errmsg), SEISMO_EIO);
    assert_null(r);
    assert_non_null(strstr(t.errmsg, "/nonexistent/seismo.db"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_bad_requests),
        TEST(test_unknown_run),
        TEST(test_runs),
        TEST(test_runs_with_large_metadata),
        TEST(test_status),
        TEST(test_steps_page_by_page),
        TEST(test_damaged_rows),
        TEST(test_explain),
        TEST(test_verdicts),
        TEST(test_series),
        TEST(test_label_is_only_checked),
        TEST(test_reading_while_writing),
        TEST(test_locked_for_a_moment),
        TEST(test_interrupt),
        TEST(test_no_database),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
