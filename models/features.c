#include "models/features.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Rows after which a running mean or a probe says nothing about now. */
#define STALE 64
/* Finite losses after which the noise counts as known. */
#define NOISE_KNOWN 6
#define FIRST 8

const struct feature_info feature_info[FEATURES_N] = {
#define SEISMO_FEATURE(constant, name, group, form, unit, invariance, phrase, meaning)            \
    [FEATURE_##constant] = {#name,  FEATURE_GROUP_##group, FORM_##form, unit, invariance, phrase, \
                            meaning},
#include "models/features.def"
};

const char *feature_group_name(enum feature_group group)
{
    static const char *const names[FEATURE_GROUPS_N] = {
#define X(constant, name) [FEATURE_GROUP_##constant] = name,
        FEATURE_GROUP_MAP(X)
#undef X
    };
    return names[group];
}

int feature_find(const char *name)
{
    for (int i = 0; i < FEATURES_N; i++)
        if (strcmp(feature_info[i].name, name) == 0)
            return i;
    return -1;
}

/* The value, or NaN when it is absent or not finite: NaN then carries through every formula. */
static double value(const struct seismo_row *row, enum seismo_value v)
{
    return row_has(row, v) && isfinite(row->value[v]) ? row->value[v] : NAN;
}

static float within(double x, double limit)
{
    return (float)(x > limit ? limit : x < -limit ? -limit : x);
}

/* Logarithm of a positive, finite number; else NaN. */
static double log_positive(double x)
{
    return x > 0 && x < INFINITY ? log(x) : NAN;
}

/* Weight of the n-th value in a running mean that is a plain mean until `horizon` values. */
static double weight(uint32_t n, uint32_t horizon)
{
    return 1.0 / (n < horizon ? n : horizon);
}

static void mean_push(float *mean, double x, uint32_t n, uint32_t horizon)
{
    *mean += (float)((x - *mean) * weight(n, horizon));
}

static void count(uint16_t *n)
{
    *n = (uint16_t)(*n + (*n < UINT16_MAX));
}

static void level_push(struct level *l, double x)
{
    if (!isfinite(x)) {
        count(&l->age);
        return;
    }
    l->age = 0;
    count(&l->n);
    if (l->n <= FIRST)
        mean_push(&l->first, x, l->n, FIRST);
    mean_push(&l->fast, x, l->n, 8);
    mean_push(&l->slow, x, l->n, 128);
}

static bool level_known(const struct level *l)
{
    return l->n > 0 && l->age < STALE;
}

static float level_fast(const struct level *l)
{
    return level_known(l) ? l->fast : NAN;
}

static float level_trend(const struct level *l, double limit)
{
    return level_known(l) ? within((double)l->fast - l->slow, limit) : NAN;
}

static float level_change(const struct level *l, double limit)
{
    return level_known(l) ? within((double)l->fast - l->first, limit) : NAN;
}

/* Takes a positive quantity; returns its logarithm over the reference, NaN when it has none. */
static double log_level_push(struct log_level *l, double x)
{
    if (l->ref == 0 && x >= FLT_MIN && x <= FLT_MAX)
        l->ref = (float)x;
    double log_x = l->ref > 0 ? log_positive(x / l->ref) : NAN;
    level_push(&l->log, log_x);
    return log_x;
}

/* The unit of loss differences: white noise's standard deviation, as told by second differences,
 * which a trend leaves alone. The floors keep a run without noise from dividing by nothing: a part
 * of the window's spread, and what float32 can resolve. */
static double loss_noise(const struct features_loss *s)
{
    if (s->n < NOISE_KNOWN)
        return NAN;
    double noise = fmax(s->noise_slow, 0.05 * 1.4826 * s->window.mad);
    noise = fmax(noise, ldexp(fabs(s->window.median), -22));
    return noise > 0 ? noise : NAN;
}

static double loss_unit(const struct features_loss *s)
{
    return fmax(s->first - s->best, 0) + 2 * s->noise;
}

/* The noise of the last 16 rows. */
static double loss_noise_now(const struct features_loss *s)
{
    return fmax(s->noise_fast, ldexp(fabs(s->window.median), -22));
}

static double loss_over_best(const struct features_loss *s)
{
    return s->best > 0 ? log(s->fast / s->best) : NAN;
}

