/* The bound of memory is found in every kind of cgroup, and what is left open fits into it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "daemon/log.h"
#include "daemon/memory.h"

#define MB (UINT64_C(1) << 20)

static char root[64];

/* Writes a file below the root with the directories that it needs. */
static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(full, 0700);
        *p = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/seismo-memory-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static void expect(uint64_t bytes, const char *source)
{
    struct memory m;
    memory_find(root, &m);
    assert_int_equal(m.bytes, bytes);
    assert_string_equal(m.source, source);
}

#define V2 "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1 "35 23 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"

static void test_version_2(void **state)
{
    (void)state;
    put("/proc/self/mountinfo", "22 1 0:5 / /proc rw - proc proc rw\n" V2);
    put("/proc/self/cgroup", "0::/system.slice/seismod.service\n");
    put("/sys/fs/cgroup/cgroup.procs", "");
    expect(0, "");
    put("/sys/fs/cgroup/system.slice/seismod.service/memory.max", "max\n");
    put("/sys/fs/cgroup/system.slice/memory.max", "268435456\n");
    expect(256 * MB, "/sys/fs/cgroup/system.slice/memory.max");
    put("/sys/fs/cgroup/system.slice/seismod.service/memory.max", "134217728\n");
    expect(128 * MB, "/sys/fs/cgroup/system.slice/seismod.service/memory.max");
    put("/sys/fs/cgroup/system.slice/seismod.service/memory.high", "67108864\n");
    expect(64 * MB, "/sys/fs/cgroup/system.slice/seismod.service/memory.high");
}

