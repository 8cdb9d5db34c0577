#include "stream_socket_binding.h"

#include <errno.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "environment.h"
#include "marshal.h"
#include "stream_socket.h"
#include "tls_context_binding.h"

namespace nbd_serve {
namespace {

// Between the JavaScript object and the StreamSocket, on the heap because each ends before the other in some
// order: an open socket keeps its object from being collected, a closed one frees itself when libuv is done,
// and this with it.
class StreamLink final : public StreamSocket::Events, public Closable {
 public:
  StreamLink(napi_env env, Environment* environment) : env_(env), environment_(environment) {}

  // A false answer leaves an exception pending, the descriptor with the caller, and this to be deleted.
  bool open(int fd, napi_value object, const Slice& buffer, napi_value received, napi_value writable) {
    if (napi_create_reference(env_, object, 1, &object_) != napi_ok ||
        napi_create_reference(env_, buffer.array, 1, &buffer_) != napi_ok ||
        napi_create_reference(env_, received, 1, &received_) != napi_ok ||
        napi_create_reference(env_, writable, 1, &writable_) != napi_ok) {
      (void)napi_throw_error(env_, nullptr, "Reference to an argument cannot be made");
      return false;
    }
    int error = 0;
    stream_ = StreamSocket::open(environment_->loop(), fd, this, &error);
    if (stream_ == nullptr) {
      const std::string message = std::string("Descriptor cannot be watched: ") + uv_strerror(error);
      (void)napi_throw_error(env_, uv_err_name(error), message.c_str());
      return false;
    }
    data_ = buffer.data;
    length_ = buffer.length;
    environment_->add(this);
    return true;
  }

  ~StreamLink() {
    // Deleting fails only for a null reference or environment.
    for (const napi_ref reference : {object_, buffer_, received_, writable_, secured_}) {
      if (reference != nullptr) (void)napi_delete_reference(env_, reference);
    }
    forget_expected();
  }

  // Null once closed.
  StreamSocket* stream() { return stream_; }

  int start() { return stream_->start(data_, length_); }

  int start_tls(std::shared_ptr<TlsContext> context, napi_value secured) {
    if (stream_->tls() != nullptr) return -EALREADY;
    if (napi_create_reference(env_, secured, 1, &secured_) != napi_ok) return -ENOMEM;
    return stream_->start_tls(std::move(context));
  }

  // A false answer leaves an exception pending, and the old buffer in use.
  bool set_buffer(const Slice& buffer) {
    napi_ref reference = nullptr;
    if (napi_create_reference(env_, buffer.array, 1, &reference) != napi_ok) {
      (void)napi_throw_error(env_, nullptr, "Reference to an argument cannot be made");
      return false;
    }
    data_ = buffer.data;
    length_ = buffer.length;
    stream_->replace_buffer(data_, length_);
    // Deleting fails only for a null reference or environment.
    (void)napi_delete_reference(env_, buffer_);
    buffer_ = reference;
    return true;
  }

  // All but the first `skip` bytes.
  void expect(const std::vector<Slice>& slices, size_t skip, bool is_rest) {
    forget_expected();
    // Whatever happens below, nothing goes to what is not referenced any more.
    stream_->expect({}, true);
    std::vector<socket::Part> parts;
    napi_value referenced = nullptr;
    for (const Slice& slice : slices) {
      const size_t skipped = std::min(skip, slice.length);
      skip -= skipped;
      if (skipped == slice.length) continue;
      // Parts that follow each other mostly lie in the same array.
      bool is_same = false;
      if (referenced != nullptr && napi_strict_equals(env_, referenced, slice.array, &is_same) != napi_ok) return;
      if (!is_same) {
        napi_ref reference = nullptr;
        if (napi_create_reference(env_, slice.array, 1, &reference) != napi_ok) return;
        expected_.push_back(reference);
        referenced = slice.array;
      }
      parts.push_back({slice.data + skipped, slice.length - skipped});
    }
    stream_->expect(std::move(parts), is_rest);
  }

  bool expect_in_file(int file, int64_t offset, size_t length, bool must_be_inside) {
    forget_expected();
    return stream_->expect_in_file(file, offset, length, must_be_inside);
  }

  void expect_nothing() {
    forget_expected();
    stream_->expect({}, true);
  }

  void close() override {
    environment_->remove(this);
    StreamSocket* stream = stream_;
    stream_ = nullptr;
    stream->close();
  }

  void on_received(int64_t result) override {
    if (stream_->expected() == 0) forget_expected();
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env_, &scope) != napi_ok) return;
    napi_value value = nullptr;
    if (napi_create_int64(env_, result, &value) == napi_ok) call(received_, 1, &value);
    (void)napi_close_handle_scope(env_, scope);
    environment_->busy_poll().served();
  }