static double winsorised(double x, double limit)
{
    /* Before the limit is known it is NaN and every comparison is false. */
    return x > limit ? limit : x < -limit ? -limit : x;
}

/* Changes from row to row: jump, oscillation and noise. */
static void loss_push_change(struct features_loss *s, double x, float *out)
{
    if (s->n >= 2) {
        double change = x - s->previous[0];
        out[FEATURE_LOSS_JUMP] = within(change / s->noise, 1000);
        change = winsorised(change, 8 * s->noise);
        if (s->n >= 3) {
            double w = weight(s->n - 2, 16);
            s->product += (change * s->change - s->product) * w;
            s->square += (change * change - s->square) * w;
            mean_push(&s->sign_changes, change * s->change < 0, s->n - 2, 16);

            double bend = fabs(x - 2 * s->previous[0] + s->previous[1]) / 1.954;
            double limit = s->n > FIRST ? 4 * s->noise : NAN;
            s->noise_slow += (winsorised(bend, limit) - s->noise_slow) * weight(s->n - 2, 128);
            s->noise_fast += (winsorised(bend, 250 * limit) - s->noise_fast) * w;
        }
        s->change = change;
    }
    s->previous[1] = s->previous[0];
    s->previous[0] = x;
}

static void loss_push_level(struct features_loss *s, double x)
{
    if (s->n <= FIRST)
        s->first = s->window.median;
    else /* One wild value must not rule the means for a hundred rows. */
        x = s->best + winsorised(x - s->best, 32 * loss_unit(s));
    s->fast += (x - s->fast) * weight(s->n, 8);
    s->mid += (x - s->mid) * weight(s->n, 32);
    s->slow += (x - s->slow) * weight(s->n, 128);
    if (s->n == 1 || s->fast > s->worst)
        s->worst = s->fast;
    if (s->n == 1 || s->fast < s->best) {
        s->best = s->high = s->fast;
        s->since_best = s->since_high = 0;
    } else {
        count(&s->since_best);
        count(&s->since_high);
    }
    if (s->fast > s->high) {
        s->high = s->fast;
        s->since_high = 0;
    }
}

/* What the run has won and lost since its very first loss, for `first` is a level of eight rows, in
 * which a run can have gone wrong already; and how large loss and noise are beside the best ones.
 */
static void loss_start(const struct features_loss *s, float *out)
{
    double noise = loss_noise_now(s), won = s->initial - s->best;
    double start = fmax(won, 0) + 2 * noise;

    out[FEATURE_LOSS_START] = within((s->fast - s->initial) / start, 100);
    out[FEATURE_LOSS_WORST] = within(log1p(fmax(s->worst - s->initial, 0) / start), 20);
    out[FEATURE_LOSS_START_GAIN] = won > 0 ? within(log(won / noise), 7) : -7;
    out[FEATURE_LOSS_OVER_BEST] = within(loss_over_best(s), 20);
    out[FEATURE_LOSS_NOISE_SHARE] =
        within(log_positive(noise / s->noise_best) - loss_over_best(s), 20);
}

