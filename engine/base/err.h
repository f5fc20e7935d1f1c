/* Status codes and error text shared by every part above kernels/.
 *
 * A fallible function returns enum status; its last argument is a struct err * (never NULL)
 * that it fills when it does not return OK. Outputs named ret_x are written only on OK.
 * The text is one line for a person: what failed, the value seen, what to try. */
#ifndef ENGINE_BASE_ERR_H
#define ENGINE_BASE_ERR_H

#include <stdint.h>

enum status {
    OK = 0,
    ERR_IO = -1,          /* file, disk, terminal */
    ERR_FORMAT = -2,      /* damaged or hostile input */
    ERR_UNSUPPORTED = -3, /* well formed, but not something we do */
    ERR_MEMORY = -4,      /* does not fit; the text names needed and available bytes */
    ERR_USAGE = -5,       /* the caller's or user's arguments */
    ERR_NOT_FOUND = -6,
    ERR_BUSY = -7,        /* somebody else holds it; try again */
    ERR_CANCELLED = -8,   /* asked for, not a failure */
    ERR_INTERNAL = -9,
};

struct err {
    enum status code;
    char text[512];
};

/* Fills *e and returns code, so that callers write `return err_set(e, ERR_IO, ...)`.
 * Control bytes in the formatted text are replaced by '?'. */
enum status err_set(struct err *e, enum status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text already in *e; returns e->code. */
enum status err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Forwards a failure. */
#define TRY(expr)                                                                                  \
    do {                                                                                           \
        enum status try_status_ = (expr);                                                          \
        if (try_status_ != OK)                                                                     \
            return try_status_;                                                                    \
    } while (0)

/* "1.50 GiB" and "1,234,567", as people are told of sizes and counts everywhere; both return buf. */
char *err_size_text(uint64_t size_bytes, char buf[32]);
char *err_count_text(uint64_t n, char buf[32]);

#endif
