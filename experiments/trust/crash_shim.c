/* Stops a process at its n-th change of a watched directory, or refuses it disk space from then on.

   Preloaded (LD_PRELOAD) it stands between a program and libc, so that it sees what Python and the
   C++ libraries below it do to the disk: creating, writing, flushing, renaming, removing. It does
   nothing until `crash_arm` is called. A process that dies by SIGKILL leaves behind exactly what it
   had handed to the kernel by then, which is what every test built on this looks at.

   Built and driven by injector.py; Linux. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, BEFORE, AFTER, HALF, FULL };

static char watched[PATH_MAX];
static size_t watched_length;
static int armed, how, report = -1;
static long at;
static atomic_long seen;
static double clock_offset, clock_after, clock_start;

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* Watches `directory`; at change number `n` (from 1) does what `kind` says. Every change is told to
   the descriptor `fd`, one line each, before it happens. */
void crash_arm(const char *directory, long n, int kind, int fd) {
  snprintf(watched, sizeof watched, "%s", directory);
  watched_length = strlen(watched);
  at = n, how = kind, report = fd;
  atomic_store(&seen, 0);
  armed = 1;
}

void crash_disarm(void) { armed = 0; }

static double monotonic(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

/* Lets the wall clock jump by `offset` seconds when `after` seconds have passed from now. */
void crash_set_clock(double offset, double after) {
  clock_start = monotonic(), clock_after = after, clock_offset = offset;
}

static int is_watched(int directory, const char *path) {
  char base[PATH_MAX + 64], link[64];
  if (!armed) return 0;
  if (path && path[0] == '/') return !strncmp(path, watched, watched_length);
  ssize_t n = 0;
  if (directory == AT_FDCWD) {
    if (!getcwd(base, sizeof base)) return 0;
    n = (ssize_t)strlen(base);
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    n = readlink(link, base, PATH_MAX);
    if (n < 0) return 0;
    base[n] = 0;
  }
  return !strncmp(base, watched, watched_length);
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

static const char *name_of(int fd, char *buffer) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, buffer, PATH_MAX - 1);
  buffer[n < 0 ? 0 : n] = 0;
  return buffer;
}

/* Counts a change; returns what is to become of it: COUNT (nothing), AFTER, HALF or FULL. */
static int change(const char *call, const char *path, int takes_space) {
  long n = atomic_fetch_add(&seen, 1) + 1;
  if (report >= 0) {
    char line[PATH_MAX + 64];
    const char *shown = strncmp(path, watched, watched_length) ? path : path + watched_length;
    int length = snprintf(line, sizeof line, "%ld %s %s\n", n, call, shown);
    REAL(write);
    if (length > 0 && real(report, line, (size_t)length) < 0) abort();
  }
  if (how == FULL) return n >= at && takes_space ? FULL : COUNT;
  if (n != at) return COUNT;
  if (how == BEFORE) die();
  return how;
}

static int refuse(void) {
  errno = ENOSPC;
  return -1;
}

/* A call on a path: die before it or after it, refuse it, or let it pass. */
#define ON_PATH(call, shown, space, ...) \
  int fate = change(#call, shown, space); \
  if (fate == FULL) return refuse(); \
  int result = real(__VA_ARGS__); \
  if (fate != COUNT) die(); \
  return result

#define WRITES(flags) ((flags) & (O_CREAT | O_TRUNC))

#define OPEN_MODE \
  mode_t mode = 0; \
  if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }

int open(const char *path, int flags, ...) {
  OPEN_MODE
  REAL(open);
  if (!WRITES(flags) || !is_watched(AT_FDCWD, path)) return real(path, flags, mode);
  ON_PATH(open, path, 1, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  OPEN_MODE
  REAL(open64);
  if (!WRITES(flags) || !is_watched(AT_FDCWD, path)) return real(path, flags, mode);
  ON_PATH(open, path, 1, path, flags, mode);
}

int openat(int directory, const char *path, int flags, ...) {
  OPEN_MODE
  REAL(openat);
  if (!WRITES(flags) || !is_watched(directory, path)) return real(directory, path, flags, mode);
  ON_PATH(openat, path, 1, directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...) {
  OPEN_MODE
  REAL(openat64);
  if (!WRITES(flags) || !is_watched(directory, path)) return real(directory, path, flags, mode);
  ON_PATH(openat, path, 1, directory, path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  if (!is_watched(AT_FDCWD, path)) return real(path, mode);
  ON_PATH(mkdir, path, 1, path, mode);
}

int mkdirat(int directory, const char *path, mode_t mode) {
  REAL(mkdirat);
  if (!is_watched(directory, path)) return real(directory, path, mode);
  ON_PATH(mkdirat, path, 1, directory, path, mode);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  if (!is_watched(AT_FDCWD, to)) return real(from, to);
  ON_PATH(rename, to, 0, from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
  REAL(renameat);
  if (!is_watched(b, to)) return real(a, from, b, to);
  ON_PATH(renameat, to, 0, a, from, b, to);
}

int unlink(const char *path) {
  REAL(unlink);
  if (!is_watched(AT_FDCWD, path)) return real(path);
  ON_PATH(unlink, path, 0, path);
}

int unlinkat(int directory, const char *path, int flags) {
  REAL(unlinkat);
  if (!is_watched(directory, path)) return real(directory, path, flags);
  ON_PATH(unlinkat, path, 0, directory, path, flags);
}

int rmdir(const char *path) {
  REAL(rmdir);
  if (!is_watched(AT_FDCWD, path)) return real(path);
  ON_PATH(rmdir, path, 0, path);
}

#define ON_DESCRIPTOR(call, space, ...) \
  char name[PATH_MAX]; \
  ON_PATH(call, name_of(fd, name), space, __VA_ARGS__)

int fsync(int fd) {
  REAL(fsync);
  if (!is_watched(fd, NULL)) return real(fd);
  ON_DESCRIPTOR(fsync, 1, fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  if (!is_watched(fd, NULL)) return real(fd);
  ON_DESCRIPTOR(fdatasync, 1, fd);
}

int ftruncate(int fd, off_t size) {
  REAL(ftruncate);
  if (!is_watched(fd, NULL)) return real(fd, size);
  ON_DESCRIPTOR(ftruncate, 0, fd, size);
}

int ftruncate64(int fd, off64_t size) {
  REAL(ftruncate64);
  if (!is_watched(fd, NULL)) return real(fd, size);
  ON_DESCRIPTOR(ftruncate, 0, fd, size);
}

/* A write: HALF hands the kernel the first half of the bytes only. */
ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  char name[PATH_MAX];
  if (!is_watched(fd, NULL)) return real(fd, data, size);
  int fate = change("write", name_of(fd, name), 1);
  if (fate == FULL) return refuse();
  ssize_t written = real(fd, data, fate == HALF ? size / 2 : size);
  if (fate != COUNT) die();
  return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(writev);
  char name[PATH_MAX];
  if (!is_watched(fd, NULL)) return real(fd, parts, count);
  int fate = change("writev", name_of(fd, name), 1);
  if (fate == FULL) return refuse();
  ssize_t written = real(fd, parts, fate == HALF && count > 1 ? count / 2 : count);
  if (fate != COUNT) die();
  return written;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  REAL(pwrite64);
  char name[PATH_MAX];
  if (!is_watched(fd, NULL)) return real(fd, data, size, offset);
  int fate = change("pwrite", name_of(fd, name), 1);
  if (fate == FULL) return refuse();
  ssize_t written = real(fd, data, fate == HALF ? size / 2 : size, offset);
  if (fate != COUNT) die();
  return written;
}

int clock_gettime(clockid_t id, struct timespec *now) {
  REAL(clock_gettime);
  int result = real(id, now);
  if (result || id != CLOCK_REALTIME || clock_offset == 0) return result;
  if (monotonic() - clock_start >= clock_after) now->tv_sec += (time_t)clock_offset;
  return 0;
}

time_t time(time_t *where) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (where) *where = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}
