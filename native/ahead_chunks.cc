#include "ahead_chunks.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <iterator>

#include "page_cache.h"

namespace nbd_serve {
namespace {

// What every file system and device takes as the length of a direct read.
constexpr size_t kAlignment = 4096;

// A chunk that was not read whole for so long belongs to a reader who went elsewhere, and may make room.
constexpr std::chrono::milliseconds kLeftAfter{500};

// Of the file, before anything is read ahead of it.
constexpr int64_t kUnchangedSeconds = 1;

bool is_settled(const file_io::Stamp& stamp) {
  struct timespec now;
  // It cannot fail for this clock, by which file systems set their times.
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return false;
  const auto is_old = [&now](int64_t seconds, int64_t nanoseconds) {
    const int64_t age = now.tv_sec - seconds;
    return age > kUnchangedSeconds || (age == kUnchangedSeconds && now.tv_nsec >= nanoseconds);
  };
  return is_old(stamp.modified_seconds, stamp.modified_nanoseconds) &&
         is_old(stamp.changed_seconds, stamp.changed_nanoseconds);
}

}  // namespace

AheadChunks::~AheadChunks() { clear(0, INT64_MAX); }

bool AheadChunks::reserve(int64_t offset, size_t length, int64_t change_count) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (find(offset, 1) != chunks_.end() || !make_room()) return false;
  if (!bounces_->may_keep()) return false;
  chunks_.emplace_back(offset, length, change_count);
  count_ = chunks_.size();
  return true;
}

int64_t AheadChunks::fill(int64_t offset) {
  std::unique_lock<std::mutex> lock(mutex_);
  const Iterator chunk = find(offset, 1);
  if (chunk == chunks_.end() || chunk->state != State::kReserved) return 0;
  chunk->state = State::kReading;
  chunk->users = 1;
  lock.unlock();

  // Before all else: a change from here on makes the chunk useless.
  bool is_good = file_io::stamp(fd_, &chunk->stamp) == 0 && is_settled(chunk->stamp);
  const int64_t bytes = static_cast<int64_t>(chunk->length);
  page_cache::Counts counts;
  is_good = is_good && page_cache::cachestat(fd_, offset, bytes, &counts) == 0 && counts.cached == 0;
  uint8_t* const bounce = is_good ? bounces_->take() : nullptr;
  if (bounce != nullptr) {
    const size_t aligned = (chunk->length + kAlignment - 1) / kAlignment * kAlignment;
    const int64_t count = file_io::preadv2(direct_fd_, bounce, aligned, offset, 0);
    is_good = count >= bytes && page_cache::cachestat(fd_, offset, bytes, &counts) == 0;
  }
  const int64_t cached = bounce != nullptr ? std::max<int64_t>(counts.cached, 0) : 0;

  lock.lock();
  chunk->bounce = bounce;
  chunk->state = State::kReady;
  chunk->users = 0;
  if (bounce == nullptr || !is_good || chunk->is_forgotten) forget(chunk);
  lock.unlock();
  filled_.notify_all();
  return cached;
}

size_t AheadChunks::take(uint8_t* data, size_t length, int64_t offset, int64_t change_count, bool may_wait) {
  if (count_ == 0) return 0;
  file_io::Stamp now;
  if (file_io::stamp(fd_, &now) != 0) return 0;
  std::unique_lock<std::mutex> lock(mutex_);
  Iterator chunk = find(offset, length);
  while (may_wait && chunk != chunks_.end() && chunk->state == State::kReading) {
    filled_.wait(lock);
    chunk = find(offset, length);
  }
  if (chunk == chunks_.end() || chunk->state == State::kReading) return 0;
  if (!is_good(*chunk, change_count, now)) {
    forget(chunk);
    return 0;
  }
  chunk->users += 1;
  lock.unlock();
  std::memcpy(data, chunk->bounce + (offset - chunk->offset), length);
  lock.lock();
  chunk->users -= 1;
  chunk->copied_bytes += length;
  if (chunk->copied_bytes >= chunk->length || chunk->is_forgotten) forget(chunk);
  return length;
}

void AheadChunks::clear(int64_t begin, int64_t end) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Iterator chunk = chunks_.begin(); chunk != chunks_.end();) {
    const Iterator next = std::next(chunk);
    if (chunk->offset >= begin && chunk->offset < end) forget(chunk);
    chunk = next;
  }
}

AheadChunks::Iterator AheadChunks::find(int64_t offset, size_t length) {
  return std::find_if(chunks_.begin(), chunks_.end(), [=](const Chunk& chunk) {
    return !chunk.is_forgotten && offset >= chunk.offset &&
           offset + static_cast<int64_t>(length) <= chunk.offset + static_cast<int64_t>(chunk.length);
  });
}

bool AheadChunks::make_room() {
  if (chunks_.size() < kChunkCountMax) return true;
  const auto left = std::chrono::steady_clock::now() - kLeftAfter;
  const Iterator oldest = std::find_if(chunks_.begin(), chunks_.end(), [=](const Chunk& chunk) {
    return chunk.users == 0 && chunk.since < left;
  });
  if (oldest == chunks_.end()) return false;
  forget(oldest);
  return true;
}

// However old: what a slow client has not asked for yet would be read from the disk twice.
bool AheadChunks::is_good(const Chunk& chunk, int64_t change_count, const file_io::Stamp& now) {
  return chunk.state == State::kReady && chunk.change_count == change_count && chunk.stamp == now;
}

// Whoever uses it last gives its memory back.
void AheadChunks::forget(Iterator chunk) {
  chunk->is_forgotten = true;
  if (chunk->users > 0) return;
  if (chunk->bounce != nullptr) bounces_->give(chunk->bounce);
  bounces_->forget_kept();
  chunks_.erase(chunk);
  count_ = chunks_.size();
}

}  // namespace nbd_serve
