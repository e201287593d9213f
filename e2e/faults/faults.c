/* Failing calls of the C library, under everything: preloaded into a host process, so that SQLite and the extension
 * meet a disk that is full, fails or is read-only, a process without file descriptors, and a wrong clock.
 *
 * A test controls it while the process runs, through a file that is mapped here (BOTTOMLESS_E2E_FAULTS); e2e/src/faults.rs
 * writes it and has the same layout. Only files of the database that the control file names are touched, and sockets.
 * System calls are made directly, so that nothing has to be looked up. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { WRITE, SYNC, TRUNCATE, OPEN, RENAME, UNLINK, READ, SOCKET, KINDS = 8 };
enum file { MAIN, WAL, SHM, JOURNAL, STATE, FILL, LOST, NAMELESS, FOLDER, SOCKETS, OUTSIDE, FILES = 16 };

struct control {
    uint64_t armed;
    uint64_t kinds;  /* bits of the kinds that count */
    uint64_t files;  /* bits of the files that count */
    uint64_t first;  /* the first call that fails, from 1 on; 0 for none */
    uint64_t last;   /* the last one */
    uint64_t error;  /* with this errno */
    uint64_t half;   /* a write has half of its effect before it fails */
    int64_t clock;   /* seconds that the clock is ahead */
    uint64_t seen;   /* calls that count */
    uint64_t failed; /* calls that failed */
    uint64_t failed_kind;
    uint64_t failed_file; /* of the first of them */
    uint64_t counts[KINDS][FILES];
    char database[1024]; /* the path of the main file */
};

static struct control *control;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("BOTTOMLESS_E2E_FAULTS");
    if (!path) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) abort();
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) abort();
    syscall(SYS_close, fd);
    control = map;
}

static int watching(void) { return control && __atomic_load_n(&control->armed, __ATOMIC_ACQUIRE); }

static enum file classify(const char *path) {
    static const struct { const char *suffix; enum file file; } suffixes[] = {
        {"", MAIN}, {"-wal", WAL}, {"-shm", SHM}, {"-journal", JOURNAL}, {"-bottomless", STATE}, {"-bottomless-fill", FILL},
    };
    size_t length = strlen(control->database);
    if (strncmp(path, control->database, length) == 0) {
        const char *rest = path + length;
        size_t end = strlen(rest);
        static const char deleted[] = " (deleted)";
        if (end >= sizeof deleted - 1 && strcmp(rest + end - (sizeof deleted - 1), deleted) == 0) end -= sizeof deleted - 1;
        for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
            if (strlen(suffixes[i].suffix) == end && strncmp(rest, suffixes[i].suffix, end) == 0) return suffixes[i].file;
        return strncmp(rest, "-bottomless-lost", 16) == 0 ? LOST : OUTSIDE;
    }
    const char *slash = strrchr(control->database, '/');
    size_t folder = slash ? (size_t)(slash - control->database) : 0;
    if (!folder || strncmp(path, control->database, folder) != 0) return OUTSIDE;
    if (path[folder] == 0) return FOLDER;
    /* The kernel's name for a file that never had one; or the fallback of the tempfile crate. */
    if (strncmp(path + folder, "/#", 2) == 0 || strncmp(path + folder, "/.tmp", 5) == 0) return NAMELESS;
    return OUTSIDE;
}

/* The errno with which the call must fail, or 0. */
static int verdict(enum kind kind, enum file file) {
    if (file == OUTSIDE) return 0;
    __atomic_fetch_add(&control->counts[kind][file], 1, __ATOMIC_RELAXED);
    if (!(control->kinds >> kind & 1) || !(control->files >> file & 1)) return 0;
    uint64_t n = __atomic_add_fetch(&control->seen, 1, __ATOMIC_RELAXED);
    if (control->first == 0 || n < control->first || n > control->last) return 0;
    if (__atomic_fetch_add(&control->failed, 1, __ATOMIC_RELAXED) == 0) {
        control->failed_kind = kind;
        control->failed_file = file;
    }
    return (int)control->error;
}

