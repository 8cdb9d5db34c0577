#include "direct_file.h"

#include <errno.h>

#include <algorithm>
#include <cstring>

#include "file_io.h"
#include "page_cache.h"

namespace nbd_serve {

int64_t DirectFile::read(uint8_t* data, size_t length, int64_t offset, int64_t change_count) {
  size_t ahead = 0;
  while (ahead < length) {
    const int64_t begin = offset + static_cast<int64_t>(ahead);
    const size_t to_border = AheadChunks::kChunkBytes - static_cast<uint64_t>(begin) % AheadChunks::kChunkBytes;
    const size_t count = ahead_.take(data + ahead, std::min(length - ahead, to_border), begin, change_count, true);
    if (count == 0) break;
    ahead += count;
  }
  if (ahead == length) return static_cast<int64_t>(length);
  const int64_t rest = read_from_disk(data + ahead, length - ahead, offset + static_cast<int64_t>(ahead));
  return rest < 0 ? rest : static_cast<int64_t>(ahead) + rest;
}

int64_t DirectFile::read_from_disk(uint8_t* data, size_t length, int64_t offset) {
  page_cache::Counts counts;
  const bool is_uncached =
      page_cache::cachestat(fd_, offset, static_cast<int64_t>(length), &counts) == 0 && counts.cached == 0;
  uint8_t* const bounce = is_uncached ? bounces_->take() : nullptr;
  if (bounce == nullptr) return file_io::pread_all(fd_, data, length, offset);

  size_t position = 0;
  while (position < length) {
    const int64_t begin = offset + static_cast<int64_t>(position);
    const size_t head = static_cast<size_t>(begin % static_cast<int64_t>(kAlignment));
    const size_t wanted = std::min(length - position, BounceBuffers::kBytes - head);
    const size_t aligned = (head + wanted + kAlignment - 1) / kAlignment * kAlignment;
    const int64_t result = file_io::preadv2(direct_fd_, bounce, aligned, begin - static_cast<int64_t>(head), 0);
    const size_t count =
        result <= static_cast<int64_t>(head) ? 0 : std::min(static_cast<size_t>(result) - head, wanted);
    std::memcpy(data + position, bounce + head, count);
    position += count;
    // The end of the file, an error, or a file that takes direct reads and then none of this one.
    if (count < wanted) break;
  }
  bounces_->give(bounce);
  if (position == length) return static_cast<int64_t>(length);
  // The rest, and the word on every error, come from the ordinary way.
  const int64_t rest =
      file_io::pread_all(fd_, data + position, length - position, offset + static_cast<int64_t>(position));
  return rest < 0 ? rest : static_cast<int64_t>(position) + rest;
}

int64_t DirectFile::write(const uint8_t* data, size_t length, int64_t offset, bool is_regular) {
  if (length % kAlignment != 0 || offset % static_cast<int64_t>(kAlignment) != 0) return -EINVAL;
  const int64_t bytes = static_cast<int64_t>(length);
  if (is_regular) {
    const int64_t written = file_io::is_written(fd_, offset, bytes);
    if (written != 1) return written == 0 ? -EAGAIN : written;
  }
  page_cache::Counts counts;
  if (page_cache::cachestat(fd_, offset, bytes, &counts) != 0 || counts.cached != 0) return -EBUSY;
  // Right before: a write behind the end would make the file long again.
  if (is_regular && offset + bytes > file_io::size(fd_)) return -ENODATA;
  const int64_t result = write_past_cache(data, length, offset);
  if (result < 0) return result;
  // Where the file system has put it there after all, nobody would write it back and evict it. A page that somebody has read
  // meanwhile is not dirty, where the kernel tells (6.5).
  const bool is_known = page_cache::cachestat(fd_, offset, bytes, &counts) == 0;
  if (!is_known || (counts.cached > 0 && counts.dirty != 0)) return -EOPNOTSUPP;
  return bytes;
}

int64_t DirectFile::write_past_cache(const uint8_t* data, size_t length, int64_t offset) {
  if (reinterpret_cast<uintptr_t>(data) % kAlignment == 0) {
    return file_io::pwritev2_all(direct_fd_, data, length, offset, 0);
  }
  uint8_t* const bounce = bounces_->take();
  if (bounce == nullptr) return -EAGAIN;
  int64_t result = 0;
  for (size_t position = 0; position < length && result >= 0; position += BounceBuffers::kBytes) {
    const size_t part = std::min(length - position, BounceBuffers::kBytes);
    std::memcpy(bounce, data + position, part);
    result = file_io::pwritev2_all(direct_fd_, bounce, part, offset + static_cast<int64_t>(position), 0);
  }
  bounces_->give(bounce);
  return result;
}

}  // namespace nbd_serve
