#include "memory_binding.h"

#include "marshal.h"
#include "memory.h"

namespace nbd_serve {
namespace {

Napi::Value discard_memory(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const Slice slice = arguments.slice("buffer", "start", "length");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), memory::discard(slice.data, slice.length));
}

}  // namespace

void export_memory(Napi::Env env, Napi::Object exports) {
  exports.Set("discard_memory", Napi::Function::New<discard_memory>(env, "discard_memory"));
}

}  // namespace nbd_serve
