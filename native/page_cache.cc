#include "page_cache.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>

#ifdef __linux__
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#endif

namespace nbd_serve::page_cache {

int64_t page_size() {
  // It cannot fail for _SC_PAGESIZE: sysconf(3).
  return sysconf(_SC_PAGESIZE);
}

#ifdef __linux__

namespace {

// cachestat(2), Linux 6.5. The number is the same on every architecture (all calls since 424 are); glibc
// has no wrapper before 2.40 and Debian 12's headers do not know it.
constexpr long kCachestatCall = 451;

struct CachestatRange {
  uint64_t offset;
  uint64_t length;
};

struct Cachestat {
  uint64_t cached;
  uint64_t dirty;
  uint64_t write_back;
  uint64_t evicted;
  uint64_t recently_evicted;
};

// Bytes mapped at a time. A whole 8 PiB image would not fit the 128 TiB address space, and mincore answers
// one byte a page: 1 GiB costs 256 KiB of answers.
constexpr int64_t kMappingBytes = int64_t{1} << 30;

int64_t file_size(int fd, int64_t* size) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return -errno;
  *size = status.st_size;
  if (S_ISBLK(status.st_mode)) {
    uint64_t bytes = 0;
    if (::ioctl(fd, BLKGETSIZE64, &bytes) != 0) return -errno;
    *size = static_cast<int64_t>(bytes);
  }
  return 0;
}

// Linux 5.4 and 5.14; Debian 12's headers know both, older ones do not.
#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

int64_t mincore_mapping(int fd, int64_t offset, int64_t length, std::vector<unsigned char>* answers) {
  // PROT_NONE: only the mapping's existence counts, nothing is ever read through it. A page past the end of
  // a file that shrinks meanwhile would be a SIGBUS when touched; mincore does not touch, it looks the page
  // up in the page cache. MAP_SHARED, because a private mapping's own pages are not the cache's.
  void* mapping = ::mmap(nullptr, static_cast<size_t>(length), PROT_NONE, MAP_SHARED, fd, offset);
  if (mapping == MAP_FAILED) return -errno;
  const int64_t result =
      ::mincore(mapping, static_cast<size_t>(length), answers->data()) == 0 ? 0 : -errno;
  // It cannot fail for a mapping that was just made.
  ::munmap(mapping, static_cast<size_t>(length));
  return result;
}

// Splits the folio that holds a resident page of a mapping: advice on a part of a large folio's pages makes the
// kernel split it first (madvise_cold_or_pageout_pte_range, mm/madvise.c). It does so for mapped pages only.
int64_t split_folio_of(uint8_t* page_address, size_t page) {
  // Maps the page without touching it: past the end of a file that shrinks meanwhile this answers -EFAULT, where a
  // touch would be a SIGBUS.
  if (::madvise(page_address, page, MADV_POPULATE_READ) != 0) return errno == EFAULT ? 0 : -errno;
  return ::madvise(page_address, page, MADV_COLD) == 0 ? 0 : -errno;
}

// `answers` are those of mincore for the mapping.
int64_t split_resident(uint8_t* mapping, const std::vector<unsigned char>& answers) {
  // Folios are aligned to their size, so one page in each step finds those of a step's size and more. Smaller ones
  // may stay: 32 buffer heads at most to walk, and half the time for the rest (2 MiB: 0.3 ms with 64 KiB).
  constexpr size_t kStepBytes = 128 * 1024;
  const size_t page = static_cast<size_t>(page_size());
  const size_t step = std::max(kStepBytes / page, size_t{1});
  for (size_t begin = 0; begin < answers.size(); begin += step) {
    const size_t end = std::min(begin + step, answers.size());
    size_t index = begin;
    while (index < end && (answers[index] & 1) == 0) index += 1;
    if (index == end) continue;
    const int64_t result = split_folio_of(mapping + index * page, page);
    if (result != 0) return result;
  }
  return 0;
}

}  // namespace

// posix_fadvise(2) returns its error and leaves errno alone.
int64_t fadvise(int fd, int64_t offset, int64_t length, int advice) {
  return -::posix_fadvise(fd, offset, length, advice);
}

int64_t evict(int fd, const std::vector<int64_t>& ranges) {
  int64_t first = 0;
  for (size_t index = 0; index + 1 < ranges.size(); index += 2) {
    const int64_t result = fadvise(fd, ranges[index], ranges[index + 1], POSIX_FADV_DONTNEED);
    if (first == 0) first = result;
  }
  return first;
}

