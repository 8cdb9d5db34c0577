// A pool operation with a JavaScript callback: work on a pool thread, then `done` on the event loop.
//
// It references what the work reads and writes (its buffer) and its callback from the call until done, so
// that the garbage collector keeps both, however long the disk takes.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "environment.h"
#include "marshal.h"
#include "worker_pool.h"

namespace nbd_serve {

class CallbackOperation : public Operation {
 public:
  explicit CallbackOperation(napi_env env) : env_(env) {}

  ~CallbackOperation() override {
    // Deleting fails only for a null reference or environment.
    if (done_ != nullptr) (void)napi_delete_reference(env_, done_);
    if (kept_ != nullptr) (void)napi_delete_reference(env_, kept_);
  }

  // `kept` may be null. False, with an exception pending, when the references cannot be made.
  bool hold(napi_value done, napi_value kept) {
    if (napi_create_reference(env_, done, 1, &done_) == napi_ok &&
        (kept == nullptr || napi_create_reference(env_, kept, 1, &kept_) == napi_ok)) {
      return true;
    }
    (void)napi_throw_error(env_, nullptr, "Reference to an argument cannot be made");
    return false;
  }

  void complete() final {
    napi_handle_scope scope = nullptr;
    // Only an environment at its end has none, and then there is nobody to call.
    if (napi_open_handle_scope(env_, &scope) != napi_ok) return;
    napi_value done = nullptr;
    if (napi_get_reference_value(env_, done_, &done) == napi_ok && done != nullptr) report(done);
    (void)napi_close_handle_scope(env_, scope);
  }

 protected:
  // Calls `done` with the results. Inside a handle scope.
  virtual void report(napi_value done) = 0;

  napi_value kept() const {
    napi_value value = nullptr;
    if (kept_ == nullptr || napi_get_reference_value(env_, kept_, &value) != napi_ok) return nullptr;
    return value;
  }

  void call(napi_value done, std::initializer_list<int64_t> numbers) {
    constexpr size_t kNumbersMax = 3;
    napi_value values[kNumbersMax];
    size_t count = 0;
    for (const int64_t number : numbers) {
      if (count == kNumbersMax) break;
      if (napi_create_double(env_, static_cast<double>(number), &values[count]) != napi_ok) return;
      count += 1;
    }
    // False means that the environment is ending: its promise of one call ends with it.
    (void)call_from_event_loop(env_, done, count, values);
  }

  const napi_env env_;

 private:
  napi_ref done_ = nullptr;
  napi_ref kept_ = nullptr;
};

// The usual one: a function without arguments that answers a result or -errno.
template <class Work>
class ResultOperation final : public CallbackOperation {
 public:
  ResultOperation(napi_env env, Work work) : CallbackOperation(env), work_(std::move(work)) {}

  void execute() override { result_ = work_(); }
  void refuse(int error) override { result_ = error; }

 protected:
  void report(napi_value done) override { call(done, {result_}); }

 private:
  Work work_;
  int64_t result_ = 0;
};

// Hands the operation to the pool, unless its references cannot be made: then an exception is pending.
inline void submit(napi_env env, std::unique_ptr<CallbackOperation> operation, napi_value done,
                   napi_value kept = nullptr) {
  if (!operation->hold(done, kept)) return;
  Environment::of(env).pool().submit(std::move(operation));
}

template <class Work>
void submit_work(napi_env env, Work work, napi_value done, napi_value kept = nullptr) {
  submit(env, std::make_unique<ResultOperation<Work>>(env, std::move(work)), done, kept);
}

}  // namespace nbd_serve
