// One connected stream socket, watched by an event loop: bytes in by recvmsg(2), bytes out by send(2), both
// without waiting; from start_tls() on by way of a TlsStream, with the same contract.
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
#include <vector>

#include "socket.h"
#include "splice_pipe.h"
#include "tls_stream.h"

namespace nbd_serve {

// Owns its descriptor from open() on. Allocated on the heap, and frees itself when libuv has let go of its
// handles, after close(). Everything runs on the loop's thread.
class StreamSocket {
 public:
  class Events {
   public:
    // Bytes that were received, 0 at the end of the stream, or -errno. May stop or close the socket, and do to it
    // whatever else there is.
    virtual void on_received(int64_t result) = 0;
    // After watch_writable, once.
    virtual void on_writable() = 0;
    // After start_tls, once: whether the handshake has succeeded.
    virtual void on_secured(bool has_succeeded) = 0;
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

  // Begins a handshake of TLS as the server: 0 or -errno. All that was sent is with the kernel. What is received belongs to
  // the handshake until on_secured(), whether start() or stop() is called meanwhile; afterwards that counts.
  int start_tls(std::shared_ptr<TlsContext> context);
  // Null without start_tls().
  const TlsStream* tls() const { return tls_.get(); }

  // `data` has room for `length` bytes, at least one, until stop() or close().
  int start(uint8_t* data, size_t length);
  void stop();
  // Receives into another buffer from now on, if it does so at all; what start() says of `data` goes for this one.
  void replace_buffer(uint8_t* data, size_t length);
  // The next bytes received fill these parts, none of which is empty, and only a few behind them go where they usually go:
  // what follows a payload is most likely the next header. `is_rest` false: none do. Lasts until they are full, stop() or
  // close().
  void expect(std::vector<socket::Part> parts, bool is_rest);
  size_t expected() const { return expected_length_; }
  // The next `length` bytes received go to the file, piece by piece, and nothing behind them anywhere in the same call.
  // Each piece is told by on_received. Lasts until they are there, file_state() is negative, leave_file(), or as for
  // expect(), which ends it, too. False: there is no pipe, or TLS.
  bool expect_in_file(int file, int64_t offset, size_t length, bool must_be_inside);
  // Ends that. Bytes that were received and neither written nor told, less than a page, go to `data`: how many.
  size_t leave_file(uint8_t* data, size_t length);
  // Of the last piece that went to a file: 0, -errno when it is not all there, or the microseconds that it took when it
  // had to wait.
  int64_t file_state() const { return file_state_; }
  // At most so many bytes at a time go to the buffer of start() from now on; 0: as many as it has room for.
  void limit(size_t length) { limit_ = length; }
  // Bytes the kernel took, short where its buffer was full; -EAGAIN when it took none. The next bytes sent are the rest:
  // TLS may have encrypted some of them.
  int64_t send(const uint8_t* data, size_t length);
  // The same of several parts: -EOPNOTSUPP with TLS.
  int64_t send_parts(const std::vector<socket::Part>& parts);
  // The header, then `length` bytes of a file straight from the page cache: bytes the kernel took of both together,
  // -EAGAIN when it took none. What is not in the cache is waited for. Short without -EAGAIN: the file ends before.
  int64_t send_file(const uint8_t* header, size_t header_length, int file, int64_t offset, size_t length);
  int watch_writable();
  // No more will be sent. -EAGAIN, with TLS: again when it is writable.
  int shut_down();
  // Once.
  void close();

 private:
  StreamSocket(int fd, Events* events) : fd_(fd), events_(events) {}
  ~StreamSocket() = default;

  static void on_ready(uv_poll_t* handle, int status, int events);
  static void on_closed(uv_handle_t* handle);
  void shake_hands();
  void go_on();
  void write_on();
  void receive();
  int64_t receive_parts(size_t behind);
  void advance_expected(size_t length);
  void receive_in_file();
  void end_file();
  int watch();
  int watch(int events);

  uv_poll_t poll_ = {};
  int fd_;
  Events* const events_;
  socket::Route route_ = socket::Route::kUnix;
  uint8_t* data_ = nullptr;
  size_t length_ = 0;
  // Those from `expected_at_` on are to be filled, the first of them with what is left of it.
  std::vector<socket::Part> expected_;
  size_t expected_at_ = 0;
  size_t expected_length_ = 0;
  bool is_expected_rest_ = true;
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
  // The caller wants on_writable().
  bool is_writer_waiting_ = false;
  std::unique_ptr<TlsStream> tls_;
  bool is_shaking_hands_ = false;
  // Of the loop, with TLS: every turn of it, while the socket does not tell what TLS has left.
  uv_idle_t again_ = {};
  int open_handle_count_ = 0;
};

}  // namespace nbd_serve
