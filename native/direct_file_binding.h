// native/direct_file for JavaScript.
#pragma once

#include <napi.h>

namespace nbd_serve {

void export_direct_file(Napi::Env env, Napi::Object exports);

}  // namespace nbd_serve