static void loss_push(struct features_loss *s, const struct seismo_row *row, float *out)
{
    double x = value(row, SEISMO_LOSS);

    if (row_has(row, SEISMO_LOSS)) {
        count(&s->rows);
        mean_push(&s->nonfinite, isnan(x), s->rows, 8);
    }
    if (!isnan(x)) {
        /* The noise is NaN, and so is z, until the window has values. */
        double z = (x - s->window.median) / (1.4826 * s->window.mad + 0.2 * s->noise);
        s->n += s->n < UINT32_MAX;
        mean_push(&s->spikes, z > 6, s->n, 64);
        loss_push_change(s, x, out);
        window_push(&s->window, (float)x);
        s->noise = loss_noise(s);
        loss_push_level(s, x);
        if (s->n <= NOISE_KNOWN || s->since_best == 0)
            s->noise_best = loss_noise_now(s);
        mean_push(&s->above_first, x > s->first, s->n, 32);
        if (s->n == 1)
            s->initial = x;
        mean_push(&s->above_initial, x > s->initial, s->n, 64);
        mean_push(&s->lost, x > s->best + 0.5 * fmax(s->first - s->best, 0) + 2 * s->noise, s->n,
                  64);

        double above = (s->fast - s->best) / loss_unit(s);
        s->peak *= 1 - 1.0f / 64;
        if (above > s->peak)
            s->peak = within(above, 100);
        out[FEATURE_LOSS_Z] = within(z, 1000);
        out[FEATURE_LOSS_NOW] = within((x - s->best) / loss_unit(s), 1000);
    }
    if (s->rows > 0)
        out[FEATURE_LOSS_NONFINITE] = s->nonfinite;
    if (s->n < NOISE_KNOWN)
        return;

    double unit = loss_unit(s);
    out[FEATURE_LOSS_BEST] = within((s->fast - s->best) / unit, 100);
    out[FEATURE_LOSS_BEST_NOISE] = within((s->fast - s->best) / s->noise, 1000);
    out[FEATURE_LOSS_MEDIAN] = within((s->window.median - s->best) / unit, 100);
    out[FEATURE_LOSS_FIRST] = within((s->fast - s->first) / unit, 100);
    out[FEATURE_LOSS_FIRST_SHARE] = s->above_first;
    out[FEATURE_LOSS_TREND_SHORT] = within((s->fast - s->mid) / s->noise, 1000);
    out[FEATURE_LOSS_TREND_LONG] = within((s->mid - s->slow) / s->noise, 1000);
    out[FEATURE_LOSS_AUTOCORR] = s->square > 0 ? within(s->product / s->square, 1) : NAN;
    out[FEATURE_LOSS_SIGN_CHANGES] = s->sign_changes;
    out[FEATURE_LOSS_NOISE_GROWTH] = within(log_positive(s->noise_fast / s->noise), 7);
    out[FEATURE_LOSS_PEAK] = s->peak;
    out[FEATURE_LOSS_SPIKES] = s->spikes;
    out[FEATURE_LOSS_INITIAL] = within((s->fast - s->initial) / unit, 100);
    out[FEATURE_LOSS_NEGATIVE] = within(log1p(fmax(-s->fast, 0) / fabs(s->initial)), 20);
    double gain = s->first - s->best;
    out[FEATURE_LOSS_GAIN] = gain > 0 ? within(log(gain / s->noise), 7) : -7;
    out[FEATURE_LOSS_BEST_AGE] = (float)s->since_best / (float)s->n;
    out[FEATURE_LOSS_INITIAL_SHARE] = s->above_initial;
    out[FEATURE_LOSS_LOST] = s->lost;
    out[FEATURE_LOSS_RECOVERED] = (float)((s->high - s->fast) / (s->high - s->best + s->noise));
    out[FEATURE_LOSS_SINCE_HIGH] = s->since_high < 256 ? (float)s->since_high / 256 : 1;
    out[FEATURE_LOSS_RECENT] = within((s->slow - s->fast) / unit, 100);
    out[FEATURE_LOSS_SINCE_BEST] = s->since_best < 256 ? (float)s->since_best / 256 : 1;
    loss_start(s, out);
}

static void gradient_push(struct features_gradient *s, const struct seismo_row *row,
                          const struct features_loss *loss, float *out)
{
    double norm = value(row, SEISMO_GRAD_NORM);

    if (row_has(row, SEISMO_GRAD_NORM) || row_has(row, SEISMO_GRAD_NONFINITE)) {
        bool bad = (row_has(row, SEISMO_GRAD_NORM) && isnan(norm)) ||
                   (row_has(row, SEISMO_GRAD_NONFINITE) && row->value[SEISMO_GRAD_NONFINITE] > 0);
        s->rows += s->rows < UINT32_MAX;
        mean_push(&s->nonfinite, bad, s->rows, 8);
    }
    if (s->rows > 0)
        out[FEATURE_GRAD_NONFINITE] = s->nonfinite;

    double log_norm = log_level_push(&s->norm, norm);
    double log_peak = log_positive(value(row, SEISMO_GRAD_MAX_ABS) / norm);
    if (s->peak.n > 0)
        out[FEATURE_GRAD_PEAK] = within(log_peak - s->peak.slow, 20);
    level_push(&s->peak, log_peak);

    if (s->window.n >= NOISE_KNOWN) {
        double jump = norm == 0 ? -INFINITY : log_norm - s->window.median;
        out[FEATURE_GRAD_JUMP] = within(jump, 20);
        out[FEATURE_GRAD_Z] = within(jump / (1.4826 * s->window.mad + 0.05), 200);
    }
    const struct level *l = &s->norm.log;
    if (!isnan(log_norm)) {
        window_push(&s->window, (float)log_norm);
        if (l->n == 1 || l->fast < s->min)
            s->min = l->fast;
        if (l->n == 1 || loss->since_best == 0)
            s->best = l->fast;
    }
    if (level_known(l) && s->window.n >= NOISE_KNOWN)
        out[FEATURE_GRAD_SPREAD] = within(1.4826 * s->window.mad, 20);
    out[FEATURE_GRAD_TREND] = level_trend(l, 20);
    out[FEATURE_GRAD_FIRST] = level_change(l, 20);
    out[FEATURE_GRAD_MIN] = level_known(l) ? within((double)l->fast - s->min, 20) : NAN;
    if (level_known(l) && loss->n >= NOISE_KNOWN)
        out[FEATURE_GRAD_LOSS] = within((double)l->fast - s->best - loss_over_best(loss), 20);
}

