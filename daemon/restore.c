#include "daemon/restore.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/log.h"

static void start_anew(struct run *run)
{
    detector_init(&run->detector);
    run->state = STATE_WARMING_UP;
    run->severity = SEVERITY_INFO;
}

/* The rows may be as they should be, and are not known. */
static bool is_unread(int err)
{
    return err == SEISMO_EIO || err == SEISMO_ENOMEM;
}

/* Detector, state and last row. When the rows are damaged, or gone, the detector starts anew. */
static int restore_detector(struct store *s, const struct model *model, struct run *run,
                            bool *ret_damaged)
{
    *ret_damaged = false;
    if (run->steps == 0) {
        start_anew(run);
        return 0;
    }
    struct detector_result result;
    struct pack_row row;
    char errmsg[SEISMO_ERRMSG];
    int err = history_restore(store_db(s), model, run->id, run->step, NULL, NULL, &run->detector,
                              &result, &row, errmsg);
    if (is_unread(err)) {
        return store_history_failed(s, err);
    }
    if (err) {
        log_error("store", "run %s: not all of its stored steps can be read: %s", run->run, errmsg);
        start_anew(run);
        *ret_damaged = err == SEISMO_ECORRUPT;
        return 0;
    }
    run->step = row.row.step;
    run->loss = row.row.value[SEISMO_LOSS];
    run->score = result.score;
    run->state = result.state;
    run->severity = result.severity;
    return 0;
}

/* The chunk that the tail will become starts with the tail's snapshot, so one that is damaged, or
 * of another model before the first row of the tail, is replaced. */
static int restore_snapshot(struct store *s, const struct model *model, const struct run *run,
                            int64_t tail_first)
{
    char errmsg[SEISMO_ERRMSG];
    struct history *h;
    int err = history_new(store_db(s), run->id, INT64_MAX, &h, errmsg);
    if (err) {
        return store_history_failed(s, err);
    }
    struct detector d;
    size_t n;
    const uint8_t *stored = history_snapshot(h, &n);
    err = detector_restore(&d, model, stored, n);
    history_free(&h);
    /* With one of another model stay the rows that this model scored, so that nobody takes them for
     * rows of ours: reading them goes from the run's first row. */
    if (!err || (err == SEISMO_EVERSION && run->tail_rows > 0)) {
        return 0;
    }
    detector_init(&d);
    if (run->tail_rows == 0) {
        d = run->detector;
    } else {
        struct detector_result result;
        struct pack_row row;
        /* When there is nothing good before the tail, it starts from nothing. */
        err = history_restore(store_db(s), model, run->id, tail_first - 1, NULL, NULL, &d, &result,
                              &row, errmsg);
        if (is_unread(err)) {
            return store_history_failed(s, err);
        }
    }
    uint8_t snapshot[DETECTOR_SNAPSHOT_MAX];
    return store_tail_snapshot(s, run->id, snapshot, detector_snapshot(&d, model, snapshot));
}

/* The rows since the last point of the series. */
static int restore_bucket(struct store *s, struct run *run, float *ret_max_score)
{
    int64_t last;
    float max_score;
    int err = store_series_summary(s, run->id, &last, &max_score);
    if (err) {
        return err;
    }
    char errmsg[SEISMO_ERRMSG];
    struct history *h;
    err = history_new(store_db(s), run->id, last + 1, &h, errmsg);
    if (err) {
        return store_history_failed(s, err);
    }
    run->bucket.steps = 0;
    uint64_t index = run->steps - bucket_rows(run->steps);
    struct pack_row row;
    struct point point;
    while ((err = history_next(h, &row, errmsg)) == 0) {
        if (row.row.step > last) {
            bucket_add(&run->bucket, index++, &row.row, row.score, row.curvature, &point);
            max_score = fmaxf(max_score, row.score);
        }
    }
    history_free(&h);
    *ret_max_score = max_score;
    return is_unread(err) ? store_history_failed(s, err) : 0;
}