int64_t read_ahead(int fd, int64_t offset, int64_t length) {
  // The default of read_ahead_kb, and hence the least that any device takes in one call.
  constexpr int64_t kStepBytes = 128 * 1024;
  const int64_t end = offset + length;
  for (int64_t begin = offset; begin < end; begin += kStepBytes) {
    const int64_t result = fadvise(fd, begin, std::min(kStepBytes, end - begin), POSIX_FADV_WILLNEED);
    if (result != 0) return result;
  }
  return 0;
}

int64_t sync_range(int fd, int64_t offset, int64_t length, int flags) {
  for (;;) {
    if (::sync_file_range(fd, offset, length, static_cast<unsigned int>(flags)) == 0) return 0;
    // Not in its manual page, and a wait that went on is no error of the disk's.
    if (errno != EINTR) return -errno;
  }
}

int64_t cachestat(int fd, int64_t offset, int64_t length, Counts* counts) {
  CachestatRange range = {static_cast<uint64_t>(offset), static_cast<uint64_t>(length)};
  Cachestat status = {};
  if (::syscall(kCachestatCall, fd, &range, &status, 0) == 0) {
    counts->cached = static_cast<int64_t>(status.cached);
    counts->dirty = static_cast<int64_t>(status.dirty);
    counts->write_back = static_cast<int64_t>(status.write_back);
    counts->evicted = static_cast<int64_t>(status.evicted);
    counts->recently_evicted = static_cast<int64_t>(status.recently_evicted);
    return 0;
  }
  // Only ENOSYS, an older kernel or a sandbox that imitates one. EPERM is an answer: not the owner and not
  // a writer (Linux 6.14), and there mincore would call every page resident.
  if (errno != ENOSYS) return -errno;
  const int64_t resident = mincore_resident(fd, offset, length);
  if (resident < 0) return resident;
  *counts = Counts();
  counts->cached = resident;
  return 0;
}

int64_t mincore_resident(int fd, int64_t offset, int64_t length) {
  int64_t size = 0;
  const int64_t error = file_size(fd, &size);
  if (error != 0) return error;
  const int64_t page = page_size();
  const int64_t end = length == 0 ? size : std::min(size, offset + length);
  int64_t resident = 0;
  std::vector<unsigned char> answers;
  for (int64_t begin = offset - offset % page; begin < end; begin += kMappingBytes) {
    const int64_t mapped = std::min(kMappingBytes, end - begin);
    answers.resize(static_cast<size_t>((mapped + page - 1) / page));
    const int64_t result = mincore_mapping(fd, begin, mapped, &answers);
    if (result != 0) return result;
    // Only the lowest bit is defined: mincore(2).
    for (const unsigned char answer : answers) resident += answer & 1;
  }
  return resident;
}

int64_t is_resident(int fd, int64_t offset, int64_t length) {
  const int64_t page = page_size();
  const int64_t begin = offset - offset % page;
  const int64_t bytes = offset + length - begin;
  std::vector<unsigned char> answers(static_cast<size_t>((bytes + page - 1) / page));
  const int64_t result = mincore_mapping(fd, begin, bytes, &answers);
  if (result != 0) return result;
  return std::all_of(answers.begin(), answers.end(), [](unsigned char answer) { return (answer & 1) != 0; });
}

int64_t split_folios(int fd, int64_t offset, int64_t length) {
  const int64_t page = page_size();
  const int64_t begin = offset - offset % page;
  const size_t bytes = static_cast<size_t>(offset + length - begin);
  void* mapping = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, begin);
  if (mapping == MAP_FAILED) return -errno;
  std::vector<unsigned char> answers((bytes + static_cast<size_t>(page) - 1) / static_cast<size_t>(page));
  const int64_t result = ::mincore(mapping, bytes, answers.data()) == 0
                             ? split_resident(static_cast<uint8_t*>(mapping), answers)
                             : -errno;
  // It cannot fail for a mapping that was just made.
  ::munmap(mapping, bytes);
  return result;
}

#else

int64_t fadvise(int, int64_t, int64_t, int) { return -ENOSYS; }
int64_t evict(int, const std::vector<int64_t>&) { return -ENOSYS; }
int64_t read_ahead(int, int64_t, int64_t) { return -ENOSYS; }
int64_t sync_range(int, int64_t, int64_t, int) { return -ENOSYS; }
int64_t cachestat(int, int64_t, int64_t, Counts*) { return -ENOSYS; }
int64_t mincore_resident(int, int64_t, int64_t) { return -ENOSYS; }
int64_t is_resident(int, int64_t, int64_t) { return -ENOSYS; }
int64_t split_folios(int, int64_t, int64_t) { return -ENOSYS; }

#endif

}  // namespace nbd_serve::page_cache
