#include "direct_reader_binding.h"

#include <memory>
#include <utility>

#include "direct_reader.h"
#include "marshal.h"
#include "operation.h"

namespace nbd_serve {
namespace {

class DirectReaderBinding final : public Napi::ObjectWrap<DirectReaderBinding> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "DirectReader",
                       {InstanceMethod<&DirectReaderBinding::read>("read"),
                        InstanceMethod<&DirectReaderBinding::release>("release")});
  }

  explicit DirectReaderBinding(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Arguments arguments(info);
    const int fd = arguments.descriptor("fd");
    const int direct_fd = arguments.descriptor("directFd");
    // The constructor's caller sees the exception, never the half-made object.
    if (arguments.refused()) return;
    reader_ = std::make_shared<DirectReader>(fd, direct_fd, Environment::of(info.Env()).bounces());
  }

 private:
  void read(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice slice = arguments.slice("buffer", "start", "length");
    const int64_t offset = arguments.offset("offset");
    const napi_value done = arguments.function("done");
    if (arguments.refused()) return;
    submit_work(
        info.Env(),
        [reader = reader_, data = slice.data, length = slice.length, offset] {
          return reader->read(data, length, offset);
        },
        done, slice.array);
  }

  void release(const Napi::CallbackInfo&) { reader_->release(); }

  // Shared with every operation that runs, so that collecting this object frees nothing too early.
  std::shared_ptr<DirectReader> reader_;
};

}  // namespace

void export_direct_reader(Napi::Env env, Napi::Object exports) {
  exports.Set("DirectReader", DirectReaderBinding::define(env));
}

}  // namespace nbd_serve
