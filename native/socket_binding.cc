#include "socket_binding.h"

#include <unistd.h>

#include <string>

#include "environment.h"
#include "marshal.h"
#include "operation.h"
#include "socket.h"

namespace nbd_serve {
namespace {

constexpr int64_t kPortMax = 65535;
constexpr int64_t kModeMax = 0777;

Napi::Value listen_unix(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const std::string path = arguments.string("path");
  const int mode = static_cast<int>(arguments.count("mode", 0, kModeMax));
  const int backlog = arguments.bits("backlog");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), socket::listen_unix(path, mode, backlog));
}

Napi::Value listen_tcp(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const std::string address = arguments.string("address");
  const int port = static_cast<int>(arguments.count("port", 0, kPortMax));
  const int backlog = arguments.bits("backlog");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), socket::listen_tcp(address, port, backlog));
}

Napi::Value local_port(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), socket::local_port(fd));
}

template <int (*call)(int, std::string*)>
Napi::Value address_of(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  if (arguments.refused()) return Napi::Value();
  std::string address;
  const int result = call(fd, &address);
  return result < 0 ? to_number(info.Env(), result) : to_text(info.Env(), address);
}

Napi::Value unacknowledged(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), socket::unacknowledged(fd));
}

Napi::Value adopt_listener(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const int fd = arguments.descriptor("fd");
  if (arguments.refused()) return Napi::Value();
  return to_number(info.Env(), socket::adopt_listener(fd));
}

void notify(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  const std::string path = arguments.string("path");
  const std::string message = arguments.string("message");
  const napi_value done = arguments.function("done");
  if (arguments.refused()) return;
  submit_work(info.Env(), [path, message] { return socket::notify(path, message); }, done);
}

// Between the JavaScript object and the Listener, on the heap because each ends before the other in some
// order: an open listener keeps its object from being collected, a closed one frees itself when libuv is
// done, and this with it.
class Watch final : public Listener::Events, public Closable {
 public:
  Watch(napi_env env, Environment* environment) : env_(env), environment_(environment) {}

  // A false answer leaves an exception pending, the descriptor with the caller, and this to be deleted.
  bool open(int fd, napi_value object, napi_value accepted) {
    if (napi_create_reference(env_, object, 1, &object_) != napi_ok ||
        napi_create_reference(env_, accepted, 1, &accepted_) != napi_ok) {
      (void)napi_throw_error(env_, nullptr, "Reference to an argument cannot be made");
      return false;
    }
    int error = 0;
    listener_ = Listener::open(environment_->loop(), fd, this, &error);
    if (listener_ == nullptr) {
      refuse(error);
      return false;
    }
    environment_->add(this);
    error = listener_->resume();
    if (error == 0) return true;
    // libuv has the handle by now: it is closed, and this freed, in the loop. That takes the descriptor.
    refuse(error);
    close();
    return true;
  }

  ~Watch() {
    // Deleting fails only for a null reference or environment.
    if (object_ != nullptr) (void)napi_delete_reference(env_, object_);
    if (accepted_ != nullptr) (void)napi_delete_reference(env_, accepted_);
  }

  void pause() {
    if (is_open_) listener_->pause();
  }

  void resume() {
    // It fails for a closing handle or a bad event mask, and neither gets here.
    if (is_open_) (void)listener_->resume();
  }

  void close() override {
    if (!is_open_) return;
    is_open_ = false;
    environment_->remove(this);
    listener_->close();
  }

  void on_accepted(int descriptor) override {
    napi_handle_scope scope = nullptr;
    bool called = false;
    if (napi_open_handle_scope(env_, &scope) == napi_ok) {
      napi_value accepted = nullptr;
      napi_value value = nullptr;
      if (napi_get_reference_value(env_, accepted_, &accepted) == napi_ok && accepted != nullptr &&
          napi_create_int32(env_, descriptor, &value) == napi_ok) {
        called = call_from_event_loop(env_, accepted, 1, &value);
      }
      (void)napi_close_handle_scope(env_, scope);
    }
    // Nobody heard of it, so nobody else would close it.
    if (!called && descriptor >= 0) ::close(descriptor);
  }

  void on_closed() override {
    Environment* environment = environment_;
    if (owner_ != nullptr) *owner_ = nullptr;
    delete this;
    environment->handle_closed();
  }

  // Where the JavaScript object's side keeps its pointer here; null when that side is gone.
  void set_owner(Watch** owner) { owner_ = owner; }

 private:
  void refuse(int error) {
    const std::string message = std::string("Descriptor cannot be watched: ") + uv_strerror(error);
    (void)napi_throw_error(env_, uv_err_name(error), message.c_str());
  }

  const napi_env env_;
  // Outlives it: the environment waits for handle_closed.
  Environment* const environment_;
  Listener* listener_ = nullptr;
  Watch** owner_ = nullptr;
  napi_ref object_ = nullptr;
  napi_ref accepted_ = nullptr;
  bool is_open_ = true;
};

class ListenerBinding final : public Napi::ObjectWrap<ListenerBinding> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Listener",
                       {InstanceMethod<&ListenerBinding::pause>("pause"),
                        InstanceMethod<&ListenerBinding::resume>("resume"),
                        InstanceMethod<&ListenerBinding::close>("close")});
  }

  explicit ListenerBinding(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Arguments arguments(info);
    const int fd = arguments.descriptor("fd");
    const napi_value accepted = arguments.function("accepted");
    if (arguments.refused()) return;
    Environment& environment = Environment::of(info.Env());
    // JavaScript may still run for a moment in an environment that ends; its loop takes no more handles.
    if (environment.ending()) return;
    Watch* watch = new Watch(info.Env(), &environment);
    if (!watch->open(fd, info.This(), accepted)) {
      delete watch;
      return;
    }
    watch_ = watch;
    watch_->set_owner(&watch_);
  }

  ~ListenerBinding() {
    if (watch_ != nullptr) watch_->set_owner(nullptr);
  }

 private:
  void pause(const Napi::CallbackInfo&) {
    if (watch_ != nullptr) watch_->pause();
  }

  void resume(const Napi::CallbackInfo&) {
    if (watch_ != nullptr) watch_->resume();
  }

  void close(const Napi::CallbackInfo&) {
    if (watch_ != nullptr) watch_->close();
  }

  Watch* watch_ = nullptr;
};

}  // namespace

void export_socket(Napi::Env env, Napi::Object exports) {
  exports.Set("listen_unix", Napi::Function::New<listen_unix>(env, "listen_unix"));
  exports.Set("listen_tcp", Napi::Function::New<listen_tcp>(env, "listen_tcp"));
  exports.Set("local_port", Napi::Function::New<local_port>(env, "local_port"));
  exports.Set("local_address", Napi::Function::New<address_of<socket::local_address>>(env, "local_address"));
  exports.Set("peer_address", Napi::Function::New<address_of<socket::peer_address>>(env, "peer_address"));
  exports.Set("unacknowledged", Napi::Function::New<unacknowledged>(env, "unacknowledged"));
  exports.Set("adopt_listener", Napi::Function::New<adopt_listener>(env, "adopt_listener"));
  exports.Set("notify", Napi::Function::New<notify>(env, "notify"));
  exports.Set("Listener", ListenerBinding::define(env));
}

}  // namespace nbd_serve
