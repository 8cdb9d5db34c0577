// native/memory for JavaScript.
#pragma once

#include <napi.h>

namespace nbd_serve {

void export_memory(Napi::Env env, Napi::Object exports);

}  // namespace nbd_serve
