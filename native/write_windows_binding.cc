#include "write_windows_binding.h"

#include <memory>
#include <utility>

#include "marshal.h"
#include "operation.h"
#include "page_cache.h"
#include "write_windows.h"

namespace nbd_serve {
namespace {

template <void (WriteWindows::Call::*run)()>
class WindowsOperation final : public CallbackOperation {
 public:
  WindowsOperation(napi_env env, std::shared_ptr<WriteWindows> windows)
      : CallbackOperation(env), call_(std::move(windows)) {}

  void execute() override { (call_.*run)(); }
  void refuse(int error) override { refused_ = error; }

 protected:
  void report(napi_value done) override {
    call_.forget();
    const Failure& failure = call_.failure();
    // Nothing was started for a refused one: no range has failed, and a later call does the work.
    const int64_t result = refused_ != 0 ? refused_ : -failure.error;
    call(done, {result, static_cast<int64_t>(failure.offset), static_cast<int64_t>(failure.length)});
  }

 private:
  WriteWindows::Call call_;
  int refused_ = 0;
};

// V8 checks the receiver of every method against the class (Node-API defines them with a signature), so a
// method borrowed onto a foreign object throws "Illegal invocation" before it gets here.
class WriteWindowsBinding final : public Napi::ObjectWrap<WriteWindowsBinding> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "WriteWindows",
                       {InstanceMethod<&WriteWindowsBinding::add>("add"),
                        InstanceMethod<&WriteWindowsBinding::advance>("advance"),
                        InstanceMethod<&WriteWindowsBinding::drain>("drain"),
                        InstanceMethod<&WriteWindowsBinding::pending_bytes>("pending_bytes"),
                        InstanceMethod<&WriteWindowsBinding::counts>("counts")});
  }

  explicit WriteWindowsBinding(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Arguments arguments(info);
    const int fd = arguments.descriptor("fd");
    const int64_t window_count = arguments.count("windowCount", 0, WriteWindows::kWindowCountMax);
    const int64_t window_bytes_max = arguments.count("windowBytesMax", 1, kWholeMax);
    // The constructor's caller sees the exception, never the half-made object.
    if (arguments.refused()) return;
    windows_ = std::make_shared<WriteWindows>(fd, static_cast<size_t>(window_count),
                                              static_cast<uint64_t>(window_bytes_max),
                                              static_cast<uint64_t>(page_cache::page_size()));
  }

 private:
  Napi::Value add(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const int64_t offset = arguments.offset("offset");
    const int64_t length = arguments.length("length");
    if (arguments.refused()) return Napi::Value();
    const bool full = windows_->add(static_cast<uint64_t>(offset), static_cast<uint64_t>(length));
    return Napi::Boolean::New(info.Env(), full);
  }

  void advance(const Napi::CallbackInfo& info) { start<&WriteWindows::Call::advance>(info); }
  void drain(const Napi::CallbackInfo& info) { start<&WriteWindows::Call::drain>(info); }

  template <void (WriteWindows::Call::*run)()>
  void start(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const napi_value done = arguments.function("done");
    if (arguments.refused()) return;
    submit(info.Env(), std::make_unique<WindowsOperation<run>>(info.Env(), windows_), done);
  }

  Napi::Value pending_bytes(const Napi::CallbackInfo& info) {
    return to_number(info.Env(), static_cast<int64_t>(windows_->pending_bytes()));
  }

  Napi::Value counts(const Napi::CallbackInfo& info) {
    const napi_env env = info.Env();
    const WindowCounts counts = windows_->counts();
    napi_value array = nullptr;
    if (napi_create_array_with_length(env, 3, &array) != napi_ok) return Napi::Value();
    uint32_t index = 0;
    for (const uint64_t count : {counts.written, counts.waited, counts.evicted}) {
      if (napi_set_element(env, array, index, to_number(env, static_cast<int64_t>(count))) != napi_ok) {
        return Napi::Value();
      }
      index += 1;
    }
    return Napi::Value(env, array);
  }

  // Shared with every operation that runs, so that collecting this object frees nothing too early.
  std::shared_ptr<WriteWindows> windows_;
};

}  // namespace

void export_write_windows(Napi::Env env, Napi::Object exports) {
  exports.Set("WriteWindows", WriteWindowsBinding::define(env));
}

}  // namespace nbd_serve
