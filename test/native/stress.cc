// Write windows and the worker pool under many threads, without Node: for ThreadSanitizer, which Node itself would
// fill with reports. Takes the path of a file to write to. Built by test/native/sanitizers.sh.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "worker_pool.h"
#include "write_windows.h"

// A stand-in for libuv, whose code is inside Node: one loop of one handle, as far as worker_pool.cc uses it.
namespace {

std::mutex loop_mutex;
std::condition_variable loop_changed;
uv_async_t* loop_handle = nullptr;
uv_async_cb loop_callback = nullptr;
bool loop_is_signalled = false;
uv_close_cb close_callback = nullptr;

void check(bool condition, const char* what) {
  if (!condition) {
    fprintf(stderr, "failed: %s\n", what);
    exit(2);
  }
}

// One turn: waits for a signal, then calls back without the lock, as libuv does.
void run_loop_once() {
  uv_close_cb closed = nullptr;
  {
    std::unique_lock<std::mutex> lock(loop_mutex);
    loop_changed.wait(lock, [] { return loop_is_signalled || close_callback != nullptr; });
    loop_is_signalled = false;
    closed = close_callback;
  }
  if (closed != nullptr) {
    closed(reinterpret_cast<uv_handle_t*>(loop_handle));
    return;
  }
  loop_callback(loop_handle);
}

}  // namespace

extern "C" {
int uv_async_init(uv_loop_t*, uv_async_t* handle, uv_async_cb callback) {
  loop_handle = handle;
  loop_callback = callback;
  return 0;
}
int uv_async_send(uv_async_t*) {
  std::lock_guard<std::mutex> lock(loop_mutex);
  loop_is_signalled = true;
  loop_changed.notify_one();
  return 0;
}
void uv_close(uv_handle_t*, uv_close_cb callback) {
  std::lock_guard<std::mutex> lock(loop_mutex);
  close_callback = callback;
  loop_changed.notify_one();
}
void uv_ref(uv_handle_t*) {}
void uv_unref(uv_handle_t*) {}
}

namespace {

using nbd_serve::Operation;
using nbd_serve::WorkerPool;
using nbd_serve::WriteWindows;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kFileBytes = 8 * 1024 * 1024;

// Written by pool threads and read by the loop's: the pool's own synchronisation must be enough.
struct Counters {
  int executed = 0;
  int completed = 0;
  int destroyed = 0;
};

class Advance : public Operation {
 public:
  Advance(std::shared_ptr<WriteWindows> windows, bool is_drain, Counters* counters)
      : call_(std::move(windows)), is_drain_(is_drain), counters_(counters) {}
  ~Advance() override { counters_->destroyed += 1; }

  void execute() override {
    if (is_drain_) {
      call_.drain();
    } else {
      call_.advance();
    }
    was_executed_ = true;
  }
  void refuse(int) override { check(false, "a thread could be had"); }
  void complete() override {
    check(was_executed_, "complete() comes after execute()");
    counters_->executed += 1;
    call_.forget();
    check(call_.failure().error == 0, "no write-back error");
    counters_->completed += 1;
  }

 private:
  WriteWindows::Call call_;
  const bool is_drain_;
  Counters* const counters_;
  bool was_executed_ = false;
};

void stress_pool(int fd, int rounds) {
  auto windows = std::make_shared<WriteWindows>(fd, 4, 64 * 1024, kPage);
  Counters counters;
  WorkerPool pool;
  check(pool.open(nullptr) == 0, "the pool opens");
  int submitted = 0;
  std::vector<char> data(kPage, 'x');
  for (int round = 0; round < rounds; round += 1) {
    const uint64_t offset = static_cast<uint64_t>(round) * 7 * kPage % kFileBytes;
    check(pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset)) == static_cast<ssize_t>(kPage), "pwrite");
    const bool is_full = windows->add(offset, kPage);
    const bool is_drain = round % 97 == 0;
    if (is_full || is_drain) {
      pool.submit(std::make_unique<Advance>(windows, is_drain, &counters));
      submitted += 1;
    }
    if (round % 251 == 0) pool.set_thread_count_max(1 + static_cast<size_t>(round / 251) % 12);
    while (submitted - counters.completed > 24) run_loop_once();
  }
  while (counters.completed < submitted) run_loop_once();
  pool.submit(std::make_unique<Advance>(windows, true, &counters));
  while (counters.completed < submitted + 1) run_loop_once();
  check(windows->pending_bytes() == 0, "a drain leaves nothing pending");
  // The end while operations are queued, running and completed.
  for (int index = 0; index < 64; index += 1) {
    windows->add(static_cast<uint64_t>(index) * kPage, kPage);
    pool.submit(std::make_unique<Advance>(windows, index % 8 == 0, &counters));
  }
  bool is_closed = false;
  pool.close([](void* context) { *static_cast<bool*>(context) = true; }, &is_closed);
  while (!is_closed) run_loop_once();
  check(counters.destroyed == submitted + 1 + 64, "every operation is destroyed once");
  close_callback = nullptr;
  loop_is_signalled = false;
}

// Without the pool: add() on one thread, as on the event loop; advance() and drain() on many.
void stress_windows(int fd) {
  auto windows = std::make_shared<WriteWindows>(fd, 8, 16 * 1024, kPage);
  std::atomic<bool> is_done{false};
  std::vector<std::thread> threads;
  for (int index = 0; index < 6; index += 1) {
    threads.emplace_back([&windows, &is_done, index] {
      while (!is_done.load(std::memory_order_relaxed)) {
        WriteWindows::Call call(windows);
        if (index == 0) {
          call.drain();
        } else {
          call.advance();
        }
        call.forget();
        check(call.failure().error == 0, "no write-back error");
      }
    });
  }
  for (uint64_t round = 0; round < 4000; round += 1) {
    windows->add(round * 13 % 2048 * kPage, kPage * (1 + round % 3));
    if (round % 64 == 0) windows->pending_bytes();
  }
  is_done.store(true, std::memory_order_relaxed);
  for (std::thread& thread : threads) thread.join();
  WriteWindows::Call call(windows);
  call.drain();
  check(windows->pending_bytes() == 0, "a drain leaves nothing pending");
}

}  // namespace

int main(int count, char** arguments) {
  check(count == 2, "usage: stress FILE");
  const int fd = open(arguments[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
  check(fd >= 0 && ftruncate(fd, static_cast<off_t>(kFileBytes)) == 0, "the file can be made");
  stress_windows(fd);
  for (int round = 0; round < 4; round += 1) stress_pool(fd, 1500);
  close(fd);
  printf("stressed\n");
  return 0;
}
