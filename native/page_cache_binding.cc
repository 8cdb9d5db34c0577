#include "page_cache_binding.h"

#include <memory>
#include <vector>

#include "marshal.h"
#include "operation.h"
#include "page_cache.h"

namespace nbd_serve {
namespace {

constexpr size_t kCountsLength = 5;

// Counts into its own memory and copies on the event loop: the array is JavaScript's while the call runs.
class CachestatOperation final : public CallbackOperation {
 public:
  CachestatOperation(napi_env env, int fd, int64_t offset, int64_t length)
      : CallbackOperation(env), fd_(fd), offset_(offset), length_(length) {}

  void execute() override { result_ = page_cache::cachestat(fd_, offset_, length_, &counts_); }
  void refuse(int error) override { result_ = error; }

 protected:
  void report(napi_value done) override {
    if (result_ == 0) copy_counts();
    call(done, {result_});
  }

 private:
  void copy_counts() {
    napi_typedarray_type type = napi_int8_array;
    size_t length = 0;
    void* data = nullptr;
    const napi_value array = kept();
    // Looked up again: since the call the array may have been detached or shrunk, and is then left alone.
    if (array == nullptr ||
        napi_get_typedarray_info(env_, array, &type, &length, &data, nullptr, nullptr) != napi_ok ||
        length < kCountsLength || data == nullptr) {
      return;
    }
    double* numbers = static_cast<double*>(data);
    numbers[0] = static_cast<double>(counts_.cached);
    numbers[1] = static_cast<double>(counts_.dirty);
    numbers[2] = static_cast<double>(counts_.write_back);
    numbers[3] = static_cast<double>(counts_.evicted);
    numbers[4] = static_cast<double>(counts_.recently_evicted);
  }

  const int fd_;
  const int64_t offset_;
  const int64_t length_;
  page_cache::Counts counts_;
  int64_t result_ = 0;
};

void posix_fadvise(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  const int advice = arguments.bits("advice");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(), [fd, offset, length, advice] { return page_cache::fadvise(fd, offset, length, advice); },
      done);
}

void read_ahead(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(), [fd, offset, length] { return page_cache::read_ahead(fd, offset, length); }, done);
}

// Many small evictions in one operation: a hop to the pool costs more than the call itself.
void evict_ranges(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const std::vector<int64_t> ranges = arguments.whole_numbers("ranges", "count");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(), [fd, ranges] { return page_cache::evict(fd, ranges); }, done);
}

void sync_file_range(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  const int flags = arguments.bits("flags");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(), [fd, offset, length, flags] { return page_cache::sync_range(fd, offset, length, flags); },
      done);
}

void cachestat(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  const napi_value counts = arguments.numbers("counts", kCountsLength);
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit(info.Env(), std::make_unique<CachestatOperation>(info.Env(), fd, offset, length), done, counts);
}

// On the event loop: a walk through the page cache, which waits for nothing.
Napi::Value cached_pages(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  if (arguments.refused()) return Napi::Value();
  page_cache::Counts counts;
  const int64_t result = page_cache::cachestat(fd, offset, length, &counts);
  return to_number(info.Env(), result < 0 ? result : counts.cached);
}

void mincore_resident(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(), [fd, offset, length] { return page_cache::mincore_resident(fd, offset, length); }, done);
}

// On the event loop: it waits for nothing.
Napi::Value is_resident(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), page_cache::is_resident(fd, offset, length));
}

void split_folios(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  const int64_t offset = arguments.offset("offset");
  const int64_t length = arguments.length("length");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(
      info.Env(), [fd, offset, length] { return page_cache::split_folios(fd, offset, length); }, done);
}

}  // namespace

void export_page_cache(Napi::Env env, Napi::Object exports) {
  exports.Set("page_size", to_number(env, page_cache::page_size()));
  exports.Set("posix_fadvise", Napi::Function::New<posix_fadvise>(env, "posix_fadvise"));
  exports.Set("read_ahead", Napi::Function::New<read_ahead>(env, "read_ahead"));
  exports.Set("evict_ranges", Napi::Function::New<evict_ranges>(env, "evict_ranges"));
  exports.Set("sync_file_range", Napi::Function::New<sync_file_range>(env, "sync_file_range"));
  exports.Set("cachestat", Napi::Function::New<cachestat>(env, "cachestat"));
  exports.Set("cached_pages", Napi::Function::New<cached_pages>(env, "cached_pages"));
  exports.Set("is_resident", Napi::Function::New<is_resident>(env, "is_resident"));
  exports.Set("split_folios", Napi::Function::New<split_folios>(env, "split_folios"));
  exports.Set("mincore_resident", Napi::Function::New<mincore_resident>(env, "mincore_resident"));
}

}  // namespace nbd_serve
