#include "daemon/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "daemon/log.h"

#define KB UINT64_C(1024)
#define MB (KB * 1024)

/* Resident: the daemon and its hook helper with a few megabytes of caches and answers to queries; a
 * connection with its session and run. */
#define RESIDENT_BASE (20 * MB)
#define RESIDENT_PEER (48 * KB)

/* Of addresses, which stacks, arenas and ZeroMQ's blocks take whether they are used or not. */
#define ADDRESS_BASE (176 * MB)
#define DATA_BASE (96 * MB)
#define ADDRESS_PEER (88 * KB)

#define UNLIMITED (UINT64_C(1) << 60) /* version 1 says "none" by a number beyond this */

bool memory_tighter(struct memory *m, uint64_t bytes, uint64_t base, uint64_t peer,
                    const char *source)
{
    struct memory other = {.bytes = bytes, .base = base, .peer = peer};
    if (bytes == 0 || bytes >= UNLIMITED || (m->bytes && memory_peers(&other) >= memory_peers(m)))
        return false;
    *m = other;
    snprintf(m->source, sizeof(m->source), "%s", source);
    return true;
}

/* ---- cgroups ---- */

/* One file of one cgroup; "max" is no number and no bound. */
static void look_at(const char *root, const char *directory, const char *file, struct memory *m)
{
    char path[PATH_MAX], line[64];
    int n = snprintf(path, sizeof(path), "%s%s/%s", root, directory, file);
    FILE *f = n < (int)sizeof(path) ? fopen(path, "re") : NULL;
    if (!f)
        return;
    if (fgets(line, sizeof(line), f))
        memory_tighter(m, strtoull(line, NULL, 10), RESIDENT_BASE, RESIDENT_PEER,
                       path + strlen(root));
    fclose(f);
}

/* A mounted hierarchy: from the process's own cgroup up to what is mounted. */
static void look_at_hierarchy(const char *root, const char *mount, const char *inside,
                              const char *cgroup, bool v2, struct memory *m)
{
    /* A container may see only its part, whose path from outside is the same as that of the mount
     * or unknown; then what is mounted is its own. */
    size_t n = strcmp(inside, "/") == 0 ? 0 : strlen(inside);
    bool within = strncmp(cgroup, inside, n) == 0 && (cgroup[n] == '/' || cgroup[n] == 0) &&
                  !strstr(cgroup, "/..");
    char directory[PATH_MAX];
    int size = snprintf(directory, sizeof(directory), "%s%s", mount, within ? cgroup + n : "");
    if (size >= (int)sizeof(directory))
        return;
    for (char *end = directory + strlen(directory); end;) {
        *end = 0;
        if (v2) {
            look_at(root, directory, "memory.max", m);
            look_at(root, directory, "memory.high", m);
        } else {
            look_at(root, directory, "memory.limit_in_bytes", m);
        }
        end = strlen(directory) > strlen(mount) ? strrchr(directory, '/') : NULL;
    }
}

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, word, n) == 0 && (p[n] == ',' || p[n] == 0))
            return true;
    }
    return false;
}

/* The process's cgroup in the hierarchy: lines of "number:controllers:path", without controllers in
 * version 2. */
static bool find_cgroup(const char *root, bool v2, char ret[PATH_MAX])
{
    char path[PATH_MAX], line[PATH_MAX + 256];
    int n = snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    FILE *f = n < (int)sizeof(path) ? fopen(path, "re") : NULL;
    bool found = false;
    while (f && !found && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *cgroup = controllers ? strchr(++controllers, ':') : NULL;
        if (!cgroup)
            continue;
        *cgroup++ = 0;
        found = v2 ? *controllers == 0 : has_word(controllers, "memory");
        if (found)
            snprintf(ret, PATH_MAX, "%.*s", PATH_MAX - 1, cgroup);
    }
    if (f)
        fclose(f);
    return found;
}

/* Lines of /proc/self/mountinfo: "id parent device ROOT MOUNT options [fields …] - TYPE source
 * OPTIONS". Paths with blanks in them are written in another way and not found. */
static void look_at_cgroups(const char *root, struct memory *m)
{
    char path[PATH_MAX], cgroup[PATH_MAX], *line = NULL;
    size_t size = 0;
    int n = snprintf(path, sizeof(path), "%s/proc/self/mountinfo", root);
    FILE *f = n < (int)sizeof(path) ? fopen(path, "re") : NULL;
    while (f && getline(&line, &size, f) > 0) {
        char inside[1024], mount[1024], type[32], options[1024];
        const char *rest = strstr(line, " - ");
        if (sscanf(line, "%*s %*s %*s %1023s %1023s", inside, mount) != 2 || !rest ||
            sscanf(rest, " - %31s %*s %1023s", type, options) != 2)
            continue;
        bool v2 = strcmp(type, "cgroup2") == 0;
        if ((v2 || (strcmp(type, "cgroup") == 0 && has_word(options, "memory"))) &&
            find_cgroup(root, v2, cgroup))
            look_at_hierarchy(root, mount, inside, cgroup, v2, m);
    }
    free(line);
    if (f)
        fclose(f);
}

