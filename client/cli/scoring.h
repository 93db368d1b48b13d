/* A recorded run through the detector, as the daemon would take it: a step that is not above the
 * last one means that the job resumed from a checkpoint, so what came at or after that step is
 * taken back, rows and verdicts, and the detector goes on from there. */
#ifndef SEISMO_CLIENT_CLI_SCORING_H
#define SEISMO_CLIENT_CLI_SCORING_H

#include <jansson.h>

#include "models/detector.h"

struct scoring;

/* `model` is borrowed until scoring_free. NULL when out of memory. */
struct scoring *scoring_new(const struct model *model);
void scoring_free(struct scoring **scoring);

/* SEISMO_ENOMEM; the scoring then stands as before the row. */
int scoring_row(struct scoring *s, const struct seismo_row *row);

/* The result: object with schema, run, program, steps, state (worst reached), alarm_step, score
 * (highest, null without a step), fault and verdicts. New reference; NULL when out of memory. */
json_t *scoring_json(const struct scoring *s, const char *run, const char *program);

#endif