/* Secant of running means: each pair is divided by the norms before the step, so that one huge
 * gradient does not rule the means. */
static float secant_push(float *after, float *before, uint16_t *n, double dot_after,
                         double dot_before, double norms)
{
    double a = dot_after / norms, b = dot_before / norms;

    if (isfinite(a) && isfinite(b)) {
        count(n);
        mean_push(after, winsorised(a, 10), *n, 16);
        mean_push(before, winsorised(b, 10), *n, 16);
    }
    /* Averaged directions at right angles to the step predict nothing. */
    return fabsf(*before) > 1e-6f ? within(1 - (double)*after / *before, 10) : NAN;
}

static void curvature_push_probe(struct features_curvature *s, const struct seismo_row *row,
                                 double noise, float *out)
{
    double loss = value(row, SEISMO_LOSS), probe = value(row, SEISMO_PROBE_LOSS);
    double change = probe - loss;

    count(&s->probe_age);
    if (!isnan(change)) {
        double dot = value(row, SEISMO_GRAD_DOT_UPDATE);
        double probe_dot = value(row, SEISMO_PROBE_GRAD_DOT_UPDATE);
        /* The two losses are float32: a prediction that drowns in their rounding tells nothing. */
        bool resolved = fabs(dot) > ldexp(fabs(loss), -20);

        s->probe_age = 0;
        count(&s->probe_n);
        mean_push(&s->probe_worse, change > 0, s->probe_n, 8);
        s->probe_change = within(change / noise, 1000);
        s->probe_ratio = resolved ? within((change - dot) / fabs(dot), 20) : NAN;
        if (resolved) {
            count(&s->ratio_n);
            mean_push(&s->probe_ratio_mean, s->probe_ratio, s->ratio_n, 4);
            mean_push(&s->probe_ratio_slow, s->probe_ratio, s->ratio_n, 16);
        }
        s->probe_sharpness = dot != 0 ? within((probe_dot - dot) / fabs(dot), 20) : NAN;
        s->probe_grad_change = within(
            log_positive(value(row, SEISMO_PROBE_GRAD_DIFF_NORM) / value(row, SEISMO_GRAD_NORM)),
            20);
    }
    if (s->probe_n == 0 || s->probe_age >= STALE)
        return;
    out[FEATURE_PROBE_RATIO] = s->probe_ratio;
    if (s->ratio_n > 0) {
        out[FEATURE_PROBE_RATIO_MEAN] = s->probe_ratio_mean;
        out[FEATURE_PROBE_RATIO_TREND] = s->probe_ratio_mean - s->probe_ratio_slow;
    }
    out[FEATURE_PROBE_CHANGE] = s->probe_change;
    out[FEATURE_PROBE_WORSE] = s->probe_worse;
    out[FEATURE_PROBE_SHARPNESS] = s->probe_sharpness;
    out[FEATURE_PROBE_GRAD_CHANGE] = s->probe_grad_change;
}