  void on_writable() override {
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env_, &scope) != napi_ok) return;
    call(writable_, 0, nullptr);
    (void)napi_close_handle_scope(env_, scope);
  }

  // The reason, or '', the protocol and the cipher.
  void on_secured(bool has_succeeded) override {
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env_, &scope) != napi_ok) return;
    const TlsStream* tls = stream_->tls();
    const napi_value values[] = {to_text(env_, has_succeeded ? std::string() : tls->failure()),
                                 to_text(env_, has_succeeded ? tls->protocol() : ""),
                                 to_text(env_, has_succeeded ? tls->cipher() : "")};
    if (values[2] != nullptr) call(secured_, 3, values);
    (void)napi_close_handle_scope(env_, scope);
  }

  void on_closed() override {
    Environment* environment = environment_;
    if (owner_ != nullptr) *owner_ = nullptr;
    delete this;
    environment->handle_closed();
  }

  // Where the JavaScript object's side keeps its pointer here; null when that side is gone.
  void set_owner(StreamLink** owner) { owner_ = owner; }

 private:
  void forget_expected() {
    for (const napi_ref reference : expected_) (void)napi_delete_reference(env_, reference);
    expected_.clear();
  }

  void call(napi_ref reference, size_t count, const napi_value* values) {
    napi_value function = nullptr;
    if (napi_get_reference_value(env_, reference, &function) != napi_ok || function == nullptr) return;
    // False means that the environment is ending, and closes this socket with all others.
    (void)call_from_event_loop(env_, function, count, values);
  }

  const napi_env env_;
  // Outlives it: the environment waits for handle_closed.
  Environment* const environment_;
  StreamSocket* stream_ = nullptr;
  StreamLink** owner_ = nullptr;
  uint8_t* data_ = nullptr;
  size_t length_ = 0;
  napi_ref object_ = nullptr;
  napi_ref buffer_ = nullptr;
  napi_ref received_ = nullptr;
  napi_ref writable_ = nullptr;
  // The arrays of what is expected.
  std::vector<napi_ref> expected_;
  napi_ref secured_ = nullptr;
};