static int of_path(enum kind kind, const char *path) {
    return watching() && path ? verdict(kind, classify(path)) : 0;
}

static int of_descriptor(enum kind kind, int fd) {
    if (!watching()) return 0;
    char link[64], path[2048];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return verdict(kind, classify(path));
}

static int fails(int error) {
    if (!error) return 0;
    errno = error;
    return 1;
}

static int open_file(int at, const char *path, int flags, mode_t mode) {
    if (watching() && path) {
        enum file file = (flags & O_TMPFILE) == O_TMPFILE && classify(path) == FOLDER ? NAMELESS : classify(path);
        if (fails(verdict(OPEN, file))) return -1;
    }
    return syscall(SYS_openat, at, path, flags, mode);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_file(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_file(at, path, flags, mode); }

/* Half of a write takes effect, and is what the caller is told; the rest of it comes as the next call, and fails. What is
 * within a sector is written whole or not at all. */
static int halved(int fd, size_t *length) {
    int error = of_descriptor(WRITE, fd);
    if (error && control->half && *length > 512 && control->failed == 1) {
        *length /= 2;
        control->last = UINT64_MAX;
        return 0;
    }
    return fails(error);
}

ssize_t write(int fd, const void *data, size_t length) {
    return halved(fd, &length) ? -1 : syscall(SYS_write, fd, data, length);
}
static ssize_t write_at(int fd, const void *data, size_t length, off_t offset) {
    return halved(fd, &length) ? -1 : syscall(SYS_pwrite64, fd, data, length, offset);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return write_at(fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) { return write_at(fd, data, length, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return fails(of_descriptor(WRITE, fd)) ? -1 : syscall(SYS_writev, fd, parts, count);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags) {
    return fails(of_descriptor(WRITE, out)) ? -1 : syscall(SYS_copy_file_range, in, from, out, to, length, flags);
}

ssize_t read(int fd, void *data, size_t length) {
    return fails(of_descriptor(READ, fd)) ? -1 : syscall(SYS_read, fd, data, length);
}
static ssize_t read_at(int fd, void *data, size_t length, off_t offset) {
    return fails(of_descriptor(READ, fd)) ? -1 : syscall(SYS_pread64, fd, data, length, offset);
}
ssize_t pread(int fd, void *data, size_t length, off_t offset) { return read_at(fd, data, length, offset); }
ssize_t pread64(int fd, void *data, size_t length, off_t offset) { return read_at(fd, data, length, offset); }

int fsync(int fd) { return fails(of_descriptor(SYNC, fd)) ? -1 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails(of_descriptor(SYNC, fd)) ? -1 : syscall(SYS_fdatasync, fd); }

int ftruncate(int fd, off_t size) { return fails(of_descriptor(TRUNCATE, fd)) ? -1 : syscall(SYS_ftruncate, fd, size); }
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }
int fallocate(int fd, int mode, off_t from, off_t length) {
    return fails(of_descriptor(TRUNCATE, fd)) ? -1 : syscall(SYS_fallocate, fd, mode, from, length);
}
int posix_fallocate(int fd, off_t from, off_t length) { return fallocate(fd, 0, from, length) ? errno : 0; }

int rename(const char *from, const char *to) {
    return fails(of_path(RENAME, to)) ? -1 : syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int linkat(int at, const char *from, int to_at, const char *to, int flags) {
    return fails(of_path(RENAME, to)) ? -1 : syscall(SYS_linkat, at, from, to_at, to, flags);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int unlink(const char *path) { return fails(of_path(UNLINK, path)) ? -1 : syscall(SYS_unlinkat, AT_FDCWD, path, 0); }

int socket(int domain, int type, int protocol) {
    if (watching() && domain != AF_UNIX && fails(verdict(SOCKET, SOCKETS))) return -1;
    return syscall(SYS_socket, domain, type, protocol);
}

static int64_t ahead(void) { return control ? control->clock : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = syscall(SYS_gettimeofday, now, zone);
    if (result == 0 && now) now->tv_sec += ahead();
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
