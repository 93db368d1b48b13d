/* What the daemon and its hook helper (hookd.h) say to each other: frames over a stream socket.
 *
 * Both ends are the same program, forked, so a frame is a struct hook_frame as it lies in memory
 * and `size` bytes behind it. Frames arrive whole and in order. A frame larger than
 * HOOKPIPE_MAX_FRAME, or an end in the middle of one, is the end. */
#ifndef SEISMO_DAEMON_HOOKPIPE_H
#define SEISMO_DAEMON_HOOKPIPE_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define HOOKPIPE_MAX_FRAME (4u << 20) /* bytes behind the head */

enum hook_frame_type {
    HOOK_RUN,    /* to the helper: run this hook; name, event and condition of the alert, each with
                  * its zero byte, then the document */
    HOOK_KILL,   /* to the helper: end this run now; nothing happens when it has ended */
    HOOK_RELOAD, /* to the helper: read the configuration again */
    HOOK_SAYS,   /* from the helper: a line that the hook printed; empty: there is more, not told */
    HOOK_DONE,   /* from the helper: struct hook_result; the last word on a HOOK_RUN */
};

struct hook_frame {
    uint32_t type; /* enum hook_frame_type */
    uint32_t size; /* bytes that follow */
    int64_t id;    /* of the alert */
};

enum hook_how {
    HOOK_EXITED,      /* code: its status */
    HOOK_SIGNALLED,   /* code: the signal */
    HOOK_TIMED_OUT,   /* and was killed */
    HOOK_KILLED,      /* by HOOK_KILL */
    HOOK_NOT_STARTED, /* code: libuv's error */
    HOOK_UNKNOWN,     /* no hook is called so */
};

struct hook_result {
    uint32_t how; /* enum hook_how */
    int32_t code;
};

struct hookpipe {
    uv_pipe_t pipe;
    /* `data` (frame->size bytes, and a zero byte behind them) is valid during the call. Both
     * may close the pipe. */
    void (*on_frame)(void *arg, const struct hook_frame *frame, const char *data);
    void (*on_end)(void *arg); /* once: nothing comes any more, and nothing arrives over there */
    void *arg;
    char *in; /* heap: what came and is not a whole frame yet */
    size_t in_n, in_cap;
    int ended;
    void (*closed)(void *arg);
};

/* Takes `fd`; set on_frame, on_end and arg before. 0 or libuv's error, after which nothing but
 * hookpipe_close may be called. */
int hookpipe_open(struct hookpipe *p, uv_loop_t *loop, int fd);

/* The same with a socket that has come over `from`. */
int hookpipe_accept(struct hookpipe *p, uv_loop_t *loop, uv_pipe_t *from);

/* Sends a frame made of `n` parts, which are copied. 0, or SEISMO_E… when there is no memory, the
 * frame is too large or the other side is gone. */
int hookpipe_send(struct hookpipe *p, enum hook_frame_type type, int64_t id, const uv_buf_t *parts,
                  unsigned n);

/* Calls `closed` with p->arg from the loop; on_end is not called any more. */
void hookpipe_close(struct hookpipe *p, void (*closed)(void *arg));

#endif
