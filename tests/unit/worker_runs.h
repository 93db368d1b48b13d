/* The training that the worker's tests stream, and the small model that judges it. */
#ifndef SEISMO_TESTS_WORKER_RUNS_H
#define SEISMO_TESTS_WORKER_RUNS_H

#include "tests/unit/simulated.h"
#include "tests/unit/small_model.h"
#include "tests/unit/worker_rig.h"

#define ROWS 900

/* A training that becomes unstable at row 300 and healthy again at row 500, and loses its head at
 * row 700. */
static struct seismo_row rows[ROWS];

static inline void make_rows(void)
{
    simulated_run(rows, ROWS, 11, 0.3, 0.05, ROWS, 0.05);
    for (int i = 0; i < ROWS; i++) {
        rows[i].time = 1.7e9 + 0.25 * i;
        if (i >= 300 && i < 500) {
            row_set(&rows[i], SEISMO_LOSS, rows[i].value[SEISMO_LOSS] + 50);
        }
        if (i >= 700 && i < 710) {
            row_set(&rows[i], SEISMO_LOSS, i % 2 ? NAN : INFINITY);
            row_set(&rows[i], SEISMO_GRAD_NORM, NAN);
        }
    }
}

static inline struct model *load_model(const char *text)
{
    char path[64] = "/tmp/seismo-model-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    struct model *model;
    if (model_load(path, &model, rig.errmsg) != 0) {
        fail_msg("%s", rig.errmsg);
    }
    unlink(path);
    return model;
}

static inline int group_setup(void **state)
{
    (void)state;
    make_rows();
    rig.model = load_model(SMALL_MODEL("small"));
    return 0;
}

static inline int group_teardown(void **state)
{
    (void)state;
    model_free(&rig.model);
    return 0;
}

/* Rows `from` to `to` in batches of `n`. */
static inline void feed(struct peer *p, uint32_t from, uint32_t to, uint32_t n)
{
    for (uint32_t i = from; i < to; i += n) {
        rig_feed(p, rows + i, to - i < n ? to - i : n);
    }
}

/* The first of the verdicts that no job asked for is this one. */
static inline struct job *expect_news(const char *state, const char *severity)
{
    struct job *job = rig_stray_news();
    assert_non_null(job->news);
    json_t *v = json_loads(job->news->json, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(v, "state")), state);
    assert_string_equal(json_string_value(json_object_get(v, "severity")), severity);
    assert_true(json_is_null(json_object_get(v, "score")));
    assert_true(json_is_number(json_object_get(v, "time")));
    json_decref(v);
    return job;
}

#endif
