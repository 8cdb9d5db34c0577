// The cheapest NBD server that is still correct on the wire: it answers every READ with the same bytes and forgets
// every WRITE. What clients reach with it is what they, the socket and the kernel allow; a server that keeps data
// cannot be much faster. One thread for each connection; it polls for a short time before it sleeps, and sends the
// replies to what arrived together in pieces of 1, 2, 4 and so on up to `gather`.
//
//   floor (unix PATH | tcp PORT) EXPORT-BYTES POLL-MICROSECONDS GATHER

#include <arpa/inet.h>
#include <endian.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kReceiveBytes = 1 << 20;
constexpr size_t kLengthMax = 32 << 20;
constexpr int kGatherMax = 256;
// From here on a reply is worth a system call of its own.
constexpr uint32_t kLargeBytes = 64 << 10;

constexpr uint64_t kOptionMagic = 0x49484156454F5054;
constexpr uint64_t kOptionReplyMagic = 0x3e889045565a9;
constexpr uint32_t kRequestMagic = 0x25609513;
constexpr uint32_t kReplyMagic = 0x67446698;

struct [[gnu::packed]] Request {
  uint32_t magic;
  uint16_t flags;
  uint16_t type;
  uint64_t cookie;
  uint64_t offset;
  uint32_t length;
};
static_assert(sizeof(Request) == 28);

struct [[gnu::packed]] Reply {
  uint32_t magic;
  uint32_t error;
  uint64_t cookie;
};
static_assert(sizeof(Reply) == 16);

enum Command : uint16_t { kRead = 0, kWrite = 1, kDisconnect = 2 };
enum Option : uint32_t { kAbort = 2, kInfo = 6, kGo = 7 };

uint64_t export_bytes;
std::chrono::microseconds poll_time;
int gather;
std::vector<char> contents(kLengthMax, 'x');

// The connection is over, for whatever reason: its thread ends.
struct Gone {};

void SendAll(int fd, iovec* pieces, size_t count) {
  while (count > 0) {
    ssize_t sent = writev(fd, pieces, static_cast<int>(count));
    if (sent < 0) throw Gone();
    while (count > 0 && static_cast<size_t>(sent) >= pieces->iov_len) {
      sent -= static_cast<ssize_t>(pieces->iov_len);
      ++pieces;
      --count;
    }
    if (count > 0) {
      pieces->iov_base = static_cast<char*>(pieces->iov_base) + sent;
      pieces->iov_len -= static_cast<size_t>(sent);
    }
  }
}

class Connection {
 public:
  explicit Connection(int fd) : fd_(fd) {}
  ~Connection() { close(fd_); }

  void Serve() {
    Handshake();
    for (;;) {
      Request request = Take<Request>();
      if (be32toh(request.magic) != kRequestMagic) throw Gone();
      uint16_t type = be16toh(request.type);
      uint32_t length = be32toh(request.length);
      if (type == kDisconnect || length > kLengthMax) throw Gone();
      if (type == kWrite) Skip(length);
      replies_[reply_count_] = {htobe32(kReplyMagic), 0, request.cookie};
      pieces_[piece_count_++] = {&replies_[reply_count_++], sizeof(Reply)};
      if (type == kRead) pieces_[piece_count_++] = {contents.data(), length};
      bool is_large = type == kRead && length >= kLargeBytes;
      if (reply_count_ >= piece_max_ || is_large) {
        Flush();
        piece_max_ = std::min(2 * piece_max_, gather);
      }
    }
  }

 private:
  // Everything ready leaves before the thread may wait for more.
  void Flush() {
    SendAll(fd_, pieces_, static_cast<size_t>(piece_count_));
    reply_count_ = piece_count_ = 0;
  }

  void Receive() {
    if (piece_count_ > 0) Flush();
    auto end = std::chrono::steady_clock::now() + poll_time;
    begin_ = end_ = 0;
    piece_max_ = 1;
    for (;;) {
      bool may_sleep = std::chrono::steady_clock::now() >= end;
      ssize_t received = recv(fd_, buffer_.data(), buffer_.size(), may_sleep ? 0 : MSG_DONTWAIT);
      if (received > 0) {
        end_ = static_cast<size_t>(received);
        return;
      }
      if (received == 0 || errno != EAGAIN) throw Gone();
    }
  }

