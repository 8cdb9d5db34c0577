#include "tls_context_binding.h"

#include <string>
#include <utility>
#include <vector>

namespace nbd_serve {
namespace {

// Any number that nobody else has.
constexpr napi_type_tag kTag = {0x5d1f0b6c7a3e4c19, 0x9e28f4417bd05a63};

class TlsContextBinding final : public Napi::ObjectWrap<TlsContextBinding> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "TlsContext", {InstanceMethod<&TlsContextBinding::add_psk>("add_psk")});
  }

  explicit TlsContextBinding(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Arguments arguments(info);
    TlsSettings settings;
    settings.ca = arguments.string("ca");
    settings.certificate = arguments.string("certificate");
    settings.key = arguments.string("key");
    settings.crl = arguments.string("crl");
    settings.ciphers = arguments.string("ciphers");
    settings.suites = arguments.string("suites");
    settings.is_peer_verified = arguments.boolean("isPeerVerified");
    if (arguments.refused()) return;
    std::string error;
    context_ = TlsContext::create(settings, &error);
    // Either fails only when JavaScript may not run any more, and nobody would see the error.
    if (context_ == nullptr) {
      (void)napi_throw_error(info.Env(), nullptr, error.c_str());
    } else if (napi_type_tag_object(info.Env(), info.This(), &kTag) != napi_ok) {
      (void)napi_throw_error(info.Env(), nullptr, "TLS context cannot be tagged");
    }
  }

  // Null in an object whose constructor has thrown, which nobody has.
  const std::shared_ptr<TlsContext>& context() const { return context_; }

 private:
  void add_psk(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    std::string identity = arguments.string("identity");
    const Slice key = arguments.slice("key", "start", "length");
    if (arguments.refused() || context_ == nullptr) return;
    context_->add_psk(std::move(identity), std::vector<uint8_t>(key.data, key.data + key.length));
  }

  std::shared_ptr<TlsContext> context_;
};

}  // namespace

void export_tls_context(Napi::Env env, Napi::Object exports) {
  exports.Set("TlsContext", TlsContextBinding::define(env));
}

std::shared_ptr<TlsContext> tls_context(Arguments* arguments, const char* name) {
  const napi_value value = arguments->tagged(name, "a TlsContext", kTag);
  if (arguments->refused()) return nullptr;
  return TlsContextBinding::Unwrap(Napi::Object(arguments->env(), value))->context();
}

}  // namespace nbd_serve
