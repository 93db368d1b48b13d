/* libseismo: stream the statistics of a training run to seismod, from C.
 *
 *     struct seismo *run = seismo_open(&(struct seismo_options){.run = "mlp-a"}, NULL);
 *     for (long step = 0; step < steps; step++) {
 *         ...
 *         struct seismo_step s = seismo_at(step, loss);
 *         SEISMO_SET(s, grad_norm, grad_norm);
 *         seismo_step(run, &s);
 *     }
 *     seismo_close(&run, SEISMO_FINISHED);
 *
 * Build with `cc train.c $(pkg-config --cflags --libs seismo)`.
 *
 * Promises to the training loop:
 *  - seismo_step takes no lock, does no I/O and allocates nothing: it copies a row into a ring that
 * a thread of the library empties. It costs the same whether the daemon is there or not.
 *  - The ring holds `ring` steps (65536 unless told otherwise, 128 bytes each). Only beyond that
 * are steps dropped, oldest first; they are counted (seismo_stats) and the daemon is told when the
 * run closes.
 *  - Rows are kept until the daemon has acknowledged them as stored, and sent again after a lost
 *    connection or a restart of the daemon.
 *  - With a `spool` the library's thread writes them into a file there as well, at the latest 0.1 s
 *    after seismo_step (which itself does no more than without). What a process that dies leaves
 *    there is sent by the next one that opens a run of the same name, program and rank with the
 * same spool, in the same session, so that the daemon stores it exactly once. It survives the death
 * of the process, not a power cut (nothing is synced). A file holds 256 MB, about a million steps;
 *    beyond, steps wait in the ring. It is deleted when the run is closed and all is acknowledged.
 *    Processes never share a file. When it cannot be written that is counted (`spool_errors`), and
 *    the run goes on in memory.
 *  - Nothing here exits, raises a signal, or prints (unless `verbose`). Every function accepts a
 * NULL handle and then does nothing, so a run that could not be opened simply goes unwatched.
 *  - All functions but seismo_close may be called from several threads at once.
 *  - After fork() the handle stays with the parent. In the child every function is a no-op, and
 *    seismo_close only forgets the pointer; open another run there if one is wanted. */
#ifndef SEISMO_H
#define SEISMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SEISMO_ERRMSG 256 /* bytes of an error text with its terminator */
#define SEISMO_MAX_FIELDS \
    32 /* room in struct seismo_step: fields may be appended, its size stays */
#define SEISMO_MAX_REASONS 4

/* What a step may carry beside its number and its time. g_t is the gradient at the parameters
 * before the step, D_t the change of the parameters that the step makes, e_t the running average of
 * gradients with decay 0.9 that starts as g_0; norms are Euclidean. NaN and infinities are data and
 * welcome; a field that was not measured is simply not set. Loss alone is enough, each further
 * field makes the verdicts surer. */
enum seismo_field {
    SEISMO_FIELD_loss,                 /* training loss of this minibatch before the step */
    SEISMO_FIELD_lr,                   /* learning rate of the first parameter group */
    SEISMO_FIELD_grad_norm,            /* |g_t| before clipping */
    SEISMO_FIELD_grad_max_abs,         /* largest absolute element of g_t */
    SEISMO_FIELD_grad_nonfinite,       /* count of NaN and infinite elements of g_t */
    SEISMO_FIELD_grad_dot_prev,        /* <g_t, g_{t-1}> */
    SEISMO_FIELD_grad_dot_update_prev, /* <g_t, D_{t-1}> */
    SEISMO_FIELD_grad_dot_update,      /* <g_t, D_t> */
    SEISMO_FIELD_update_norm,          /* |D_t| */
    SEISMO_FIELD_param_norm,           /* norm of the parameters */
    SEISMO_FIELD_momentum_norm,        /* norm of the first-moment buffer */
    SEISMO_FIELD_second_moment_norm,   /* norm of the square root of the second-moment buffer */
    SEISMO_FIELD_grad_ema_norm,        /* |e_t| */
    SEISMO_FIELD_grad_ema_dot_update,  /* <e_t, D_t> */
    SEISMO_FIELD_grad_dot_ema_prev,    /* <g_t, e_{t-1}> */
    SEISMO_FIELD_probe_loss, /* loss of the same minibatch, same randomness, after the step */
    SEISMO_FIELD_probe_grad_dot_update, /* <g', D_t>, g' the gradient of that probe */
    SEISMO_FIELD_probe_grad_norm,       /* |g'| */
    SEISMO_FIELD_probe_grad_diff_norm,  /* |g' - g_t| */
    SEISMO_FIELD_act_rms,               /* root mean square of the activations */
    SEISMO_FIELD_act_dead,              /* share of exact zeros after ReLU-like units */
    SEISMO_FIELD_act_saturated,         /* share of saturated tanh and sigmoid outputs */
    SEISMO_FIELD_val_loss,              /* validation loss, on the steps where validation ran */
    SEISMO_FIELD_val_acc,               /* validation accuracy, likewise */
    SEISMO_FIELDS
};

