// Reads and writes that leave nothing in the page cache: O_DIRECT, where the cache holds nothing of the range.
//
// Large folios are what makes reading through the page cache fast, and only the kernel's own read-ahead builds
// them: without it (POSIX_FADV_RANDOM) single pages come in, 1.0 to 1.2 GB/s where a direct read into one huge
// page reaches 1.6 to 2.5 (Linux 6.18, ext4 on virtio, 256 KiB and 1 MiB, 4 and 16 threads).
//
// A direct read needs aligned memory, offsets and lengths, and gets them here whatever the request looks like:
// it goes through a bounce buffer, whose copy costs some 10 % of what the page cache's pages do. Coherent with
// buffered writes: a range of which anything is cached is read through the cache, and the kernel writes back
// dirty pages before a direct read (open(2), NOTES on O_DIRECT).
//
// A write needs an aligned range, of which nothing is cached and every block was written before: others are the page
// cache's. It would merge what fills a hole, which a direct write makes a transaction of its own.
//
// Knows nothing of JavaScript; callable on any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "ahead_chunks.h"
#include "bounce_buffers.h"

namespace nbd_serve {

class DirectFile {
 public:
  // What every file system and device takes; 512 would do for some.
  static constexpr size_t kAlignment = 4096;

  // `fd` reads through the page cache, `direct_fd` was opened with O_DIRECT; both stay the caller's.
  DirectFile(int fd, int direct_fd, std::shared_ptr<BounceBuffers> bounces)
      : fd_(fd), direct_fd_(direct_fd), bounces_(std::move(bounces)), ahead_(fd, direct_fd, bounces_) {}
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;

  // Until `length` or the end of the file: bytes read, or -errno. `change_count`: see AheadChunks.
  int64_t read(uint8_t* data, size_t length, int64_t offset, int64_t change_count);
  AheadChunks& ahead() { return ahead_; }
  // `length`, or -errno; then a part may have been written. -EAGAIN: a block was never written, or there is no bounce
  // memory; -EBUSY: some of it is cached, or that cannot be told. Both are the page cache's. -ENODATA: a regular file that
  // ends before the range does. -EINVAL for a range that is not aligned, -EOPNOTSUPP where the file system does not tell
  // which blocks were written, or has written through the page cache without a word (ext4 with data=journal).
  int64_t write(const uint8_t* data, size_t length, int64_t offset, bool is_regular);
  // Gives the memory that nobody uses back.
  void release() {
    ahead_.clear(0, INT64_MAX);
    bounces_->release();
  }

 private:
  int64_t write_past_cache(const uint8_t* data, size_t length, int64_t offset);
  int64_t read_from_disk(uint8_t* data, size_t length, int64_t offset);

  const int fd_;
  const int direct_fd_;
  const std::shared_ptr<BounceBuffers> bounces_;
  AheadChunks ahead_;
};

}  // namespace nbd_serve
