// What a server proves itself with and whom it lets in: an SSL_CTX of the OpenSSL that Node itself carries and exports
// (nothing is linked), and pre-shared keys.
//
// OpenSSL keeps its errors in a queue for each thread, which Node's own crypto reads, too: whoever calls it here empties
// the queue before, so that an error is its own, and after, so that it leaves none.
//
// Knows nothing of JavaScript and of sockets.
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace nbd_serve {

// Makes a std::unique_ptr of what OpenSSL frees.
template <auto release>
struct Released {
  template <typename T>
  void operator()(T* object) const {
    release(object);
  }
};

// The oldest error in OpenSSL's queue as a text, and the queue empty.
std::string take_tls_error();

struct TlsSettings {
  // PEM texts; empty for what there is none of.
  std::string ca;
  std::string certificate;
  std::string key;
  std::string crl;
  // Of TLS 1.2, and the suites of TLS 1.3, in OpenSSL's syntax.
  std::string ciphers;
  std::string suites;
  // Clients need a certificate of `ca` that `crl` has not revoked, unless they have a pre-shared key.
  bool is_peer_verified = false;
};

// Connections share it, and it lives as long as the last of them. Everything runs on one thread.
class TlsContext {
 public:
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  // Null with the reason in `error`.
  static std::shared_ptr<TlsContext> create(const TlsSettings& settings, std::string* error);

  // Before the first connection.
  void add_psk(std::string identity, std::vector<uint8_t> key);
  // Null when there is no memory. It keeps a pointer to this.
  SSL* connection();
  // What one connection at a time has received and not decrypted, and what it has encrypted and not sent: it takes away
  // what is left before another has its turn. Shared, so that both stay in the processor's cache, and idle connections
  // cost nothing.
  static constexpr size_t kInputBytes = 256 * 1024;
  uint8_t* input() { return input_.get(); }
  std::vector<uint8_t>& output() { return output_; }

 private:
  explicit TlsContext(SSL_CTX* context) : context_(context) {}

  static unsigned int find_psk(SSL* ssl, const char* identity, unsigned char* key, unsigned int room);

  bool set(const TlsSettings& settings);
  bool use_certificates(const TlsSettings& settings);
  bool trust(const TlsSettings& settings);

  const std::unique_ptr<SSL_CTX, Released<SSL_CTX_free>> context_;
  std::unordered_map<std::string, std::vector<uint8_t>> psk_keys_;
  const std::unique_ptr<uint8_t[]> input_{new uint8_t[kInputBytes]};
  std::vector<uint8_t> output_;
};

}  // namespace nbd_serve