static void curvature_push(struct features_curvature *s, const struct seismo_row *row, double noise,
                           float *out)
{
    double norm = value(row, SEISMO_GRAD_NORM), ema_norm = value(row, SEISMO_GRAD_EMA_NORM);
    double after = NAN, dot_prev = NAN, dot_ema_prev = NAN;

    /* "Previous" means the step before: of rows that are further apart only the first half of each
     * pair is here. */
    if (row->step - 1 == s->step) {
        after = value(row, SEISMO_GRAD_DOT_UPDATE_PREV);
        dot_prev = value(row, SEISMO_GRAD_DOT_PREV);
        dot_ema_prev = value(row, SEISMO_GRAD_DOT_EMA_PREV);
    }
    double distance2 = norm * norm + (double)s->grad_norm * s->grad_norm - 2 * dot_prev;
    double distance = sqrt(fmax(distance2, 0));
    if (isnan(distance2))
        distance = NAN; /* fmax would have turned it into 0 */

    double secant = 1 - after / s->dot_update;
    if (isfinite(secant))
        out[FEATURE_SECANT] = within(secant, 10);
    float mean = secant_push(&s->secant_after, &s->secant_before, &s->secant_n, after,
                             s->dot_update, (double)s->grad_norm * s->update_norm);
    float ema_mean = secant_push(&s->ema_secant_after, &s->ema_secant_before, &s->ema_secant_n,
                                 after, s->ema_dot_update, (double)s->ema_norm * s->update_norm);
    level_push(&s->overshoot, winsorised(after / (norm * s->update_norm), 1));
    level_push(&s->cosine, winsorised(dot_prev / (norm * s->grad_norm), 1));
    level_push(&s->ema_cosine, winsorised(dot_ema_prev / (norm * s->ema_norm), 1));
    level_push(&s->change, log_positive(distance / s->grad_norm));
    log_level_push(&s->lipschitz, distance / s->update_norm);
    level_push(&s->ema_share, log_positive(ema_norm / norm));

    if (level_known(&s->overshoot)) {
        out[FEATURE_SECANT_MEAN] = mean;
        out[FEATURE_EMA_SECANT] = ema_mean;
    }
    out[FEATURE_OVERSHOOT] = level_fast(&s->overshoot);
    out[FEATURE_GRAD_COS] = level_fast(&s->cosine);
    out[FEATURE_EMA_COS] = level_fast(&s->ema_cosine);
    out[FEATURE_LIPSCHITZ] = within(level_fast(&s->change), 20);
    out[FEATURE_LIPSCHITZ_TREND] = level_trend(&s->lipschitz.log, 20);
    out[FEATURE_EMA_SNR] = within(level_fast(&s->ema_share), 20);
    out[FEATURE_EMA_SNR_TREND] = level_trend(&s->ema_share, 20);
    curvature_push_probe(s, row, noise, out);

    s->step = row->step;
    s->grad_norm = (float)norm;
    s->ema_norm = (float)ema_norm;
    s->update_norm = (float)value(row, SEISMO_UPDATE_NORM);
    s->dot_update = (float)value(row, SEISMO_GRAD_DOT_UPDATE);
    s->ema_dot_update = (float)value(row, SEISMO_GRAD_EMA_DOT_UPDATE);
}

static void optimizer_push(struct features_optimizer *s, const struct seismo_row *row, double noise,
                           float *out)
{
    double norm = value(row, SEISMO_GRAD_NORM), update = value(row, SEISMO_UPDATE_NORM);
    double param = value(row, SEISMO_PARAM_NORM), lr = value(row, SEISMO_LR);
    double dot = value(row, SEISMO_GRAD_DOT_UPDATE);

    double ratio = log_positive(update / param);
    if (s->update.n > 0)
        out[FEATURE_UPDATE_JUMP] = within(ratio - s->update.slow, 20);
    level_push(&s->update, ratio);
    out[FEATURE_UPDATE_RATIO] = within(level_fast(&s->update), 20);
    out[FEATURE_UPDATE_TREND] = level_trend(&s->update, 20);

    log_level_push(&s->param, param);
    out[FEATURE_PARAM_GROWTH] = level_change(&s->param.log, 20);
    out[FEATURE_PARAM_TREND] = level_trend(&s->param.log, 20);

    level_push(&s->momentum, log_positive(value(row, SEISMO_MOMENTUM_NORM) / norm));
    out[FEATURE_MOMENTUM_TREND] = level_trend(&s->momentum, 20);
    level_push(&s->second_moment, log_positive(value(row, SEISMO_SECOND_MOMENT_NORM) / norm));
    out[FEATURE_SECOND_TREND] = level_trend(&s->second_moment, 20);

    float usual = s->efficiency.log.n > 0 ? s->efficiency.log.slow : NAN;
    out[FEATURE_STEP_EFFICIENCY] =
        within(log_level_push(&s->efficiency, update / (lr * norm)) - usual, 20);
    usual = s->lr.log.n > 0 ? s->lr.log.slow : NAN;
    out[FEATURE_LR_CHANGE] = within(log_level_push(&s->lr, lr) - usual, 20);

    level_push(&s->descent_cosine, winsorised(-dot / (norm * update), 1));
    out[FEATURE_DESCENT_COS] = level_fast(&s->descent_cosine);
    level_push(&s->descent_noise, log_positive(fabs(dot) / noise));
    out[FEATURE_DESCENT_NOISE] = within(level_fast(&s->descent_noise), 20);
}

