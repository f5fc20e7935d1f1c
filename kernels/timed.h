/* Where the time goes: every op of a backend waited for and timed by itself. Slower than without,
 * since a device stands still between two ops; what counts are the shares. */
#ifndef KERNELS_TIMED_H
#define KERNELS_TIMED_H

#include "kernels/kernels.h"

enum timed_op {
    TIMED_EMBED,
    TIMED_MATMUL,
    TIMED_RMSNORM,
    TIMED_CENTER,
    TIMED_ROPE,
    TIMED_KV_WRITE,
    TIMED_ATTEND,
    TIMED_SCORE,
    TIMED_SEAL,
    TIMED_GLU,
    TIMED_ADD,
    TIMED_SCALE,
    TIMED_SINK,
    TIMED_TAKE_ROWS,
    TIMED_ADD_ROWS,
    TIMED_SOFTCAP,
    TIMED_CONV,
    TIMED_DELTA,
    TIMED_SCAN,
    TIMED_DOWNLOAD,
    TIMED_N
};

struct kern_times {
    const struct kern_ops *own; /* the backend's, while timing */
    struct kern_ops timed;
    double start_s;
    double s[TIMED_N];
    int64_t n[TIMED_N]; /* calls */
};

const char *timed_name(enum timed_op op); /* "matmul" */

/* From here to timed_end all ops of k are timed into t, which is zeroed. */
void timed_begin(struct kern *k, struct kern_times *t);
void timed_end(struct kern *k);

#endif
