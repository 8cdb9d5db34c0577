// Memory that JavaScript holds in array buffers and does not need for now.
//
// Knows nothing of JavaScript; callable on any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nbd_serve::memory {

// As many bytes as both have. V8 copies to and from shared memory in atomic steps: of 8 bytes, or of one where the
// two are not aligned alike.
void copy(uint8_t* target, size_t target_length, const uint8_t* source, size_t source_length);

// madvise(2) with MADV_DONTNEED: private anonymous memory goes back to the system and reads as zeros from then
// on. 0, or -errno: -EINVAL unless both are multiples of the page size (the kernel would round the length up,
// over what belongs to others), -ENOSYS off Linux, where the call promises no zeros.
int64_t discard(uint8_t* data, size_t length);

// x86-64 and arm64; a disk request has one segment for it, where 512 small pages have one each.
constexpr size_t kHugePageBytes = size_t{2} << 20;

// Bytes from `data` to the first address that a huge page may begin at.
size_t huge_page_head(const uint8_t* data);

// Asks the system to make the first aligned kHugePageBytes inside a range a huge page (madvise(2), MADV_HUGEPAGE): bytes
// from `data` to there, whether or not the wish is granted, or -EINVAL when there is no such place.
int64_t prefer_huge_page(uint8_t* data, size_t length);

}  // namespace nbd_serve::memory
