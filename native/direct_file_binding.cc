#include "direct_file_binding.h"

#include <errno.h>

#include <memory>
#include <utility>

#include "direct_queue.h"
#include "direct_file.h"
#include "marshal.h"
#include "operation.h"

namespace nbd_serve {
namespace {

// As an operation of the pool, but for the thread.
class QueuedRead final : public DirectQueue::Read, public CallbackOperation {
 public:
  explicit QueuedRead(napi_env env) : CallbackOperation(env) {}

  void done(int64_t result) override {
    result_ = result;
    complete();
    Environment::of(env_).busy_poll().served();
  }

  void execute() override {}
  void refuse(int) override {}

 protected:
  void report(napi_value done) override { call(done, {result_}); }

 private:
  int64_t result_ = 0;
};

class DirectFileBinding final : public Napi::ObjectWrap<DirectFileBinding> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "DirectFile",
                       {InstanceMethod<&DirectFileBinding::read>("read"),
                        InstanceMethod<&DirectFileBinding::read_ahead>("read_ahead"),
                        InstanceMethod<&DirectFileBinding::take_ahead>("take_ahead"),
                        InstanceMethod<&DirectFileBinding::forget_ahead>("forget_ahead"),
                        InstanceMethod<&DirectFileBinding::write>("write"),
                        InstanceMethod<&DirectFileBinding::read_queued>("read_queued"),
                        InstanceMethod<&DirectFileBinding::release>("release")});
  }

  explicit DirectFileBinding(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Arguments arguments(info);
    const int fd = arguments.descriptor("fd");
    const int direct_fd = arguments.descriptor("directFd");
    // The constructor's caller sees the exception, never the half-made object.
    if (arguments.refused()) return;
    direct_fd_ = direct_fd;
    file_ = std::make_shared<DirectFile>(fd, direct_fd, Environment::of(info.Env()).bounces());
  }

 private:
  void read(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice slice = arguments.slice("buffer", "start", "length");
    const int64_t offset = arguments.offset("offset");
    const int64_t change_count = arguments.offset("changeCount");
    const napi_value done = arguments.function("done");
    if (arguments.refused()) return;
    submit_work(
        info.Env(),
        [file = file_, data = slice.data, length = slice.length, offset, change_count] {
          return file->read(data, length, offset, change_count);
        },
        done, slice.array);
  }

  Napi::Value read_ahead(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const int64_t offset = arguments.offset("offset");
    const int64_t length = arguments.length("length");
    const int64_t change_count = arguments.offset("changeCount");
    const napi_value done = arguments.function("done");
    if (arguments.refused()) return Napi::Value();
    const bool is_reserved = file_->ahead().reserve(offset, static_cast<size_t>(length), change_count);
    if (is_reserved) {
      submit_work(
          info.Env(),
          [file = file_, offset] { return file->ahead().fill(offset); },
          done);
    }
    return Napi::Boolean::New(info.Env(), is_reserved);
  }

  Napi::Value take_ahead(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice slice = arguments.slice("buffer", "start", "length");
    const int64_t offset = arguments.offset("offset");
    const int64_t change_count = arguments.offset("changeCount");
    if (arguments.refused()) return Napi::Value();
    const size_t count = file_->ahead().take(slice.data, slice.length, offset, change_count, false);
    return to_number(info.Env(), static_cast<int64_t>(count));
  }

  Napi::Value read_queued(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice slice = arguments.slice("buffer", "start", "length");
    const int64_t offset = arguments.offset("offset");
    const napi_value done = arguments.function("done");
    if (arguments.refused()) return Napi::Value();
    DirectQueue* const queue = Environment::of(info.Env()).direct_queue();
    if (queue == nullptr) return to_number(info.Env(), -ENOSYS);
    auto operation = std::make_unique<QueuedRead>(info.Env());
    if (!operation->hold(done, slice.array)) return Napi::Value();
    std::unique_ptr<DirectQueue::Read> read = std::move(operation);
    return to_number(info.Env(), queue->submit(direct_fd_, slice.data, slice.length, offset, read));
  }

  void write(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice slice = arguments.slice("buffer", "start", "length");
    const int64_t offset = arguments.offset("offset");
    const bool is_regular = arguments.boolean("isRegular");
    const napi_value done = arguments.function("done");
    if (arguments.refused()) return;
    submit_work(
        info.Env(),
        [file = file_, data = slice.data, length = slice.length, offset, is_regular] {
          return file->write(data, length, offset, is_regular);
        },
        done, slice.array);
  }

  void forget_ahead(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const int64_t begin = arguments.offset("begin");
    const int64_t end = arguments.offset("end");
    if (arguments.refused()) return;
    file_->ahead().clear(begin, end);
  }

  void release(const Napi::CallbackInfo&) { file_->release(); }

  // Shared with every operation that runs, so that collecting this object frees nothing too early.
  std::shared_ptr<DirectFile> file_;
  int direct_fd_ = -1;
};

}  // namespace

void export_direct_file(Napi::Env env, Napi::Object exports) {
  exports.Set("DirectFile", DirectFileBinding::define(env));
}

}  // namespace nbd_serve
