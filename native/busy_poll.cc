#include "busy_poll.h"

#include <algorithm>

namespace nbd_serve {

void BusyPoll::open(uv_loop_t* loop) {
  // It always succeeds: uv_idle_init in libuv's documentation, which returns an int for symmetry.
  (void)uv_idle_init(loop, &idle_);
  idle_.data = this;
  // Polling is no reason to keep the process alive.
  uv_unref(reinterpret_cast<uv_handle_t*>(&idle_));
}

void BusyPoll::set_duration(uint64_t nanoseconds) { duration_ = nanoseconds; }

void BusyPoll::served() {
  if (duration_ == 0 || pool_.is_busy()) return;
  if (is_polling_) {
    pause_ = 0;
    end_ = uv_hrtime() + duration_;
    return;
  }
  if (pause_left_ > 0) {
    pause_left_ -= 1;
    return;
  }
  end_ = uv_hrtime() + duration_;
  is_polling_ = true;
  // It fails for a null callback only.
  (void)uv_idle_start(&idle_, on_idle);
}

void BusyPoll::on_idle(uv_idle_t* handle) {
  BusyPoll* poll = static_cast<BusyPoll*>(handle->data);
  const bool is_busy = poll->pool_.is_busy();
  if (!is_busy && uv_hrtime() < poll->end_) return;
  if (!is_busy) {
    poll->pause_ = std::min(2 * poll->pause_ + 1, kPauseMax);
    poll->pause_left_ = poll->pause_;
  }
  poll->is_polling_ = false;
  (void)uv_idle_stop(handle);
}

void BusyPoll::close(Closed closed, void* context) {
  duration_ = 0;
  closed_ = closed;
  closed_context_ = context;
  uv_close(reinterpret_cast<uv_handle_t*>(&idle_), [](uv_handle_t* handle) {
    BusyPoll* poll = static_cast<BusyPoll*>(handle->data);
    poll->closed_(poll->closed_context_);
  });
}

}  // namespace nbd_serve
