#include "splice_pipe.h"

#include <errno.h>

#ifdef __linux__
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <vector>

#include "file_io.h"

namespace nbd_serve {

#ifdef __linux__

namespace {

// A slot for each page of 4 KiB: more than a Unix socket has at a time.
constexpr int kPipeBytes = 512 * 1024;

uint64_t now() {
  struct timespec time = {};
  (void)::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
}

// A thread that was merely preempted has not waited.
long waits() {
  struct rusage usage = {};
  (void)::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

// Of `length` bytes at `offset`: those up to the end of the last whole page.
size_t whole_pages(int64_t offset, size_t length) {
  static const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t past = static_cast<size_t>(offset + static_cast<int64_t>(length)) % page;
  return past >= length ? 0 : length - past;
}

}  // namespace

SplicePipe::~SplicePipe() {
  if (read_end_ >= 0) (void)::close(read_end_);
  if (write_end_ >= 0) (void)::close(write_end_);
}

int SplicePipe::open() {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return -errno;
  read_end_ = ends[0];
  write_end_ = ends[1];
  // Where the user has no pages left for it (fs.pipe-user-pages-soft), more calls do as well.
  (void)::fcntl(write_end_, F_SETPIPE_SZ, kPipeBytes);
  return 0;
}

SplicePipe::Moved SplicePipe::move(int socket, int file, int64_t offset, size_t length, size_t range_length,
                                   bool must_be_inside, bool is_ready) {
  Moved moved;
  moved.taken = fill(socket, length);
  // Nothing, of a socket that has something: the pipe is full, of pieces that have a slot each, however short they are;
  // or the stream stands before urgent data, which recv leaves out and splice never passes.
  const bool is_stuck = moved.taken == -EAGAIN && is_ready;
  if (is_stuck && held_ == 0) moved.taken = fill_by_copy(socket, length);
  if (moved.taken > 0) held_ += static_cast<size_t>(moved.taken);
  const bool is_last = held_ == range_length || (is_stuck && moved.taken <= 0);
  const size_t writable = is_last ? held_ : whole_pages(offset, held_);
  if (writable == 0) return moved;
  if (must_be_inside) {
    // A failing look is no reason to refuse what may well work.
    const int64_t present = file_io::size(file);
    if (present >= 0 && offset + static_cast<int64_t>(writable) > present) moved.error = -ENODATA;
  }
  if (moved.error == 0) write(file, offset, writable, &moved);
  if (moved.error != 0) {
    // The WRITE has failed, whatever comes of the rest.
    moved.written += held_;
    discard();
  }
  return moved;
}

int64_t SplicePipe::fill(int socket, size_t length) {
  for (;;) {
    const ssize_t count =
        ::splice(socket, nullptr, write_end_, nullptr, length, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (count >= 0) return count;
    if (errno != EINTR) return -errno;
  }
}

int64_t SplicePipe::fill_by_copy(int socket, size_t length) {
  uint8_t data[4096];
  for (;;) {
    const ssize_t count = ::recv(socket, data, std::min(length, sizeof data), MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -errno;
    // The pipe is empty, and takes a page in one piece.
    return ::write(write_end_, data, static_cast<size_t>(count)) == count ? count : -EIO;
  }
}

void SplicePipe::write(int file, int64_t offset, size_t length, Moved* moved) {
  const uint64_t begin = now();
  const long waits_before = waits();
  bool is_refused = false;
  loff_t position = offset;
  while (moved->written < length && moved->error == 0) {
    const ssize_t count = ::splice(read_end_, nullptr, file, &position, length - moved->written, SPLICE_F_MOVE);
    if (count > 0) {
      moved->written += static_cast<size_t>(count);
    } else if (count == 0) {
      // The pipe has bytes, and a file takes some of them or says why not.
      moved->error = -EIO;
    } else if (errno == EINVAL) {
      // Not every file system's files take splices: those of HFS+ and minix do not.
      is_refused = true;
      moved->error = write_by_copy(file, position, length - moved->written);
      moved->written = length;
    } else if (errno != EINTR) {
      moved->error = -errno;
    }
  }
  held_ -= moved->written;
  const uint64_t taken = now() - begin;
  if (taken > kSlowNanoseconds && waits() != waits_before) {
    moved->waited_microseconds = static_cast<int64_t>(taken / 1000);
  } else if (is_refused) {
    moved->waited_microseconds = 1;
  }
}

int64_t SplicePipe::write_by_copy(int file, int64_t offset, size_t length) {
  std::vector<uint8_t> data(length);
  if (read(data.data(), length) != length) return -EIO;
  const int64_t written = file_io::pwritev2_all(file, data.data(), length, offset, 0);
  return written < 0 ? written : 0;
}

void SplicePipe::take(uint8_t* data, size_t length) { held_ -= read(data, length); }

size_t SplicePipe::read(uint8_t* data, size_t length) {
  size_t taken = 0;
  while (taken < length) {
    const ssize_t count = ::read(read_end_, data + taken, length - taken);
    if (count < 0 && errno == EINTR) continue;
    // Those bytes are in the pipe.
    if (count <= 0) break;
    taken += static_cast<size_t>(count);
  }
  return taken;
}

void SplicePipe::discard() {
  uint8_t nowhere[4096];
  while (held_ > 0) {
    const ssize_t count = ::read(read_end_, nowhere, std::min(held_, sizeof nowhere));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    held_ -= static_cast<size_t>(count);
  }
}

#else

SplicePipe::~SplicePipe() = default;
int SplicePipe::open() { return -ENOSYS; }
SplicePipe::Moved SplicePipe::move(int, int, int64_t, size_t, size_t, bool, bool) { return {-ENOSYS, 0, 0, 0}; }
void SplicePipe::take(uint8_t*, size_t) {}

#endif

}  // namespace nbd_serve
