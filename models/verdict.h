/* Verdicts: what seismo says about a run, and the state machine that decides when to say it. */
#ifndef SEISMO_MODELS_VERDICT_H
#define SEISMO_MODELS_VERDICT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/*  X(constant, name) */
#define SEISMO_STATE_MAP(X)           \
    X(STATE_WARMING_UP, "warming_up") \
    X(STATE_HEALTHY, "healthy")       \
    X(STATE_UNSTABLE, "unstable")     \
    X(STATE_STALLED, "stalled")       \
    X(STATE_MISMATCH, "mismatch")     \
    X(STATE_SILENT, "silent")         \
    X(STATE_ENDED, "ended")

#define SEISMO_SEVERITY_MAP(X)     \
    X(SEVERITY_INFO, "info")       \
    X(SEVERITY_WARNING, "warning") \
    X(SEVERITY_CRITICAL, "critical")

/* Classes of the fault head; "unknown" when nothing is likely or the model has no such head. */
#define SEISMO_FAULT_MAP(X)         \
    X(FAULT_UNKNOWN, "unknown")     \
    X(FAULT_LR, "learning_rate")    \
    X(FAULT_INIT, "initialisation") \
    X(FAULT_OPTIMIZER, "optimizer") \
    X(FAULT_DATA, "data")           \
    X(FAULT_NUMERICS, "numerics")   \
    X(FAULT_LOSS, "loss_or_architecture")

enum verdict_state {
#define X(constant, name) constant,
    SEISMO_STATE_MAP(X)
#undef X
        STATES_N
};
enum verdict_severity {
#define X(constant, name) constant,
    SEISMO_SEVERITY_MAP(X)
#undef X
        SEVERITIES_N
};
enum fault_class {
#define X(constant, name) constant,
    SEISMO_FAULT_MAP(X)
#undef X
        FAULTS_N
};

#define VERDICT_REASONS 4
#define VERDICT_TEXT 192

struct verdict_reason {
    const char *feature; /* static storage: a name from features.def, or a field name */
    float value;         /* the feature's value at the verdict's step */
    float contribution;  /* share of the margin in log-odds; 0 for rules such as non-finite loss */
    char text[VERDICT_TEXT]; /* words: the number, its usual level, since when */
};

struct verdict {
    int64_t step;
    double
        time; /* of the step as the client stamped it, s since the epoch; NaN when it sent none */
    enum verdict_state state;
    enum verdict_severity severity;
    float score;     /* calibrated probability of instability, 0 to 1; of stalled, mismatch and a
                        precursor's warning the score of their own head; NaN for silent and ended */
    float threshold; /* the level of that head at which its state is entered, of instability the
                        critical one, also in a warning or healthy; NaN for silent and ended */
    enum fault_class fault;
    float fault_p[FAULTS_N]; /* sums to 1, or all 0 when the model has no fault head */
    uint8_t n_reasons;
    struct verdict_reason reason[VERDICT_REASONS];
};

const char *verdict_state_name(enum verdict_state s);
const char *verdict_severity_name(enum verdict_severity s);
const char *fault_name(enum fault_class f);

/* Whether `a` is worse than `b`, among the states that a detector gives: unstable is the worst,
 * then mismatch, stalled, healthy, warming_up. */
bool verdict_state_worse(enum verdict_state a, enum verdict_state b);

/* A float32 in such a document, and wherever else one is shown: the shortest decimal that reads
 * back as it (0.1, not 0.10000000149011612); NaN is null, infinities are "inf" and "-inf". New
 * reference, or NULL when out of memory. */
json_t *verdict_number(float x);

/* The document that people and programs read, everywhere the same: object with run, program, step,
 * time, state, severity, score, threshold, fault {class, distribution{}}, reasons [{feature, value,
 * contribution, text}]. NaN becomes null, infinities the strings "inf" and "-inf".
 * `run` and `program` are copied. Returns a new reference, or NULL when out of memory. */
json_t *verdict_json(const struct verdict *v, const char *run, const char *program);

#endif