struct seismo_step {
    int64_t
        step;    /* optimizer step, >= 0; one not above the last means: resumed from a checkpoint */
    double time; /* s since the epoch; 0 = stamped by seismo_step */
    uint32_t present; /* bit i: value[i] was set; kept by seismo_set */
    float value[SEISMO_MAX_FIELDS];
};

static inline void seismo_set(struct seismo_step *s, enum seismo_field field, double x)
{
    s->value[field] = (float)x;
    s->present |= 1u << field;
}

/* A step with its loss; further fields by SEISMO_SET. */
static inline struct seismo_step seismo_at(int64_t step, double loss)
{
    struct seismo_step s = {step, 0, 0, {0}};
    seismo_set(&s, SEISMO_FIELD_loss, loss);
    return s;
}

/* SEISMO_SET(s, grad_norm, x): `s` a struct seismo_step, the field by its name above. */
#define SEISMO_SET(s, field, x) seismo_set(&(s), SEISMO_FIELD_##field, (x))

/* Everything is optional: zero it and set what is wanted. All strings are copied. */
struct seismo_options {
    const char *run;     /* NULL: $SEISMO_RUN, else program, date and process id */
    const char *program; /* same for all runs of one program; NULL: the executable's name */
    const char
        *ingest; /* ZeroMQ endpoint of seismod; NULL: $SEISMO_INGEST, else tcp://127.0.0.1:7747 */
    uint32_t rank, world; /* of this process in a distributed job; world 0 counts as 1 */
    const char *meta;     /* JSON object of what else is known ({"optimizer": "adam"}), at most 8192
                             bytes; NULL: none */
    uint32_t ring;        /* steps kept while the daemon cannot take them; 0: 65536 */
    double close_timeout; /* s that seismo_close may wait for the last acknowledgement; 0: 5 */
    const char *spool;    /* directory for what is not acknowledged; NULL: $SEISMO_SPOOL, else none.
                             see the promises above */
    bool verbose;         /* report trouble on stderr, each kind once until it has passed */
    /* Files of the daemon's public key and of one's own secret key, for a daemon on another machine;
     * NULL: $SEISMO_SERVER_KEY_FILE and $SEISMO_KEY_FILE. Not used for ipc endpoints. */
    const char *server_key_file, *key_file;
};

enum seismo_outcome {
    SEISMO_FINISHED, /* came to its planned end */
    SEISMO_FAILED,   /* gave up because of an error */
    SEISMO_ABORTED,  /* stopped by someone */
};

/* The last verdict heard. Strings are as `seismo verdicts` prints them. */
struct seismo_verdict {
    uint64_t count; /* verdicts heard so far: one more than last time means news */
    int64_t step;
    char state[16];    /* warming_up, healthy, unstable, stalled, mismatch, silent, ended */
    char severity[16]; /* info, warning, critical */
    double score;      /* probability of instability, 0 to 1; of `stalled`, `mismatch` and an
                          `unstable` that is only foreseen their own score. NaN: there is none */
    double threshold;  /* what this score is compared with: the level at which the state is entered,
                          of the probability that of `critical`; NaN when there is none */
    char fault[32];    /* most likely class of fault, "unknown" when none stands out */
    unsigned n_reasons;
    char reason[SEISMO_MAX_REASONS][192]; /* in words, the weightiest first */
};

struct seismo_stats {
    uint64_t steps;            /* given to seismo_step, or found in the spool */
    uint64_t acknowledged;     /* of them stored by the daemon */
    uint64_t dropped;          /* lost because the ring was full */
    uint64_t rejected;         /* refused by the daemon */
    uint64_t waiting;          /* in the ring or sent and not yet acknowledged */
    uint64_t retransmitted;    /* batches sent again */
    uint64_t spooled;          /* of those waiting: in the spool's file */
    uint64_t spool_errors;     /* failures of the spool */
    bool connected;            /* the daemon answers */
    char run[160];             /* the run's name, as the daemon calls it once it has answered */
    char error[SEISMO_ERRMSG]; /* last trouble, empty when there was none */
};

struct seismo;

/* Starts the library's thread. Returns NULL when an option is bad or memory or threads are short,
 * and then says why in errmsg (NULL if not wanted). It does not wait for the daemon, which need not
 * run. */
struct seismo *seismo_open(const struct seismo_options *options, char errmsg[SEISMO_ERRMSG]);

/* Copies the step; a step without a loss, or with a negative number, is counted as rejected. */
void seismo_step(struct seismo *run, const struct seismo_step *step);

/* True, and the last verdict in *ret, once there has been one. */
bool seismo_verdict(struct seismo *run, struct seismo_verdict *ret);

void seismo_stats(struct seismo *run, struct seismo_stats *ret);

/* Sends what is left, waits up to close_timeout for its acknowledgement, and sets *run to NULL.
 * True when every step given (and not dropped or rejected) is stored. */
bool seismo_close(struct seismo **run, enum seismo_outcome outcome);

#ifdef __cplusplus
}
#endif
#endif
