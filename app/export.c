#include "app/export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "sessions/sessions.h"

const char *export_format(const char *path)
{
    const char *dot = path ? strrchr(path, '.') : NULL;
    if (dot && !strcasecmp(dot, ".json"))
        return "json";
    return dot && !strcasecmp(dot, ".dogear") ? "dogear" : "md";
}

void export_name(struct str *name)
{
    size_t stem = name->len;
    str_adds(name, ".md");
    for (int i = 2; i < 10000 && access(str_c(name), F_OK) == 0; i++) {
        str_cut(name, stem, name->len - stem);
        str_addf(name, "-%d.md", i);
    }
}

enum status export_write(const char *path, const char *text, size_t len, struct err *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f)
        return err_set(e, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    bool good = fwrite(text, 1, len, f) == len;
    int reason = errno;
    if (fclose(f) != 0 && good) {
        good = false;
        reason = errno;
    }
    if (!good)
        unlink(path);
    return good ? OK : err_set(e, ERR_IO, "cannot write %s: %s", path, strerror(reason));
}

enum status export_file(struct sessions *s, int64_t id, const char *format, bool with_kv,
                        const char *path, struct err *e)
{
    char *text;
    size_t len;
    if (!strcmp(format, "dogear"))
        return sessions_export_file(s, id, path, with_kv, e);
    TRY(sessions_export(s, id, !strcmp(format, "json") ? SESSIONS_JSON : SESSIONS_MARKDOWN, &text,
                        &len, e));
    enum status st = export_write(path, text, len, e);
    free(text);
    return st;
}
