#include "socket.h"

#include <errno.h>

#ifdef __linux__
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#endif
#include <unistd.h>

#include <algorithm>

namespace nbd_serve {
namespace socket {

#ifdef __linux__

namespace {

// -errno, read before close can change it. A descriptor that was never used has nothing to lose in close.
int fail_closing(int fd) {
  const int error = errno;
  ::close(fd);
  return -error;
}

int open_stream_socket(int family) {
  const int fd = ::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  return fd < 0 ? -errno : fd;
}

// Interface name or number behind the %, RFC 4007 section 11.2. 0 for none such.
unsigned int scope_of(const std::string& text) {
  const unsigned int index = ::if_nametoindex(text.c_str());
  if (index != 0) return index;
  char* end = nullptr;
  const unsigned long number = ::strtoul(text.c_str(), &end, 10);
  return *end == '\0' && number <= UINT32_MAX ? static_cast<unsigned int>(number) : 0;
}

// The length of the address, or 0 when it is neither.
socklen_t parse_address(const std::string& address, int port, struct sockaddr_storage* storage) {
  *storage = {};
  if (address.find('\0') != std::string::npos) return 0;

  struct sockaddr_in* v4 = reinterpret_cast<struct sockaddr_in*>(storage);
  if (::inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    return sizeof *v4;
  }

  struct sockaddr_in6* v6 = reinterpret_cast<struct sockaddr_in6*>(storage);
  const size_t percent = address.find('%');
  if (::inet_pton(AF_INET6, address.substr(0, percent).c_str(), &v6->sin6_addr) != 1) return 0;
  if (percent != std::string::npos) {
    v6->sin6_scope_id = scope_of(address.substr(percent + 1));
    if (v6->sin6_scope_id == 0) return 0;
  }
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(static_cast<uint16_t>(port));
  return sizeof *v6;
}

// BBR, the default of many hosts, sets a timer for every few packets: 256 KiB READs at depth 8, 1.8 GiB/s against 3.0 (2
// cores, 2026-11). Everybody may choose reno (tcp(7), tcp_allowed_congestion_control); cubic is no faster.
constexpr char kLoopbackCongestion[] = "reno";

// All of 127.0.0.0/8 is this host (RFC 1122, section 3.2.1.3), also inside an IPv6 address.
bool is_loopback(const struct sockaddr_storage& storage) {
  if (storage.ss_family == AF_INET) {
    const struct in_addr& address = reinterpret_cast<const struct sockaddr_in*>(&storage)->sin_addr;
    return ntohl(address.s_addr) >> 24 == IN_LOOPBACKNET;
  }
  if (storage.ss_family == AF_INET6) {
    const struct in6_addr& address = reinterpret_cast<const struct sockaddr_in6*>(&storage)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(&address) ||
           (IN6_IS_ADDR_V4MAPPED(&address) && address.s6_addr[12] == IN_LOOPBACKNET);
  }
  return false;
}

}  // namespace

int listen_unix(const std::string& path, int mode, int backlog) {
  struct sockaddr_un address = {};
  // An empty path would bind to an abstract name of the kernel's choice, which has no permissions at all; one
  // with a NUL would bind to less than was asked.
  if (path.empty() || path.find('\0') != std::string::npos) return -EINVAL;
  if (path.size() >= sizeof address.sun_path) return -ENAMETOOLONG;
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.c_str(), path.size() + 1);

