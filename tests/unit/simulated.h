/* A small training for tests of the detector: stochastic gradient descent on a quadratic, measured
 * with every field of a row. Deterministic in its seed. */
#ifndef SEISMO_TESTS_SIMULATED_H
#define SEISMO_TESTS_SIMULATED_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "proto/row.h"

#define SIMULATED_DIM 8

static inline double simulated_uniform(uint64_t *seed) /* 0..1 */
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(*seed >> 11) / 9007199254740992.0;
}

static inline double simulated_normal(uint64_t *seed)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += simulated_uniform(seed);
    return sum - 6;
}

static inline double simulated_dot(const double *a, const double *b)
{
    double sum = 0;
    for (int i = 0; i < SIMULATED_DIM; i++)
        sum += a[i] * b[i];
    return sum;
}

static inline double simulated_norm(const double *a)
{
    return sqrt(simulated_dot(a, a));
}

/* Loss 1/2 w'Hw + 1 with H = diag(0.2 .. 1.6); `noise` is the standard deviation of each gradient
 * element and a tenth of it of the loss. From row `at` on the learning rate is `lr_then`. */
static inline void simulated_run(struct seismo_row *rows, int n, uint64_t seed, double noise,
                                 double lr, int at, double lr_then)
{
    double w[SIMULATED_DIM], g[SIMULATED_DIM] = {0}, g_prev[SIMULATED_DIM] = {0};
    double e[SIMULATED_DIM] = {0}, e_prev[SIMULATED_DIM] = {0}, d[SIMULATED_DIM] = {0};
    double d_prev[SIMULATED_DIM] = {0}, g_next[SIMULATED_DIM], diff[SIMULATED_DIM];

    for (int i = 0; i < SIMULATED_DIM; i++)
        w[i] = simulated_normal(&seed);
    for (int t = 0; t < n; t++) {
        double loss = 1 + noise / 10 * simulated_normal(&seed), next = 0, most = 0;
        double rate = t < at ? lr : lr_then;
        double theta = simulated_norm(w);
        for (int i = 0; i < SIMULATED_DIM; i++) {
            double h = 0.2 * (i + 1), push = noise * simulated_normal(&seed);
            g[i] = h * w[i] + push;
            e[i] = t == 0 ? g[i] : 0.9 * e_prev[i] + 0.1 * g[i];
            d[i] = -rate * g[i];
            most = fmax(most, fabs(g[i]));
            loss += h * w[i] * w[i] / 2 + push * w[i];
            w[i] += d[i];
            next += g[i] * d[i] + h * d[i] * d[i] / 2;
            g_next[i] = g[i] + h * d[i];
            diff[i] = h * d[i];
        }
        struct seismo_row *r = &rows[t];
        memset(r, 0, sizeof(*r));
        r->step = t;
        r->time = NAN;
        row_set(r, SEISMO_LOSS, loss);
        row_set(r, SEISMO_LR, rate);
        row_set(r, SEISMO_GRAD_NORM, simulated_norm(g));
        row_set(r, SEISMO_GRAD_MAX_ABS, most);
        row_set(r, SEISMO_GRAD_NONFINITE, 0);
        row_set(r, SEISMO_GRAD_DOT_UPDATE, simulated_dot(g, d));
        row_set(r, SEISMO_UPDATE_NORM, simulated_norm(d));
        row_set(r, SEISMO_PARAM_NORM, theta);
        row_set(r, SEISMO_MOMENTUM_NORM, simulated_norm(e));
        row_set(r, SEISMO_SECOND_MOMENT_NORM, most + noise);
        row_set(r, SEISMO_GRAD_EMA_NORM, simulated_norm(e));
        row_set(r, SEISMO_GRAD_EMA_DOT_UPDATE, simulated_dot(e, d));
        row_set(r, SEISMO_ACT_RMS, 1 + theta / 10);
        row_set(r, SEISMO_ACT_DEAD, 0.25 + 0.125 * simulated_uniform(&seed));
        row_set(r, SEISMO_ACT_SATURATED, 0.125 * simulated_uniform(&seed));
        if (t > 0) {
            row_set(r, SEISMO_GRAD_DOT_PREV, simulated_dot(g, g_prev));
            row_set(r, SEISMO_GRAD_DOT_UPDATE_PREV, simulated_dot(g, d_prev));
            row_set(r, SEISMO_GRAD_DOT_EMA_PREV, simulated_dot(g, e_prev));
        }
        if (t % 10 == 0) {
            row_set(r, SEISMO_PROBE_LOSS, loss + next);
            row_set(r, SEISMO_PROBE_GRAD_DOT_UPDATE, simulated_dot(g_next, d));
            row_set(r, SEISMO_PROBE_GRAD_NORM, simulated_norm(g_next));
            row_set(r, SEISMO_PROBE_GRAD_DIFF_NORM, simulated_norm(diff));
        }
        if (t % 25 == 24)
            row_set(r, SEISMO_VAL_LOSS, loss + 0.25);
        memcpy(g_prev, g, sizeof(g));
        memcpy(e_prev, e, sizeof(e));
        memcpy(d_prev, d, sizeof(d));
    }
}

#endif
