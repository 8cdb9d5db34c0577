#include "ahead_chunks.h"

#include <algorithm>
#include <cstring>

#include "page_cache.h"

namespace nbd_serve {
namespace {

// What every file system and device takes as the length of a direct read.
constexpr size_t kAlignment = 4096;

// A chunk that was not read whole for so long belongs to a reader who went elsewhere.
constexpr std::chrono::milliseconds kLeftAfter{500};

}  // namespace

AheadChunks::~AheadChunks() { clear(); }

bool AheadChunks::reserve(int64_t offset, size_t length, int64_t change_count) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (find(offset, 1) != chunks_.end() || !make_room()) return false;
  chunks_.emplace_back(offset, length, change_count);
  count_ = chunks_.size();
  return true;
}

void AheadChunks::fill(int64_t offset) {
  std::unique_lock<std::mutex> lock(mutex_);
  const Iterator chunk = find(offset, 1);
  if (chunk == chunks_.end() || chunk->state != State::kReserved) return;
  chunk->state = State::kReading;
  chunk->users = 1;
  lock.unlock();

  // Before all else: a change from here on makes the chunk useless.
  bool is_good = file_io::stamp(fd_, &chunk->stamp) == 0;
  page_cache::Counts counts;
  is_good = is_good && page_cache::cachestat(fd_, offset, static_cast<int64_t>(chunk->length), &counts) == 0 &&
            counts.cached == 0;
  uint8_t* const bounce = is_good ? bounces_->take() : nullptr;
  if (bounce != nullptr) {
    const size_t aligned = (chunk->length + kAlignment - 1) / kAlignment * kAlignment;
    const int64_t count = file_io::preadv2(direct_fd_, bounce, aligned, offset, 0);
    is_good = count >= static_cast<int64_t>(chunk->length);
  }

  lock.lock();
  chunk->bounce = bounce;
  chunk->state = State::kReady;
  chunk->users = 0;
  if (bounce == nullptr || !is_good || chunk->is_forgotten) forget(chunk);
  lock.unlock();
  filled_.notify_all();
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
  if (chunk->state == State::kReserved || chunk->change_count != change_count || !(chunk->stamp == now)) {
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

void AheadChunks::clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Iterator chunk = chunks_.begin(); chunk != chunks_.end();) forget(chunk++);
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

// Whoever uses it last gives its memory back.
void AheadChunks::forget(Iterator chunk) {
  chunk->is_forgotten = true;
  if (chunk->users > 0) return;
  if (chunk->bounce != nullptr) bounces_->give(chunk->bounce);
  chunks_.erase(chunk);
  count_ = chunks_.size();
}

}  // namespace nbd_serve
