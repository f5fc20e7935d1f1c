/* Who is writing an answer: a lock on one byte, at the message's number, of an empty file beside the store. The
 * kernel takes it back however a program ends. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "engine/base/str.h"
#include "sessions/store.h"

#ifndef F_OFD_SETLK /* Linux; elsewhere locks of the process, of which we hold one descriptor */
#define F_OFD_SETLK F_SETLK
#define F_OFD_GETLK F_GETLK
#endif

/* The file, made when it is first needed; -1 where there can be none (a store in memory, media that cannot be
 * written): then nobody else writes either. */
static int lock_file(struct sessions *s)
{
    if (s->r == s->w || s->read_only)
        return -1;
    pthread_mutex_lock(&s->trouble_lock);
    if (s->writing_fd < 0) {
        struct str path = {0};
        str_addf(&path, "%s-writing", s->path);
        s->writing_fd = open(str_c(&path), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        str_fini(&path);
    }
    int fd = s->writing_fd;
    pthread_mutex_unlock(&s->trouble_lock);
    return fd;
}

static struct flock byte_of(int64_t message, short type)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = message, .l_len = 1};
}

bool sessions_writing_begin(struct sessions *s, int64_t message)
{
    int fd = lock_file(s);
    struct flock f = byte_of(message, F_WRLCK);
    return fd < 0 || fcntl(fd, F_OFD_SETLK, &f) == 0 || (errno != EAGAIN && errno != EACCES);
}

void sessions_writing_end(struct sessions *s, int64_t message)
{
    int fd = lock_file(s);
    struct flock f = byte_of(message, F_UNLCK);
    if (fd >= 0)
        fcntl(fd, F_OFD_SETLK, &f);
}

bool sessions_writing_elsewhere(struct sessions *s, int64_t message)
{
    int fd = lock_file(s);
    struct flock f = byte_of(message, F_WRLCK);
    return fd >= 0 && fcntl(fd, F_OFD_GETLK, &f) == 0 && f.l_type != F_UNLCK;
}
