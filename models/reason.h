/* Reasons in words: which number, what it usually is, since when. */
#ifndef SEISMO_MODELS_REASON_H
#define SEISMO_MODELS_REASON_H

#include "models/features.h"
#include "models/verdict.h"

/* Fills a reason for a feature. `usual`: its level while the run was healthy, NaN if unknown;
 * `since`: step at which its present excursion began, -1 if it is in none. */
void reason_feature(struct verdict_reason *ret, enum feature feature, float value, float usual,
                    int64_t since, float contribution);

/* Fills a reason that rests on a rule; `format` and what follows give the text. */
__attribute__((format(printf, 4, 5))) void reason_rule(struct verdict_reason *ret, const char *name,
                                                       float value, const char *format, ...);

#endif
