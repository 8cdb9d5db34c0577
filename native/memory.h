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

}  // namespace nbd_serve::memory
