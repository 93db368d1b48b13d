#include "models/detector.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "models/reason.h"

/* Rows over which a feature's usual level is averaged, and those it takes to know one. */
#define USUAL 256
#define USUAL_KNOWN 16
/* Rows with a finite loss from one judgement of stalling to the next, and of a precursor. */
#define STALLED_EVERY 8
#define PRECURSOR_EVERY 4
/* Below this share no class of the fault head is likely. */
#define FAULT_LIKELY 0.3f

struct snapshot_head {
    char magic[4]; /* "SDET" */
    uint32_t features_version;
    uint32_t size; /* sizeof(struct detector) */
    uint32_t reserved;
    uint64_t model;
    uint64_t checksum; /* of the detector's bytes */
};
_Static_assert(sizeof(struct snapshot_head) + sizeof(struct detector) <= DETECTOR_SNAPSHOT_MAX,
               "a snapshot must fit its buffer");

void detector_init(struct detector *d)
{
    /* Padding too, so that equal histories give equal snapshots. */
    memset(d, 0, sizeof(*d));
    features_init(&d->features);
    judge_init(&d->judge);
    d->step = -1;
    d->score = NAN;
    for (int i = 0; i < JUDGE_SIDES_N; i++)
        d->side_score[i] = NAN;
    for (int i = 0; i < FEATURES_N; i++)
        d->value[i] = d->usual[i] = NAN;
    memset(d->unsent, UINT8_MAX, sizeof(d->unsent));
}

/* The last head for which a field has come within the last DETECTOR_SENT rows; the first needs
 * none. Rows counted towards a level of another head say nothing about this one's. */
static const struct model_alarm *head_choose(struct detector *d, const struct model *m,
                                             const struct seismo_row *row)
{
    uint8_t chosen = 0;

    for (uint8_t i = 1; i < m->n_alarms; i++) {
        if (row->present & m->alarm[i].needs)
            d->unsent[i] = 0;
        else
            d->unsent[i] += d->unsent[i] < UINT8_MAX;
        if (d->unsent[i] < DETECTOR_SENT)
            chosen = i;
    }
    if (chosen != d->head)
        judge_restart(&d->judge);
    d->head = chosen;
    return &m->alarm[chosen];
}

static bool wild(const struct seismo_row *row, enum seismo_value v)
{
    return row_has(row, v) && !isfinite(row->value[v]);
}

/* Follows for how long the loss has been NaN beside finite gradients. */
static void nan_mean_push(struct detector *d, const struct seismo_row *row)
{
    if (!row_has(row, SEISMO_LOSS))
        return;
    if (!isnan(row->value[SEISMO_LOSS]) || !row_has(row, SEISMO_GRAD_NORM) ||
        !isfinite(row->value[SEISMO_GRAD_NORM]))
        d->nan_mean = 0;
    else if (d->nan_mean <= DETECTOR_NAN_MEAN && d->nan_mean++ == 0)
        d->nan_since = row->step;
}

/* Whether the step's loss is not finite. One that is NaN beside a finite gradient is not the
 * step's: it is a mean over steps of which one was skipped, unless it stays so. */
static bool loss_wild(const struct detector *d, const struct seismo_row *row)
{
    bool mean = d->nan_mean > 0 && d->nan_mean <= DETECTOR_NAN_MEAN;

    return wild(row, SEISMO_LOSS) && !mean;
}

/* A gradient alone may be non-finite: loss scaling skips such steps by design. */
static bool nonfinite(const struct detector *d, const struct seismo_row *row)
{
    return loss_wild(d, row) || wild(row, SEISMO_UPDATE_NORM) || wild(row, SEISMO_PARAM_NORM);
}

/* Follows each feature's usual level and for how long it has been away from it. `steps`: since the
 * row before; `learn`: the run is healthy now. */
