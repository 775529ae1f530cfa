/*
 * powerloss: an LD_PRELOAD library, for tests alone, that writes down everything a process does to the files of one
 * directory, so that after kill -9 a test can rebuild what a power loss would have left there.
 *
 * It is a dumb recorder: it judges nothing and restores nothing. Each intercepted call takes one lock, does the real
 * system call, and appends a record of what happened to a journal. What the journal means is in src/powerloss/.
 *
 * Why the record comes after the call: when kill -9 falls between the two, the call is missing from the journal, that
 * is, it counts as lost in the power cut. It was not yet acknowledged to anyone, so it may be. For the same reason a
 * sync is recorded after it succeeded; but it covers only what was recorded before it began.
 *
 * The journal is a shared mapping of a file outside the watched directory, so it survives kill -9. Its first page is a
 * header of 64-bit words through which the test also turns faults on and off while the process runs.
 *
 * It is C, not Rust: it must define open() and fcntl() with their variable arguments, and it must bring no runtime, no
 * allocation and no initialization order into the process that it watches. It makes system calls directly instead of
 * looking up the next definition, so it may be called before any constructor has run.
 *
 * It does not see: writes through a shared mapping (it reports that one was made), stdio's own writes, io_uring, and
 * system calls made without libc. The test notices those, because the journal then does not add up to the files.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HEADER_BYTES 4096
#define JOURNAL_BYTES_MAX (16ull << 30) /* sparse: only what is recorded takes space */
#define FDS_MAX 65536
#define FAULT_PATH_BYTES 256

/* The words of the first page; the same list stands in src/powerloss/journal.rs. */
struct header {
    char magic[8];
    _Atomic uint64_t length;         /* bytes of records behind this page */
    _Atomic uint64_t sequence;       /* number of records */
    _Atomic uint64_t owner;          /* the process that records; children of it do not */
    _Atomic uint64_t busy;           /* a call is being made that is not yet recorded */
    _Atomic uint64_t sync_lies;      /* syncs report success and do nothing */
    _Atomic uint64_t sync_stall_ms;  /* each sync takes this much longer */
    _Atomic uint64_t sync_fail_at;   /* the number of the sync that fails, from 1; 0 for none */
    _Atomic uint64_t sync_fail_errno;
    _Atomic uint64_t write_fail_at;  /* the number of the write that fails, from 1; 0 for none */
    _Atomic uint64_t write_fail_errno; /* 0: the write is cut short instead */
    _Atomic uint64_t syncs;          /* syncs so far of files that the fault path names */
    _Atomic uint64_t writes;         /* the same for writes */
    char fault_path[FAULT_PATH_BYTES]; /* faults fall on paths that contain this; empty: on all */
    _Atomic uint64_t read_stall_ms;  /* each pread of a file that the fault path names takes this much longer */
};

enum kind {
    OPEN = 1,     /* number: inode; flags: below; payload: path */
    WRITE = 2,    /* number: inode; position: offset; payload: the bytes */
    TRUNCATE = 3, /* number: inode; position: the new length */
    ALLOCATE = 4, /* number: inode; position: offset; flags: mode; payload: the length, 8 bytes */
    SYNC = 5,     /* number: inode; position: records that it covers */
    SYNC_FAILED = 6,
    RENAME = 7,   /* payload: from, NUL, to */
    UNLINK = 8,   /* payload: path */
    LINK = 9,     /* payload: from, NUL, to */
    MKDIR = 10,   /* payload: path; number: inode */
    UNTRACKED = 11, /* payload: what cannot be followed */
};
#define OPEN_CREATED 1u
#define OPEN_TRUNCATED 2u

struct record {
    uint32_t kind;
    uint32_t flags;
    uint64_t number;
    uint64_t position;
    uint64_t payload_bytes; /* the payload follows, padded with zeros to a multiple of 8 */
};

/* What is known of a file descriptor: the inode in the upper 56 bits, these in the lower 8; 0 when not watched. */
#define FD_WATCHED 1u
#define FD_SYNCHRONOUS 2u
#define FD_APPENDS 4u
#define FD_FAULTY 8u

