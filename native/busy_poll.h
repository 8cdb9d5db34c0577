// Polling for a short time after serving, instead of sleeping in epoll_wait at once.
//
// A client at queue depth 1 sends its next request some microseconds after a reply. Going to sleep and being
// woken in between costs more than the request itself.
//
// It does not poll while pool threads are at work: their result wakes the loop anyway, and on a machine with few
// processors polling would keep one from them.
//
// It is a bet that the next request comes soon. Where the client is slower, or gets no processor because this
// thread polls on the only one, the bet is lost; after each loss the next ones are left out, up to 64 of them. With several
// threads that poll it is lost, too, when the kernel took the processor for another one meanwhile, and when others wait for
// one: on two processors both would be polled on. RAM disk, two threads, four connections, with the first: 4 KiB writes at depth 1
// 407 MiB/s in place of 270 over a Unix socket, 303 in place of 250 over TCP; with the second, too: 1.02 to 1.05 and 1.00 to 1.02
// at depth 1, up to 1.08 and 1.17 at depth 4 and 32, 256 KiB writes over TCP 1.08. One thread alone that
// left the processor so would have (file) reads 0.95 to 1.0, writes 0.9, --cache none 0.8 to 0.98: it is what all wait for
// (2 cores, 2026-11-27).
//
// While it polls, an idle handle makes the loop ask epoll without waiting, turn after turn. Outside of that it
// does nothing, and is in nobody's way. Knows nothing of JavaScript; everything runs on the loop's thread.
#pragma once

#include <uv.h>

#include <cstdint>

#include "runnable_tasks.h"
#include "worker_pool.h"

namespace nbd_serve {

class BusyPoll {
 public:
  using Closed = void (*)(void* context);

  // `pool` is this loop's, and outlives it.
  explicit BusyPoll(const WorkerPool& pool) : pool_(pool) {}
  BusyPoll(const BusyPoll&) = delete;
  BusyPoll& operator=(const BusyPoll&) = delete;

  // Never fails; `loop` outlives it.
  void open(uv_loop_t* loop);
  // 0 turns it off. `is_one_of_many`: other threads poll, too.
  void set_duration(uint64_t nanoseconds, bool is_one_of_many);
  // A request has been served: poll from now on for the duration.
  void served();
  // `closed` is called when libuv has let go of the handle.
  void close(Closed closed, void* context);

 private:
  static constexpr uint32_t kPauseMax = 64;

  static void on_idle(uv_idle_t* handle);
  bool was_preempted() const;
  // Others want the processor.
  bool is_crowded(uint64_t now);
  void lose();
  void stop();

  const WorkerPool& pool_;
  uv_idle_t idle_ = {};
  uint64_t duration_ = 0;
  uint64_t end_ = 0;
  bool is_one_of_many_ = false;
  // Of this thread, when it began to poll.
  int64_t preemptions_ = 0;
  RunnableTasks runnable_tasks_;
  // When they may be counted again.
  uint64_t next_count_ = 0;
  bool is_polling_ = false;
  // Bets to leave out after the last loss, and how many of them are left.
  uint32_t pause_ = 0;
  uint32_t pause_left_ = 0;
  Closed closed_ = nullptr;
  void* closed_context_ = nullptr;
};

}  // namespace nbd_serve
