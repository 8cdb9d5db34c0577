#include "tls_stream.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <uv.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "socket.h"

namespace nbd_serve {
namespace {

// The largest plaintext of a record.
constexpr size_t kRecordBytes = SSL3_RT_MAX_PLAIN_LENGTH;

// Its header, tag and type, and more than that.
constexpr size_t kRecordOverheadBytes = 64;

// Encrypted and sent in one go: the client decrypts one piece while the next is made.
constexpr size_t kPieceBytes = 128 * 1024;

// Received beyond what is wanted: a handshake's messages, or requests that follow. It is copied once more.
constexpr size_t kInputBeyondBytes = 4096;

// Of plaintext in one call, either way: others wait meanwhile, some 300 us.
constexpr size_t kTurnBytes = 1024 * 1024;

}  // namespace

// Other connections use the context's buffers, too, and what one leaves there would be sent, or decrypted, as another's.
// OpenSSL may use them during a Turn only (`on_read`, `on_write`), and its end empties both, whatever OpenSSL was asked for
// and has answered: SSL_read sends answers to a KeyUpdate, SSL_write receives the rest of one, and any of them sends alerts.
class TlsStream::Turn {
 public:
  Turn(TlsStream* stream, size_t input_room) : stream_(*stream) {
    ERR_clear_error();
    stream_.has_turn_ = true;
    stream_.input_room_ = input_room;
    stream_.is_dry_ = false;
  }

