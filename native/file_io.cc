#include "file_io.h"

#include <errno.h>

#ifdef __linux__
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#endif

namespace nbd_serve::file_io {

#ifdef __linux__

int64_t preadv2(int fd, uint8_t* data, size_t length, int64_t offset, int flags) {
  const struct iovec vector = {data, length};
  const ssize_t count = ::preadv2(fd, &vector, 1, offset, flags);
  return count < 0 ? -errno : count;
}

// Neither glibc nor the headers of older systems know the call (Linux 5.6); its number is 437 everywhere.
int64_t openat2(int dirfd, const std::string& path, int flags, int resolve) {
  constexpr long kOpenat2 = 437;
  // EAGAIN: a rename somewhere raced with a ".." in the path, so that it could not be shown to stay inside.
  constexpr int kTryCountMax = 32;
  // A path with a NUL would name less than was asked.
  if (path.find('\0') != std::string::npos) return -EINVAL;
  const struct {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
  } how = {static_cast<uint64_t>(flags | O_CLOEXEC), 0, static_cast<uint64_t>(resolve)};
  for (int count = 1;; count += 1) {
    const long fd = ::syscall(kOpenat2, dirfd, path.c_str(), &how, sizeof how);
    if (fd >= 0) return fd;
    if ((errno != EAGAIN && errno != EINTR) || count == kTryCountMax) return -errno;
  }
}

int64_t pread_all(int fd, uint8_t* data, size_t length, int64_t offset) {
  size_t position = 0;
  while (position < length) {
    // Up to 0x7ffff000 bytes a call, whatever is asked: read(2), NOTES. The loop takes care of that too.
    const ssize_t count =
        ::pread(fd, data + position, length - position, offset + static_cast<int64_t>(position));
    if (count < 0) {
      if (errno == EINTR) continue;
      // EAGAIN too: a descriptor that does not block has no place on a thread that waits for disks.
      return -errno;
    }
    if (count == 0) break;
    position += static_cast<size_t>(count);
  }
  return static_cast<int64_t>(position);
}

int64_t pwritev2_all(int fd, const uint8_t* data, size_t length, int64_t offset, int flags) {
  size_t position = 0;
  while (position < length) {
    const struct iovec vector = {const_cast<uint8_t*>(data) + position, length - position};
    const ssize_t count = ::pwritev2(fd, &vector, 1, offset + static_cast<int64_t>(position), flags);
    if (count < 0) {
      if (errno == EINTR) continue;
      return -errno;
    }
    // write(2) allows it and explains nothing. Asking again could go on for ever.
    if (count == 0) return -EIO;
    position += static_cast<size_t>(count);
  }
  return static_cast<int64_t>(length);
}

namespace {

// A write that begins or ends inside a page waits for that page while it holds the file (ext4, XFS), one after the other.
// Read before, many are read at a time. 5 KiB at random places of an uncached file, depth 32, MiB/s: 140 against 60 (2026-11).
void bring_in_edges(int fd, int64_t offset, int64_t length) {
  // For posix_fadvise no length is up to the end of the file.
  if (length == 0) return;
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  constexpr int64_t kOneReadBytesMax = 64 * 1024;
  const int64_t last = offset + length - 1;
  const bool is_begin_inside = offset % page_bytes != 0;
  const bool is_end_inside = (last + 1) % page_bytes != 0;
  // Hints, and reads whose errors the write meets again.
  if (length <= kOneReadBytesMax && is_begin_inside && is_end_inside) {
    (void)::posix_fadvise(fd, offset, length, POSIX_FADV_WILLNEED);
  }
  uint8_t byte = 0;
  if (is_begin_inside) (void)preadv2(fd, &byte, 1, offset, 0);
  if (is_end_inside) (void)preadv2(fd, &byte, 1, last, 0);
}

}  // namespace

int64_t pwrite_inside(int fd, const uint8_t* data, size_t length, int64_t offset) {
  bring_in_edges(fd, offset, static_cast<int64_t>(length));
  // A failing look is no reason to refuse what may well work.
  const int64_t present = size(fd);
  if (present >= 0 && offset + static_cast<int64_t>(length) > present) return -ENODATA;
  return pwritev2_all(fd, data, length, offset, 0);
}

// EINTR means that nothing was decided. EIO means that the kernel has given up on some pages, marked them
// clean and told this descriptor, once (fsync(2); errseq_t since Linux 4.13): a second fdatasync would
// answer 0 with the data gone. So one EIO is final, and whoever gets it must remember it.
int64_t fdatasync(int fd) {
  for (;;) {
    if (::fdatasync(fd) == 0) return 0;
    if (errno != EINTR) return -errno;
  }
}

// statx and not fstat, which on NFS writes back every dirty page of the file first, for the sake of the times.
int64_t size(int fd) {
  struct statx status;
  if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &status) != 0) return -errno;
  return static_cast<int64_t>(status.stx_size);
}