static void test_version_1(void **state)
{
    (void)state;
    put("/proc/self/mountinfo", "34 23 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" V1
                                "38 23 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/jobs/a\n1:cpu,cpuacct:/\n0::/\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/jobs/a/memory.limit_in_bytes", "9223372036854771712\n");
    expect(0, "");
    put("/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "67108864\n");
    expect(64 * MB, "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes");
}

/* A container sees its own part at the mount, whatever its path is called outside. */
static void test_containers(void **state)
{
    (void)state;
    put("/proc/self/mountinfo", "30 23 0:26 /docker/12ab /sys/fs/cgroup/memory ro - cgroup cgroup "
                                "rw,memory\n");
    put("/proc/self/cgroup", "4:memory:/docker/12ab/inner\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n");
    put("/sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "67108864\n");
    expect(64 * MB, "/sys/fs/cgroup/memory/inner/memory.limit_in_bytes");
    put("/proc/self/cgroup", "4:memory:/docker/12abc\n");
    expect(128 * MB, "/sys/fs/cgroup/memory/memory.limit_in_bytes");
    put("/proc/self/mountinfo", V2);
    put("/sys/fs/cgroup/memory.max", "33554432\n");
    put("/proc/self/cgroup", "0::/../other\n");
    expect(32 * MB, "/sys/fs/cgroup/memory.max");
}

static void test_nothing_there(void **state)
{
    (void)state;
    expect(0, "");
    put("/proc/self/mountinfo", "x\n\n - \n1 2 3 4\n" V2);
    put("/proc/self/cgroup", "\n:\n0:\n0:a:\n");
    expect(0, "");
    put("/sys/fs/cgroup/memory.max", "");
    put("/proc/self/cgroup", "0::/\n");
    expect(0, "");
}

static void test_resource_limits(void **state)
{
    (void)state;
    static const struct {
        int resource;
        const char *name;
    } each[] = {{RLIMIT_DATA, "RLIMIT_DATA"}, {RLIMIT_AS, "RLIMIT_AS"}};
    for (size_t i = 0; i < 2; i++) {
        struct rlimit before, narrow;
        struct memory m;
        assert_int_equal(getrlimit(each[i].resource, &before), 0);
        narrow = before;
        narrow.rlim_cur = 512 * MB;
        if (setrlimit(each[i].resource, &narrow) != 0)
            fail_msg("a soft limit cannot be set");
        memory_find(root, &m);
        assert_int_equal(setrlimit(each[i].resource, &before), 0);
        assert_int_equal(m.bytes, 512 * MB);
        assert_string_equal(m.source, each[i].name);
    }
}

/* The configuration of a file with these lines of [limits]. */
static struct config *configured(const char *lines)
{
    char text[512], path[128], errmsg[SEISMO_ERRMSG];
    struct config *c;
    snprintf(text, sizeof text, "[limits]\n%s", lines);
    put("/conf", text);
    snprintf(path, sizeof path, "%s/conf", root);
    assert_int_equal(config_new(path, &c, errmsg), 0);
    return c;
}

static void test_what_is_open_fits(void **state)
{
    (void)state;
    struct memory m = {0};
    struct config *c = configured("");
    struct limits l = c->limits;
    assert_false(memory_fit(&m, c, &l)); /* no bound, no change */
    assert_memory_equal(&l, &c->limits, sizeof l);
    assert_true(memory_tighter(&m, 64 * MB, 20 * MB, 36 << 10, "test"));
    assert_true(memory_fit(&m, c, &l));
    assert_in_range(l.peers, 500, 1000);
    assert_int_equal(l.peers, memory_peers(&m));
    assert_true(l.query_peers < c->limits.query_peers && l.query_peers >= 16);
    assert_true(l.runs < c->limits.runs && l.runs > l.peers);
    assert_true((l.peers + LIMIT_PEERS_TOLD + 2 * l.query_peers) * m.peer + m.base +
                    l.queued_bytes <=
                m.bytes);
    assert_true(l.peer_queued_bytes < l.queued_bytes && l.message_bytes <= l.peer_queued_bytes);
    config_free(&c);
}

static void test_what_is_configured_stays(void **state)
{
    (void)state;
    struct memory m = {0};
    struct config *c = configured("peers = 8192\nqueued_bytes = 33554432\n");
    struct limits l = c->limits;
    memory_tighter(&m, 64 * MB, 20 * MB, 36 << 10, "test");
    assert_true(memory_fit(&m, c, &l));
    assert_int_equal(l.peers, 8192);
    assert_int_equal(l.queued_bytes, 33554432);
    assert_true(l.message_bytes < c->limits.message_bytes);
    config_free(&c);
}

/* However little there is, the daemon serves somebody, and every limit is one that could be
 * configured. */
static void test_very_little(void **state)
{
    (void)state;
    struct memory m = {0};
    struct config *c = configured("");
    struct limits l = c->limits;
    memory_tighter(&m, 1, 20 * MB, 36 << 10, "test");
    assert_true(memory_fit(&m, c, &l));
    assert_int_equal(l.peers, 1);
    assert_int_equal(l.query_peers, 1);
    assert_int_equal(l.message_bytes, 16384);
    assert_int_equal(l.queued_bytes, 1048576);
    config_free(&c);
}

static void test_much(void **state)
{
    (void)state;
    struct memory m = {0};
    struct config *c = configured("");
    struct limits l = c->limits;
    memory_tighter(&m, 8192 * MB, 20 * MB, 36 << 10, "test");
    assert_false(memory_fit(&m, c, &l));
    assert_memory_equal(&l, &c->limits, sizeof l);
    config_free(&c);
}

static void test_tightest(void **state)
{
    (void)state;
    struct memory m = {0};
    assert_true(memory_tighter(&m, 100 * MB, 0, 1000, "a"));
    assert_false(memory_tighter(&m, 50 * MB, 0, 100, "more fit"));
    assert_true(memory_tighter(&m, 200 * MB, 190 * MB, 1000, "b"));
    assert_false(memory_tighter(&m, 0, 0, 1000, "none"));
    assert_false(memory_tighter(&m, INT64_MAX - 4095, 0, 1, "none in version 1"));
    assert_string_equal(m.source, "b");
}

int main(void)
{
#define EACH(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)
    const struct CMUnitTest tests[] = {
        EACH(test_version_2),
        EACH(test_version_1),
        EACH(test_containers),
        EACH(test_nothing_there),
        EACH(test_resource_limits),
        EACH(test_what_is_open_fits),
        EACH(test_what_is_configured_stays),
        EACH(test_very_little),
        EACH(test_much),
        EACH(test_tightest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
