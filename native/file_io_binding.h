// native/file_io for JavaScript.
#pragma once

#include <napi.h>

namespace nbd_serve {

void export_file_io(Napi::Env env, Napi::Object exports);

}  // namespace nbd_serve