static void usual_push(struct detector *d, int64_t steps, bool learn)
{
    bool known = d->healthy >= USUAL_KNOWN;

    if (learn)
        d->healthy += d->healthy < USUAL;
    float weight = 1.0f / (float)(d->healthy > 0 ? d->healthy : 1);
    for (int i = 0; i < FEATURES_N; i++) {
        float x = d->value[i], away = fabsf(x - d->usual[i]);
        if (isnan(x))
            continue;
        if (known && away > 4 * d->spread[i] + 1e-3f)
            d->away[i] = d->away[i] == 0                   ? 1
                         : steps < UINT16_MAX - d->away[i] ? (uint16_t)(d->away[i] + steps)
                                                           : UINT16_MAX;
        else
            d->away[i] = 0;
        if (!learn)
            continue;
        if (isnan(d->usual[i])) {
            d->usual[i] = x;
        } else {
            d->usual[i] += (x - d->usual[i]) * weight;
            d->spread[i] += (away - d->spread[i]) * weight;
        }
    }
}

static void reason_fill(const struct detector *d, int feature, float contribution,
                        struct verdict_reason *ret)
{
    uint16_t away = d->away[feature];

    reason_feature(ret, (enum feature)feature, d->value[feature],
                   d->healthy >= USUAL_KNOWN ? d->usual[feature] : NAN,
                   away > 0 && away < UINT16_MAX ? d->step - away + 1 : -1, contribution);
}

struct share { /* a column's part in the margin */
    int feature;
    float contribution;
};

static int share_compare(const void *a, const void *b)
{
    const struct share *x = a, *y = b;
    float p = fabsf(x->contribution), q = fabsf(y->contribution);

    return p != q ? (p < q) - (p > q) : x->feature - y->feature;
}

/* The model's columns by their part in a head's calibrated margin, largest first; returns the bias.
 */
static float shares(const struct detector *d, const struct model *m, const struct model_head *head,
                    struct share ret[FEATURES_N])
{
    float x[FEATURES_N];
    double contribution[FEATURES_N];

    model_columns(m, d->value, x);
    double bias = forest_attribute(head->forest, x, 0, contribution);
    for (uint32_t i = 0; i < m->n_features; i++)
        ret[i] = (struct share){m->feature[i], (float)(head->slope * contribution[i])};
    qsort(ret, m->n_features, sizeof(*ret), share_compare);
    return (float)(head->slope * bias + head->intercept);
}

/* What pushes the score up most, at most two of a group so that the reasons differ. */
static void verdict_reasons(const struct detector *d, const struct model *m,
                            const struct model_head *head, struct verdict *v)
{
    struct share share[FEATURES_N];
    int per_group[FEATURE_GROUPS_N] = {0};

    shares(d, m, head, share);
    for (uint32_t i = 0; i < m->n_features && v->n_reasons < VERDICT_REASONS; i++) {
        int f = share[i].feature;
        if (share[i].contribution <= 0 || isnan(d->value[f]) ||
            per_group[feature_info[f].group]++ >= 2)
            continue;
        reason_fill(d, f, share[i].contribution, &v->reason[v->n_reasons++]);
    }
}

static void verdict_fault(const struct detector *d, const struct model *m, struct verdict *v)
{
    float x[FEATURES_N], p[FOREST_MAX_GROUPS];

    if (!m->fault)
        return;
    model_columns(m, d->value, x);
    forest_margin(m->fault, x, p);
    forest_probability(m->fault, p);
    float most = FAULT_LIKELY;
    for (uint32_t g = 0; g < forest_groups(m->fault); g++) {
        v->fault_p[m->classes[g]] = p[g];
        if (p[g] > most) {
            most = p[g];
            v->fault = (enum fault_class)m->classes[g];
        }
    }
}

/* The rule that non-finite values are a fault of numerics, in words. */
static void verdict_numerics(const struct detector *d, const struct seismo_row *row,
                             struct verdict *v)
{
    enum seismo_value which = SEISMO_LOSS;
    const char *name = "loss", *words = "the loss";
    int64_t since = d->nan_mean > 0 ? d->nan_since : d->judge.bad_since;

