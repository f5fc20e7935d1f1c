/* Small models with random weights, one for each variety of the architectures that engine/model.c
 * knows: what is computed with them depends on everything that makes them differ. The same bytes on
 * every machine. */
#ifndef TESTS_SUPPORT_TINYMODEL_H
#define TESTS_SUPPORT_TINYMODEL_H

#include <stdbool.h>

enum { TINYMODEL_VOCAB = 288 };

/* Name of variety i, NULL past the end. */
const char *tinymodel_name(int i);
int tinymodel_find(const char *name); /* -1 = there is none */
bool tinymodel_mixture(int i); /* of experts */
/* Writes variety i as a GGUF file; plain: weights of a block type as the float32 numbers that they
 * are. Aborts on I/O errors. */
void tinymodel_write(int i, const char *path, bool plain);

#endif