static struct header *header; /* NULL until the constructor has run, and for ever when nothing is watched */
static char watched[PATH_MAX];
static size_t watched_bytes;
static _Atomic uint64_t fds[FDS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *why) {
    syscall(SYS_write, 2, "powerloss: ", 11);
    syscall(SYS_write, 2, why, strlen(why));
    syscall(SYS_write, 2, "\n", 1);
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *directory = getenv("POWERLOSS_WATCH"), *journal = getenv("POWERLOSS_JOURNAL");
    if (!directory || !journal)
        return;
    watched_bytes = strlen(directory);
    if (directory[0] != '/' || watched_bytes >= sizeof watched)
        die("POWERLOSS_WATCH must be an absolute path");
    memcpy(watched, directory, watched_bytes + 1);
    int fd = syscall(SYS_openat, AT_FDCWD, journal, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        die("cannot open POWERLOSS_JOURNAL");
    if (syscall(SYS_ftruncate, fd, JOURNAL_BYTES_MAX) < 0)
        die("cannot grow POWERLOSS_JOURNAL");
    void *at = (void *)syscall(SYS_mmap, NULL, JOURNAL_BYTES_MAX, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED)
        die("cannot map POWERLOSS_JOURNAL");
    syscall(SYS_close, fd);
    struct header *mapped = at;
    if (memcmp(mapped->magic, "DSPLOSS1", 8) != 0)
        die("POWERLOSS_JOURNAL is not a journal");
    /* The first process records, also after it has become another program by exec; its children do not. */
    uint64_t owner = 0, self = (uint64_t)getpid();
    if (atomic_compare_exchange_strong(&mapped->owner, &owner, self) || owner == self)
        header = mapped;
}

/* ---- the journal ---------------------------------------------------------------------------------------------- */

/* Takes the lock for one call; errno is the caller's and is kept by whoever unlocks. */
static void enter(void) {
    pthread_mutex_lock(&lock);
    atomic_store(&header->busy, 1);
}
static void leave(void) {
    int kept = errno;
    atomic_store(&header->busy, 0);
    pthread_mutex_unlock(&lock);
    errno = kept;
}

/* Appends a record whose payload is `count` pieces, of which at most `payload_bytes` bytes count. Under the lock. */
static void append(enum kind kind, uint32_t flags, uint64_t number, uint64_t position, const struct iovec *pieces,
                   int count, size_t payload_bytes) {
    uint64_t length = atomic_load_explicit(&header->length, memory_order_relaxed);
    uint64_t padded = (payload_bytes + 7) & ~7ull;
    if (HEADER_BYTES + length + sizeof(struct record) + padded > JOURNAL_BYTES_MAX)
        die("the journal is full");
    char *at = (char *)header + HEADER_BYTES + length;
    struct record record = {kind, flags, number, position, payload_bytes};
    memcpy(at, &record, sizeof record);
    at += sizeof record;
    for (int i = 0; i < count && payload_bytes > 0; i++) {
        size_t bytes = pieces[i].iov_len < payload_bytes ? pieces[i].iov_len : payload_bytes;
        memcpy(at, pieces[i].iov_base, bytes);
        at += bytes;
        payload_bytes -= bytes;
    }
    atomic_fetch_add_explicit(&header->sequence, 1, memory_order_relaxed);
    /* The length is what makes the record exist: a kill before this line leaves no trace of it. */
    atomic_store_explicit(&header->length, length + sizeof record + padded, memory_order_release);
}

static void append_text(enum kind kind, uint32_t flags, uint64_t number, const char *text) {
    struct iovec piece = {(void *)text, strlen(text)};
    append(kind, flags, number, 0, &piece, 1, piece.iov_len);
}

static void append_two_paths(enum kind kind, const char *from, const char *to) {
    struct iovec pieces[] = {{(void *)from, strlen(from) + 1}, {(void *)to, strlen(to)}};
    append(kind, 0, 0, 0, pieces, 2, pieces[0].iov_len + pieces[1].iov_len);
}

/* ---- paths and descriptors ------------------------------------------------------------------------------------- */

static int is_watched_path(const char *path) {
    return strncmp(path, watched, watched_bytes) == 0 && (path[watched_bytes] == '/' || path[watched_bytes] == 0);
}

/* The absolute path of an open file; 0 when there is none. */
static int path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long bytes = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    if (bytes <= 0)
        return 0;
    out[bytes] = 0;
    return 1;
}

/* The absolute path that (dirfd, path) names, itself not followed if it is a link; 1 if it lies in the watched
 * directory. The file need not exist, its parent must. */
