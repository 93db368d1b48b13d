#include "daemon/descriptors.h"

#include <inttypes.h>
#include <sys/resource.h>

#include "daemon/log.h"

static uint32_t at_most(uint32_t value, uint64_t most)
{
    return value <= most ? value : most > 1 ? (uint32_t)most : 1;
}

void descriptors_fit(struct limits *limits)
{
    struct rlimit limit;
    uint32_t peers = limits->peers, query_peers = limits->query_peers;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return;
    uint64_t own = DESCRIPTORS_OWN + LIMIT_PEERS_TOLD;
    uint64_t left = limit.rlim_cur > own ? limit.rlim_cur - own : 0;
    limits->query_peers = at_most(query_peers, left / 4); /* it holds for two endpoints */
    left -= left < 2 * limits->query_peers ? left : 2 * limits->query_peers;
    limits->peers = at_most(peers, left);
    if (limits->peers < peers || limits->query_peers < query_peers)
        log_warning("server",
                    "%" PRIu64 " file descriptors (RLIMIT_NOFILE, LimitNOFILE=) are enough for "
                    "[limits] peers = %u and query_peers = %u, and not for %u and %u",
                    (uint64_t)limit.rlim_cur, limits->peers, limits->query_peers, peers,
                    query_peers);
}
