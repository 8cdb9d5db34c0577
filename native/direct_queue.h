// Short direct reads without a thread: kernel AIO (io_submit(2)) with an eventfd that the event loop watches.
//
// A hop to the pool costs 20 us and more of processor time and two context switches, which is what a 4 KiB read of a
// quick disk is made of: 32 of them in flight took 41 us each through the pool. Containers and sandboxes that block
// io_uring let these calls through.
//
//     read ──► io_submit ──► disk ──► eventfd readable ──► io_getevents ──► done
//
// Every read goes through an aligned bounce buffer of its own, whatever its range looks like. Submitted with
// RWF_NOWAIT: what would have to wait (dirty pages to write back first, a full queue of the device) ends with -EAGAIN,
// and the caller goes through the pool. Not everything in a file system knows that flag: ext4 reads its extent tree from
// the disk the first time.
//
// Knows nothing of JavaScript. Everything runs on the loop's thread.
#pragma once

#include <uv.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace nbd_serve {

class DirectQueue {
 public:
  // What every file system and device takes; 512 would do for some.
  static constexpr size_t kAlignment = 4096;
  // Longest read. Its copy out of the bounce buffer, 6 us, is made on the event loop.
  static constexpr size_t kReadBytesMax = 64 * 1024;
  // In flight; further ones are refused. Four connections with 32 each, twice.
  static constexpr size_t kDepth = 256;

  // Destroyed on the event loop's thread. Without a call of done() before it when the environment ended first.
  class Read {
   public:
    Read() = default;
    Read(const Read&) = delete;
    Read& operator=(const Read&) = delete;
    virtual ~Read() = default;
    // Bytes that are at the caller's address now, fewer at the end of the file, or -errno.
    virtual void done(int64_t result) = 0;
  };

  using Closed = void (*)(void* context);

  DirectQueue() = default;
  DirectQueue(const DirectQueue&) = delete;
  DirectQueue& operator=(const DirectQueue&) = delete;

  // 0, or -errno: then there is no such queue here.
  int open(uv_loop_t* loop);
  bool is_open() const { return context_ != 0; }
  bool is_busy() const { return free_.size() < kDepth && is_open(); }
  // `direct_fd` was opened with O_DIRECT; it stays open, and `data` stays where it is, until done(). 0, or -errno, and
  // then `read` is left to the caller: -EAGAIN when the queue is full, -EINVAL for a read that is too long.
  int submit(int direct_fd, uint8_t* data, size_t length, int64_t offset, std::unique_ptr<Read>& read);
  // Waits for what is in flight and drops it; `closed` is called when libuv has let go of the handle. Only once open.
  void close(Closed closed, void* context);

 private:
  struct Slot {
    std::unique_ptr<Read> read;
    uint8_t* data = nullptr;
    size_t head = 0;
    size_t length = 0;
  };

  static void on_readable(uv_poll_t* handle, int status, int events);

  uint8_t* bounce_of(size_t index) const;
  void complete_all();
  void complete(size_t index, int64_t result);

  // aio_context_t, which is 0 for none.
  unsigned long context_ = 0;
  int event_fd_ = -1;
  uint8_t* bounces_ = nullptr;
  std::array<Slot, kDepth> slots_;
  // The last one given back first: its memory is in the processor's cache.
  std::vector<uint16_t> free_;
  uv_poll_t poll_ = {};
  Closed closed_ = nullptr;
  void* closed_context_ = nullptr;
};

}  // namespace nbd_serve