  void TakeBytes(char* target, size_t length) {
    while (length > 0) {
      if (begin_ == end_) Receive();
      size_t count = std::min(length, end_ - begin_);
      if (target != nullptr) {
        memcpy(target, buffer_.data() + begin_, count);
        target += count;
      }
      begin_ += count;
      length -= count;
    }
  }

  template <typename T>
  T Take() {
    T value;
    TakeBytes(reinterpret_cast<char*>(&value), sizeof value);
    return value;
  }

  void Skip(size_t length) { TakeBytes(nullptr, length); }

  void Send(const std::string& bytes) {
    iovec piece = {const_cast<char*>(bytes.data()), bytes.size()};
    SendAll(fd_, &piece, 1);
  }

  template <typename T>
  static std::string Bytes(T value) {
    return std::string(reinterpret_cast<char*>(&value), sizeof value);
  }

  void SendOptionReply(uint32_t option, uint32_t type, const std::string& data) {
    Send(Bytes(htobe64(kOptionReplyMagic)) + Bytes(htobe32(option)) + Bytes(htobe32(type)) +
         Bytes(htobe32(static_cast<uint32_t>(data.size()))) + data);
  }

  void Handshake() {
    // FIXED_NEWSTYLE and NO_ZEROES.
    Send("NBDMAGIC" + Bytes(htobe64(kOptionMagic)) + Bytes(htobe16(3)));
    Skip(4);
    for (;;) {
      if (be64toh(Take<uint64_t>()) != kOptionMagic) throw Gone();
      uint32_t option = be32toh(Take<uint32_t>());
      Skip(be32toh(Take<uint32_t>()));
      if (option == kGo || option == kInfo) {
        // NBD_REP_INFO with NBD_INFO_EXPORT; HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, CAN_MULTI_CONN.
        SendOptionReply(option, 3, Bytes(htobe16(0)) + Bytes(htobe64(export_bytes)) + Bytes(htobe16(0x12d)));
      }
      bool is_known = option == kGo || option == kInfo || option == kAbort;
      SendOptionReply(option, is_known ? 1 /* ACK */ : 0x80000001 /* ERR_UNSUP */, "");
      if (option == kAbort) throw Gone();
      if (option == kGo) return;
    }
  }

  int fd_;
  std::vector<char> buffer_ = std::vector<char>(kReceiveBytes);
  size_t begin_ = 0;
  size_t end_ = 0;
  Reply replies_[kGatherMax];
  iovec pieces_[2 * kGatherMax];
  int reply_count_ = 0;
  int piece_count_ = 0;
  // Replies in the next piece: the first one leaves at once, so that the client works while we do.
  int piece_max_ = 1;
};

int Listen(const std::string& kind, const char* where) {
  int fd;
  int bound;
  if (kind == "unix") {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, where, sizeof address.sun_path - 1);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    bound = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
  } else {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(atoi(where)));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    bound = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
  }
  if (fd < 0 || bound != 0 || listen(fd, 64) != 0) {
    perror("floor: listen");
    exit(1);
  }
  return fd;
}

}  // namespace

int main(int count, char** words) {
  if (count != 6 || atoi(words[5]) < 1 || atoi(words[5]) > kGatherMax) {
    fprintf(stderr, "usage: floor (unix PATH | tcp PORT) EXPORT-BYTES POLL-MICROSECONDS GATHER\n");
    return 2;
  }
  export_bytes = strtoull(words[3], nullptr, 10);
  poll_time = std::chrono::microseconds(atoi(words[4]));
  gather = atoi(words[5]);
  signal(SIGPIPE, SIG_IGN);
  int listener = Listen(words[1], words[2]);
  for (;;) {
    int fd = accept(listener, nullptr, nullptr);
    if (fd < 0) continue;
    int on = 1;
    // Fails on Unix sockets, which have no such delay.
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    std::thread([fd] {
      try {
        Connection(fd).Serve();
      } catch (const Gone&) {
      }
    }).detach();
  }
}
