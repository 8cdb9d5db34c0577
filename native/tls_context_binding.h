// Binding of native/tls_context.h: the TLS credentials of a server.
#pragma once

#include <napi.h>

#include <memory>

#include "marshal.h"
#include "tls_context.h"

namespace nbd_serve {

void export_tls_context(Napi::Env env, Napi::Object exports);

// The next argument: a TlsContext. Null when it is refused.
std::shared_ptr<TlsContext> tls_context(Arguments* arguments, const char* name);

}  // namespace nbd_serve
