// native/direct_reader for JavaScript.
#pragma once

#include <napi.h>

namespace nbd_serve {

void export_direct_reader(Napi::Env env, Napi::Object exports);

}  // namespace nbd_serve
