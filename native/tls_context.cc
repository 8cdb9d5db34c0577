#include "tls_context.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>

#include <algorithm>
#include <utility>

namespace nbd_serve {
namespace {

// NBD clients resume no sessions and have no reason to renegotiate one. A client's FIN ends its stream as close_notify does:
// every request says how long it is, so that nothing cut short passes for whole.
constexpr uint64_t kOptions = SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                              SSL_OP_IGNORE_UNEXPECTED_EOF;

// An idle connection has no buffers.
constexpr long kModes = SSL_MODE_RELEASE_BUFFERS;

// A pre-shared key in TLS 1.3 counts as a session, and one without a context is refused where peers are verified
// (ssl_get_prev_session in OpenSSL 3.0).
constexpr char kSessionContext[] = "nbd-serve";

// Keys that need a passphrase are refused: without this OpenSSL would ask for it on the terminal.
int no_passphrase(char*, int, int, void*) { return -1; }

// Every object of a PEM text: at least one, and none that is damaged.
template <typename Object, void (*release)(Object*), typename Use>
bool use_all(const std::string& text, Object* (*read)(BIO*, Object**, pem_password_cb*, void*), Use use) {
  const std::unique_ptr<BIO, Released<BIO_free>> bio(
      BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (bio == nullptr) return false;
  for (bool is_first = true;; is_first = false) {
    const std::unique_ptr<Object, Released<release>> object(read(bio.get(), nullptr, no_passphrase, nullptr));
    if (object == nullptr) {
      const unsigned long error = ERR_peek_last_error();
      if (is_first || ERR_GET_LIB(error) != ERR_LIB_PEM || ERR_GET_REASON(error) != PEM_R_NO_START_LINE) return false;
      ERR_clear_error();
      return true;
    }
    if (!use(object.get(), is_first)) return false;
  }
}

}  // namespace

std::string take_tls_error() {
  const unsigned long error = ERR_get_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(error);
  if (reason != nullptr) return reason;
  // Of the system, or of a part of OpenSSL that has no texts.
  char text[256];
  ERR_error_string_n(error, text, sizeof text);
  return text;
}

std::shared_ptr<TlsContext> TlsContext::create(const TlsSettings& settings, std::string* error) {
  ERR_clear_error();
  const std::shared_ptr<TlsContext> context(new TlsContext(SSL_CTX_new(TLS_server_method())));
  if (context->context_ == nullptr || !context->set(settings)) {
    *error = take_tls_error();
    return nullptr;
  }
  ERR_clear_error();
  return context;
}

bool TlsContext::set(const TlsSettings& settings) {
  SSL_CTX* const context = context_.get();
  SSL_CTX_set_options(context, kOptions);
  SSL_CTX_set_mode(context, kModes);
  // One record a call: a client that asks for new keys without end keeps no call busy for ever.
  SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_default_passwd_cb(context, no_passphrase);
  if (settings.is_peer_verified) {
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  return SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
         SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 &&
         SSL_CTX_set_cipher_list(context, settings.ciphers.c_str()) == 1 &&
         SSL_CTX_set_ciphersuites(context, settings.suites.c_str()) == 1 &&
         SSL_CTX_set_dh_auto(context, 1) == 1 && SSL_CTX_set_num_tickets(context, 0) == 1 &&
         SSL_CTX_set_session_id_context(context, reinterpret_cast<const unsigned char*>(kSessionContext),
                                        sizeof kSessionContext - 1) == 1 &&
         (settings.certificate.empty() || use_certificates(settings)) && trust(settings);
}

bool TlsContext::use_certificates(const TlsSettings& settings) {
  SSL_CTX* const context = context_.get();
  // The server's own first, then those between it and the CA.
  const auto use = [context](X509* certificate, bool is_first) {
    return (is_first ? SSL_CTX_use_certificate(context, certificate)
                     : SSL_CTX_add1_chain_cert(context, certificate)) == 1;
  };
  if (!use_all<X509, X509_free>(settings.certificate, PEM_read_bio_X509_AUX, use)) return false;
  bool is_used = false;
  const std::unique_ptr<BIO, Released<BIO_free>> bio(
      BIO_new_mem_buf(settings.key.data(), static_cast<int>(settings.key.size())));
  if (bio != nullptr) {
    const std::unique_ptr<EVP_PKEY, Released<EVP_PKEY_free>> key(
        PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
    is_used = key != nullptr && SSL_CTX_use_PrivateKey(context, key.get()) == 1;
  }
  return is_used && SSL_CTX_check_private_key(context) == 1;
}

// Nobody but `ca`: a new SSL_CTX trusts none of the authorities of the system.
bool TlsContext::trust(const TlsSettings& settings) {
  SSL_CTX* const context = context_.get();
  X509_STORE* const store = SSL_CTX_get_cert_store(context);
  const auto add_ca = [context, store](X509* ca, bool) {
    return X509_STORE_add_cert(store, ca) == 1 && SSL_CTX_add_client_CA(context, ca) == 1;
  };
  if (!settings.ca.empty() && !use_all<X509, X509_free>(settings.ca, PEM_read_bio_X509_AUX, add_ca)) {
    return false;
  }
  if (settings.crl.empty()) return true;
  const auto add_crl = [store](X509_CRL* crl, bool) { return X509_STORE_add_crl(store, crl) == 1; };
  return use_all<X509_CRL, X509_CRL_free>(settings.crl, PEM_read_bio_X509_CRL, add_crl) &&
         X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL) == 1;
}

void TlsContext::add_psk(std::string identity, std::vector<uint8_t> key) {
  psk_keys_[std::move(identity)] = std::move(key);
  SSL_CTX_set_psk_server_callback(context_.get(), find_psk);
}

SSL* TlsContext::connection() {
  SSL* ssl = SSL_new(context_.get());
  if (ssl != nullptr) SSL_set_app_data(ssl, this);
  return ssl;
}

// 0: a stranger.
unsigned int TlsContext::find_psk(SSL* ssl, const char* identity, unsigned char* key, unsigned int room) {
  const TlsContext* context = static_cast<const TlsContext*>(SSL_get_app_data(ssl));
  if (identity == nullptr) return 0;
  const auto found = context->psk_keys_.find(identity);
  if (found == context->psk_keys_.end() || found->second.size() > room) return 0;
  std::copy(found->second.begin(), found->second.end(), key);
  return static_cast<unsigned int>(found->second.size());
}

}  // namespace nbd_serve
