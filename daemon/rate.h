/* How often something may happen: `burst` times at once, then `per_second`. */
#ifndef SEISMO_DAEMON_RATE_H
#define SEISMO_DAEMON_RATE_H

#include <stdbool.h>

struct rate {
    double tokens, at; /* left, and when that was so (s) */
};

/* Full at time `now`. */
static inline struct rate rate_full(double burst, double now)
{
    return (struct rate){burst, now};
}

/* True when it may happen now; then it counts as having happened. */
static inline bool rate_take(struct rate *r, double burst, double per_second, double now)
{
    r->tokens += (now - r->at) * per_second;
    r->at = now;
    if (r->tokens > burst)
        r->tokens = burst;
    if (r->tokens < 1)
        return false;
    r->tokens -= 1;
    return true;
}

#endif