  ~Turn() {
    // What cannot be sent is told by the next call.
    if (!stream_.context_->output().empty()) (void)stream_.flush();
    if (stream_.input_length_ == 0) {
      // With its memory.
      stream_.kept_ = std::vector<uint8_t>();
    } else if (stream_.kept_.empty()) {
      stream_.kept_.assign(stream_.input_, stream_.input_ + stream_.input_length_);
      stream_.input_ = stream_.kept_.data();
    }
    stream_.has_turn_ = false;
    ERR_clear_error();
  }

  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  TlsStream& stream_;
};

std::unique_ptr<TlsStream> TlsStream::open(int fd, std::shared_ptr<TlsContext> context) {
  std::unique_ptr<TlsStream> stream(new TlsStream(fd, std::move(context)));
  const bool is_open = stream->open();
  ERR_clear_error();
  return is_open ? std::move(stream) : nullptr;
}

bool TlsStream::open() {
  // For each connection: a type of its own, of which a process has 127, is for those who look for BIOs in chains.
  method_.reset(BIO_meth_new(BIO_TYPE_SOURCE_SINK, "nbd-serve"));
  ssl_.reset(context_->connection());
  if (method_ == nullptr || ssl_ == nullptr || BIO_meth_set_read_ex(method_.get(), on_read) != 1 ||
      BIO_meth_set_write_ex(method_.get(), on_write) != 1 || BIO_meth_set_ctrl(method_.get(), on_control) != 1) {
    return false;
  }
  BIO* const bio = BIO_new(method_.get());
  if (bio == nullptr) return false;
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  // Takes the one reference, for both directions (SSL_set_bio(3)).
  SSL_set_bio(ssl_.get(), bio, bio);
  SSL_set_accept_state(ssl_.get());
  return true;
}

const char* TlsStream::cipher() const {
  const char* name = SSL_CIPHER_standard_name(SSL_get_current_cipher(ssl_.get()));
  return name == nullptr ? "" : name;
}

int TlsStream::handshake() {
  const Turn turn(this, kInputBeyondBytes);
  const int result = SSL_do_handshake(ssl_.get());
  const int error = result == 1 ? 0 : error_of(result);
  // What the client has sent behind its part of the handshake was received with it.
  if (error == 0) has_more_ = is_more_held();
  if (error != 0 && error != -EAGAIN) discard_input();
  return error;
}

int TlsStream::error_of(int result) {
  const int kind = SSL_get_error(ssl_.get(), result);
  int error = -EPROTO;
  if (kind == SSL_ERROR_WANT_READ) {
    error = -EAGAIN;
  } else if (receive_error_ != 0) {
    error = receive_error_;
    failure_ = uv_err_name(error);
  } else if (has_ended_) {
    failure_ = "the client closed the connection";
  } else {
    const unsigned long code = ERR_peek_error();
    const bool is_of_certificate =
        ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED;
    failure_ = is_of_certificate ? X509_verify_cert_error_string(SSL_get_verify_result(ssl_.get())) : take_tls_error();
  }
  ERR_clear_error();
  return error;
}

// To close a socket with unread input is a reset, which the client may hear of before it reads the alert.
void TlsStream::discard_input() {
  input_length_ = 0;
  const socket::Part input = {context_->input(), TlsContext::kInputBytes};
  (void)socket::receive_now(fd_, &input, 1);
}

int64_t TlsStream::receive(uint8_t* first, size_t first_length, uint8_t* second, size_t second_length) {
  const size_t wanted = first_length + second_length;
  const size_t overhead = wanted / kRecordBytes * kRecordOverheadBytes;
  const Turn turn(this, std::min(wanted + overhead + kInputBeyondBytes, TlsContext::kInputBytes));
  // Perhaps it has come.
  waits_for_input_ = false;
  size_t received = 0;
  int64_t result = 1;
  while (result > 0 && received < first_length && received < kTurnBytes) {
    result = receive_record(first + received, first_length - received);
    if (result > 0) received += static_cast<size_t>(result);
  }
  size_t behind = 0;
  while (result > 0 && received >= first_length && behind < second_length && received + behind < kTurnBytes) {
    result = receive_record(second + behind, second_length - behind);
    if (result > 0) behind += static_cast<size_t>(result);
    // Clients begin a record with a request's header; the records that follow it may belong elsewhere.
    if (first_length > 0) break;
  }
  const size_t total = received + behind;
  if (result > 0) {
    has_more_ = is_more_held();
  } else if (result == -EAGAIN) {
    // Perhaps only the record was none of data, or too much is pending.
    has_more_ = !is_dry_;
  } else {
    // The end, or an error, behind what was received comes again.
    has_more_ = total > 0;
  }
  return total > 0 ? static_cast<int64_t>(total) : result;
}

int64_t TlsStream::receive_record(uint8_t* data, size_t length) {
  is_dry_ = false;
  if (is_held_back()) return -EAGAIN;
  ERR_clear_error();
  size_t count = 0;
  const int result = SSL_read_ex(ssl_.get(), data, length, &count);
  if (result == 1) return static_cast<int64_t>(count);
  // close_notify, or a FIN without it.
  const bool has_ended = SSL_get_error(ssl_.get(), result) == SSL_ERROR_ZERO_RETURN;
  return has_ended ? 0 : error_of(result);
}

int64_t TlsStream::send(const uint8_t* data, size_t length) {
  waits_for_input_ = false;
  int error = flush();
  if (error != 0) return error;
  const Turn turn(this, kInputBeyondBytes);
  size_t taken = std::min(untold_, length);
  untold_ = 0;
  const size_t end = std::min(length, kTurnBytes);
  while (taken < end) {
    const size_t piece = std::min(end - taken, kPieceBytes);
    ERR_clear_error();
    size_t written = 0;
    // All of it: our BIO takes everything.
    const int result = SSL_write_ex(ssl_.get(), data + taken, piece, &written);
    if (result == 1) {
      error = flush(taken + piece < length);
      if (error == -EAGAIN) untold_ = piece;
    } else {
      error = error_of(result);
      // Of the piece nothing is encrypted: ssl3_write_bytes reads a message to its end before it begins.
      waits_for_input_ = error == -EAGAIN && is_dry_;
    }
    if (error == -EAGAIN) break;
    if (error != 0) return error;
    taken += piece;
  }
  // Behind the message there was more.
  if (input_length_ > 0) has_more_ = true;
  return taken > 0 || length == 0 ? static_cast<int64_t>(taken) : error;
}

int TlsStream::flush(bool has_more) {
  std::vector<uint8_t>& made = context_->output();
  size_t made_sent = 0;
  sent_ += send_now(pending_.data() + sent_, pending_.size() - sent_, false);
  if (!has_pending()) {
    // With its memory.
    pending_ = std::vector<uint8_t>();
    sent_ = 0;
    made_sent = send_now(made.data(), made.size(), has_more);
  } else if (sent_ > kPieceBytes) {
    // Whoever takes a little and asks for more all the time would let it grow.
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(sent_));
    sent_ = 0;
  }
  pending_.insert(pending_.end(), made.begin() + static_cast<std::ptrdiff_t>(made_sent), made.end());
  made.clear();
  if (send_error_ != 0) {
    // Nobody gets it any more.
    pending_.clear();
    sent_ = 0;
    return send_error_;
  }
  return has_pending() ? -EAGAIN : 0;
}

