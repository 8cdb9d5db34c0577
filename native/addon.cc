// The addon's export list. One call for each environment that loads it; nothing is shared between them.
#include <napi.h>
#include <unistd.h>

#include "direct_file_binding.h"
#include "environment.h"
#include "file_io_binding.h"
#include "marshal.h"
#include "memory_binding.h"
#include "page_cache_binding.h"
#include "socket_binding.h"
#include "stream_socket_binding.h"
#include "tls_context_binding.h"
#include "worker_pool.h"
#include "write_windows_binding.h"

namespace nbd_serve {
namespace {

void set_pool_size(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int64_t count = arguments.count("count", 1, WorkerPool::kThreadCountMax);
  if (arguments.refused()) return;
  Environment::of(info.Env()).pool().set_thread_count_max(static_cast<size_t>(count));
}

// _exit(2): ends all threads where they are.
void exit_now(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int code = static_cast<int>(arguments.count("code", 0, 255));
  if (arguments.refused()) return;
  ::_exit(code);
}

void set_busy_poll(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  constexpr int64_t kMicrosecondsMax = 1000000;
  const int64_t microseconds = arguments.count("microseconds", 0, kMicrosecondsMax);
  const bool is_one_of_many = arguments.boolean("isOneOfMany");
  if (arguments.refused()) return;
  Environment::of(info.Env()).busy_poll().set_duration(static_cast<uint64_t>(microseconds) * 1000, is_one_of_many);
}

#ifdef __linux__
constexpr bool kLinux = true;
#else
constexpr bool kLinux = false;
#endif

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  if (!Environment::create(env)) return exports;
  exports.Set("linux", Napi::Boolean::New(env, kLinux));
  exports.Set("set_pool_size", Napi::Function::New<set_pool_size>(env, "set_pool_size"));
  exports.Set("exit_now", Napi::Function::New<exit_now>(env, "exit_now"));
  exports.Set("set_busy_poll", Napi::Function::New<set_busy_poll>(env, "set_busy_poll"));
  export_file_io(env, exports);
  export_memory(env, exports);
  export_page_cache(env, exports);
  export_direct_file(env, exports);
  export_write_windows(env, exports);
  export_socket(env, exports);
  export_tls_context(env, exports);
  export_stream_socket(env, exports);
  return exports;
}

}  // namespace
}  // namespace nbd_serve

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  return nbd_serve::initialize(env, exports);
}

NODE_API_MODULE(nbd_serve, initialize)