int restore_run(struct store *s, const struct model *model, struct run *run)
{
    int64_t tail_first;
    int err = store_tail_count(s, run->id, &run->tail_rows, &run->tail_parts, &tail_first);
    if (err) {
        return err;
    }
    bool damaged;
    err = restore_detector(s, model, run, &damaged);
    if (!err && damaged && run->tail_rows > 0) {
        return restore_cut(s, model, run, tail_first);
    }
    float max_score;
    err = err ? err : restore_snapshot(s, model, run, tail_first);
    return err ? err : restore_bucket(s, run, &max_score);
}

/* What is kept of the chunk or the tail that holds the step. */
struct kept {
    uint32_t n;
    int64_t first_step, last_step;
    size_t bytes, snapshot_n;
    uint8_t snapshot[DETECTOR_SNAPSHOT_MAX];
    uint8_t rows[CHUNK_ROWS * PACK_MAX];
};

/* The state before any row. */
static void keep_nothing(const struct model *model, struct kept *ret)
{
    struct detector d;
    detector_init(&d);
    ret->snapshot_n = detector_snapshot(&d, model, ret->snapshot);
}

static int keep(struct store *s, const struct model *model, const struct run *run, int64_t step,
                struct kept *ret)
{
    char errmsg[SEISMO_ERRMSG];
    struct history *h;
    int err = history_new(store_db(s), run->id, step, &h, errmsg);
    if (err) {
        return store_history_failed(s, err);
    }
    const uint8_t *snapshot = history_snapshot(h, &ret->snapshot_n);
    memcpy(ret->snapshot, snapshot, ret->snapshot_n);
    ret->n = 0;
    ret->bytes = 0;
    struct pack_row row;
    while (ret->n < CHUNK_ROWS && (err = history_next(h, &row, errmsg)) == 0 &&
           row.row.step < step) {
        ret->first_step = ret->n ? ret->first_step : row.row.step;
        ret->last_step = row.row.step;
        ret->bytes += pack_row(ret->rows + ret->bytes, &row.row, row.score, row.curvature);
        ret->n++;
    }
    history_free(&h);
    if (err == SEISMO_ECORRUPT) {
        /* Where one row is damaged, those before it that look well are not to be trusted either. */
        log_error("store", "run %s: steps before %" PRId64 " are lost: %s", run->run, step, errmsg);
        ret->n = 0;
    }
    if (ret->snapshot_n == 0) {
        keep_nothing(model, ret);
    }
    return is_unread(err) ? store_history_failed(s, err) : 0;
}

int restore_cut(struct store *s, const struct model *model, struct run *run, int64_t step)
{
    struct kept kept;
    uint64_t deleted;
    int err = keep(s, model, run, step, &kept);
    err = err ? err : store_cut(s, run->id, step, &deleted);
    if (err) {
        return err;
    }
    uint64_t gone = deleted + run->tail_rows - kept.n;
    run->steps = run->steps > gone ? run->steps - gone : 0;
    if (run->steps == 0) {
        keep_nothing(model, &kept); /* retention may have deleted what its first state came from */
    }
    if (kept.n > 0) {
        err = store_tail_insert(s, run->id, 0, kept.first_step, kept.last_step, kept.n, kept.rows,
                                kept.bytes);
    }
    err = err ? err : store_tail_snapshot(s, run->id, kept.snapshot, kept.snapshot_n);
    if (err) {
        return err;
    }
    run->step = step - 1;
    run->tail_rows = kept.n;
    run->tail_parts = kept.n > 0;
    int64_t alarm;
    bool damaged;
    err = restore_detector(s, model, run, &damaged);
    err = err ? err : restore_snapshot(s, model, run, kept.first_step);
    err = err ? err : restore_bucket(s, run, &run->max_score);
    err = err ? err : store_verdict_summary(s, run->id, &alarm, &run->worst);
    if (err) {
        return err;
    }
    run->has_alarm = alarm >= 0;
    run->alarm_step = alarm;
    run->worst = verdict_state_worse(run->state, run->worst) ? run->state : run->worst;
    return store_run_update(s, run, model_name(model));
}