  const int fd = open_stream_socket(AF_UNIX);
  if (fd < 0) return fd;
  // bind makes the file with the mode of the socket's own inode, less the umask (net/unix/af_unix.c,
  // unix_bind_bsd). So there is no moment in which others could connect, as there is between bind and a
  // chmod, and no umask to change, which belongs to the whole process.
  if (::fchmod(fd, static_cast<mode_t>(mode)) != 0) return fail_closing(fd);
  if (::bind(fd, reinterpret_cast<const struct sockaddr*>(&address), sizeof address) != 0) {
    return fail_closing(fd);
  }
  if (::listen(fd, backlog) != 0) {
    const int error = fail_closing(fd);
    // It was made just now, by us, and leads nowhere.
    ::unlink(path.c_str());
    return error;
  }
  return fd;
}

int listen_tcp(const std::string& address, int port, int backlog) {
  struct sockaddr_storage storage;
  const socklen_t length = parse_address(address, port, &storage);
  if (length == 0) return -EINVAL;
  const int fd = open_stream_socket(storage.ss_family);
  if (fd < 0) return fd;
  const int on = 1;
  // Else a restart fails for as long as the last connections stay in TIME_WAIT.
  if (::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) return fail_closing(fd);
  // `::` means IPv6, not "and IPv4 if the sysctl says so".
  if (storage.ss_family == AF_INET6 &&
      ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) != 0) {
    return fail_closing(fd);
  }
  if (::bind(fd, reinterpret_cast<const struct sockaddr*>(&storage), length) != 0) return fail_closing(fd);
  if (is_loopback(storage)) avoid_pacing(fd);
  if (::listen(fd, backlog) != 0) return fail_closing(fd);
  return fd;
}

int local_port(int fd) {
  struct sockaddr_storage storage = {};
  socklen_t length = sizeof storage;
  if (::getsockname(fd, reinterpret_cast<struct sockaddr*>(&storage), &length) != 0) return -errno;
  if (storage.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const struct sockaddr_in*>(&storage)->sin_port);
  }
  if (storage.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const struct sockaddr_in6*>(&storage)->sin6_port);
  }
  return -EAFNOSUPPORT;
}

namespace {

int describe_address(const struct sockaddr_storage& storage, socklen_t length, std::string* address) {
  address->clear();
  char text[INET6_ADDRSTRLEN] = "";
  switch (storage.ss_family) {
    case AF_UNIX: {
      // Abstract names begin with a NUL, unnamed sockets have no name at all; a path need not end with one.
      const char* path = reinterpret_cast<const struct sockaddr_un*>(&storage)->sun_path;
      const size_t header = offsetof(struct sockaddr_un, sun_path);
      if (length > header) address->assign(path, ::strnlen(path, length - header));
      return 0;
    }
    case AF_INET:
      if (::inet_ntop(AF_INET, &reinterpret_cast<const struct sockaddr_in*>(&storage)->sin_addr, text,
                      sizeof text) == nullptr) {
        return -errno;
      }
      break;
    case AF_INET6:
      if (::inet_ntop(AF_INET6, &reinterpret_cast<const struct sockaddr_in6*>(&storage)->sin6_addr, text,
                      sizeof text) == nullptr) {
        return -errno;
      }
      break;
    default:
      return -EAFNOSUPPORT;
  }
  *address = text;
  return 0;
}

}  // namespace

int local_address(int fd, std::string* address) {
  struct sockaddr_storage storage = {};
  socklen_t length = sizeof storage;
  if (::getsockname(fd, reinterpret_cast<struct sockaddr*>(&storage), &length) != 0) return -errno;
  return describe_address(storage, length, address);
}

int peer_address(int fd, std::string* address) {
  struct sockaddr_storage storage = {};
  socklen_t length = sizeof storage;
  if (::getpeername(fd, reinterpret_cast<struct sockaddr*>(&storage), &length) != 0) return -errno;
  const int result = describe_address(storage, length, address);
  if (result != 0) return result;
  if (storage.ss_family == AF_INET) {
    const uint16_t port = ntohs(reinterpret_cast<const struct sockaddr_in*>(&storage)->sin_port);
    *address += ":" + std::to_string(port);
  } else if (storage.ss_family == AF_INET6) {
    const uint16_t port = ntohs(reinterpret_cast<const struct sockaddr_in6*>(&storage)->sin6_port);
    *address = "[" + *address + "]:" + std::to_string(port);
  }
  return 0;
}