static void activation_push(struct features_activation *s, const struct seismo_row *row, float *out)
{
    level_push(&s->dead, winsorised(value(row, SEISMO_ACT_DEAD), 1));
    level_push(&s->saturated, winsorised(value(row, SEISMO_ACT_SATURATED), 1));
    log_level_push(&s->rms, value(row, SEISMO_ACT_RMS));
    out[FEATURE_ACT_DEAD] = level_fast(&s->dead);
    out[FEATURE_ACT_DEAD_CHANGE] = level_change(&s->dead, 1);
    out[FEATURE_ACT_SATURATED] = level_fast(&s->saturated);
    out[FEATURE_ACT_SATURATED_CHANGE] = level_change(&s->saturated, 1);
    out[FEATURE_ACT_RMS_FIRST] = level_change(&s->rms.log, 20);
    out[FEATURE_ACT_RMS_TREND] = level_trend(&s->rms.log, 20);
}

static void validation_push(struct features_validation *s, const struct seismo_row *row,
                            const struct features_loss *loss, float *out)
{
    double x = value(row, SEISMO_VAL_LOSS);

    if (!isnan(x)) {
        double unit = loss->n >= NOISE_KNOWN ? loss_unit(loss) : NAN;
        if (s->n == 0 || x < s->best)
            s->best = x;
        s->n += s->n < UINT32_MAX;
        s->gap = within((x - loss->fast) / unit, 100);
        s->rise = within((x - s->best) / unit, 100);
    }
    if (s->n > 0) {
        out[FEATURE_VAL_GAP] = s->gap;
        out[FEATURE_VAL_RISE] = s->rise;
    }
}

void features_init(struct features *f)
{
    /* Padding too, so that equal histories give equal bytes. */
    memset(f, 0, sizeof(*f));
    f->loss.noise = NAN;
    f->curvature.step = INT64_MIN;
    f->curvature.grad_norm = f->curvature.update_norm = f->curvature.ema_norm = NAN;
    f->curvature.dot_update = f->curvature.ema_dot_update = NAN;
}

void features_push(struct features *f, const struct seismo_row *row, float ret[FEATURES_N])
{
    for (int i = 0; i < FEATURES_N; i++)
        ret[i] = NAN;
    loss_push(&f->loss, row, ret);
    gradient_push(&f->gradient, row, &f->loss, ret);
    curvature_push(&f->curvature, row, f->loss.noise, ret);
    optimizer_push(&f->optimizer, row, f->loss.noise, ret);
    activation_push(&f->activation, row, ret);
    validation_push(&f->validation, row, &f->loss, ret);
}

float features_curvature(const float features[FEATURES_N])
{
    if (!isnan(features[FEATURE_PROBE_SHARPNESS]))
        return features[FEATURE_PROBE_SHARPNESS];
    if (!isnan(features[FEATURE_PROBE_RATIO]))
        return 2 * features[FEATURE_PROBE_RATIO];
    if (!isnan(features[FEATURE_EMA_SECANT]))
        return features[FEATURE_EMA_SECANT];
    return features[FEATURE_SECANT_MEAN];
}

bool features_valid(const struct features *f)
{
    return window_valid(&f->loss.window) && window_valid(&f->gradient.window);
}
