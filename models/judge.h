/* From scores to states: the machine that decides when to say something.
 *
 * Instability comes before mismatch, mismatch before stalled, and each before healthy: a run is in
 * the first of these states that holds.
 * A state is entered once and left once: entering takes `confirm` rows in a row at or above a
 * level, or `lasting_confirm` at or above a lower one, leaving takes `exit_confirm` rows below a
 * lower one. Non-finite losses need no model: one is a warning, JUDGE_NONFINITE in a row are
 * critical. A precursor is a warning, too: the run is called unstable before it is, and stays so
 * for as long as the precursor holds. */
#ifndef SEISMO_MODELS_JUDGE_H
#define SEISMO_MODELS_JUDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "models/verdict.h"

#define JUDGE_NONFINITE 3

struct judge_rules {  /* from the model file */
    float warning;    /* score at which a warning is given */
    float threshold;  /* score at which a run is called unstable */
    float lasting;    /* lower score that does so when it is held for longer */
    float exit;       /* score below which it may be healthy again; exit <= warning <= threshold */
    uint16_t confirm; /* rows in a row to enter */
    uint16_t lasting_confirm; /* and at the lower score; 0: it does not count */
    uint16_t exit_confirm;    /* rows in a row to leave */
    uint16_t warmup; /* rows without warnings at the start; a confirmed critical score counts */
};

/* What runs may be in beside instability, or before it: judged on rows of their own, with rules of
 * their own. The order is that in which one goes before the other. */
enum judge_side {
    JUDGE_MISMATCH,
    JUDGE_STALLED,
    JUDGE_STATES_N, /* those above are states of their own */
    JUDGE_PRECURSOR = JUDGE_STATES_N,
    JUDGE_SIDES_N
};

struct judge_side_rules {
    float threshold, exit;          /* scores; exit <= threshold */
    uint16_t confirm, exit_confirm; /* judged rows in a row to enter and to leave */
};

struct judge {
    uint8_t state, severity;                    /* enum verdict_state, enum verdict_severity */
    uint16_t warning, threshold, lasting, exit; /* rows in a row at that level, saturating */
    uint16_t nonfinite;                         /* rows in a row that are not finite, saturating */
    uint16_t rows;                              /* saturating */
    struct {
        uint16_t above, below; /* judged rows in a row, saturating */
        uint8_t holds;         /* no bool: snapshots may hold any value */
    } side[JUDGE_SIDES_N];
    int64_t since;     /* step at which the present state and severity were entered */
    int64_t bad_since; /* step of the first of the `nonfinite` rows */
};

void judge_init(struct judge *j);

/* Takes a row's score (NaN: unknown) and whether it was non-finite. Returns whether the state or
 * its severity changed. */
/* Call judge_side for the sides that a row is judged on first. */
bool judge_push(struct judge *j, const struct judge_rules *rules, int64_t step, float score,
                bool nonfinite);

/* Another head's scores follow: no level has been held by them yet, nor is a precursor known. The
 * state stays. */
void judge_restart(struct judge *j);

/* Takes a side's score (NaN: unknown, changes nothing). */
void judge_side(struct judge *j, enum judge_side side, const struct judge_side_rules *rules,
                float score);

/* The state of a side, and the side that has a state to itself: -1 when none has. */
enum verdict_state judge_side_state(enum judge_side side);
int judge_state_side(enum verdict_state state);

/* Whether the lower level has been held for long enough. */
bool judge_lasts(const struct judge *j, const struct judge_rules *rules);

/* Whether the present warning rests on a precursor alone. */
bool judge_foresees(const struct judge *j, const struct judge_rules *rules);

/* Whether the present alarm rests on non-finite values rather than on the score. */
bool judge_numerics(const struct judge *j);

#endif
