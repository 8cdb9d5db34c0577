#include "bounce_buffers.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace nbd_serve {
namespace {

#ifdef __linux__

uint8_t* map_bounce() {
  // Twice the size, so that an aligned huge page lies in it whatever the address; the rest is unmapped again.
  constexpr size_t kBytes = BounceBuffers::kBytes;
  void* mapping = ::mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  uint8_t* const begin = static_cast<uint8_t*>(mapping);
  const size_t head = (kBytes - reinterpret_cast<uintptr_t>(begin) % kBytes) % kBytes;
  // Neither can fail for a part of a mapping that was just made.
  if (head > 0) ::munmap(begin, head);
  if (head < kBytes) ::munmap(begin + head + kBytes, kBytes - head);
  // A wish: without huge pages the memory is as good, and its disk requests have more segments.
  (void)::madvise(begin + head, kBytes, MADV_HUGEPAGE);
  return begin + head;
}

void unmap_bounce(uint8_t* bounce) { ::munmap(bounce, BounceBuffers::kBytes); }

#else

uint8_t* map_bounce() { return nullptr; }
void unmap_bounce(uint8_t*) {}

#endif

}  // namespace

BounceBuffers::~BounceBuffers() { release(); }

uint8_t* BounceBuffers::take() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!free_.empty()) {
      uint8_t* const buffer = free_.back();
      free_.pop_back();
      return buffer;
    }
  }
  return map_bounce();
}

void BounceBuffers::give(uint8_t* buffer) {
  std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(buffer);
}

bool BounceBuffers::may_keep() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (kept_ == kKeptMax) return false;
  kept_ += 1;
  return true;
}

void BounceBuffers::forget_kept() {
  std::lock_guard<std::mutex> lock(mutex_);
  kept_ -= 1;
}

void BounceBuffers::release() {
  std::vector<uint8_t*> unused;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    unused.swap(free_);
  }
  for (uint8_t* const buffer : unused) unmap_bounce(buffer);
}

}  // namespace nbd_serve
