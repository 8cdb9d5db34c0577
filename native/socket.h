// Sockets: listening ones are made, and watched by an event loop that hands out descriptors; what is asked of connected ones,
// and the system calls that move their bytes.
//
// Node's own servers create the connection's socket object themselves; only a bare descriptor can be given
// to `new net.Socket({ fd, onread })`, or to another thread.
//
// Functions answer zero or more, or -errno; off Linux -ENOSYS. Knows nothing of JavaScript.
#pragma once

#include <uv.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace nbd_serve::socket {

int listen_unix(const std::string& path, int mode, int backlog);
int listen_tcp(const std::string& address, int port, int backlog);
int local_port(int fd);
// The path or the numeric address that a socket is bound to; empty for a Unix socket without a path.
int local_address(int fd, std::string* address);
// The other end of a connected socket: `address:port`, `[address]:port`, or a path that is mostly empty.
int peer_address(int fd, std::string* address);
// The way to the other end of a connected socket.
enum class Route { kUnix, kTcpOnThisHost, kTcp };
// kUnix for what is neither, or has no other end any more.
Route route(int fd);
// For TCP inside this host, where nothing is lost or congested. On a listener before its clients come it is for all of
// them; on a connected socket of a host with BBR the timers stay, at a higher rate.
void avoid_pacing(int fd);
// Bytes, and the goodbye, that were sent and that the other end's kernel has not acknowledged: close(2) with unread
// input drops them. Always 0 for a Unix socket, which puts what it sends straight into the other end's queue.
int unacknowledged(int fd);
// Makes a listening stream socket that was inherited like one of ours: non-blocking and close-on-exec. Answers
// its family, AF_UNIX, AF_INET or AF_INET6; -EINVAL when it is a socket, but no such one.
int adopt_listener(int fd);
// One datagram to a Unix socket, `@name` being an abstract one (sd_notify(3)). May wait for the reader, for up to
// kNotifySecondsMax.
constexpr int kNotifySecondsMax = 5;
int notify(const std::string& path, const std::string& message);
// A connected, non-blocking, close-on-exec descriptor; -EAGAIN when nobody waits.
int accept_one(int listening_fd);
// Errors of one connection that died in the backlog, not of the listener: accept(2) says to take the next.
bool is_connections_own_error(int error);
// A part of memory, one of several that a call fills or sends in their order.
struct Part {
  uint8_t* data = nullptr;
  size_t length = 0;
};
// Of one call, those behind them are left out: below IOV_MAX, and more than a socket has or takes at a time.
constexpr size_t kPartCountMax = 64;
// recvmsg(2) without waiting: bytes, 0 at the end, or -EAGAIN for none.
int64_t receive_now(int fd, const Part* parts, size_t count);
// sendmsg(2) without waiting: as send_now().
int64_t send_parts_now(int fd, const Part* parts, size_t count);
// send(2) without waiting: bytes that the kernel took, or -EAGAIN for none. `has_more`: TCP need not send a segment that is
// not full, for more follows at once.
int64_t send_now(int fd, const uint8_t* data, size_t length, bool has_more);
// No more will be sent.
int shut_down(int fd);

}  // namespace nbd_serve::socket

namespace nbd_serve {

// Owns its descriptor from open() on. Allocated on the heap, and frees itself when libuv has let go of its
// handle, after close(). Everything runs on the loop's thread.
class Listener {
 public:
  // So many connections a wake-up: then the connections already there get their turn.
  static constexpr int kAcceptCountMax = 64;

  class Events {
   public:
    // A descriptor, or -errno. May pause or close the listener.
    virtual void on_accepted(int descriptor) = 0;
    // The Listener is freed after this; the last event.
    virtual void on_closed() = 0;

   protected:
    ~Events() = default;
  };

  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // Null with libuv's error in `error`; the descriptor is then still the caller's. `events` outlives it.
  static Listener* open(uv_loop_t* loop, int fd, Events* events, int* error);
  void pause();
  int resume();
  // Once.
  void close();

 private:
  Listener(int fd, Events* events) : fd_(fd), events_(events) {}
  ~Listener() = default;

  static void on_readable(uv_poll_t* handle, int status, int events);
  void accept_batch();

  uv_poll_t poll_ = {};
  int fd_;
  Events* const events_;
  bool accepting_ = false;
};

}  // namespace nbd_serve
