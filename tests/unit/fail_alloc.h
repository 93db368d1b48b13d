/* Allocations that fail when a test says so.
 *
 * Included by one file of a program, this takes the place of malloc and its family for everything
 * that the program calls, shared libraries with it. fail_each lets an entry point run with its
 * first allocation failing, then with its second, and so on until a run in which none failed; each
 * time what was allocated must have been freed again. Failures come in two kinds: one alone, or all
 * from the n-th on.
 *
 * libzmq and the C++ library are left out: libzmq ends the process itself when its own memory is
 * out, which nobody above it can change; and the dynamic linker, because that is where the memory
 * of libzmq's threads comes from. */
#ifndef SEISMO_TESTS_FAIL_ALLOC_H
#define SEISMO_TESTS_FAIL_ALLOC_H

#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Under AddressSanitizer its own functions do the work, some of which (strdup) take memory that is
 * not counted here; it looks for what is lost itself, at the end. */
#if defined(__SANITIZE_ADDRESS__)
#define FAIL_REAL(name) __interceptor_##name
#define FAIL_COUNTS false
#define FAIL_THREAD_START 4 /* allocations by which it looks at a new thread */
#else
#define FAIL_REAL(name) __libc_##name
#define FAIL_COUNTS true
#define FAIL_THREAD_START 0
#endif
void *FAIL_REAL(malloc)(size_t n);
void *FAIL_REAL(calloc)(size_t n, size_t size);
void *FAIL_REAL(realloc)(void *p, size_t n);
void FAIL_REAL(free)(void *p);

/* The sanitizer itself allocates before it is ready for code that it has been put into. */
#define FAIL_PLAIN __attribute__((no_sanitize("address", "undefined")))

#define FAIL_MAX_RANGES 16

static struct {
    atomic_bool armed, all, hit;
    const void
        *_Atomic caller; /* whose allocation was the first to fail: a debugger finds the line */
    atomic_long left;    /* allocations that still succeed */
    atomic_long live;    /* blocks allocated and not freed */
    struct fail_range {
        uintptr_t from, to;
    } spared[FAIL_MAX_RANGES]; /* code whose allocations succeed */
    int n_spared;
} fail_alloc;

/* Allocations of this thread succeed: for what only plays a part in the test. Volatile, because the
 * C library's functions are declared as if they never called back into this file. */
static _Thread_local volatile bool fail_spared_thread;

FAIL_PLAIN static inline bool fail_is_spared(const void *caller)
{
    for (int i = 0; i < fail_alloc.n_spared; i++) {
        if ((uintptr_t)caller - fail_alloc.spared[i].from <
            fail_alloc.spared[i].to - fail_alloc.spared[i].from)
            return true;
    }
    return false;
}

FAIL_PLAIN static inline bool fail_now(const void *caller)
{
    static _Thread_local int started;
    if (!atomic_load_explicit(&fail_alloc.armed, memory_order_relaxed) || fail_spared_thread ||
        fail_is_spared(caller))
        return false;
    if (started < FAIL_THREAD_START) {
        started++;
        return false;
    }
    long left = atomic_fetch_sub(&fail_alloc.left, 1);
    if (left > 1 || (left < 1 && !fail_alloc.all))
        return false;
    if (!fail_alloc.hit)
        fail_alloc.caller = caller;
    fail_alloc.hit = true;
    errno = ENOMEM;
    return true;
}

/* Counts a block that has come (1) or gone (-1). */
FAIL_PLAIN static inline void *fail_count(const void *caller, void *p, int change)
{
    if (p != NULL && !fail_is_spared(caller))
        fail_alloc.live += change;
    return p;
}

#define FAIL_CALLER __builtin_return_address(0)

FAIL_PLAIN void *malloc(size_t n)
{
    return fail_now(FAIL_CALLER) ? NULL : fail_count(FAIL_CALLER, FAIL_REAL(malloc)(n), 1);
}

FAIL_PLAIN void *calloc(size_t n, size_t size)
{
    return fail_now(FAIL_CALLER) ? NULL : fail_count(FAIL_CALLER, FAIL_REAL(calloc)(n, size), 1);
}