    if (!loss_wild(d, row)) {
        since = d->judge.bad_since;
        bool update = wild(row, SEISMO_UPDATE_NORM);
        which = update ? SEISMO_UPDATE_NORM : SEISMO_PARAM_NORM;
        name = update ? "update_norm" : "param_norm";
        words = update ? "the update's norm" : "the parameters' norm";
    }
    float x = row->value[which];
    v->fault = FAULT_NUMERICS;
    v->fault_p[FAULT_NUMERICS] = 1;
    reason_rule(&v->reason[v->n_reasons++], name, x, "%s is %s%s, since step %" PRId64, words,
                isnan(x) ? "NaN" : "infinite",
                d->judge.nonfinite >= JUDGE_NONFINITE ? " and stays so" : "", since);
}

static void verdict_make(const struct detector *d, const struct model *m,
                         const struct seismo_row *row, const struct judge *before,
                         struct verdict *v)
{
    int side = judge_state_side((enum verdict_state)d->judge.state);
    int left = judge_state_side((enum verdict_state)before->state);
    const struct model_alarm *alarm = &m->alarm[d->head];

    memset(v, 0, sizeof(*v));
    v->step = row->step;
    v->time = row->time;
    v->state = (enum verdict_state)d->judge.state;
    v->severity = (enum verdict_severity)d->judge.severity;
    v->score = d->score;
    /* What was reached: the lower level, if it was held long enough, alone. */
    v->threshold = d->score < alarm->rules.threshold && judge_lasts(&d->judge, &alarm->rules)
                       ? alarm->rules.lasting
                       : alarm->rules.threshold;
    v->fault = FAULT_UNKNOWN;
    if (judge_foresees(&d->judge, &alarm->rules)) {
        v->score = d->side_score[JUDGE_PRECURSOR];
        v->threshold = m->side_rules[JUDGE_PRECURSOR].threshold;
        verdict_reasons(d, m, &m->side[JUDGE_PRECURSOR], v);
    } else if (v->state == STATE_UNSTABLE) {
        if (judge_numerics(&d->judge))
            verdict_numerics(d, row, v);
        else
            verdict_fault(d, m, v);
        verdict_reasons(d, m, &alarm->head, v);
    } else if (side >= 0) {
        v->score = d->side_score[side];
        v->threshold = m->side_rules[side].threshold;
        verdict_reasons(d, m, &m->side[side], v);
    } else if (before->state == STATE_UNSTABLE) {
        reason_rule(&v->reason[v->n_reasons++], "score", d->score,
                    "score has been below %.2g for %d steps; the run was unstable since "
                    "step %" PRId64,
                    (double)alarm->rules.exit, d->judge.exit, before->since);
    } else if (left >= 0) {
        reason_rule(&v->reason[v->n_reasons++], "score", d->side_score[left],
                    "the score of %s has fallen below %.2g; it held since step %" PRId64,
                    verdict_state_name((enum verdict_state)before->state),
                    (double)m->side_rules[left].exit, before->since);
    }
}

/* Whether a row is judged for a side: validation says whether it fits the training, a stall shows
 * over hundreds of rows, and a precursor in the richest fields only. */
static bool judged(const struct detector *d, const struct model *m, const struct seismo_row *row,
                   enum judge_side side)
{
    if (side == JUDGE_MISMATCH)
        return row_has(row, SEISMO_VAL_LOSS);
    if (side == JUDGE_PRECURSOR)
        return d->head == m->n_alarms - 1 && d->features.loss.n % PRECURSOR_EVERY == 0;
    return d->features.loss.n % STALLED_EVERY == 0;
}

void detector_step(struct detector *d, const struct model *m, const struct seismo_row *row,
                   struct detector_result *ret)
{
    struct judge before = d->judge;
    float x[FEATURES_N];

