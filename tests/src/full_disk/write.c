/* Preloaded into a server: the disk is full for each file whose path contains the text of
   the file that HEYDAY_TEST_FULL names, as long as that file is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int full(int fd) {
    const char *list = getenv("HEYDAY_TEST_FULL");
    char name[64], path[4096], text[256];
    int before = errno, found = 0;
    if (list == NULL) {
        return 0;
    }
    int file = open(list, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t length = read(file, text, sizeof text - 1);
        close(file);
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(name, path, sizeof path - 1);
        if (length > 0 && size > 0) {
            text[length] = '\0';
            path[size] = '\0';
            found = strstr(path, text) != NULL;
        }
    }
    errno = before;
    return found;
}

#define CALL(name, fd, ...)                                        \
    do {                                                           \
        if (full(fd)) {                                            \
            errno = ENOSPC;                                        \
            return -1;                                             \
        }                                                          \
        return ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(fd, __VA_ARGS__); \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t size) {
    CALL(write, fd, bytes, size);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    CALL(pwrite, fd, bytes, size, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    CALL(pwrite64, fd, bytes, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    CALL(writev, fd, parts, count);
}
