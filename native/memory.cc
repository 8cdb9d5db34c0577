#include "memory.h"

#include <errno.h>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstring>

namespace nbd_serve::memory {

void copy(uint8_t* target, size_t target_length, const uint8_t* source, size_t source_length) {
  std::memmove(target, source, std::min(target_length, source_length));
}

size_t huge_page_head(const uint8_t* data) {
  return (kHugePageBytes - reinterpret_cast<uintptr_t>(data) % kHugePageBytes) % kHugePageBytes;
}

int64_t prefer_huge_page(uint8_t* data, size_t length) {
  const size_t head = huge_page_head(data);
  if (head + kHugePageBytes > length) return -EINVAL;
#ifdef __linux__
  (void)::madvise(data + head, kHugePageBytes, MADV_HUGEPAGE);
#endif
  return static_cast<int64_t>(head);
}

#ifdef __linux__

int64_t discard(uint8_t* data, size_t length) {
  // It cannot fail for _SC_PAGESIZE: sysconf(3).
  const size_t page_size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (reinterpret_cast<uintptr_t>(data) % page_size != 0 || length % page_size != 0) return -EINVAL;
  return ::madvise(data, length, MADV_DONTNEED) == 0 ? 0 : -errno;
}

#else

int64_t discard(uint8_t*, size_t) { return -ENOSYS; }

#endif

}  // namespace nbd_serve::memory
