/* The op tables of the CPU backend and the plain ops that every table may fall back on.
 * Internal to kernels/. */
#ifndef KERNELS_CPU_OPS_H
#define KERNELS_CPU_OPS_H

#include "kernels/cpu/cpu.h"

extern const struct kern_ops ops_ref;
#if defined(__x86_64__)
extern const struct kern_ops ops_avx2;
extern const struct kern_ops ops_avx512;
extern const struct kern_ops ops_amx;
#endif

void ref32_ops(struct kern_ops *ret); /* ref32.c */

/* Memory and sealing (mem.c): the device is the host. */
void cpu_op_close(struct kern *k); /* kernels.c */
void *mem_op_alloc(struct kern *k, size_t size_bytes);
void mem_op_free(struct kern *k, void *dev);
void mem_op_upload(struct kern *k, void *dev, const void *host, size_t size_bytes);
void mem_op_download(struct kern *k, void *host, const void *dev, size_t size_bytes);
void mem_op_copy(struct kern *k, void *dev, const void *from_dev, size_t size_bytes);
void mem_op_clear(struct kern *k, void *dev, size_t size_bytes);
void mem_op_sync(struct kern *k);
const char *mem_op_error(struct kern *k);
void mem_op_demote(struct kern *k, const struct kern_demote *jobs, int32_t n);
void mem_op_seal(struct kern *k, const struct kern_seal *jobs, int32_t n, int32_t head_dim,
                 int32_t bits_k, int32_t bits_v, uint32_t flags);

/* The plain ops of ref.c that a table without a faster version uses. */
void ref_rmsnorm(struct kern *k, float *dst, const float *x, const float *gain, int32_t n_row,
                 int32_t n_col, int32_t stride, float eps);
void ref_center(struct kern *k, float *dst, const float *x, int32_t n_row, int32_t n_col);
void ref_rope(struct kern *k, float *x, int32_t n_tok, int32_t n_head, int32_t head_dim,
              int32_t stride, int32_t pos0, const struct kern_rope *r);
void ref_kv_write(struct kern *k, const struct kern_kv *kv, const float *key, const float *value,
                  int32_t stride, int32_t n_tok, int32_t pos0);
void ref_glu(struct kern *k, float *dst, int32_t dst_stride, const float *gate, const float *up,
             int32_t stride, int32_t n_tok, int32_t n, enum kern_act act);
void ref_add(struct kern *k, float *dst, const float *x, size_t n);
void ref_sink(struct kern *k, float *out, const float *lse, const float *sink, int32_t n_tok,
              int32_t n_head, int32_t head_dim);
void ref_take_rows(struct kern *k, float *dst, const float *src, const int32_t *row, int32_t n,
                   int32_t n_col);
void ref_add_rows(struct kern *k, float *dst, const float *src, const int32_t *row,
                  const float *weight, int32_t n_tok, int32_t n_each, int32_t n_col);
void ref_scale(struct kern *k, float *x, size_t n, float by);
void ref_softcap(struct kern *k, float *x, size_t n, float cap);
void ref_conv(struct kern *k, const struct kern_conv *c); /* recurrent_ref.c */
void ref_delta(struct kern *k, const struct kern_delta *d);
void ref_scan(struct kern *k, const struct kern_scan *s);

#endif