FAIL_PLAIN void *realloc(void *p, size_t n)
{
    if (n > 0 && fail_now(FAIL_CALLER))
        return NULL;
    void *q = FAIL_REAL(realloc)(p, n);
    if (p == NULL)
        fail_count(FAIL_CALLER, q, 1);
    else if (n == 0)
        fail_count(FAIL_CALLER, p, -1);
    return q;
}

FAIL_PLAIN void free(void *p)
{
    fail_count(FAIL_CALLER, p, -1);
    FAIL_REAL(free)(p);
}

static inline int fail_spare_library(struct dl_phdr_info *info, size_t size, void *arg)
{
    static const char *const names[] = {"libzmq", "libstdc++", "libsodium", "libgcc_s", "ld-linux"};
    (void)size;
    (void)arg;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (int k = 0; strstr(info->dlpi_name, names[i]) && k < info->dlpi_phnum; k++) {
            const ElfW(Phdr) *part = &info->dlpi_phdr[k];
            if (part->p_type == PT_LOAD && (part->p_flags & PF_X) &&
                fail_alloc.n_spared < FAIL_MAX_RANGES)
                fail_alloc.spared[fail_alloc.n_spared++] =
                    (struct fail_range){info->dlpi_addr + part->p_vaddr,
                                        info->dlpi_addr + part->p_vaddr + part->p_memsz};
        }
    }
    return 0;
}

/* The n-th allocation from now on fails, and with `all` every later one. */
static inline void fail_arm(long n, bool all)
{
    fail_alloc.left = n;
    fail_alloc.all = all;
    fail_alloc.hit = false;
    fail_alloc.armed = true;
}

/* Whether one has failed. */
static inline bool fail_disarm(void)
{
    fail_alloc.armed = false;
    return fail_alloc.hit;
}

/* What one run of an entry point came to, `errmsg` empty when it has none. */
struct fail_result {
    int err; /* 0 or SEISMO_E… */
    char errmsg[256];
};

/* Until `thin` allocations every one of them fails in its turn, after that every tenth, then every
 * hundredth and so on; 0: all of them. Setting SEISMO_FAIL_ALL makes it 0. */
static inline long fail_after(long n, long thin)
{
    long step = 1;
    if (thin > 0 && !getenv("SEISMO_FAIL_ALL")) {
        for (long at = thin; n >= at; at *= 10)
            step *= 10;
    }
    return n + step;
}

/* Before anything else, once. */
static inline void fail_init(void)
{
    if (fail_alloc.n_spared == 0)
        dl_iterate_phdr(fail_spare_library, NULL);
}

/* Runs `entry` (which must leave nothing behind) as told above. `check` looks at what came of a run
 * in which an allocation failed. Returns how many allocations the entry point makes. */
static inline long fail_each(const char *what, long thin, void (*entry)(struct fail_result *ret),
                             void (*check)(const char *what, const struct fail_result *result))
{
    struct fail_result result = {0};
    long n = 0;
    fail_init();
    for (int all = 0; all <= 1; all++) {
        bool hit = true;
        entry(&result); /* twice: what is made once in a program's life is not counted as lost */
        entry(&result);
        if (result.err != 0)
            fail_msg("%s: %d: %s", what, result.err, result.errmsg);
        for (n = 1; hit; n = fail_after(n, thin)) {
            long live = fail_alloc.live;
            memset(&result, 0, sizeof result);
            fail_arm(n, all != 0);
            entry(&result);
            hit = fail_disarm();
            if (FAIL_COUNTS && fail_alloc.live != live)
                fail_msg("%s, allocation %ld%s: %ld blocks are lost (%d: %s)", what, n,
                         all ? " and all after it" : "", fail_alloc.live - live, result.err,
                         result.errmsg);
            if (hit && result.err != 0)
                check(what, &result);
            else if (!hit && result.err != 0)
                fail_msg("%s: nothing failed, but %d: %s", what, result.err, result.errmsg);
        }
    }
    print_message("%s: %ld allocations\n", what, n - 2);
    return n - 2;
}

#endif
