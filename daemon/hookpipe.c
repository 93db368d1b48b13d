#include "daemon/hookpipe.h"

#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define READ_AHEAD 4096 /* bytes asked for beyond what is known to come */

struct outgoing {
    uv_write_t write;
    struct hook_frame frame;
    char data[];
};

static void end(struct hookpipe *p)
{
    if (p->ended) {
        return;
    }
    p->ended = 1;
    uv_read_stop((uv_stream_t *)&p->pipe);
    p->on_end(p->arg);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    (void)suggested;
    struct hookpipe *p = handle->data;
    size_t want = p->in_n + READ_AHEAD;
    if (p->in_n >= sizeof(struct hook_frame)) {
        const struct hook_frame *frame = (const void *)p->in;
        want += frame->size;
    }
    if (want + 1 > p->in_cap) { /* one for the zero byte */
        char *bigger = realloc(p->in, want + 1);
        if (!bigger) {
            *ret = uv_buf_init(NULL, 0); /* on_read gets UV_ENOBUFS */
            return;
        }
        p->in = bigger;
        p->in_cap = want + 1;
    }
    *ret = uv_buf_init(p->in + p->in_n, (unsigned)(p->in_cap - 1 - p->in_n));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    (void)buf;
    struct hookpipe *p = stream->data;
    if (n < 0) {
        end(p);
        return;
    }
    p->in_n += (size_t)n;
    while (!p->ended && p->in_n >= sizeof(struct hook_frame)) {
        struct hook_frame frame;
        memcpy(&frame, p->in, sizeof frame);
        if (frame.size > HOOKPIPE_MAX_FRAME) {
            end(p);
            return;
        }
        size_t whole = sizeof frame + frame.size;
        if (p->in_n < whole) {
            return;
        }
        char after = p->in[whole];
        p->in[whole] = '\0';
        p->on_frame(p->arg, &frame, p->in + sizeof frame);
        p->in[whole] = after;
        p->in_n -= whole;
        memmove(p->in, p->in + whole, p->in_n);
    }
}

int hookpipe_open(struct hookpipe *p, uv_loop_t *loop, int fd)
{
    uv_pipe_init(loop, &p->pipe, 0);
    p->pipe.data = p;
    int rc = uv_pipe_open(&p->pipe, fd);
    return rc < 0 ? rc : uv_read_start((uv_stream_t *)&p->pipe, on_alloc, on_read);
}

int hookpipe_accept(struct hookpipe *p, uv_loop_t *loop, uv_pipe_t *from)
{
    uv_pipe_init(loop, &p->pipe, 0);
    p->pipe.data = p;
    int rc = uv_accept((uv_stream_t *)from, (uv_stream_t *)&p->pipe);
    return rc < 0 ? rc : uv_read_start((uv_stream_t *)&p->pipe, on_alloc, on_read);
}

static void on_written(uv_write_t *write, int status)
{
    (void)status; /* the other side's end is seen by reading */
    free(write->data);
}

int hookpipe_send(struct hookpipe *p, enum hook_frame_type type, int64_t id, const uv_buf_t *parts,
                  unsigned n)
{
    size_t size = 0;
    for (unsigned i = 0; i < n; i++) {
        size += parts[i].len;
    }
    if (size > HOOKPIPE_MAX_FRAME) {
        return SEISMO_ETOOBIG;
    }
    if (p->ended) {
        return SEISMO_EUNREACHABLE;
    }
    struct outgoing *out = malloc(sizeof *out + size);
    if (!out) {
        return SEISMO_ENOMEM;
    }
    out->write.data = out;
    out->frame = (struct hook_frame){type, (uint32_t)size, id};
    size_t at = 0;
    for (unsigned i = 0; i < n; i++) {
        memcpy(out->data + at, parts[i].base, parts[i].len);
        at += parts[i].len;
    }
    uv_buf_t both[2] = {uv_buf_init((char *)&out->frame, sizeof out->frame),
                        uv_buf_init(out->data, (unsigned)size)};
    if (uv_write(&out->write, (uv_stream_t *)&p->pipe, both, 2, on_written) < 0) {
        free(out);
        return SEISMO_EUNREACHABLE;
    }
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct hookpipe *p = handle->data;
    free(p->in);
    p->in = NULL;
    p->closed(p->arg);
}

void hookpipe_close(struct hookpipe *p, void (*closed)(void *arg))
{
    p->ended = 1;
    p->closed = closed;
    uv_close((uv_handle_t *)&p->pipe, on_closed);
}
