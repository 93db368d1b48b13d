#include "daemon/session.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS 8192 /* a power of two */
_Static_assert((BUCKETS & (BUCKETS - 1)) == 0 && LIMIT_SESSIONS <= 1 << 16, "see session_add");

struct session_table {
    struct session *bucket[BUCKETS];
    struct session **slot; /* LIMIT_SESSIONS of them */
    uint32_t max;          /* sessions */
    uint32_t used;         /* slots that were ever used */
    uint32_t n;            /* sessions */
    uint64_t generations;  /* sessions ever made */
};

static uint32_t hash(const uint8_t *p, size_t n)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 16777619u;
    return (h ^ h >> 16) & (BUCKETS - 1);
}

struct session_table *session_table_new(uint32_t max)
{
    struct session_table *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    session_table_limit(t, max);
    t->slot = calloc(LIMIT_SESSIONS, sizeof(struct session *)); /* memory only where it is used */
    if (!t->slot)
        session_table_free(&t);
    return t;
}

void session_table_limit(struct session_table *t, uint32_t max)
{
    t->max = max < LIMIT_SESSIONS ? max : LIMIT_SESSIONS;
}

static void session_free(struct session *s)
{
    while (s->news) {
        struct news *next = s->news->next;
        free(s->news->json);
        free(s->news);
        s->news = next;
    }
    lane_leave(&s->lane);
    free(s);
}

void session_table_free(struct session_table **ref)
{
    struct session_table *t = *ref;
    if (!t)
        return;
    *ref = NULL;
    for (uint32_t i = 0; i < t->used; i++)
        if (t->slot[i])
            session_free(t->slot[i]);
    free(t->slot);
    free(t);
}

struct session *session_add(struct session_table *t, const void *peer, size_t n)
{
    struct session *s = t->n < t->max ? calloc(1, sizeof(*s)) : NULL;
    if (!s)
        return NULL;
    s->lane = lane_new();
    if (!s->lane) {
        free(s);
        return NULL;
    }
    uint32_t slot = 0;
    if (t->used < t->max || t->used == t->n)
        slot = t->used++;
    else
        while (t->slot[slot])
            slot++;
    memcpy(s->peer, peer, n);
    s->peer_n = (uint8_t)n;
    s->owner = ++t->generations << 16 | slot;
    struct session **bucket = &t->bucket[hash(s->peer, n)];
    s->chain = *bucket;
    *bucket = s;
    t->slot[slot] = s;
    t->n++;
    return s;
}

void session_remove(struct session_table *t, struct session *s)
{
    struct session **at = &t->bucket[hash(s->peer, s->peer_n)];
    while (*at != s)
        at = &(*at)->chain;
    *at = s->chain;
    t->slot[s->owner & 0xffff] = NULL;
    t->n--;
    while (t->used > 0 && !t->slot[t->used - 1])
        t->used--;
    session_free(s);
}

bool session_table_is_full(const struct session_table *t)
{
    return t->n >= t->max;
}

struct session *session_by_peer(const struct session_table *t, const void *peer, size_t n)
{
    struct session *s = t->bucket[hash(peer, n)];
    while (s && (s->peer_n != n || memcmp(s->peer, peer, n) != 0))
        s = s->chain;
    return s;
}

struct session *session_by_owner(const struct session_table *t, uint64_t owner)
{
    struct session *s = t->slot[owner & 0xffff];
    return s && s->owner == owner ? s : NULL;
}

struct session *session_next(const struct session_table *t, uint32_t *at)
{
    while (*at < t->used) {
        struct session *s = t->slot[(*at)++];
        if (s)
            return s;
    }
    return NULL;
}
