#include "busy_poll.h"

#include <sys/resource.h>

#include <algorithm>

namespace nbd_serve {
namespace {

// The runnable tasks are counted no more often, which takes 1 us: every 5 us cost as much as it gained. Nor for more than a
// twentieth of the time, on machines with many processors.
constexpr uint64_t kCountNanoseconds = 20000;
constexpr uint64_t kCountShare = 20;

// How often the kernel has taken the processor from this thread for another one.
int64_t preemptions() {
#ifdef __linux__
  struct rusage usage = {};
  if (::getrusage(RUSAGE_THREAD, &usage) == 0) return usage.ru_nivcsw;
#endif
  return 0;
}

}  // namespace

void BusyPoll::open(uv_loop_t* loop) {
  // It always succeeds: uv_idle_init in libuv's documentation, which returns an int for symmetry.
  (void)uv_idle_init(loop, &idle_);
  idle_.data = this;
  // Polling is no reason to keep the process alive.
  uv_unref(reinterpret_cast<uv_handle_t*>(&idle_));
}

void BusyPoll::set_duration(uint64_t nanoseconds, bool is_one_of_many) {
  duration_ = nanoseconds;
  is_one_of_many_ = is_one_of_many;
  if (duration_ > 0 && is_one_of_many) runnable_tasks_.open();
}

bool BusyPoll::was_preempted() const { return is_one_of_many_ && preemptions() != preemptions_; }

bool BusyPoll::is_crowded(uint64_t now) {
  if (!is_one_of_many_ || now < next_count_) return false;
  const bool is_crowded = runnable_tasks_.exceed_processors();
  const uint64_t end = uv_hrtime();
  next_count_ = end + std::max(kCountNanoseconds, kCountShare * (end - now));
  return is_crowded;
}

void BusyPoll::served() {
  if (duration_ == 0 || pool_.is_busy()) return;
  if (is_polling_) {
    if (was_preempted()) {
      lose();
      return;
    }
    pause_ = 0;
    end_ = uv_hrtime() + duration_;
    return;
  }
  if (pause_left_ > 0) {
    pause_left_ -= 1;
    return;
  }
  end_ = uv_hrtime() + duration_;
  if (is_one_of_many_) preemptions_ = preemptions();
  is_polling_ = true;
  // It fails for a null callback only.
  (void)uv_idle_start(&idle_, on_idle);
}

void BusyPoll::on_idle(uv_idle_t* handle) {
  BusyPoll* poll = static_cast<BusyPoll*>(handle->data);
  if (poll->pool_.is_busy()) {
    poll->stop();
    return;
  }
  const uint64_t now = uv_hrtime();
  if (now >= poll->end_ || poll->is_crowded(now)) poll->lose();
}

void BusyPoll::lose() {
  pause_ = std::min(2 * pause_ + 1, kPauseMax);
  pause_left_ = pause_;
  stop();
}

void BusyPoll::stop() {
  is_polling_ = false;
  (void)uv_idle_stop(&idle_);
}

void BusyPoll::close(Closed closed, void* context) {
  duration_ = 0;
  runnable_tasks_.close();
  closed_ = closed;
  closed_context_ = context;
  uv_close(reinterpret_cast<uv_handle_t*>(&idle_), [](uv_handle_t* handle) {
    BusyPoll* poll = static_cast<BusyPoll*>(handle->data);
    poll->closed_(poll->closed_context_);
  });
}

}  // namespace nbd_serve
