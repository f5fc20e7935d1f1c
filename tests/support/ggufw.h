/* Writes GGUF v3 files for tests and benchmarks. Not hardened: our own input only; aborts on I/O
 * errors. Usage: ggufw_open, any keys, all tensors' names and shapes, ggufw_begin, then the data of
 * each tensor in the same order, ggufw_close. */
#ifndef TESTS_SUPPORT_GGUFW_H
#define TESTS_SUPPORT_GGUFW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

struct ggufw;

struct ggufw *ggufw_open(const char *path);
void ggufw_u32(struct ggufw *w, const char *key, uint32_t v);
void ggufw_f32(struct ggufw *w, const char *key, float v);
void ggufw_bool(struct ggufw *w, const char *key, int v);
void ggufw_str(struct ggufw *w, const char *key, const char *v);
void ggufw_strs(struct ggufw *w, const char *key, const char *const *v, size_t n);
void ggufw_bools(struct ggufw *w, const char *key, const bool *v, size_t n);
void ggufw_i32s(struct ggufw *w, const char *key, const int32_t *v, size_t n);
void ggufw_f32s(struct ggufw *w, const char *key, const float *v, size_t n);
/* n_row rows of n_col (n_row 0 = a vector). */
void ggufw_tensor(struct ggufw *w, const char *name, enum kern_type type, int64_t n_col, int64_t n_row);
/* n_mat such matrices above each other (0 = no third dimension). */
void ggufw_stack(struct ggufw *w, const char *name, enum kern_type type, int64_t n_col, int64_t n_row,
                 int64_t n_mat);
/* The keys of a vocabulary of n_vocab (> 258) tokens: the 256 bytes in the printable alphabet of byte-level
 * BPE, "th", then unused ones; bos is 257, eos 258. */
void ggufw_byte_vocabulary(struct ggufw *w, const char *pre, int32_t n_vocab);
void ggufw_begin(struct ggufw *w);
/* Bytes of the next tensor; may come in several pieces. */
void ggufw_data(struct ggufw *w, const void *data, size_t size_bytes);
void ggufw_close(struct ggufw *w);

#endif
