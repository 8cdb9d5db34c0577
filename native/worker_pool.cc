#include "worker_pool.h"

#include <errno.h>
#include <signal.h>

#include <algorithm>
#include <utility>

namespace nbd_serve {
namespace {

// A pool thread calls the kernel and little else; the sanitizers' frames are what needs the room.
constexpr size_t kThreadStackBytes = 512 * 1024;

// -errno of pthread_create, or 0.
int start_thread(pthread_t* thread, void* (*entry)(void*), void* argument) {
  pthread_attr_t attributes;
  int error = pthread_attr_init(&attributes);
  if (error != 0) return -error;
  error = pthread_attr_setstacksize(&attributes, kThreadStackBytes);

  // A thread inherits its creator's signal mask. With every signal blocked no pool thread is ever chosen to
  // run a handler, so that EINTR cannot cut a transfer short: Node's own thread takes them all.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  if (error == 0) error = pthread_sigmask(SIG_SETMASK, &all, &before);
  if (error == 0) {
    error = pthread_create(thread, &attributes, entry, argument);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  pthread_attr_destroy(&attributes);
  return -error;
}

}  // namespace

int WorkerPool::open(uv_loop_t* loop) {
  const int error = uv_async_init(loop, &wake_up_, on_wake_up);
  if (error != 0) return error;
  wake_up_.data = this;
  // Nothing is pending yet, so an idle process may exit.
  uv_unref(reinterpret_cast<uv_handle_t*>(&wake_up_));
  return 0;
}

void WorkerPool::set_thread_count_max(size_t count) {
  std::lock_guard<std::mutex> lock(queue_mutex_);
  thread_count_max_ = count;
  join_retired();
  // Those beyond the new maximum find out and leave.
  queue_changed_.notify_all();
}

void WorkerPool::submit(std::unique_ptr<Operation> operation) {
  // Only this thread ever sets it, so it may be read without the mutex. An operation submitted while the
  // environment ends has nobody left to be completed by.
  if (closing_) return;
  if (pending_count_ == 0) uv_ref(reinterpret_cast<uv_handle_t*>(&wake_up_));
  pending_count_ += 1;

  std::unique_lock<std::mutex> lock(queue_mutex_);
  queue_.push_back(std::move(operation));
  start_thread_if_needed(lock);
  if (!lock.owns_lock()) return;
  lock.unlock();
  queue_changed_.notify_one();
}

// Compares the idle threads with the queue and not with zero: a thread that was notified counts as idle
// until it has the mutex, and two quick submissions would both count on it.
void WorkerPool::start_thread_if_needed(std::unique_lock<std::mutex>& lock) {
  if (queue_.size() <= idle_count_ || threads_.size() >= thread_count_max_) return;
  join_retired();
  pthread_t thread;
  const int error = start_thread(&thread, thread_main, this);
  if (error == 0) {
    threads_.push_back(thread);
    return;
  }
  // With another thread alive the queue is still served, later. Without any, nobody ever would.
  if (!threads_.empty()) return;
  std::unique_ptr<Operation> refused = std::move(queue_.back());
  queue_.pop_back();
  lock.unlock();
  refused->refuse(error);
  push_completed(std::move(refused));
}

void WorkerPool::join_retired() {
  for (const pthread_t thread : retired_) pthread_join(thread, nullptr);
  retired_.clear();
}

void* WorkerPool::thread_main(void* pool) {
#ifdef __linux__
  // For people reading top(1) and gdb. It can only fail for a name over 15 characters.
  pthread_setname_np(pthread_self(), "nbd-serve-io");
#endif
  static_cast<WorkerPool*>(pool)->serve_queue();
  return nullptr;
}

void WorkerPool::serve_queue() {
  std::unique_lock<std::mutex> lock(queue_mutex_);
  for (;;) {
    while (queue_.empty() && !closing_ && threads_.size() <= thread_count_max_) {
      idle_count_ += 1;
      queue_changed_.wait(lock);
      idle_count_ -= 1;
    }
    if (closing_) return;
    if (threads_.size() > thread_count_max_) {
      const pthread_t self = pthread_self();
      threads_.erase(std::find_if(threads_.begin(), threads_.end(), [self](pthread_t thread) {
        return pthread_equal(thread, self) != 0;
      }));
      retired_.push_back(self);
      // The notification that woke this thread may have been meant for an operation.
      queue_changed_.notify_one();
      return;
    }
    std::unique_ptr<Operation> operation = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    operation->execute();
    push_completed(std::move(operation));
    lock.lock();
  }
}

// The mutex also orders execute()'s results before the event loop's reading of them in complete().
void WorkerPool::push_completed(std::unique_ptr<Operation> operation) {
  std::lock_guard<std::mutex> lock(completed_mutex_);
  completed_.push_back(std::move(operation));
  // Whoever made the list non-empty has woken the loop, and the loop takes the whole list. The handle is
  // open here: close() joins this thread before it closes it. It fails only for a handle of another type.
  if (completed_.size() == 1) uv_async_send(&wake_up_);
}

void WorkerPool::on_wake_up(uv_async_t* handle) {
  static_cast<WorkerPool*>(handle->data)->complete_all();
}

void WorkerPool::complete_all() {
  std::vector<std::unique_ptr<Operation>> batch;
  {
    std::lock_guard<std::mutex> lock(completed_mutex_);
    batch.swap(completed_);
  }
  for (std::unique_ptr<Operation>& operation : batch) {
    // First, so that a callback that ends the process finds nothing of its own pending.
    pending_count_ -= 1;
    operation->complete();
    // Now and not with the batch: it holds a buffer that may be large.
    operation.reset();
  }
  if (pending_count_ == 0) uv_unref(reinterpret_cast<uv_handle_t*>(&wake_up_));
}

void WorkerPool::close(Closed closed, void* context) {
  std::deque<std::unique_ptr<Operation>> discarded;
  std::vector<pthread_t> threads;
  {
    std::lock_guard<std::mutex> lock(queue_mutex_);
    closing_ = true;
    discarded.swap(queue_);
    threads.swap(threads_);
    join_retired();
  }
  queue_changed_.notify_all();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  discarded.clear();
  completed_.clear();

  closed_ = closed;
  closed_context_ = context;
  uv_close(reinterpret_cast<uv_handle_t*>(&wake_up_), [](uv_handle_t* handle) {
    WorkerPool* pool = static_cast<WorkerPool*>(handle->data);
    pool->closed_(pool->closed_context_);
  });
}

}  // namespace nbd_serve