Route route(int fd) {
  struct sockaddr_storage local = {};
  struct sockaddr_storage peer = {};
  socklen_t local_length = sizeof local;
  socklen_t peer_length = sizeof peer;
  if (::getsockname(fd, reinterpret_cast<struct sockaddr*>(&local), &local_length) != 0 ||
      ::getpeername(fd, reinterpret_cast<struct sockaddr*>(&peer), &peer_length) != 0) {
    return Route::kUnix;
  }
  if (local.ss_family == AF_INET && peer.ss_family == AF_INET) {
    const struct in_addr& here = reinterpret_cast<const struct sockaddr_in*>(&local)->sin_addr;
    const struct in_addr& there = reinterpret_cast<const struct sockaddr_in*>(&peer)->sin_addr;
    return here.s_addr == there.s_addr || is_loopback(peer) ? Route::kTcpOnThisHost : Route::kTcp;
  }
  if (local.ss_family == AF_INET6 && peer.ss_family == AF_INET6) {
    const struct in6_addr& here = reinterpret_cast<const struct sockaddr_in6*>(&local)->sin6_addr;
    const struct in6_addr& there = reinterpret_cast<const struct sockaddr_in6*>(&peer)->sin6_addr;
    return IN6_ARE_ADDR_EQUAL(&here, &there) || is_loopback(peer) ? Route::kTcpOnThisHost : Route::kTcp;
  }
  return Route::kUnix;
}

void avoid_pacing(int fd) {
  // No harm where the kernel knows it not.
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kLoopbackCongestion, sizeof kLoopbackCongestion - 1);
}

int unacknowledged(int fd) {
  int family = 0;
  socklen_t length = sizeof family;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) != 0) return -errno;
  // There SIOCOUTQ counts what the other end has not read, which outlives this end.
  if (family == AF_UNIX) return 0;
  int count = 0;
  return ::ioctl(fd, SIOCOUTQ, &count) == 0 ? count : -errno;
}

int adopt_listener(int fd) {
  int family = 0;
  int type = 0;
  int is_listening = 0;
  socklen_t length = sizeof(int);
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) != 0) return -errno;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) return -errno;
  if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &length) != 0) return -errno;
  if (type != SOCK_STREAM || is_listening == 0) return -EINVAL;
  if (family != AF_UNIX && family != AF_INET && family != AF_INET6) return -EINVAL;
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return -errno;
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return -errno;
  return family;
}

int notify(const std::string& path, const std::string& message) {
  struct sockaddr_un address = {};
  if (path.empty()) return -EINVAL;
  if (path.size() >= sizeof address.sun_path) return -ENAMETOOLONG;
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  // An abstract name ends where the length says.
  if (path[0] == '@') address.sun_path[0] = '\0';
  const socklen_t length = static_cast<socklen_t>(offsetof(struct sockaddr_un, sun_path) + path.size());

  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  const struct timeval patience = {kNotifySecondsMax, 0};
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) != 0) return fail_closing(fd);
  ssize_t sent;
  do {
    sent = ::sendto(fd, message.data(), message.size(), MSG_NOSIGNAL,
                    reinterpret_cast<const struct sockaddr*>(&address), length);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return fail_closing(fd);
  ::close(fd);
  return 0;
}

