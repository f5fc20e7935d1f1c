/* Named rows of choices about what the KV cache keeps: `--kv NAME`. A preset is one row over
 * independent axes; adding a method is adding a row.
 *
 * Pure data; any thread. */
#ifndef ENGINE_PRESETS_H
#define ENGINE_PRESETS_H

#include <stdbool.h>
#include <stdint.h>

struct preset {
    const char *name;
    int32_t bits_k, bits_v;   /* of a page when it is sealed; 0 = nothing is sealed (f16) */
    int32_t floor_k, floor_v; /* demotion never goes below */
    bool adaptive;            /* demotes by least harm when the budget asks for it */
    bool rotate_v;            /* values go through a Hadamard transform */
    bool lossy;               /* loses tokens for good */
    const char *what;         /* one line for help and tables */
};

/* NULL = the default. NULL result: no such name. "f16" is another name of "exact". */
const struct preset *presets_find(const char *name);
/* "exact, 8/8, ...": for messages. */
const char *presets_names(void);

#endif
