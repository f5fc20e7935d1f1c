/* What the store's tests share: a folder per case, a store in it, checks that show the error. */
#ifndef TESTS_SESSIONS_STORE_TEST_H
#define TESTS_SESSIONS_STORE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sessions/sessions.h"

#define CHECK_OK(expr)                                                                             \
    do {                                                                                           \
        struct err *e_ = &err_seen;                                                                \
        e_->text[0] = '\0';                                                                        \
        if ((expr) != OK)                                                                          \
            fail_msg("%s: %s", #expr, e_->text);                                                   \
    } while (0)

extern struct err err_seen;

/* cmocka setup and teardown: makes and removes the folder store_dir(). */
int store_dir_setup(void **state);
int store_dir_teardown(void **state);
/* Thousands of durable commits: the folders come to lie in memory where there is room for that and
 * TMPDIR does not say otherwise. Call once, first. */
void store_dir_in_memory(void);
const char *store_dir(void);
void store_remove(const char *path); /* with everything in it */
const char *store_file(const char *name); /* inside the folder; valid until the eighth next call */

struct sessions *store_new(void); /* opens store_dir()/dogear.db */
int64_t store_say(struct sessions *s, int64_t id, int64_t parent, const char *role,
                  const char *text);
/* An answer with ids first_id, first_id + 1, ... */
int64_t store_answer(struct sessions *s, int64_t id, int64_t parent, const char *text,
                     int32_t first_id, int32_t n_id);
/* One piece, as named by layer, head_group, block and plane; sets data and size_bytes. False when it
 * is missing. Free *ret_owned. */
bool store_get(const struct kv_io *io, int64_t chat, uint64_t fingerprint, uint64_t hash,
               struct kv_piece *piece, void **ret_owned);
/* "role:text|role:text" of the open branch; malloc'ed. */
/* Bytes handed to the system for writing so far: journal, WAL, checkpoint and all. Skips the test where that is
 * not told. */
int64_t store_written_bytes(void);
char *store_path_text(struct sessions *s, int64_t id);

#define STORE_CASE(f) cmocka_unit_test_setup_teardown(f, store_dir_setup, store_dir_teardown)

#endif
