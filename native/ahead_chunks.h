// Chunks of a regular file that were read ahead, past the page cache, into memory of our own.
//
// A client that reads in order with several requests in flight sends the next ones when it has their replies: disk and
// socket take turns. With the next chunks read meanwhile they work at the same time.
//
// What is here must never be older than what the page cache would answer. A chunk is good as long as nothing has changed
// the file since before it was read: the server's own changes are counted by the caller (`change_count`), those of others
// show in the file's times and size. Times tell of a change when it begins, a direct write of another program may go on
// after that, and before Linux 6.13 they have the resolution of a clock tick: nothing is read ahead of a file that was
// changed in the last second.
//
// Knows nothing of JavaScript; callable on any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

#include "bounce_buffers.h"
#include "file_io.h"

namespace nbd_serve {

class AheadChunks {
 public:
  static constexpr size_t kChunkBytes = BounceBuffers::kBytes;
  // Of one file: those ahead of its reader, and as many that are still being copied or were left behind.
  static constexpr size_t kChunkCountMax = 16;

  AheadChunks(int fd, int direct_fd, std::shared_ptr<BounceBuffers> bounces)
      : fd_(fd), direct_fd_(direct_fd), bounces_(std::move(bounces)) {}
  AheadChunks(const AheadChunks&) = delete;
  AheadChunks& operator=(const AheadChunks&) = delete;
  ~AheadChunks();

  // Announces the chunk from `offset` on, a multiple of kChunkBytes, which `fill` is going to read. `length`: not beyond the
  // end of the file. False: it is there, or there is no room.
  bool reserve(int64_t offset, size_t length, int64_t change_count);
  // Reads an announced chunk, unless a reader was quicker. Pages of it that are in the page cache afterwards: some where the
  // file system has not gone past it (without a word, such as ext4 with data=journal).
  int64_t fill(int64_t offset);
  // Copies a range that lies in one chunk: `length`, or 0 when the caller has to read it. Waits for a chunk that is being
  // read, or does not.
  size_t take(uint8_t* data, size_t length, int64_t offset, int64_t change_count, bool may_wait);
  // Forgets the chunks that begin in a range: their memory goes back once nobody uses it.
  void clear(int64_t begin, int64_t end);

 private:
  enum class State { kReserved, kReading, kReady };

  struct Chunk {
    Chunk(int64_t begin, size_t bytes, int64_t changes) : offset(begin), length(bytes), change_count(changes) {}

    const int64_t offset;
    const size_t length;
    const int64_t change_count;
    State state = State::kReserved;
    file_io::Stamp stamp;
    uint8_t* bounce = nullptr;
    size_t copied_bytes = 0;
    int users = 0;
    bool is_forgotten = false;
    const std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
  };
  using Iterator = std::list<Chunk>::iterator;

  // These expect the mutex held.
  Iterator find(int64_t offset, size_t length);
  bool make_room();
  static bool is_good(const Chunk& chunk, int64_t change_count, const file_io::Stamp& now);
  void forget(Iterator chunk);

  const int fd_;
  const int direct_fd_;
  const std::shared_ptr<BounceBuffers> bounces_;

  // Never held across a system call.
  std::mutex mutex_;
  std::condition_variable filled_;
  // The oldest first.
  std::list<Chunk> chunks_;
  // For readers who find none, which is most of them.
  std::atomic<size_t> count_{0};
};

}  // namespace nbd_serve
