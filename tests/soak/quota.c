/* Loaded before the C library: where a disk is full, a quota is what is exceeded, if PLAYS_QUOTA is set.

   A kernel that knows quotas of a tmpfs is not at hand everywhere. What the C library calls by itself (fwrite) goes
   round this and stays a full disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#define PLAYED(failed) if ((failed) && errno == ENOSPC && getenv("PLAYS_QUOTA")) errno = EDQUOT
#define REPLACE(type, name, parameters, arguments)        \
  type name parameters {                                  \
    type(*real) parameters = dlsym(RTLD_NEXT, #name);     \
    type result = real arguments;                         \
    PLAYED(result < 0);                                   \
    return result;                                        \
  }

REPLACE(ssize_t, write, (int file, const void *bytes, size_t count), (file, bytes, count))
REPLACE(ssize_t, pwrite, (int file, const void *bytes, size_t count, off_t at), (file, bytes, count, at))
REPLACE(ssize_t, pwrite64, (int file, const void *bytes, size_t count, off64_t at), (file, bytes, count, at))
REPLACE(ssize_t, writev, (int file, const struct iovec *parts, int count), (file, parts, count))
REPLACE(int, ftruncate, (int file, off_t size), (file, size))
REPLACE(int, ftruncate64, (int file, off64_t size), (file, size))
REPLACE(int, mkdir, (const char *path, mode_t mode), (path, mode))
REPLACE(int, fsync, (int file), (file))

#define REPLACE_OPEN(name)                                        \
  int name(const char *path, int flags, ...) {                    \
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
    va_list rest;                                                 \
    va_start(rest, flags);                                        \
    int file = real(path, flags, va_arg(rest, mode_t));           \
    va_end(rest);                                                 \
    PLAYED(file < 0);                                             \
    return file;                                                  \
  }

REPLACE_OPEN(open)
REPLACE_OPEN(open64)