static int resolve(int dirfd, const char *path, char *out) {
    char parent[PATH_MAX];
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    size_t base = bytes;
    while (base > 0 && path[base - 1] != '/')
        base--;
    if (bytes == 0 || bytes >= sizeof parent)
        return 0;
    if (base == 0) {
        strcpy(parent, ".");
    } else {
        memcpy(parent, path, base);
        parent[base] = 0;
    }
    int fd = syscall(SYS_openat, dirfd, parent, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    int found = path_of(fd, out);
    syscall(SYS_close, fd);
    size_t used = found ? strlen(out) : 0;
    if (!found || used + 1 + (bytes - base) >= PATH_MAX)
        return 0;
    out[used++] = '/';
    memcpy(out + used, path + base, bytes - base);
    out[used + bytes - base] = 0;
    return is_watched_path(out);
}

static void remember(int fd, uint64_t entry) {
    if (fd >= FDS_MAX && entry)
        die("too many open files to watch");
    if (fd >= 0 && fd < FDS_MAX)
        atomic_store_explicit(&fds[fd], entry, memory_order_relaxed);
}

static uint64_t entry_of(int fd) {
    if (!header || fd < 0 || fd >= FDS_MAX)
        return 0;
    return atomic_load_explicit(&fds[fd], memory_order_relaxed);
}

/* The entry of a watched descriptor. One that was closed behind our back and reused has another inode: forget it. */
static uint64_t watched_entry(int fd) {
    uint64_t entry = entry_of(fd);
    struct stat status;
    if (entry && (fstat(fd, &status) < 0 || status.st_ino != entry >> 8)) {
        remember(fd, 0);
        return 0;
    }
    return entry;
}

/* ---- faults ---------------------------------------------------------------------------------------------------- */

/* How much of a write of `bytes` may go ahead; -1 with errno when it fails. Under the lock. */
static ssize_t allowed_bytes(uint64_t entry, size_t bytes) {
    if (!(entry & FD_FAULTY))
        return bytes;
    uint64_t number = 1 + atomic_fetch_add(&header->writes, 1);
    if (number != atomic_load(&header->write_fail_at))
        return bytes;
    int error = (int)atomic_load(&header->write_fail_errno);
    if (!error && bytes > 1)
        return bytes / 2;
    errno = error ? error : EIO;
    return -1;
}

static void stall(uint64_t milliseconds) {
    struct timespec left = {milliseconds / 1000, (milliseconds % 1000) * 1000000};
    while (syscall(SYS_nanosleep, &left, &left) < 0 && errno == EINTR) {
    }
}

/* ---- open and close -------------------------------------------------------------------------------------------- */

static void record_open(int fd, int flags, int existed) {
    struct stat status;
    char path[PATH_MAX];
    remember(fd, 0);
    if (fstat(fd, &status) < 0 || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) || !path_of(fd, path) ||
        !is_watched_path(path))
        return;
    char where[FAULT_PATH_BYTES];
    memcpy(where, header->fault_path, sizeof where);
    where[sizeof where - 1] = 0;
    uint64_t entry = (uint64_t)status.st_ino << 8 | FD_WATCHED;
    entry |= (flags & O_DSYNC) ? FD_SYNCHRONOUS : 0;
    entry |= (flags & O_APPEND) ? FD_APPENDS : 0;
    entry |= strstr(path, where) ? FD_FAULTY : 0;
    uint32_t how = existed ? 0 : OPEN_CREATED;
    how |= (flags & O_TRUNC) && existed ? OPEN_TRUNCATED : 0;
    if ((flags & O_TMPFILE) == O_TMPFILE)
        append_text(UNTRACKED, 0, 0, "a file opened with O_TMPFILE");
    append_text(OPEN, how, status.st_ino, path);
    remember(fd, entry);
}

static int do_open(int dirfd, const char *path, int flags, mode_t mode) {
    if (!header || (flags & O_PATH))
        return syscall(SYS_openat, dirfd, path, flags, mode);
    struct stat status;
    int changes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    if (changes)
        enter();
    int existed = !(flags & O_CREAT) || fstatat(dirfd, path, &status, 0) == 0;
    int fd = syscall(SYS_openat, dirfd, path, flags, mode);
    if (fd >= 0) {
        if (!changes)
            enter();
        record_open(fd, flags, existed);
        if (!changes)
            leave();
    }
    if (changes)
        leave();
    return fd;
}

#define MODE_ARGUMENT(flags, mode)                                                                                     \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {                                                            \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        mode = va_arg(arguments, mode_t);                                                                              \
        va_end(arguments);                                                                                             \
    }

