#include "stream_socket.h"

#include <errno.h>
#ifdef __linux__
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace nbd_serve {
namespace {

// Header and a few KiB: a larger WRITE that follows is then received where it belongs, nearly all of it.
constexpr size_t kBehindPayloadBytes = 4096;

// Of a file that are written in one go on the event loop, which others wait for meanwhile: some 50 us.
constexpr size_t kFilePieceBytes = 256 * 1024;

#ifdef __linux__

// The kernel hands the pages themselves to the socket (Linux 6.5 on for Unix sockets, long before for TCP), so that only
// the receiver copies: 256 KiB over a Unix socket took 14 us instead of 87 (2 cores, 2026-11).
int64_t send_file_now(int fd, const uint8_t* header, size_t header_length, int file, int64_t offset, size_t length) {
  int64_t sent = 0;
  while (header_length > 0) {
    const ssize_t count = ::send(fd, header, header_length, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -errno;
    if (static_cast<size_t>(count) < header_length) return count;
    sent = count;
    break;
  }
  off_t position = offset;
  while (length > 0) {
    // The socket is non-blocking since libuv watches it. SIGPIPE, which no flag turns off here, is ignored in Node.
    const ssize_t count = ::sendfile(fd, file, &position, length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sent > 0 ? sent : -errno;
    if (count == 0) break;
    sent += count;
    length -= static_cast<size_t>(count);
  }
  return sent;
}

// Room for two replies of 1 MiB, so that the next one is made while the client reads: TCP finds its own size, a
// Unix socket stays at 208 KiB. The kernel cuts it to net.core.wmem_max. 256 KiB READs at depth 8, with other work on
// the machine: 8.7 k/s against 5.4 k/s; with 1 MiB 7.7 k/s.
constexpr int kUnixSendBytes = 2 * 1024 * 1024;

// As far as the kind of socket knows them; none is needed for a right answer.
void set_options(int fd, socket::Route route) {
  const int on = 1;
  if (route == socket::Route::kUnix) {
    (void)::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kUnixSendBytes, sizeof kUnixSendBytes);
  }
  if (route == socket::Route::kTcpOnThisHost) socket::avoid_pacing(fd);
  // A reply must not wait for the acknowledgement of the one before.
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  // A client that has vanished is noticed some day.
  (void)::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

#else

int64_t send_file_now(int, const uint8_t*, size_t, int, int64_t, size_t) { return -ENOSYS; }
void set_options(int, socket::Route) {}

#endif

}  // namespace

StreamSocket* StreamSocket::open(uv_loop_t* loop, int fd, Events* events, int* error) {
  StreamSocket* stream = new StreamSocket(fd, events);
  // For a descriptor that cannot be polled, or is polled already, libuv has registered nothing.
  *error = uv_poll_init(loop, &stream->poll_, fd);
  if (*error != 0) {
    delete stream;
    return nullptr;
  }
  stream->poll_.data = stream;
  stream->route_ = socket::route(fd);
  set_options(fd, stream->route_);
  return stream;
}

int StreamSocket::start_tls(std::shared_ptr<TlsContext> context) {
  std::unique_ptr<TlsStream> tls = TlsStream::open(fd_, std::move(context));
  if (tls == nullptr) return -ENOMEM;
  // It always succeeds: uv_idle_init in libuv's documentation, which returns an int for symmetry.
  (void)uv_idle_init(poll_.loop, &again_);
  again_.data = this;
  tls_ = std::move(tls);
  is_shaking_hands_ = true;
  return watch();
}

int StreamSocket::start(uint8_t* data, size_t length) {
  data_ = data;
  length_ = length;
  return watch();
}

void StreamSocket::stop() {
  data_ = nullptr;
  length_ = 0;
  expect({}, true);
  // It fails for an open handle only when there is something left to watch, which is watched already.
  (void)watch();
}

void StreamSocket::replace_buffer(uint8_t* data, size_t length) {
  if (data_ == nullptr) return;
  data_ = data;
  length_ = length;
}

int64_t StreamSocket::send(const uint8_t* data, size_t length) {
  if (tls_ == nullptr) return socket::send_now(fd_, data, length, false);
  const int64_t result = tls_->send(data, length);
  // It may have received something, and whoever waits to write may wait for something else now.
  if (tls_->has_more() || is_writer_waiting_) (void)watch();
  return result;
}

int64_t StreamSocket::send_parts(const std::vector<socket::Part>& parts) {
  return tls_ != nullptr ? -EOPNOTSUPP : socket::send_parts_now(fd_, parts.data(), parts.size());
}

int64_t StreamSocket::send_file(const uint8_t* header, size_t header_length, int file, int64_t offset,
                                size_t length) {
  if (tls_ != nullptr) return -EOPNOTSUPP;
  return send_file_now(fd_, header, header_length, file, offset, length);
}

int StreamSocket::watch_writable() {
  is_writer_waiting_ = true;
  return watch();
}

int StreamSocket::shut_down() {
  const int error = tls_ != nullptr ? tls_->shut_down() : 0;
  return error == -EAGAIN ? error : socket::shut_down(fd_);
}

// What the kernel still holds is sent all the same; a peer that never reads loses it at the socket's timeout.
void StreamSocket::close() {
  watched_ = 0;
  open_handle_count_ = tls_ != nullptr ? 2 : 1;
  // Takes the descriptor out of the loop at once (uv_close of a poll handle).
  uv_close(reinterpret_cast<uv_handle_t*>(&poll_), on_closed);
  if (tls_ != nullptr) uv_close(reinterpret_cast<uv_handle_t*>(&again_), on_closed);
  ::close(fd_);
  fd_ = -1;
}

void StreamSocket::on_closed(uv_handle_t* handle) {
  StreamSocket* stream = static_cast<StreamSocket*>(handle->data);
  stream->open_handle_count_ -= 1;
  if (stream->open_handle_count_ > 0) return;
  Events* events = stream->events_;
  delete stream;
  events->on_closed();
}

// What is waited for follows from what the caller wants and from what TLS is able to. Both readiness events are
// level-triggered: one that nobody acts upon would keep the loop busy.
int StreamSocket::watch() {
  const bool is_held_back = tls_ != nullptr && tls_->is_held_back();
  const bool needs_input = is_writer_waiting_ && tls_ != nullptr && tls_->waits_for_input();
  const bool is_reading = (data_ != nullptr || is_shaking_hands_) && !is_held_back;
  const bool is_writing = (is_writer_waiting_ && !needs_input) || (tls_ != nullptr && tls_->has_pending());
  if (tls_ != nullptr) {
    if (tls_->has_more() && is_reading && !is_shaking_hands_) {
      // It fails for a null callback only.
      (void)uv_idle_start(&again_, [](uv_idle_t* handle) { static_cast<StreamSocket*>(handle->data)->receive(); });
    } else {
      (void)uv_idle_stop(&again_);
    }
  }
  return watch((is_reading || needs_input ? UV_READABLE : 0) | (is_writing ? UV_WRITABLE : 0));
}

// libuv takes the descriptor out of its epoll set and puts it in again for each change: three system calls,
// so that nothing is changed that is as wanted.
int StreamSocket::watch(int events) {
  if (events == watched_) return 0;
  watched_ = events;
  return events == 0 ? uv_poll_stop(&poll_) : uv_poll_start(&poll_, events, on_ready);
}

// A callback may stop or close: `watched_` tells. The object itself lives until libuv's close
// callback, which comes later in the loop's iteration.
void StreamSocket::on_ready(uv_poll_t* handle, int status, int events) {
  StreamSocket* stream = static_cast<StreamSocket*>(handle->data);
  if (status < 0) {
    // The peer has reset the connection, and libuv watches no more (uv__poll_io). What was received before
    // comes first; then recv or send tells the error. Until it has, the next turn comes here again.
    events = stream->watched_;
    (void)uv_poll_start(&stream->poll_, events, on_ready);
  }
  // First: what a client has sent before it took the end of a reply counts as sent before. Level-triggered: what one call
  // leaves behind wakes the loop again. DISCONNECT is not asked for.
  if ((events & stream->watched_ & UV_READABLE) != 0) {
    if (stream->is_shaking_hands_) {
      stream->shake_hands();
    } else if (stream->is_in_file_) {
      stream->receive_in_file();
    } else if (stream->data_ == nullptr) {
      // Whoever writes needs what has come, and receives it.
      stream->go_on();
    } else if (stream->tls_ == nullptr || !stream->tls_->has_more()) {
      // Else every turn of the loop does.
      stream->receive();
    }
  }
  if ((events & stream->watched_ & UV_WRITABLE) != 0) stream->write_on();
}

void StreamSocket::write_on() {
  if (tls_ != nullptr && tls_->has_pending()) {
    // What TLS sends of its own accord, too. An error is told by the next call of whoever writes.
    (void)tls_->flush();
    if (tls_->has_pending() || tls_->waits_for_input()) {
      (void)watch();
      return;
    }
  }
  go_on();
}

// Only afterwards is anything unwatched: whoever writes mostly waits again.
void StreamSocket::go_on() {
  const bool was_waiting = is_writer_waiting_;
  is_writer_waiting_ = false;
  if (was_waiting) events_->on_writable();
  if (fd_ >= 0) (void)watch();
}

void StreamSocket::shake_hands() {
  const int result = tls_->handshake();
  if (result != -EAGAIN) is_shaking_hands_ = false;
  (void)watch();
  if (result != -EAGAIN) events_->on_secured(result == 0);
}

void StreamSocket::expect(std::vector<socket::Part> parts, bool is_rest) {
  expected_ = std::move(parts);
  is_expected_rest_ = is_rest;
  expected_at_ = 0;
  expected_length_ = 0;
  for (const socket::Part& part : expected_) expected_length_ += part.length;
  end_file();
}

bool StreamSocket::expect_in_file(int file, int64_t offset, size_t length, bool must_be_inside) {
  expect({}, true);
  if (tls_ != nullptr) return false;
  if (pipe_ == nullptr) {
    pipe_ = std::make_unique<SplicePipe>();
    if (pipe_->open() != 0) {
      pipe_.reset();
      return false;
    }
  }
  file_ = file;
  file_offset_ = offset;
  file_length_ = length;
  must_be_inside_ = must_be_inside;
  is_in_file_ = true;
  return true;
}

size_t StreamSocket::leave_file(uint8_t* data, size_t length) {
  if (!is_in_file_) return 0;
  // Less than a page: the caller has room for the rest of the range.
  const size_t held = std::min(pipe_->held(), length);
  pipe_->take(data, held);
  end_file();
  return held;
}

void StreamSocket::end_file() {
  is_in_file_ = false;
  // What is held belongs to a payload that is given up. After an error nobody knows for sure that the pipe is empty, and
  // what is left in it would be the beginning of the next payload.
  if (pipe_ != nullptr && (pipe_->held() > 0 || file_state_ < 0)) pipe_.reset();
}

// Until the socket is empty: a client that is woken by the room of one piece has sent the next meanwhile, mostly.
void StreamSocket::receive_in_file() {
  size_t written = 0;
  SplicePipe::Moved moved;
  bool is_ready = true;
  file_state_ = 0;
  do {
    const size_t wanted = std::min(file_length_ - pipe_->held(), kFilePieceBytes - written);
    moved = pipe_->move(fd_, file_, file_offset_, wanted, file_length_, must_be_inside_, is_ready);
    is_ready = false;
    written += moved.written;
    file_offset_ += static_cast<int64_t>(moved.written);
    file_length_ -= moved.written;
    if (moved.waited_microseconds > 0) file_state_ = moved.waited_microseconds;
    if (moved.error != 0) file_state_ = moved.error;
  } while (moved.taken > 0 && file_state_ == 0 && file_length_ > 0 && written < kFilePieceBytes);
  if (file_length_ == 0 || file_state_ < 0) end_file();
  if (written > 0) {
    // An error, or the end of the stream, behind what was taken comes again.
    events_->on_received(static_cast<int64_t>(written));
  } else if (moved.taken <= 0 && moved.taken != -EAGAIN && moved.taken != -EWOULDBLOCK) {
    events_->on_received(moved.taken);
  }
}

void StreamSocket::receive() {
  size_t behind = expected_length_ == 0 ? length_ : std::min(length_, kBehindPayloadBytes);
  if (limit_ > 0) behind = std::min(behind, limit_);
  if (expected_length_ > 0 && !is_expected_rest_) behind = 0;
  const int64_t result = receive_parts(behind);
  if (tls_ != nullptr) (void)watch();
  if (result > 0) advance_expected(std::min(static_cast<size_t>(result), expected_length_));
  if (result != -EAGAIN && result != -EWOULDBLOCK) events_->on_received(result);
}

// What is expected, then up to `behind` bytes where they usually go: bytes of both together.
int64_t StreamSocket::receive_parts(size_t behind) {
  const size_t count = expected_.size() - expected_at_;
  if (tls_ != nullptr) {
    // Part by part: what is behind the last one may follow only that.
    const socket::Part first = count > 0 ? expected_[expected_at_] : socket::Part();
    return tls_->receive(first.data, first.length, data_, count > 1 ? 0 : behind);
  }
  socket::Part parts[socket::kPartCountMax];
  const size_t taken = std::min(count, socket::kPartCountMax);
  std::copy_n(expected_.begin() + static_cast<std::ptrdiff_t>(expected_at_), taken, parts);
  const bool has_room = taken == count && taken < socket::kPartCountMax;
  if (has_room) parts[taken] = {data_, behind};
  return socket::receive_now(fd_, parts, taken + (has_room ? 1 : 0));
}

void StreamSocket::advance_expected(size_t length) {
  expected_length_ -= length;
  while (length > 0) {
    socket::Part& part = expected_[expected_at_];
    const size_t filled = std::min(length, part.length);
    part.data += filled;
    part.length -= filled;
    length -= filled;
    if (part.length == 0) expected_at_ += 1;
  }
}

}  // namespace nbd_serve
