// Reading, writing, durability, allocation and locks of one descriptor: the system calls that Node lacks,
// or offers only through libuv's pool.
//
// Every function answers zero or more, or -errno, read once, right after the call. Off Linux all of them
// answer -ENOSYS. Knows nothing of JavaScript; callable on any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace nbd_serve::file_io {

// One try: bytes read, short where the kernel was.
int64_t preadv2(int fd, uint8_t* data, size_t length, int64_t offset, int flags);
// A close-on-exec descriptor of `path` below the directory `dirfd`. `resolve`: RESOLVE_* of openat2(2).
int64_t openat2(int dirfd, const std::string& path, int flags, int resolve);
// Until `length` or the end of the file: bytes read.
int64_t pread_all(int fd, uint8_t* data, size_t length, int64_t offset);
// Until `length`; answers `length`. After an error a part may have been written.
int64_t pwritev2_all(int fd, const uint8_t* data, size_t length, int64_t offset, int flags);
// As pwritev2_all, into a regular file that is long enough now: -ENODATA when it ends before the range does, which
// would otherwise make it long again. Between the look and the write there is nothing to wait for.
int64_t pwrite_inside(int fd, const uint8_t* data, size_t length, int64_t offset);
int64_t fdatasync(int fd);
// Bytes of a regular file, as the kernel has them now: never asks a server across the network.
int64_t size(int fd);
// What changes when anybody changes a regular file.
struct Stamp {
  int64_t size = 0;
  int64_t modified_seconds = 0;
  int64_t modified_nanoseconds = 0;
  int64_t changed_seconds = 0;
  int64_t changed_nanoseconds = 0;

  bool operator==(const Stamp& other) const {
    return size == other.size && modified_seconds == other.modified_seconds &&
           modified_nanoseconds == other.modified_nanoseconds && changed_seconds == other.changed_seconds &&
           changed_nanoseconds == other.changed_nanoseconds;
  }
};
int64_t stamp(int fd, Stamp* stamp);
// lseek(2) with SEEK_DATA or SEEK_HOLE. It moves the descriptor's position, which nothing here reads.
int64_t lseek(int fd, int64_t offset, int whence);
// 1 when every byte of a range has blocks of its own that were written before (FS_IOC_FIEMAP), so that writing it again
// changes nothing but them; else 0, also for a range in very many pieces. -EOPNOTSUPP where the file system does not tell.
int64_t is_written(int fd, int64_t offset, int64_t length);
int64_t fallocate(int fd, int mode, int64_t offset, int64_t length);
int64_t blkzeroout(int fd, int64_t offset, int64_t length);
int64_t blkdiscard(int fd, int64_t offset, int64_t length);
// 1 when a block device is read-only, else 0.
int64_t blkroget(int fd);
// Open file description locks, fcntl(2). `type` is F_RDLCK, F_WRLCK or F_UNLCK; `length` 0 means "to the
// end, wherever that comes to be". setlk never waits; getlk answers 1 when setlk would be refused, else 0.
int64_t ofd_setlk(int fd, int type, int64_t start, int64_t length);
int64_t ofd_getlk(int fd, int type, int64_t start, int64_t length);

}  // namespace nbd_serve::file_io
