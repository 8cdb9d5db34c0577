// What one JavaScript environment (the main thread, or one worker thread) owns, and how it ends.
//
// There is nothing else: no globals, so that any number of environments load the addon at the same time and
// the last one to leave can unload it.
//
// The end, in order: Node calls the asynchronous cleanup hook on the environment's own thread; pool threads
// are joined, listeners closed; libuv calls the close callbacks; with the last one the hook is removed, and
// only then does Node run finalizers, delete the instance data and close the event loop.
#pragma once

#include <napi.h>
#include <uv.h>

#include <memory>
#include <vector>

#include "bounce_buffers.h"
#include "busy_poll.h"
#include "direct_queue.h"
#include "worker_pool.h"

namespace nbd_serve {

// Something that holds a libuv handle and must let go of it when the environment ends.
class Closable {
 public:
  virtual void close() = 0;

 protected:
  ~Closable() = default;
};

class Environment : public std::enable_shared_from_this<Environment> {
 public:
  // Throws in JavaScript and answers false when the environment cannot be set up.
  static bool create(Napi::Env env);
  static Environment& of(napi_env env);

  Environment(napi_env env, uv_loop_t* loop) : env_(env), loop_(loop) {}
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  WorkerPool& pool() { return pool_; }
  BusyPoll& busy_poll() { return busy_poll_; }
  // Null where there is none.
  DirectQueue* direct_queue();
  // Shared with operations that still run when the environment ends.
  const std::shared_ptr<BounceBuffers>& bounces() { return bounces_; }
  uv_loop_t* loop() { return loop_; }
  bool ending() const { return ending_; }

  // `closable` is closed at the end unless removed before. Each add is paired with one handle_closed, when
  // libuv has called back for its handle.
  void add(Closable* closable);
  void remove(Closable* closable);
  void handle_closed();

 private:
  static void on_cleanup(napi_async_cleanup_hook_handle hook, void* context);

  const napi_env env_;
  uv_loop_t* const loop_;
  WorkerPool pool_;
  BusyPoll busy_poll_{pool_};
  // Opened when it is wanted first: the system has a bound on how many there are (fs.aio-max-nr).
  DirectQueue direct_queue_;
  bool has_tried_direct_queue_ = false;
  const std::shared_ptr<BounceBuffers> bounces_ = std::make_shared<BounceBuffers>();
  std::vector<Closable*> closables_;
  size_t open_handle_count_ = 0;
  bool ending_ = false;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  // Keeps this alive until the hook is removed, whatever becomes of the instance data.
  std::shared_ptr<Environment> self_;
};

// Calls `function` as the event loop would, nextTicks and microtasks included. What it throws becomes an
// uncaughtException and is not the caller's concern. False when it could not be called at all, because the
// environment is ending. Needs an open handle scope.
bool call_from_event_loop(napi_env env, napi_value function, size_t count, const napi_value* values);

}  // namespace nbd_serve
