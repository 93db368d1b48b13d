#include "models/judge.h"

#include <math.h>
#include <string.h>

void judge_init(struct judge *j)
{
    memset(j, 0, sizeof(*j));
    j->state = STATE_WARMING_UP;
    j->severity = SEVERITY_INFO;
}

void judge_restart(struct judge *j)
{
    j->warning = j->threshold = j->lasting = j->exit = 0;
    memset(&j->side[JUDGE_PRECURSOR], 0, sizeof(j->side[JUDGE_PRECURSOR]));
}

static void count_if(uint16_t *n, bool more)
{
    *n = more ? (uint16_t)(*n + (*n < UINT16_MAX)) : 0;
}

void judge_side(struct judge *j, enum judge_side side, const struct judge_side_rules *rules,
                float score)
{
    if (isnan(score))
        return;
    count_if(&j->side[side].above, score >= rules->threshold);
    count_if(&j->side[side].below, score < rules->exit);
    if (j->side[side].above >= rules->confirm)
        j->side[side].holds = true;
    else if (j->side[side].below >= rules->exit_confirm)
        j->side[side].holds = false;
}

enum verdict_state judge_side_state(enum judge_side side)
{
    static const enum verdict_state states[JUDGE_SIDES_N] = {
        [JUDGE_MISMATCH] = STATE_MISMATCH,
        [JUDGE_STALLED] = STATE_STALLED,
        [JUDGE_PRECURSOR] = STATE_UNSTABLE,
    };
    return states[side];
}

int judge_state_side(enum verdict_state state)
{
    for (int i = 0; i < JUDGE_STATES_N; i++)
        if (judge_side_state((enum judge_side)i) == state)
            return i;
    return -1;
}

/* The state of a run that is not unstable. */
static enum verdict_state calm(const struct judge *j)
{
    for (int i = 0; i < JUDGE_STATES_N; i++)
        if (j->side[i].holds)
            return judge_side_state((enum judge_side)i);
    return STATE_HEALTHY;
}

static bool enter(struct judge *j, enum verdict_state state, enum verdict_severity severity,
                  int64_t step)
{
    j->state = (uint8_t)state;
    j->severity = (uint8_t)severity;
    j->since = step;
    return true;
}

bool judge_lasts(const struct judge *j, const struct judge_rules *rules)
{
    return rules->lasting_confirm > 0 && j->lasting >= rules->lasting_confirm;
}

bool judge_push(struct judge *j, const struct judge_rules *rules, int64_t step, float score,
                bool nonfinite)
{
    count_if(&j->rows, true);
    count_if(&j->nonfinite, nonfinite);
    count_if(&j->warning, score >= rules->warning);
    count_if(&j->threshold, score >= rules->threshold);
    count_if(&j->lasting, score >= rules->lasting);
    count_if(&j->exit, !nonfinite && !(score >= rules->exit));
    if (j->nonfinite == 1)
        j->bad_since = step;

    bool warm = j->rows > rules->warmup;
    bool critical =
        j->threshold >= rules->confirm || judge_lasts(j, rules) || j->nonfinite >= JUDGE_NONFINITE;
    bool precursor = j->side[JUDGE_PRECURSOR].holds;
    bool warning = nonfinite || (warm && (j->warning >= rules->confirm || precursor));

    if (critical && !(j->state == STATE_UNSTABLE && j->severity == SEVERITY_CRITICAL))
        return enter(j, STATE_UNSTABLE, SEVERITY_CRITICAL, step);
    if (warning && j->state != STATE_UNSTABLE)
        return enter(j, STATE_UNSTABLE, SEVERITY_WARNING, step);
    bool stays = j->state == STATE_UNSTABLE     ? j->exit < rules->exit_confirm || precursor
                 : j->state == STATE_WARMING_UP ? !warm
                                                : false;
    enum verdict_state now = calm(j);
    if (stays || j->state == now)
        return false;
    return enter(j, now, now == STATE_HEALTHY ? SEVERITY_INFO : SEVERITY_WARNING, step);
}

bool judge_foresees(const struct judge *j, const struct judge_rules *rules)
{
    return j->state == STATE_UNSTABLE && j->severity == SEVERITY_WARNING &&
           j->side[JUDGE_PRECURSOR].holds && j->nonfinite == 0 && j->warning < rules->confirm;
}

bool judge_numerics(const struct judge *j)
{
    return j->state == STATE_UNSTABLE && j->nonfinite > 0;
}
