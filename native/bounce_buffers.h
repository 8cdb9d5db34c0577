// Aligned memory for direct reads and writes, shared by all files of an environment: a pool thread holds one buffer at a
// time, so that there are never more than threads, however many files are read, and those that are kept for what was read
// ahead, which are counted.
//
// Knows nothing of JavaScript; callable on any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace nbd_serve {

class BounceBuffers {
 public:
  // One huge page of x86-64, hence one segment of a disk request.
  static constexpr size_t kBytes = size_t{2} << 20;

  BounceBuffers() = default;
  BounceBuffers(const BounceBuffers&) = delete;
  BounceBuffers& operator=(const BounceBuffers&) = delete;
  ~BounceBuffers();

  // Null without memory.
  uint8_t* take();
  void give(uint8_t* buffer);
  // Buffers that may be kept beyond one call: 64 MiB. False when so many are; each true is one forget_kept().
  static constexpr size_t kKeptMax = 32;
  bool may_keep();
  void forget_kept();
  // Gives the memory of buffers that nobody uses back.
  void release();

 private:
  std::mutex mutex_;
  std::vector<uint8_t*> free_;
  size_t kept_ = 0;
};

}  // namespace nbd_serve
