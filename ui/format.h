/* Figures as text. Unknown (NAN, negative integers) is "--", never 0. All write into buf, always
 * NUL-terminated, and return it. Any thread. */
#ifndef UI_FORMAT_H
#define UI_FORMAT_H

#include <stddef.h>
#include <stdint.h>

enum { FORMAT_SIZE = 32 }; /* enough for every one of them */

char *format_count(char *buf, int64_t n);          /* 1,234,567 */
char *format_bytes(char *buf, int64_t size_bytes); /* 812 B, 1.4 MiB, 12 GiB */
char *format_rate(char *buf, double per_s);        /* 7.31, 23.4, 812, 6,478 */
char *format_seconds(char *buf, double s); /* 85 ms, 0.82 s, 12.4 s, 3 min 05 s, 2 h 10 min */
char *format_percent(char *buf, double fraction);             /* 0.1534 -> 15% */
char *format_permille(char *buf, double fraction);            /* 0.9731 -> 97.3% */
char *format_age(char *buf, int64_t then_ms, int64_t now_ms); /* now, 5m, 3h, 2d, 4w, 2y */
char *format_small(char *buf, double x);                      /* 0.00312, 1.2e-05 */

#endif