int64_t stamp(int fd, Stamp* stamp) {
  struct statx status;
  constexpr unsigned kWanted = STATX_SIZE | STATX_MTIME | STATX_CTIME;
  if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, kWanted, &status) != 0) return -errno;
  *stamp = {static_cast<int64_t>(status.stx_size), status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec,
            status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec};
  return 0;
}

// Not interrupted by signals: ext4 and XFS look the extents up in memory or wait for the disk uninterruptibly.
int64_t lseek(int fd, int64_t offset, int whence) {
  const off_t found = ::lseek(fd, offset, whence);
  return found < 0 ? -errno : found;
}

int64_t is_written(int fd, int64_t offset, int64_t length) {
  constexpr unsigned kExtents = 16;
  constexpr uint32_t kPlain = FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED;
  union {
    struct fiemap map;
    uint8_t room[sizeof(struct fiemap) + kExtents * sizeof(struct fiemap_extent)];
  } answer = {};
  answer.map.fm_start = static_cast<uint64_t>(offset);
  answer.map.fm_length = static_cast<uint64_t>(length);
  answer.map.fm_extent_count = kExtents;
  if (::ioctl(fd, FS_IOC_FIEMAP, &answer.map) != 0) return -errno;
  const uint64_t end = answer.map.fm_start + answer.map.fm_length;
  uint64_t position = static_cast<uint64_t>(offset);
  for (unsigned index = 0; index < answer.map.fm_mapped_extents && position < end; ++index) {
    const struct fiemap_extent& extent = answer.map.fm_extents[index];
    if (extent.fe_logical > position || (extent.fe_flags & ~kPlain) != 0) return 0;
    position = extent.fe_logical + extent.fe_length;
  }
  return position >= end ? 1 : 0;
}

// The modes in use here (allocate, punch, zero) may be repeated over what an interrupted call has done.
int64_t fallocate(int fd, int mode, int64_t offset, int64_t length) {
  for (;;) {
    if (::fallocate(fd, mode, offset, length) == 0) return 0;
    if (errno != EINTR) return -errno;
  }
}

namespace {

int64_t ioctl_range(int fd, unsigned long request, int64_t offset, int64_t length) {
  uint64_t range[2] = {static_cast<uint64_t>(offset), static_cast<uint64_t>(length)};
  for (;;) {
    if (::ioctl(fd, request, range) >= 0) return 0;
    if (errno != EINTR) return -errno;
  }
}

struct flock ofd_lock(int type, int64_t start, int64_t length) {
  struct flock lock = {};
  lock.l_type = static_cast<short>(type);
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  // Must be 0 for F_OFD_*, else EINVAL.
  lock.l_pid = 0;
  return lock;
}

}  // namespace

int64_t blkzeroout(int fd, int64_t offset, int64_t length) {
  return ioctl_range(fd, BLKZEROOUT, offset, length);
}

int64_t blkdiscard(int fd, int64_t offset, int64_t length) {
  return ioctl_range(fd, BLKDISCARD, offset, length);
}

int64_t blkroget(int fd) {
  int is_read_only = 0;
  if (::ioctl(fd, BLKROGET, &is_read_only) != 0) return -errno;
  return is_read_only != 0 ? 1 : 0;
}

int64_t ofd_setlk(int fd, int type, int64_t start, int64_t length) {
  struct flock lock = ofd_lock(type, start, length);
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return 0;
  // POSIX lets a held lock be EACCES or EAGAIN; the contract knows one.
  return errno == EACCES ? -EAGAIN : -errno;
}

int64_t ofd_getlk(int fd, int type, int64_t start, int64_t length) {
  struct flock lock = ofd_lock(type, start, length);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) return -errno;
  return lock.l_type == F_UNLCK ? 0 : 1;
}

#else

int64_t preadv2(int, uint8_t*, size_t, int64_t, int) { return -ENOSYS; }
int64_t openat2(int, const std::string&, int, int) { return -ENOSYS; }
int64_t pread_all(int, uint8_t*, size_t, int64_t) { return -ENOSYS; }
int64_t pwritev2_all(int, const uint8_t*, size_t, int64_t, int) { return -ENOSYS; }
int64_t pwrite_inside(int, const uint8_t*, size_t, int64_t) { return -ENOSYS; }
int64_t fdatasync(int) { return -ENOSYS; }
int64_t size(int) { return -ENOSYS; }
int64_t stamp(int, Stamp*) { return -ENOSYS; }
int64_t lseek(int, int64_t, int) { return -ENOSYS; }
int64_t is_written(int, int64_t, int64_t) { return -ENOSYS; }
int64_t fallocate(int, int, int64_t, int64_t) { return -ENOSYS; }
int64_t blkzeroout(int, int64_t, int64_t) { return -ENOSYS; }
int64_t blkdiscard(int, int64_t, int64_t) { return -ENOSYS; }
int64_t blkroget(int) { return -ENOSYS; }
int64_t ofd_setlk(int, int, int64_t, int64_t) { return -ENOSYS; }
int64_t ofd_getlk(int, int, int64_t, int64_t) { return -ENOSYS; }

#endif

}  // namespace nbd_serve::file_io
