/* Figures as text; see format.h. */
#include "ui/format.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/err.h"

static char *unknown(char *buf)
{
    memcpy(buf, "--", 3);
    return buf;
}

char *format_count(char *buf, int64_t n)
{
    return n < 0 ? unknown(buf) : err_count_text((uint64_t)n, buf);
}

char *format_bytes(char *buf, int64_t size_bytes)
{
    return size_bytes < 0 ? unknown(buf) : err_size_text((uint64_t)size_bytes, buf);
}

char *format_rate(char *buf, double per_s)
{
    if (!isfinite(per_s) || per_s < 0 || per_s > 1e15)
        return unknown(buf);
    if (per_s >= 999.5)
        return format_count(buf, (int64_t)(per_s + 0.5));
    snprintf(buf, FORMAT_SIZE, per_s >= 99.95 ? "%.0f" : per_s >= 9.995 ? "%.1f" : "%.2f", per_s);
    return buf;
}

char *format_seconds(char *buf, double s)
{
    if (!isfinite(s) || s < 0)
        return unknown(buf);
    if (s < 0.0995)
        snprintf(buf, FORMAT_SIZE, "%.0f ms", s * 1000);
    else if (s < 9.995)
        snprintf(buf, FORMAT_SIZE, "%.2f s", s);
    else if (s < 99.5)
        snprintf(buf, FORMAT_SIZE, "%.1f s", s);
    else if (s < 3600)
        snprintf(buf, FORMAT_SIZE, "%d min %02d s", (int)s / 60, (int)s % 60);
    else if (s < 360000)
        snprintf(buf, FORMAT_SIZE, "%d h %02d min", (int)s / 3600, (int)s / 60 % 60);
    else
        snprintf(buf, FORMAT_SIZE, "> 100 h");
    return buf;
}

char *format_percent(char *buf, double fraction)
{
    if (!isfinite(fraction) || fraction < 0)
        return unknown(buf);
    double p = fraction * 100;
    /* 100% only when it is all of it. */
    if (p >= 99.5 && p < 100)
        snprintf(buf, FORMAT_SIZE, p >= 99.95 ? "%.2f%%" : "%.1f%%", floor(p * 100) / 100);
    else
        snprintf(buf, FORMAT_SIZE, "%.0f%%", p < 1e6 ? p : 1e6);
    return buf;
}

char *format_permille(char *buf, double fraction)
{
    if (!isfinite(fraction) || fraction < 0)
        return unknown(buf);
    /* rounded down: 100.0% only when it is all of it */
    double p = floor(fraction * 1000 + 1e-9) / 10;
    snprintf(buf, FORMAT_SIZE, "%.1f%%", p < 1e6 ? p : 1e6);
    return buf;
}

char *format_age(char *buf, int64_t then_ms, int64_t now_ms)
{
    if (then_ms <= 0)
        return unknown(buf);
    int64_t s = (now_ms - then_ms) / 1000;
    if (s < 60)
        snprintf(buf, FORMAT_SIZE, "now");
    else if (s < 3600)
        snprintf(buf, FORMAT_SIZE, "%dm", (int)(s / 60));
    else if (s < 86400)
        snprintf(buf, FORMAT_SIZE, "%dh", (int)(s / 3600));
    else if (s < 14 * 86400)
        snprintf(buf, FORMAT_SIZE, "%dd", (int)(s / 86400));
    else if (s < 365 * 86400)
        snprintf(buf, FORMAT_SIZE, "%dw", (int)(s / (7 * 86400)));
    else
        snprintf(buf, FORMAT_SIZE, "%dy", (int)(s / (365 * 86400)));
    return buf;
}

char *format_small(char *buf, double x)
{
    if (!isfinite(x))
        return unknown(buf);
    snprintf(buf, FORMAT_SIZE, x != 0 && fabs(x) < 1e-4 ? "%.1e" : "%.3g", x);
    return buf;
}
