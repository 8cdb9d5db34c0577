// What the page cache holds of a file, and how to make it let go.
//
// Every function answers zero or more, or -errno. Off Linux all of them answer -ENOSYS. Knows nothing of
// JavaScript; callable on any thread.
#pragma once

#include <cstdint>
#include <vector>

namespace nbd_serve::page_cache {

// In pages of page_size(). -1 where it is not known.
struct Counts {
  int64_t cached = -1;
  int64_t dirty = -1;
  int64_t write_back = -1;
  int64_t evicted = -1;
  int64_t recently_evicted = -1;
};

int64_t page_size();
int64_t fadvise(int fd, int64_t offset, int64_t length, int advice);
// POSIX_FADV_DONTNEED on pairs of offset and length; a lone last number is ignored. 0, or the first error.
int64_t evict(int fd, const std::vector<int64_t>& ranges);
// POSIX_FADV_WILLNEED in steps: one call reads no more than the device's read-ahead or largest request,
// whichever is larger (force_page_cache_ra, mm/readahead.c), and drops the rest in silence.
int64_t read_ahead(int fd, int64_t offset, int64_t length);
int64_t sync_range(int fd, int64_t offset, int64_t length, int flags);
// Fills `counts` by cachestat(2), or, on a kernel before 6.5, only `cached`, by mincore(2). `length` 0: to
// the end of the file.
int64_t cachestat(int fd, int64_t offset, int64_t length, Counts* counts);
// Pages resident by mincore(2). Needs a descriptor open for reading.
int64_t mincore_resident(int fd, int64_t offset, int64_t length);
// 1 when every page of a range of a few MiB is in the cache and read (a page that read-ahead has only begun to read is
// not), else 0. By mincore(2), which says so of every page of a file that is neither ours nor writable.
int64_t is_resident(int fd, int64_t offset, int64_t length);
// Makes folios of one page of what is resident of a range, where it can: dirty folios stay as they are. No page is
// read from the disk, and none leaves the cache. Needs a descriptor open for reading, and Linux 5.14.
int64_t split_folios(int fd, int64_t offset, int64_t length);

}  // namespace nbd_serve::page_cache