int accept_one(int listening_fd) {
  const int fd = ::accept4(listening_fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

// accept(2), "Error handling": pending network errors of the new socket are passed through accept and
// should be treated like EAGAIN by retrying. EPERM: a firewall's refusal.
bool is_connections_own_error(int error) {
  switch (error) {
    case ECONNABORTED:
    case EINTR:
    case EPROTO:
    case EPERM:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
      return true;
    default:
      return false;
  }
}

namespace {

// The first kPartCountMax of them; `vectors` has room for so many.
struct msghdr message_of(const Part* parts, size_t count, struct iovec* vectors) {
  struct msghdr message = {};
  message.msg_iov = vectors;
  message.msg_iovlen = std::min(count, kPartCountMax);
  for (size_t index = 0; index < message.msg_iovlen; ++index) {
    vectors[index] = {parts[index].data, parts[index].length};
  }
  return message;
}

}  // namespace

int64_t receive_now(int fd, const Part* parts, size_t count) {
  struct iovec vectors[kPartCountMax];
  struct msghdr message = message_of(parts, count, vectors);
  for (;;) {
    const ssize_t received = ::recvmsg(fd, &message, MSG_DONTWAIT);
    if (received >= 0) return received;
    if (errno != EINTR) return -errno;
  }
}

int64_t send_parts_now(int fd, const Part* parts, size_t count) {
  struct iovec vectors[kPartCountMax];
  const struct msghdr message = message_of(parts, count, vectors);
  for (;;) {
    const ssize_t sent = ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return sent;
    if (errno != EINTR) return -errno;
  }
}

int64_t send_now(int fd, const uint8_t* data, size_t length, bool has_more) {
  for (;;) {
    // Without NOSIGNAL a client that has gone would end the process.
    const ssize_t count = ::send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL | (has_more ? MSG_MORE : 0));
    if (count >= 0) return count;
    if (errno != EINTR) return -errno;
  }
}

int shut_down(int fd) { return ::shutdown(fd, SHUT_WR) == 0 ? 0 : -errno; }

#else

int listen_unix(const std::string&, int, int) { return -ENOSYS; }
int listen_tcp(const std::string&, int, int) { return -ENOSYS; }
int local_port(int) { return -ENOSYS; }
int local_address(int, std::string*) { return -ENOSYS; }
int peer_address(int, std::string*) { return -ENOSYS; }
Route route(int) { return Route::kUnix; }
void avoid_pacing(int) {}
int unacknowledged(int) { return -ENOSYS; }
int adopt_listener(int) { return -ENOSYS; }
int notify(const std::string&, const std::string&) { return -ENOSYS; }
int accept_one(int) { return -ENOSYS; }
bool is_connections_own_error(int) { return false; }
int64_t receive_now(int, const Part*, size_t) { return -ENOSYS; }
int64_t send_parts_now(int, const Part*, size_t) { return -ENOSYS; }
int64_t send_now(int, const uint8_t*, size_t, bool) { return -ENOSYS; }
int shut_down(int) { return -ENOSYS; }

#endif

}  // namespace socket

Listener* Listener::open(uv_loop_t* loop, int fd, Events* events, int* error) {
  Listener* listener = new Listener(fd, events);
  // For a descriptor that cannot be polled, or is polled already, libuv has registered nothing.
  *error = uv_poll_init(loop, &listener->poll_, fd);
  if (*error != 0) {
    delete listener;
    return nullptr;
  }
  listener->poll_.data = listener;
  return listener;
}

void Listener::pause() {
  accepting_ = false;
  // It always succeeds: uv_poll_stop in libuv's documentation, which returns an int for symmetry.
  (void)uv_poll_stop(&poll_);
}

int Listener::resume() {
  accepting_ = true;
  return uv_poll_start(&poll_, UV_READABLE, on_readable);
}

void Listener::close() {
  pause();
  uv_close(reinterpret_cast<uv_handle_t*>(&poll_), [](uv_handle_t* handle) {
    Listener* listener = static_cast<Listener*>(handle->data);
    Events* events = listener->events_;
    delete listener;
    events->on_closed();
  });
  // Allowed right after uv_close of a poll handle. Connections still in the backlog are reset. Nothing was
  // written through this descriptor, so its close has no error to tell.
  ::close(fd_);
  fd_ = -1;
}

// `status` is not looked at: when polling failed, accept says how.
void Listener::on_readable(uv_poll_t* handle, int, int) {
  static_cast<Listener*>(handle->data)->accept_batch();
}

// A callback may pause or close: `accepting_` is false then. The object itself lives until libuv's close
// callback, which comes later in the loop's iteration.
void Listener::accept_batch() {
  for (int count = 0; count < kAcceptCountMax && accepting_; count += 1) {
    const int result = socket::accept_one(fd_);
    if (result >= 0) {
      events_->on_accepted(result);
      continue;
    }
    if (result == -EAGAIN || result == -EWOULDBLOCK) return;
    if (socket::is_connections_own_error(-result)) continue;
    // Out of descriptors or memory, or a broken listener. The connection stays in the backlog and the
    // descriptor readable: polling on would spin. Paused first, so that the callback may resume.
    pause();
    events_->on_accepted(result);
    return;
  }
}

}  // namespace nbd_serve
