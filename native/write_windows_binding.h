// native/write_windows for JavaScript.
#pragma once

#include <napi.h>

namespace nbd_serve {

void export_write_windows(Napi::Env env, Napi::Object exports);

}  // namespace nbd_serve
