// Write windows: what was written through the page cache, on its way to disk and out of the cache.
//
// The bound on what `--cache none` leaves in the page cache while data flows is made here. Written ranges
// are collected in windows; a window is written back, waited for and evicted as a whole.
//
//   add ──► filling ──full──► sealed ──start──► in flight (youngest ... oldest) ──finish──► out of the cache
//           one window        FIFO              up to `window_count` stay
//           dirty pages       dirty pages       pages under write-back             evicted
//
//   filling ─► sealed     add, on the event loop: bookkeeping only.
//   start                 sync_file_range(WRITE): the disk is given work and nobody waits.
//   in flight             while younger windows fill, this one's pages reach the disk. The wait that comes
//                         later is therefore short. That is what the count of windows buys.
//   finish                sync_file_range(WAIT_BEFORE|WRITE|WAIT_AFTER), then POSIX_FADV_DONTNEED, which
//                         drops clean pages only and so has to come after the wait.
//
// Pages are page-sized here because eviction is: POSIX_FADV_DONTNEED leaves a page that its range covers in
// part. It also leaves a large folio (ext4 since 6.16, XFS) that straddles the range. A folio made by a write
// lies inside that write's window, but two things can leave one behind, clean: read-ahead made it before, or
// a later write made a part of it dirty between its window's wait and eviction, and that write's own window
// covers the part only (seen on Linux 6.18 with overlapping unaligned writes). Both are the business of the
// last cachestat sweep, which evicts whole chunks. Eviction here is not rounded out to whole folios, because
// DONTNEED starts write-back of every dirty page in its range, and the neighbours are windows still filling.
//
// Threads: `add` and `pending_bytes` run on the event loop, `advance` and `drain` on any number of pool
// threads. One mutex guards the bookkeeping. It is never held across a system call, so `add` never waits for
// a disk. A window that a thread works on is `taken`: out of every queue, and only its number is kept.
//
// Errors: a sync_file_range that waits consumes the write-back error of its open file description; a
// following fdatasync answers 0 with blocks lost. So no result is dropped. A failing window is finished like
// any other, the rest goes on, and the call reports its first failure. The kernel has one error mark for the
// whole descriptor, so a call can be told of a page in another call's window. Hence a drain also reports what
// concurrent calls met, and does not end before those that were in the kernel with it: until the other call's
// report is delivered, the drain's success would be a lie told in between.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace nbd_serve {

// Bytes from begin to before end.
struct Range {
  uint64_t begin;
  uint64_t end;
};

// Sorted, disjoint, non-adjacent ranges.
class Window {
 public:
  // Bytes that were not in it before. O(1) for a range that extends or follows the last one; otherwise a
  // binary search and a move of at most kRangeCountMax entries.
  uint64_t insert(Range range);

  const std::vector<Range>& ranges() const { return ranges_; }
  uint64_t bytes() const { return bytes_; }
  bool empty() const { return ranges_.empty(); }

  // Age: given when the window is sealed.
  uint64_t sequence = 0;

 private:
  std::vector<Range> ranges_;
  uint64_t bytes_ = 0;
};

struct Failure {
  // errno; 0 for none.
  int error = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Windows so far that were given to the disk, waited for, and evicted whole.
struct WindowCounts {
  uint64_t written = 0;
  uint64_t waited = 0;
  uint64_t evicted = 0;
};

class WriteWindows {
 public:
  // A window of scattered 4 KiB writes is full at this many, whatever its bytes. Measured on ext4, Linux
  // 6.18: 256 to a window, written back as one span and evicted one by one, gave 88 k writes/s, where a
  // window per write, or a sync_file_range per range, gave 41-53 k. It also bounds insert() and the time a
  // finish takes.
  static constexpr size_t kRangeCountMax = 256;
  // Nothing breaks above it; it keeps a mistaken argument from looking like a working configuration.
  static constexpr size_t kWindowCountMax = 4096;

  // One advance or drain, from its start until its report is delivered. Until forgotten, a drain that starts
  // takes over its failure.
  class Call {
   public:
    explicit Call(std::shared_ptr<WriteWindows> windows) : windows_(std::move(windows)) {}
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    ~Call() { forget(); }

    // On a pool thread, one of them, once.
    void advance() { windows_->advance(*this); }
    void drain() { windows_->drain(*this); }
    // To be called just before the failure is delivered.
    void forget() { windows_->forget(*this); }
    const Failure& failure() const { return failure_; }

   private:
    friend class WriteWindows;

    // Keeps the bookkeeping alive although its JavaScript object is collected in mid-call.
    const std::shared_ptr<WriteWindows> windows_;
    // A drain is concerned with windows of a lower sequence; 0 marks an advance.
    uint64_t sequence_end_ = 0;
    Failure failure_;
  };

  // `fd` stays the caller's, who keeps it open until the last drain is done.
  WriteWindows(int fd, size_t window_count, uint64_t window_bytes_max, uint64_t page_size);
  WriteWindows(const WriteWindows&) = delete;
  WriteWindows& operator=(const WriteWindows&) = delete;

  // True when a window is full and waits for an advance. `length` 0 records nothing.
  bool add(uint64_t offset, uint64_t length);
  // Recorded and not yet evicted, those being waited for included. A page recorded in two windows is
  // counted in both.
  uint64_t pending_bytes() const;
  WindowCounts counts() const;

 private:
  using Lock = std::unique_lock<std::mutex>;

  // A window that some thread makes system calls for. The ticket tells when it was taken, the sequence when
  // it was recorded.
  struct Taken {
    uint64_t sequence;
    uint64_t ticket;
  };

  void advance(Call& call);
  void drain(Call& call);
  void forget(Call& call);

  // These expect the mutex held; those that make system calls release it meanwhile.
  void seal();
  void start(const Window& window, Call& call, Lock& lock);
  void finish(const Window& window, Call& call, Lock& lock);
  void put_in_flight(Window window);
  Window take_oldest();
  void take(uint64_t sequence);
  void give_back(uint64_t sequence);
  bool is_taken_before(uint64_t sequence_end) const;
  void wait_for_taken(Lock& lock);
  void note(const Failure& failure, Call& call);

  const int fd_;
  const size_t window_count_;
  const uint64_t window_bytes_max_;
  const uint64_t page_size_;

  mutable std::mutex mutex_;
  // A window has been given back or put in flight: drains that wait look again.
  std::condition_variable changed_;
  Window filling_;
  std::deque<Window> sealed_;
  // Oldest first.
  std::deque<Window> in_flight_;
  uint64_t in_flight_bytes_ = 0;
  std::vector<Taken> taken_;
  std::vector<Call*> calls_;
  uint64_t ticket_next_ = 1;
  uint64_t sequence_next_ = 1;
  uint64_t pending_bytes_ = 0;
  WindowCounts counts_;
};

}  // namespace nbd_serve
