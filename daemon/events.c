#include "daemon/events.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "models/verdict.h"
#include "proto/json_text.h"

/* Subscribers that do not keep up miss events, by the nature of PUB; the database has them all. */
static void publish(struct zsock *pub, const char *kind, const char *run, const char *json)
{
    char topic[16 + WIRE_MAX_SHOWN_RUN];
    int n = snprintf(topic, sizeof(topic), "%s/%s", kind, run);
    zsock_send(pub, topic, (size_t)n, json, strlen(json));
}

static void publish_run(struct zsock *pub, const char *run, const char *program, const char *event,
                        const char *outcome)
{
    json_t *document = json_pack("{s:s, s:s, s:s, s:s?}", "run", run, "program", program, "event",
                                 event, "outcome", outcome);
    char *text = document ? json_dumps(document, JSON_COMPACT) : NULL;
    if (text)
        publish(pub, "run", run, text);
    else
        log_error("events", "no memory to publish that a run was %s", event);
    free(text);
    json_decref(document);
}

void events_opened(struct zsock *pub, const char *run, const char *program)
{
    publish_run(pub, run, program, "opened", NULL);
}

static const char *outcome_of(const struct job *job)
{
    static const char *const names[] = {
        [WIRE_FINISHED] = "finished", [WIRE_FAILED] = "failed", [WIRE_ABORTED] = "aborted"};
    return job->type == JOB_CLOSE ? names[job->close.outcome] : "lost";
}

void events_done(struct zsock *pub, const struct job *job)
{
    for (const struct news *n = job->news; n; n = n->next) {
        publish(pub, "verdict", n->run, n->json);
        json_t *document = json_text(n->json, strlen(n->json), 0, NULL, NULL);
        const char *state = json_string_value(json_object_get(document, "state"));
        const char *program = json_string_value(json_object_get(document, "program"));
        if (state && program && strcmp(state, verdict_state_name(STATE_ENDED)) == 0)
            publish_run(pub, n->run, program, "ended", outcome_of(job));
        json_decref(document);
    }
}