void memory_find(const char *root, struct memory *ret)
{
    struct memory m = {0};
    struct rlimit limit;
    look_at_cgroups(root, &m);
    if (getrlimit(RLIMIT_DATA, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        memory_tighter(&m, limit.rlim_cur, DATA_BASE, ADDRESS_PEER, "RLIMIT_DATA");
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        memory_tighter(&m, limit.rlim_cur, ADDRESS_BASE, ADDRESS_PEER, "RLIMIT_AS");
    *ret = m;
}

/* ---- what fits ---- */

/* Bytes for all that comes from peers. One part in sixteen is left alone, for connections that come
 * faster than they are refused and for what the allocator cannot use. */
static uint64_t room(const struct memory *m)
{
    uint64_t kept = m->base + m->bytes / 16;
    return m->bytes > kept ? m->bytes - kept : 0;
}

/* Of the room an eighth is for steps that wait, and a sixteenth for queries and events. */
static uint64_t room_of_queue(const struct memory *m)
{
    return room(m) / 8;
}

static uint64_t room_of_queries(const struct memory *m)
{
    return room(m) / 16;
}

uint32_t memory_peers(const struct memory *m)
{
    if (m->bytes == 0)
        return UINT32_MAX;
    uint64_t n = (room(m) - room_of_queue(m) - room_of_queries(m)) / m->peer;
    n = n > LIMIT_PEERS_TOLD ? n - LIMIT_PEERS_TOLD : 1;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static bool is_open(const struct config *c, const char *key)
{
    return !config_is_given(c, "limits", key);
}

/* Lowers one limit, but not below the least that it can be configured to. */
static void lower(const struct config *c, const char *key, uint64_t fits, uint32_t least,
                  uint32_t *limit)
{
    if (is_open(c, key) && *limit > fits)
        *limit = fits > least ? (uint32_t)fits : least;
}

#define LEAST(name, fallback, least, most, fixed, help) enum { LEAST_##name = (least) };
LIMITS_MAP(LEAST)

bool memory_fit(const struct memory *m, const struct config *c, struct limits *l)
{
    static const struct limits defaults = LIMITS_DEFAULT;
    uint32_t peers = memory_peers(m);
    if (peers >= defaults.peers)
        return false;
#define LOWER(name, fits) lower(c, #name, fits, LEAST_##name, &l->name)
    LOWER(peers, peers);
    LOWER(query_peers, room_of_queries(m) / m->peer / 2); /* it holds for two endpoints */
    LOWER(runs, 2 * (uint64_t)l->peers + 64);             /* some whose peers have gone */
    LOWER(queued_bytes, room_of_queue(m));
    LOWER(peer_queued_bytes, room_of_queue(m) / 8);
    LOWER(message_bytes, m->bytes / 1024);
#undef LOWER
    return true;
}

void memory_log(const struct memory *m, const struct config *c, const struct limits *l)
{
    uint32_t peers = memory_peers(m);
    char lowered[512] = "";
    size_t n = 0;
#define X(name, fallback, least, most, fixed, help)                                             \
    if (l->name < c->limits.name)                                                               \
        n += (size_t)snprintf(lowered + n, sizeof(lowered) - n, "%s%s %" PRIu32, n ? ", " : "", \
                              #name, l->name);
    LIMITS_MAP(X)
#undef X
    if (n > 0)
        log_info("memory",
                 "%" PRIu64 " MB (%s) hold %" PRIu32 " peers; [limits] leaves it to the daemon: %s",
                 m->bytes / MB, m->source, peers, lowered);
    if (l->peers > peers)
        log_warning("memory",
                    "[limits] peers is %" PRIu32 ", but %" PRIu64 " MB (%s) hold %" PRIu32
                    ": with more the daemon may be killed; lower it or leave it out",
                    l->peers, m->bytes / MB, m->source, peers);
    else if (m->bytes && l->queued_bytes > room(m) / 2)
        log_warning("memory",
                    "[limits] queued_bytes is %" PRIu32 ", too much for %" PRIu64
                    " MB (%s): lower it or leave it out",
                    l->queued_bytes, m->bytes / MB, m->source);
}
