// One connected stream socket, watched by an event loop: bytes in by recvmsg(2), bytes out by send(2), both
// without waiting.
//
// Node's own sockets cost a request object, two JavaScript callbacks and a turn of the microtask queue for each
// write; at queue depth 1 that was a third of the server's time for a 4 KiB READ. Here a write is one call that
// says how much the kernel took.
//
// Functions answer zero or more, or -errno; off Linux -ENOSYS. Knows nothing of JavaScript.
#pragma once

#include <uv.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "socket.h"
#include "splice_pipe.h"

namespace nbd_serve {

// Owns its descriptor from open() on. Allocated on the heap, and frees itself when libuv has let go of its
// handle, after close() or release(). Everything runs on the loop's thread.
class StreamSocket {
 public:
  class Events {
   public:
    // Bytes that were received, 0 at the end of the stream, or -errno. May stop, release or close the socket, and do
    // to it whatever else there is.
    virtual void on_received(int64_t result) = 0;
    // After watch_writable, once.
    virtual void on_writable() = 0;
    // The StreamSocket is freed after this; the last event.
    virtual void on_closed() = 0;

   protected:
    ~Events() = default;
  };

  StreamSocket(const StreamSocket&) = delete;
  StreamSocket& operator=(const StreamSocket&) = delete;

  // Null with libuv's error in `error`; the descriptor is then still the caller's. `events` outlives it.
  static StreamSocket* open(uv_loop_t* loop, int fd, Events* events, int* error);

  socket::Route route() const { return route_; }

  // `data` has room for `length` bytes, at least one, until stop(), release() or close().
  int start(uint8_t* data, size_t length);
  void stop();
  // Receives into another buffer from now on, if it does so at all; what start() says of `data` goes for this one.
  void replace_buffer(uint8_t* data, size_t length);
  // The next `length` bytes received go to `data`, and only a few behind them to where they usually go: what
  // follows a payload is most likely the next header. Lasts until they are there, stop(), release() or close().
  void expect(uint8_t* data, size_t length);
  size_t expected() const { return expected_length_; }
  // The next `length` bytes received go to the file, piece by piece, and nothing behind them anywhere in the same call.
  // Each piece is told by on_received. Lasts until they are there, file_state() is negative, leave_file(), or as for
  // expect(), which ends it, too. False: there is no pipe.
  bool expect_in_file(int file, int64_t offset, size_t length, bool must_be_inside);
  // Ends that. Bytes that were received and neither written nor told, less than a page, go to `data`: how many.
  size_t leave_file(uint8_t* data, size_t length);
  // Of the last piece that went to a file: 0, -errno when it is not all there, or the microseconds that it took when it
  // had to wait.
  int64_t file_state() const { return file_state_; }
  // At most so many bytes at a time go to the buffer of start() from now on; 0: as many as it has room for.
  void limit(size_t length) { limit_ = length; }
  // Bytes the kernel took, short where its buffer was full; -EAGAIN when it took none.
  int64_t send(const uint8_t* data, size_t length);
  // The header, then `length` bytes of a file straight from the page cache: bytes the kernel took of both together,
  // -EAGAIN when it took none. What is not in the cache is waited for. Short without -EAGAIN: the file ends before.
  int64_t send_file(const uint8_t* header, size_t header_length, int file, int64_t offset, size_t length);
  int watch_writable();
  // No more will be sent.
  int shut_down();
  // Once, one of them. release() gives the descriptor back, open.
  int release();
  void close();

 private:
  StreamSocket(int fd, Events* events) : fd_(fd), events_(events) {}
  ~StreamSocket() = default;

  static void on_ready(uv_poll_t* handle, int status, int events);
  void receive();
  void receive_in_file();
  void end_file();
  int watch(int events);

  uv_poll_t poll_ = {};
  int fd_;
  Events* const events_;
  socket::Route route_ = socket::Route::kUnix;
  uint8_t* data_ = nullptr;
  size_t length_ = 0;
  uint8_t* expected_data_ = nullptr;
  size_t expected_length_ = 0;
  // Made for the first payload that goes to a file.
  std::unique_ptr<SplicePipe> pipe_;
  bool is_in_file_ = false;
  int file_ = -1;
  int64_t file_offset_ = 0;
  size_t file_length_ = 0;
  bool must_be_inside_ = false;
  int64_t file_state_ = 0;
  size_t limit_ = 0;
  // UV_READABLE and UV_WRITABLE: what is waited for.
  int watched_ = 0;
};

}  // namespace nbd_serve