    nan_mean_push(d, row);
    bool bad = nonfinite(d, row);
    int64_t steps = row->step - d->step;
    d->step = row->step;
    features_push(&d->features, row, d->value);
    model_columns(m, d->value, x);
    const struct model_alarm *alarm = head_choose(d, m, row);
    d->score = model_score(model_margin(&alarm->head, x));
    /* What is persistently not finite is not a guess. */
    if (bad && before.nonfinite + 1 >= JUDGE_NONFINITE)
        d->score = 1;
    for (int i = 0; i < JUDGE_SIDES_N; i++)
        if (m->side[i].forest && judged(d, m, row, (enum judge_side)i)) {
            d->side_score[i] = model_score(model_margin(&m->side[i], x));
            judge_side(&d->judge, (enum judge_side)i, &m->side_rules[i], d->side_score[i]);
        }
    bool changed = judge_push(&d->judge, &alarm->rules, row->step, d->score, bad);
    /* What is learned as usual must be surely healthy: a blow-up that is not called out yet is not.
     */
    usual_push(d, steps, d->judge.state != STATE_UNSTABLE && d->judge.exit > 0);

    ret->score = d->score;
    ret->curvature = features_curvature(d->value);
    ret->state = (enum verdict_state)d->judge.state;
    ret->severity = (enum verdict_severity)d->judge.severity;
    ret->n_verdicts = changed;
    if (changed)
        verdict_make(d, m, row, &before, &ret->verdict[0]);
}

int detector_explain(const struct detector *d, const struct model *m, struct verdict_reason *ret,
                     int max, float *ret_bias, float *ret_margin)
{
    struct share share[FEATURES_N];
    float x[FEATURES_N];
    int n = (int)m->n_features < max ? (int)m->n_features : max;

    *ret_bias = shares(d, m, &m->alarm[d->head].head, share);
    model_columns(m, d->value, x);
    *ret_margin = model_margin(&m->alarm[d->head].head, x);
    for (int i = 0; i < n; i++)
        reason_fill(d, share[i].feature, share[i].contribution, &ret[i]);
    return n;
}

static uint64_t checksum(const void *data, size_t n) /* FNV-1a */
{
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

size_t detector_snapshot(const struct detector *d, const struct model *m,
                         uint8_t ret[DETECTOR_SNAPSHOT_MAX])
{
    struct snapshot_head head = {
        .magic = "SDET",
        .features_version = FEATURES_VERSION,
        .size = sizeof(*d),
        .model = m->id,
        .checksum = checksum(d, sizeof(*d)),
    };

    memcpy(ret, &head, sizeof(head));
    memcpy(ret + sizeof(head), d, sizeof(*d));
    return sizeof(head) + sizeof(*d);
}

int detector_restore(struct detector *d, const struct model *m, const uint8_t *data, size_t n)
{
    struct snapshot_head head;
    struct detector restored;

    if (n < sizeof(head))
        return SEISMO_ECORRUPT;
    memcpy(&head, data, sizeof(head));
    if (memcmp(head.magic, "SDET", 4) != 0)
        return SEISMO_ECORRUPT;
    if (head.features_version != FEATURES_VERSION || head.size != sizeof(*d) || head.model != m->id)
        return SEISMO_EVERSION;
    if (n != sizeof(head) + sizeof(*d))
        return SEISMO_ECORRUPT;
    memcpy(&restored, data + sizeof(head), sizeof(restored));
    if (head.checksum != checksum(&restored, sizeof(restored)) ||
        !features_valid(&restored.features) || restored.judge.state >= STATES_N ||
        restored.judge.severity >= SEVERITIES_N || restored.head >= m->n_alarms ||
        restored.step < -1)
        return SEISMO_ECORRUPT;
    for (int i = 0; i < JUDGE_SIDES_N; i++)
        if (!m->side[i].forest &&
            (restored.judge.side[i].holds || judge_state_side(restored.judge.state) == i))
            return SEISMO_ECORRUPT; /* no head of this model could have said so */
    *d = restored;
    return 0;
}