int open(const char *path, int flags, ...) {
    MODE_ARGUMENT(flags, mode)
    return do_open(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE_ARGUMENT(flags, mode)
    return do_open(AT_FDCWD, path, flags, mode);
}
int openat(int dirfd, const char *path, int flags, ...) {
    MODE_ARGUMENT(flags, mode)
    return do_open(dirfd, path, flags, mode);
}
int openat64(int dirfd, const char *path, int flags, ...) {
    MODE_ARGUMENT(flags, mode)
    return do_open(dirfd, path, flags, mode);
}
int __open_2(const char *path, int flags) { return do_open(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return do_open(AT_FDCWD, path, flags, 0); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    remember(fd, 0);
    return syscall(SYS_close, fd);
}

static int duplicated(int from, int to) {
    if (to >= 0 && to != from)
        remember(to, entry_of(from));
    return to;
}
int dup(int fd) { return duplicated(fd, syscall(SYS_dup, fd)); }
int dup2(int fd, int to) { return fd == to ? syscall(SYS_fcntl, fd, F_GETFD) < 0 ? -1 : to
                                           : duplicated(fd, syscall(SYS_dup3, fd, to, 0)); }
int dup3(int fd, int to, int flags) { return duplicated(fd, syscall(SYS_dup3, fd, to, flags)); }

static int do_fcntl(int fd, int command, void *argument) {
    int result = syscall(SYS_fcntl, fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? duplicated(fd, result) : result;
}
int fcntl(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return do_fcntl(fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return do_fcntl(fd, command, argument);
}

/* ---- contents -------------------------------------------------------------------------------------------------- */

/* Records what a write did: `bytes` of `pieces` landed at `offset`, or where the descriptor stood (offset -1). */
static void record_write(int fd, uint64_t entry, const struct iovec *pieces, int count, off_t offset, ssize_t bytes,
                         int synchronous) {
    if (bytes <= 0)
        return;
    if (offset < 0) {
        offset = syscall(SYS_lseek, fd, 0, SEEK_CUR) - bytes;
    } else if (entry & FD_APPENDS) { /* Linux appends whatever the offset says */
        struct stat status;
        offset = fstat(fd, &status) == 0 ? status.st_size - bytes : offset;
    }
    append(WRITE, 0, entry >> 8, offset, pieces, count, bytes);
    if (synchronous || (entry & FD_SYNCHRONOUS))
        append(SYNC, 0, entry >> 8, atomic_load(&header->sequence), NULL, 0, 0);
}

/* write() and pwrite(): offset -1 stands for the descriptor's own position. */
static ssize_t write_piece(int fd, const void *from, size_t bytes, off_t offset) {
    uint64_t entry = header ? watched_entry(fd) : 0;
    if (!entry)
        return offset < 0 ? syscall(SYS_write, fd, from, bytes) : syscall(SYS_pwrite64, fd, from, bytes, offset);
    enter();
    ssize_t done = allowed_bytes(entry, bytes);
    if (done >= 0) {
        done = offset < 0 ? syscall(SYS_write, fd, from, done) : syscall(SYS_pwrite64, fd, from, done, offset);
        struct iovec piece = {(void *)from, bytes};
        record_write(fd, entry, &piece, 1, offset, done, 0);
    }
    leave();
    return done;
}

/* writev(), pwritev() and pwritev2(); one that is to be cut short writes its first piece alone. */
static ssize_t write_pieces(int fd, const struct iovec *pieces, int count, off_t offset, int flags) {
    uint64_t entry = header ? watched_entry(fd) : 0;
    if (!entry)
        return offset < 0 && !flags ? syscall(SYS_writev, fd, pieces, count)
                                    : syscall(SYS_pwritev2, fd, pieces, (long)count, offset, offset >> 63, flags);
    enter();
    ssize_t done = allowed_bytes(entry, 2);
    if (done >= 0) {
        int allowed = done < 2 && count > 1 ? 1 : count;
        done = syscall(SYS_pwritev2, fd, pieces, (long)allowed, offset, offset >> 63, flags);
        if (flags & RWF_APPEND)
            append_text(UNTRACKED, 0, 0, "pwritev2 with RWF_APPEND");
        record_write(fd, entry, pieces, allowed, offset, done, flags & (RWF_DSYNC | RWF_SYNC));
    }
    leave();
    return done;
}

/* Reads are not recorded; they may be slow, as many at a time as there are threads that read. */
ssize_t pread64(int fd, void *to, size_t bytes, off64_t offset) {
    uint64_t milliseconds = header ? atomic_load(&header->read_stall_ms) : 0;
    if (milliseconds && watched_entry(fd) & FD_FAULTY)
        stall(milliseconds);
    return syscall(SYS_pread64, fd, to, bytes, offset);
}
ssize_t pread(int fd, void *to, size_t bytes, off_t offset) { return pread64(fd, to, bytes, offset); }

static int bad_offset(void) {
    errno = EINVAL;
    return -1;
}
ssize_t write(int fd, const void *from, size_t bytes) { return write_piece(fd, from, bytes, -1); }
ssize_t pwrite(int fd, const void *from, size_t bytes, off_t offset) {
    return offset < 0 ? bad_offset() : write_piece(fd, from, bytes, offset);
}
ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t offset) { return pwrite(fd, from, bytes, offset); }
ssize_t writev(int fd, const struct iovec *pieces, int count) { return write_pieces(fd, pieces, count, -1, 0); }
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
    return offset < 0 ? bad_offset() : write_pieces(fd, pieces, count, offset, 0);
}
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset) {
    return pwritev(fd, pieces, count, offset);
}
ssize_t pwritev2(int fd, const struct iovec *pieces, int count, off_t offset, int flags) {
    return write_pieces(fd, pieces, count, offset, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *pieces, int count, off64_t offset, int flags) {
    return write_pieces(fd, pieces, count, offset, flags);
}

int ftruncate(int fd, off_t length) {
    uint64_t entry = header ? watched_entry(fd) : 0;
    if (!entry)
        return syscall(SYS_ftruncate, fd, length);
    enter();
    int result = allowed_bytes(entry, 1) < 0 ? -1 : syscall(SYS_ftruncate, fd, length);
    if (result == 0)
        append(TRUNCATE, 0, entry >> 8, length, NULL, 0, 0);
    leave();
    return result;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }
int truncate(const char *path, off_t length) {
    int fd = do_open(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int result = ftruncate(fd, length), kept = errno;
    close(fd);
    errno = kept;
    return result;
}
int truncate64(const char *path, off64_t length) { return truncate(path, length); }

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
    uint64_t entry = header ? watched_entry(fd) : 0;
    if (!entry)
        return syscall(SYS_fallocate, fd, mode, offset, bytes);
    enter();
    int result = allowed_bytes(entry, 1) < 0 ? -1 : syscall(SYS_fallocate, fd, mode, offset, bytes);
    if (result == 0) {
        uint64_t length = bytes;
        struct iovec piece = {&length, sizeof length};
        append(ALLOCATE, mode, entry >> 8, offset, &piece, 1, sizeof length);
    }
    leave();
    return result;
}
int fallocate64(int fd, int mode, off64_t offset, off64_t bytes) { return fallocate(fd, mode, offset, bytes); }
int posix_fallocate(int fd, off_t offset, off_t bytes) {
    int kept = errno, error = fallocate(fd, 0, offset, bytes) < 0 ? errno : 0;
    errno = kept;
    return error;
}
int posix_fallocate64(int fd, off64_t offset, off64_t bytes) { return posix_fallocate(fd, offset, bytes); }

/* ---- syncs ----------------------------------------------------------------------------------------------------- */

static int do_sync(long call, int fd) {
    uint64_t entry = header ? watched_entry(fd) : 0;
    if (!entry)
        return syscall(call, fd);
    enter(); /* waits for a write that is being done, and so has it among the covered */
    uint64_t covered = atomic_load(&header->sequence);
    leave();
    int result = 0, fails = 0;
    if (entry & FD_FAULTY) {
        uint64_t number = 1 + atomic_fetch_add(&header->syncs, 1);
        stall(atomic_load(&header->sync_stall_ms));
        if (atomic_load(&header->sync_lies))
            return 0;
        fails = number == atomic_load(&header->sync_fail_at);
    }
    if (fails) {
        errno = (int)atomic_load(&header->sync_fail_errno);
        result = -1;
    } else {
        result = syscall(call, fd); /* outside the lock: others write meanwhile */
    }
    enter();
    append(result == 0 ? SYNC : SYNC_FAILED, 0, entry >> 8, covered, NULL, 0, 0);
    leave();
    return result;
}
int fsync(int fd) { return do_sync(SYS_fsync, fd); }
int fdatasync(int fd) { return do_sync(SYS_fdatasync, fd); }

/* ---- names ----------------------------------------------------------------------------------------------------- */

static int do_rename(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char old[PATH_MAX], new[PATH_MAX];
    if (!header)
        return syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    enter();
    int leaves = resolve(from_dir, from, old), arrives = resolve(to_dir, to, new);
    int result = syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    if (result == 0 && leaves && arrives && !(flags & RENAME_EXCHANGE))
        append_two_paths(RENAME, old, new);
    else if (result == 0 && (leaves || arrives))
        append_text(UNTRACKED, 0, 0, "a rename into, out of or by exchange in the watched directory");
    leave();
    return result;
}
int rename(const char *from, const char *to) { return do_rename(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return do_rename(from_dir, from, to_dir, to, 0);
}
int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    return do_rename(from_dir, from, to_dir, to, flags);
}

static int do_unlink(int dirfd, const char *path, int flags) {
    char which[PATH_MAX];
    if (!header)
        return syscall(SYS_unlinkat, dirfd, path, flags);
    enter();
    int is_watched = resolve(dirfd, path, which);
    int result = syscall(SYS_unlinkat, dirfd, path, flags);
    if (result == 0 && is_watched)
        append_text(UNLINK, 0, 0, which);
    leave();
    return result;
}
int unlink(const char *path) { return do_unlink(AT_FDCWD, path, 0); }
int unlinkat(int dirfd, const char *path, int flags) { return do_unlink(dirfd, path, flags); }
int rmdir(const char *path) { return do_unlink(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    int result = unlink(path);
    return result < 0 && errno == EISDIR ? rmdir(path) : result;
}

static int do_link(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char old[PATH_MAX], new[PATH_MAX];
    if (!header)
        return syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    enter();
    int leaves = resolve(from_dir, from, old), arrives = resolve(to_dir, to, new);
    int result = syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    if (result == 0 && leaves && arrives)
        append_two_paths(LINK, old, new);
    else if (result == 0 && arrives)
        append_text(UNTRACKED, 0, 0, "a hard link into the watched directory");
    leave();
    return result;
}
int link(const char *from, const char *to) { return do_link(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    return do_link(from_dir, from, to_dir, to, flags);
}
int symlinkat(const char *target, int dirfd, const char *path) {
    char which[PATH_MAX];
    int result = syscall(SYS_symlinkat, target, dirfd, path);
    if (header && result == 0) {
        enter();
        if (resolve(dirfd, path, which))
            append_text(UNTRACKED, 0, 0, "a symbolic link in the watched directory");
        leave();
    }
    return result;
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

int mkdirat(int dirfd, const char *path, mode_t mode) {
    char which[PATH_MAX];
    struct stat status;
    if (!header)
        return syscall(SYS_mkdirat, dirfd, path, mode);
    enter();
    int is_watched = resolve(dirfd, path, which);
    int result = syscall(SYS_mkdirat, dirfd, path, mode);
    if (result == 0 && is_watched && fstatat(dirfd, path, &status, 0) == 0)
        append_text(MKDIR, 0, status.st_ino, which);
    leave();
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- what cannot be followed ----------------------------------------------------------------------------------- */

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset) {
    void *result = (void *)syscall(SYS_mmap, at, bytes, protection, flags, fd, offset);
    if (result != MAP_FAILED && (flags & MAP_SHARED) && (protection & PROT_WRITE) && entry_of(fd)) {
        enter();
        append_text(UNTRACKED, 0, 0, "a writable shared mapping of a watched file");
        leave();
    }
    return result;
}
void *mmap64(void *at, size_t bytes, int protection, int flags, int fd, off64_t offset) {
    return mmap(at, bytes, protection, flags, fd, offset);
}

/* Copies made by the kernel are refused, in the way in which a kernel or file system without them does: the caller
 * then copies with read and write, which are followed. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t bytes, unsigned flags) {
    if (entry_of(to)) {
        errno = EXDEV;
        return -1;
    }
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, bytes, flags);
}
ssize_t sendfile(int to, int from, off_t *offset, size_t bytes) {
    if (entry_of(to)) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_sendfile, to, from, offset, bytes);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t bytes) { return sendfile(to, from, offset, bytes); }
ssize_t splice(int from, off64_t *from_at, int to, off64_t *to_at, size_t bytes, unsigned flags) {
    if (entry_of(to)) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_splice, from, from_at, to, to_at, bytes, flags);
}
