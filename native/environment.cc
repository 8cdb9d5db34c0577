#include "environment.h"

#include <algorithm>
#include <utility>

namespace nbd_serve {
namespace {

using Holder = std::shared_ptr<Environment>;

}  // namespace

bool Environment::create(Napi::Env env) {
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) {
    Napi::Error::New(env, "Event loop of this environment cannot be found").ThrowAsJavaScriptException();
    return false;
  }
  Holder environment = std::make_shared<Environment>(env, loop);
  const int error = environment->pool_.open(loop);
  if (error != 0) {
    Napi::Error::New(env, std::string("Worker pool cannot be opened: ") + uv_strerror(error))
        .ThrowAsJavaScriptException();
    return false;
  }
  environment->busy_poll_.open(loop);
  environment->open_handle_count_ += 2;
  environment->self_ = environment;
  if (napi_add_async_cleanup_hook(env, on_cleanup, environment.get(), nullptr) != napi_ok) {
    // Without the hook the pool's handle outlives its loop. `self_` stays set: it leaks rather than dangles.
    Napi::Error::New(env, "Cleanup hook cannot be added").ThrowAsJavaScriptException();
    return false;
  }
  env.SetInstanceData<Holder>(new Holder(std::move(environment)));
  return !env.IsExceptionPending();
}

Environment& Environment::of(napi_env env) {
  return **Napi::Env(env).GetInstanceData<Holder>();
}

DirectQueue* Environment::direct_queue() {
  if (!has_tried_direct_queue_ && !ending_) {
    has_tried_direct_queue_ = true;
    if (direct_queue_.open(loop_) == 0) open_handle_count_ += 1;
  }
  return direct_queue_.is_open() ? &direct_queue_ : nullptr;
}

void Environment::add(Closable* closable) {
  closables_.push_back(closable);
  open_handle_count_ += 1;
}

void Environment::remove(Closable* closable) {
  closables_.erase(std::remove(closables_.begin(), closables_.end(), closable), closables_.end());
}

void Environment::handle_closed() {
  open_handle_count_ -= 1;
  if (!ending_ || open_handle_count_ > 0) return;
  // Last: after the hook Node may free everything, this object included.
  const Holder self = std::move(self_);
  // It cannot fail for a handle that was never removed.
  (void)napi_remove_async_cleanup_hook(hook_);
}

void Environment::on_cleanup(napi_async_cleanup_hook_handle hook, void* context) {
  Environment* environment = static_cast<Environment*>(context);
  environment->hook_ = hook;
  environment->ending_ = true;
  // Each close() removes itself from the list.
  while (!environment->closables_.empty()) environment->closables_.back()->close();

  constexpr auto handle_closed = [](void* ended) { static_cast<Environment*>(ended)->handle_closed(); };
  environment->busy_poll_.close(handle_closed, environment);
  // Last, because the waits in here take as long as the disk does. Discarded operations delete their
  // references; a scope costs nothing, and without one they would still go with the environment.
  napi_handle_scope scope = nullptr;
  const bool scoped = napi_open_handle_scope(environment->env_, &scope) == napi_ok;
  if (environment->direct_queue_.is_open()) environment->direct_queue_.close(handle_closed, environment);
  environment->pool_.close(handle_closed, environment);
  if (scoped) (void)napi_close_handle_scope(environment->env_, scope);
}

bool call_from_event_loop(napi_env env, napi_value function, size_t count, const napi_value* values) {
  napi_value receiver = nullptr;
  // The global object: napi_make_callback insists on an object to call on.
  if (napi_get_global(env, &receiver) != napi_ok) return false;
  napi_value ignored = nullptr;
  const napi_status status = napi_make_callback(env, nullptr, receiver, function, count, values, &ignored);
  if (status == napi_ok) return true;
  if (status != napi_pending_exception) return false;
  // The same status, with nothing pending, says that JavaScript may not run any more (napi_cannot_run_js is
  // for Node-API 10 and later): the function was not called.
  bool is_pending = false;
  if (napi_is_exception_pending(env, &is_pending) != napi_ok || !is_pending) return false;

  // Left pending, it would be thrown again by the next call into JavaScript, which belongs to somebody else.
  napi_value error = nullptr;
  if (napi_get_and_clear_last_exception(env, &error) != napi_ok) return true;
  // Ends the process unless there is an uncaughtException listener. In a worker that is being terminated
  // it fails, and nobody is left to hear of it.
  (void)napi_fatal_exception(env, error);
  return true;
}

}  // namespace nbd_serve
