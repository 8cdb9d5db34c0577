// native/page_cache for JavaScript.
#pragma once

#include <napi.h>

namespace nbd_serve {

void export_page_cache(Napi::Env env, Napi::Object exports);

}  // namespace nbd_serve
