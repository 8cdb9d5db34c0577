// native/stream_socket for JavaScript.
#pragma once

#include <napi.h>

namespace nbd_serve {

void export_stream_socket(Napi::Env env, Napi::Object exports);

}  // namespace nbd_serve