class StreamSocketBinding final : public Napi::ObjectWrap<StreamSocketBinding> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "StreamSocket",
                       {InstanceMethod<&StreamSocketBinding::route>("route"),
                        InstanceMethod<&StreamSocketBinding::start_tls>("start_tls"),
                        InstanceMethod<&StreamSocketBinding::start>("start"),
                        InstanceMethod<&StreamSocketBinding::stop>("stop"),
                        InstanceMethod<&StreamSocketBinding::set_buffer>("set_buffer"),
                        InstanceMethod<&StreamSocketBinding::expect>("expect"),
                        InstanceMethod<&StreamSocketBinding::expect_parts>("expect_parts"),
                        InstanceMethod<&StreamSocketBinding::expect_in_file>("expect_in_file"),
                        InstanceMethod<&StreamSocketBinding::expect_nothing>("expect_nothing"),
                        InstanceMethod<&StreamSocketBinding::leave_file>("leave_file"),
                        InstanceMethod<&StreamSocketBinding::file_state>("file_state"),
                        InstanceMethod<&StreamSocketBinding::limit>("limit"),
                        InstanceMethod<&StreamSocketBinding::send>("send"),
                        InstanceMethod<&StreamSocketBinding::send_parts>("send_parts"),
                        InstanceMethod<&StreamSocketBinding::send_file>("send_file"),
                        InstanceMethod<&StreamSocketBinding::watch_writable>("watch_writable"),
                        InstanceMethod<&StreamSocketBinding::shut_down>("shut_down"),
                        InstanceMethod<&StreamSocketBinding::close>("close")});
  }

  explicit StreamSocketBinding(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Arguments arguments(info);
    const int fd = arguments.descriptor("fd");
    const Slice buffer = arguments.slice("buffer", "start", "length");
    const napi_value received = arguments.function("received");
    const napi_value writable = arguments.function("writable");
    if (arguments.refused()) return;
    Environment& environment = Environment::of(info.Env());
    // JavaScript may still run for a moment in an environment that ends; its loop takes no more handles.
    if (environment.ending()) return;
    StreamLink* link = new StreamLink(info.Env(), &environment);
    if (!link->open(fd, info.This(), buffer, received, writable)) {
      delete link;
      return;
    }
    link_ = link;
    link_->set_owner(&link_);
  }

  ~StreamSocketBinding() {
    if (link_ != nullptr) link_->set_owner(nullptr);
  }

 private:
  bool is_open() const { return link_ != nullptr && link_->stream() != nullptr; }

  Napi::Value route(const Napi::CallbackInfo& info) {
    return to_number(info.Env(), is_open() ? static_cast<int64_t>(link_->stream()->route()) : -EBADF);
  }

  Napi::Value start_tls(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    std::shared_ptr<TlsContext> context = tls_context(&arguments, "context");
    const napi_value secured = arguments.function("secured");
    if (arguments.refused()) return Napi::Value();
    return to_number(info.Env(), is_open() ? link_->start_tls(std::move(context), secured) : -EBADF);
  }

  Napi::Value start(const Napi::CallbackInfo& info) {
    return to_number(info.Env(), is_open() ? link_->start() : -EBADF);
  }

  void stop(const Napi::CallbackInfo&) {
    if (is_open()) link_->stream()->stop();
  }

  void set_buffer(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice buffer = arguments.slice("buffer", "start", "length");
    // False leaves an exception pending, which is all there is to do.
    if (!arguments.refused() && is_open()) (void)link_->set_buffer(buffer);
  }

  void expect(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice slice = arguments.slice("buffer", "start", "length");
    if (!arguments.refused() && is_open()) link_->expect({slice}, 0, true);
  }

  void expect_parts(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const std::vector<Slice> slices = arguments.slices("arrays", "ranges");
    const int64_t skip = arguments.length("skip");
    const bool is_rest = arguments.boolean("isRest");
    if (!arguments.refused() && is_open()) link_->expect(slices, static_cast<size_t>(skip), is_rest);
  }

  Napi::Value expect_in_file(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const int file = arguments.descriptor("file");
    const int64_t offset = arguments.offset("offset");
    const int64_t length = arguments.length("length");
    const bool must_be_inside = arguments.boolean("mustBeInside");
    if (arguments.refused()) return Napi::Value();
    const bool done = is_open() && link_->expect_in_file(file, offset, static_cast<size_t>(length), must_be_inside);
    return Napi::Boolean::New(info.Env(), done);
  }

  void expect_nothing(const Napi::CallbackInfo&) {
    if (is_open()) link_->expect_nothing();
  }

  Napi::Value leave_file(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice slice = arguments.slice("buffer", "start", "length");
    if (arguments.refused()) return Napi::Value();
    const size_t held = is_open() ? link_->stream()->leave_file(slice.data, slice.length) : 0;
    return to_number(info.Env(), static_cast<int64_t>(held));
  }

  Napi::Value file_state(const Napi::CallbackInfo& info) {
    return to_number(info.Env(), is_open() ? link_->stream()->file_state() : 0);
  }

  void limit(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const int64_t length = arguments.length("length");
    if (!arguments.refused() && is_open()) link_->stream()->limit(static_cast<size_t>(length));
  }

  Napi::Value send(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice slice = arguments.slice("buffer", "start", "length");
    if (arguments.refused()) return Napi::Value();
    return to_number(info.Env(), is_open() ? link_->stream()->send(slice.data, slice.length) : -EBADF);
  }

  Napi::Value send_parts(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice header = arguments.slice("header", "start", "headerLength");
    const std::vector<Slice> slices = arguments.slices("arrays", "ranges");
    if (arguments.refused()) return Napi::Value();
    if (!is_open()) return to_number(info.Env(), -EBADF);
    std::vector<socket::Part> parts = {{header.data, header.length}};
    for (const Slice& slice : slices) parts.push_back({slice.data, slice.length});
    return to_number(info.Env(), link_->stream()->send_parts(parts));
  }

  Napi::Value send_file(const Napi::CallbackInfo& info) {
    Arguments arguments(info);
    const Slice header = arguments.slice("header", "start", "headerLength");
    const int file = arguments.descriptor("file");
    const int64_t offset = arguments.offset("offset");
    const int64_t length = arguments.length("length");
    if (arguments.refused()) return Napi::Value();
    return to_number(info.Env(), is_open() ? link_->stream()->send_file(header.data, header.length, file, offset,
                                                                        static_cast<size_t>(length))
                                           : -EBADF);
  }

  Napi::Value watch_writable(const Napi::CallbackInfo& info) {
    return to_number(info.Env(), is_open() ? link_->stream()->watch_writable() : -EBADF);
  }

  Napi::Value shut_down(const Napi::CallbackInfo& info) {
    return to_number(info.Env(), is_open() ? link_->stream()->shut_down() : -EBADF);
  }

  void close(const Napi::CallbackInfo&) {
    if (is_open()) link_->close();
  }

  StreamLink* link_ = nullptr;
};

}  // namespace

void export_stream_socket(Napi::Env env, Napi::Object exports) {
  exports.Set("StreamSocket", StreamSocketBinding::define(env));
}

}  // namespace nbd_serve
