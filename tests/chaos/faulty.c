/* Preloaded into a run: writes below $VIT_JAX_FAULTY fail while $VIT_JAX_FAULT is a
   file, with the errno that is in it, as on a disk whose quota is used up. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fault(const char *path) {
  const char *folder = getenv("VIT_JAX_FAULTY"), *name = getenv("VIT_JAX_FAULT");
  char text[8] = "";
  if (!folder || !name || strncmp(path, folder, strlen(folder))) return 0;
  int file = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY);
  if (file < 0) return 0;
  ssize_t got = read(file, text, sizeof text - 1);
  syscall(SYS_close, file);
  return got > 0 ? atoi(text) : 0;
}

static int fault_of(int file) {
  char link[32], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fault(path);
}

#define FAIL(number) if (number) { errno = number; return -1; }
#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *bytes, size_t count) {
  int number = fault_of(file);
  FAIL(number)
  return REAL(write)(file, bytes, count);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t start) {
  int number = fault_of(file);
  FAIL(number)
  return REAL(pwrite64)(file, bytes, count, start);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t start) {
  return pwrite64(file, bytes, count, start);
}

int mkdir(const char *path, mode_t mode) {
  int number = fault(path);
  FAIL(number)
  return REAL(mkdir)(path, mode);
}

#define OPEN(name)                                       \
  int name(const char *path, int flags, ...) {           \
    va_list rest;                                        \
    va_start(rest, flags);                               \
    mode_t mode = va_arg(rest, mode_t);                  \
    va_end(rest);                                        \
    int number = flags & O_CREAT ? fault(path) : 0;      \
    FAIL(number)                                         \
    return REAL(name)(path, flags, mode);                \
  }
OPEN(open)
OPEN(open64)
