// The addon's own threads, for calls that can wait for a disk.
//
// Not libuv's pool: an fdatasync or a window's wait can take seconds, and four of them would stop every
// fs.* and dns.* call of the process. One pool per JavaScript environment, so that a worker thread's end
// joins its own threads and nobody else's.
//
//     event loop thread              pool threads (0 to `thread count max`)
//
//     submit ──► queue (FIFO) ─────► execute ──┐
//                                              │ completed (one mutex)
//     complete, in order ◄── uv_async_t ◄──────┘
//
// One wake-up completes everything that finished until then. The uv_async_t keeps the event loop alive
// exactly while an operation is between submit and complete.
//
// Knows nothing of JavaScript: an Operation says what to do on either side.
#pragma once

#include <pthread.h>
#include <uv.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

namespace nbd_serve {

// Constructed, completed and destroyed on the event loop's thread; executed on a pool thread.
class Operation {
 public:
  Operation() = default;
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  // Without a complete() before it when the environment ended first.
  virtual ~Operation() = default;

  virtual void execute() = 0;
  // Instead of execute(), on the event loop's thread, when no thread can be had.
  virtual void refuse(int error) = 0;
  virtual void complete() = 0;
};

class WorkerPool {
 public:
  static constexpr size_t kThreadCountDefault = 16;
  // Each thread costs a stack and, when all of them wake at once, a lock to queue for. Above this the
  // queue's mutex is what one would measure.
  static constexpr size_t kThreadCountMax = 256;

  using Closed = void (*)(void* context);

  WorkerPool() = default;
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // 0, or libuv's negative error. Everything below is for the thread of `loop` alone.
  int open(uv_loop_t* loop);
  void set_thread_count_max(size_t count);
  void submit(std::unique_ptr<Operation> operation);
  // An operation is between submit and complete.
  bool is_busy() const { return pending_count_ > 0; }

  // Drops what is queued, waits for what runs, joins the threads, drops what is completed, then closes the
  // loop's handle: `closed` is called when libuv has let go of it, and the pool may be freed.
  void close(Closed closed, void* context);

 private:
  static void* thread_main(void* pool);
  static void on_wake_up(uv_async_t* handle);

  void serve_queue();
  void start_thread_if_needed(std::unique_lock<std::mutex>& lock);
  void join_retired();
  void push_completed(std::unique_ptr<Operation> operation);
  void complete_all();

  std::mutex queue_mutex_;
  std::condition_variable queue_changed_;
  std::deque<std::unique_ptr<Operation>> queue_;
  std::vector<pthread_t> threads_;
  // Threads that left because the maximum went down. They hold no lock any more, only wait for their join.
  std::vector<pthread_t> retired_;
  size_t idle_count_ = 0;
  size_t thread_count_max_ = kThreadCountDefault;
  bool closing_ = false;

  std::mutex completed_mutex_;
  std::vector<std::unique_ptr<Operation>> completed_;

  // Only the event loop's thread touches what follows.
  uv_async_t wake_up_ = {};
  size_t pending_count_ = 0;
  Closed closed_ = nullptr;
  void* closed_context_ = nullptr;
};

}  // namespace nbd_serve