// What the kernel takes; 0 after an error.
size_t TlsStream::send_now(const uint8_t* data, size_t length, bool has_more) {
  if (length == 0 || send_error_ != 0) return 0;
  const int64_t result = socket::send_now(fd_, data, length, has_more);
  if (result < 0 && result != -EAGAIN && result != -EWOULDBLOCK) send_error_ = static_cast<int>(result);
  return static_cast<size_t>(std::max<int64_t>(result, 0));
}

int TlsStream::shut_down() {
  waits_for_input_ = false;
  // Later calls flush only; SSL_shutdown would wait for the client's goodbye.
  if ((SSL_get_shutdown(ssl_.get()) & SSL_SENT_SHUTDOWN) == 0) {
    const Turn turn(this, kInputBeyondBytes);
    // After a broken stream, or half a message, there is no goodbye, which is nobody's loss.
    (void)SSL_shutdown(ssl_.get());
  }
  return flush();
}

int TlsStream::on_read(BIO* bio, char* data, size_t length, size_t* count) {
  TlsStream* stream = static_cast<TlsStream*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  *count = 0;
  if (!stream->has_turn_) return 0;
  if (stream->input_length_ > 0) {
    *count = std::min(length, stream->input_length_);
    std::memcpy(data, stream->input_, *count);
    stream->input_ += *count;
    stream->input_length_ -= *count;
    return 1;
  }
  stream->kept_.clear();
  uint8_t* const input = stream->context_->input();
  const socket::Part parts[2] = {{reinterpret_cast<uint8_t*>(data), length}, {input, stream->input_room_}};
  const int64_t result = socket::receive_now(stream->fd_, parts, 2);
  if (result > 0) {
    *count = std::min(length, static_cast<size_t>(result));
    stream->input_ = input;
    stream->input_length_ = static_cast<size_t>(result) - *count;
    return 1;
  }
  if (result == -EAGAIN || result == -EWOULDBLOCK) {
    stream->is_dry_ = true;
    BIO_set_retry_read(bio);
  } else if (result == 0) {
    stream->has_ended_ = true;
  } else {
    stream->receive_error_ = static_cast<int>(result);
  }
  return 0;
}

int TlsStream::on_write(BIO* bio, const char* data, size_t length, size_t* count) {
  TlsStream* stream = static_cast<TlsStream*>(BIO_get_data(bio));
  *count = 0;
  if (!stream->has_turn_) return 0;
  std::vector<uint8_t>& output = stream->context_->output();
  output.insert(output.end(), data, data + length);
  *count = length;
  return 1;
}

long TlsStream::on_control(BIO* bio, int command, long, void*) {
  switch (command) {
    case BIO_CTRL_FLUSH:
      return 1;
    case BIO_CTRL_EOF:
      return static_cast<TlsStream*>(BIO_get_data(bio))->has_ended_ ? 1 : 0;
    default:
      return 0;
  }
}

}  // namespace nbd_serve
