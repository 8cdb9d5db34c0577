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

Napi::Value prefer_huge_page(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const Slice slice = arguments.slice("buffer", "start", "length");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), memory::prefer_huge_page(slice.data, slice.length));
}

void copy_memory(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const Slice target = arguments.slice("target", "targetStart", "targetLength");
  const Slice source = arguments.slice("source", "sourceStart", "sourceLength");
  if (!arguments.refused()) memory::copy(target.data, target.length, source.data, source.length);
}

}  // namespace

void export_memory(Napi::Env env, Napi::Object exports) {
  exports.Set("copy_memory", Napi::Function::New<copy_memory>(env, "copy_memory"));
  exports.Set("discard_memory", Napi::Function::New<discard_memory>(env, "discard_memory"));
  exports.Set("prefer_huge_page", Napi::Function::New<prefer_huge_page>(env, "prefer_huge_page"));
}

}  // namespace nbd_serve
