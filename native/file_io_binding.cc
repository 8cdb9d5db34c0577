#include "file_io_binding.h"

#include <string>

#include "file_io.h"
#include "marshal.h"
#include "operation.h"

namespace nbd_serve {
namespace {

// The addresses are read before the call and used before anything else runs: no reference is needed.
Napi::Value preadv2(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const Slice slice = arguments.slice("buffer", "start", "length");
  const int64_t offset = arguments.offset("offset");
  const int flags = arguments.bits("flags");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), file_io::preadv2(fd, slice.data, slice.length, offset, flags));
}

Napi::Value pwritev2(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const Slice slice = arguments.slice("buffer", "start", "length");
  const int64_t offset = arguments.offset("offset");
  const int flags = arguments.bits("flags");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), file_io::pwritev2_all(fd, slice.data, slice.length, offset, flags));
}

void pread_async(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const Slice slice = arguments.slice("buffer", "start", "length");
  const int64_t offset = arguments.offset("offset");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(),
      [fd, data = slice.data, length = slice.length, offset] {
        return file_io::pread_all(fd, data, length, offset);
      },
      done, slice.array);
}

void pwrite_async(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const Slice slice = arguments.slice("buffer", "start", "length");
  const int64_t offset = arguments.offset("offset");
  const int flags = arguments.bits("flags");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(),
      [fd, data = slice.data, length = slice.length, offset, flags] {
        return file_io::pwritev2_all(fd, data, length, offset, flags);
      },
      done, slice.array);
}

void pwrite_inside_async(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const Slice slice = arguments.slice("buffer", "start", "length");
  const int64_t offset = arguments.offset("offset");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(),
      [fd, data = slice.data, length = slice.length, offset] {
        return file_io::pwrite_inside(fd, data, length, offset);
      },
      done, slice.array);
}

void openat2(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int dirfd = arguments.descriptor("dirfd");
  const std::string path = arguments.string("path");
  const int flags = arguments.bits("flags");
  const int resolve = arguments.bits("resolve");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(),
      [dirfd, path, flags, resolve] { return file_io::openat2(dirfd, path, flags, resolve); }, done);
}

void fdatasync(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(info.Env(), [fd] { return file_io::fdatasync(fd); }, done);
}

Napi::Value file_size(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), file_io::size(fd));
}

void lseek(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int whence = arguments.bits("whence");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(info.Env(), [fd, offset, whence] { return file_io::lseek(fd, offset, whence); }, done);
}

void fallocate(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int mode = arguments.bits("mode");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(), [fd, mode, offset, length] { return file_io::fallocate(fd, mode, offset, length); }, done);
}

template <int64_t (*call)(int, int64_t, int64_t)>
void block_device(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(info.Env(), [fd, offset, length] { return call(fd, offset, length); }, done);
}

template <int64_t (*call)(int, int, int64_t, int64_t)>
Napi::Value lock(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  // F_RDLCK, F_WRLCK, F_UNLCK on Linux. Anything larger would be cut to a short on its way to the kernel.
  const int type = static_cast<int>(arguments.count("type", 0, 2));
  const int64_t start = arguments.offset("start");
  const int64_t length = arguments.length("length");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), call(fd, type, start, length));
}

// On the event loop: it asks the kernel's own record, not the device.
Napi::Value blkroget(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), file_io::blkroget(fd));
}

}  // namespace

void export_file_io(Napi::Env env, Napi::Object exports) {
  exports.Set("preadv2", Napi::Function::New<preadv2>(env, "preadv2"));
  exports.Set("pwritev2", Napi::Function::New<pwritev2>(env, "pwritev2"));
  exports.Set("pread_async", Napi::Function::New<pread_async>(env, "pread_async"));
  exports.Set("pwrite_async", Napi::Function::New<pwrite_async>(env, "pwrite_async"));
  exports.Set("pwrite_inside_async", Napi::Function::New<pwrite_inside_async>(env, "pwrite_inside_async"));
  exports.Set("openat2", Napi::Function::New<openat2>(env, "openat2"));
  exports.Set("fdatasync", Napi::Function::New<fdatasync>(env, "fdatasync"));
  exports.Set("file_size", Napi::Function::New<file_size>(env, "file_size"));
  exports.Set("lseek", Napi::Function::New<lseek>(env, "lseek"));
  exports.Set("fallocate", Napi::Function::New<fallocate>(env, "fallocate"));
  exports.Set("blkzeroout", Napi::Function::New<block_device<file_io::blkzeroout>>(env, "blkzeroout"));
  exports.Set("blkdiscard", Napi::Function::New<block_device<file_io::blkdiscard>>(env, "blkdiscard"));
  exports.Set("blkroget", Napi::Function::New<blkroget>(env, "blkroget"));
  exports.Set("ofd_setlk", Napi::Function::New<lock<file_io::ofd_setlk>>(env, "ofd_setlk"));
  exports.Set("ofd_getlk", Napi::Function::New<lock<file_io::ofd_getlk>>(env, "ofd_getlk"));
}

}  // namespace nbd_serve
