// The only reader of JavaScript arguments.
//
// Arguments are read in order, each by a word that says what it must be. The first that is not refuses the
// call: it throws one TypeError or RangeError that names the argument, and every later read answers zero
// without looking. A binding therefore reads all of them and asks `refused()` once, before acting.
//
// Every napi status is checked here: an unchecked one leaves its output unwritten.
#pragma once

#include <napi.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace nbd_serve {

// Number.MAX_SAFE_INTEGER: above it a double no longer names one byte.
constexpr int64_t kWholeMax = (int64_t{1} << 53) - 1;
constexpr int64_t kInt32Max = INT32_MAX;

// A part of a typed array. Valid while the array is referenced. Not proof against a caller that transfers
// the array to another thread in mid-operation: Node-API has no way to pin it (documented in binding.ts).
// One that is shrunk (resizable) is safe: V8 keeps the address range, and the kernel answers EFAULT.
struct Slice {
  uint8_t* data = nullptr;
  size_t length = 0;
  napi_value array = nullptr;
};

class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info), env_(info.Env()) {}
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  // True when an error has been thrown; the caller then returns without acting.
  bool refused() const { return refused_; }
  napi_env env() const { return env_; }

  int descriptor(const char* name) { return static_cast<int>(whole(name, kInt32Max)); }
  // Flags, modes, types: the kernel judges the bits.
  int bits(const char* name) { return static_cast<int>(whole(name, kInt32Max)); }
  int64_t offset(const char* name) { return whole(name, kWholeMax); }
  int64_t length(const char* name) { return whole(name, kWholeMax); }
  int64_t count(const char* name, int64_t min, int64_t max) {
    const int64_t value = whole(name, max);
    if (!refused_ && value < min) refuse_range(name, static_cast<double>(value), min, max);
    return value;
  }

  // Three arguments: a Uint8Array, where to start in it, and how many of its bytes.
  Slice slice(const char* array_name, const char* start_name, const char* length_name) {
    Slice slice;
    size_t array_length = 0;
    void* data = nullptr;
    slice.array = typed_array(next(), array_name, napi_uint8_array, "a Uint8Array", &array_length, &data);
    const int64_t whole_length = static_cast<int64_t>(array_length);
    const int64_t start = whole(start_name, whole_length);
    const int64_t length = whole(length_name, whole_length - start);
    if (refused_) return Slice();
    slice.data = static_cast<uint8_t*>(data) + start;
    slice.length = static_cast<size_t>(length);
    return slice;
  }

  // Two arguments: an array of Uint8Arrays, and a Float64Array with a start and a length for each of them.
  std::vector<Slice> slices(const char* arrays_name, const char* ranges_name) {
    const napi_value arrays = next();
    uint32_t count = 0;
    if (!refused_ && napi_get_array_length(env_, arrays, &count) != napi_ok) {
      refuse_type(arrays_name, "an array of Uint8Arrays");
    }
    size_t range_count = 0;
    void* data = nullptr;
    typed_array(next(), ranges_name, napi_float64_array, "a Float64Array", &range_count, &data);
    if (!refused_ && range_count < size_t{2} * count) {
      refuse("ERR_OUT_OF_RANGE", napi_throw_range_error,
             "Pass a start and a length for each of " + std::to_string(count) + " arrays as " + ranges_name);
    }
    std::vector<Slice> slices;
    for (uint32_t index = 0; !refused_ && index < count; ++index) {
      Slice slice;
      size_t length = 0;
      void* bytes = nullptr;
      if (napi_get_element(env_, arrays, index, &slice.array) != napi_ok) {
        refuse_type(arrays_name, "an array of Uint8Arrays");
        break;
      }
      typed_array(slice.array, arrays_name, napi_uint8_array, "an array of Uint8Arrays", &length, &bytes);
      const double* range = static_cast<double*>(data) + size_t{2} * index;
      const int64_t start = checked_whole(ranges_name, range[0], static_cast<int64_t>(length));
      slice.length = static_cast<size_t>(checked_whole(ranges_name, range[1], static_cast<int64_t>(length) - start));
      slice.data = static_cast<uint8_t*>(bytes) + start;
      slices.push_back(slice);
    }
    return refused_ ? std::vector<Slice>() : slices;
  }

  // A Float64Array with room for at least `room` numbers.
  napi_value numbers(const char* name, size_t room) {
    size_t length = 0;
    void* data = nullptr;
    const napi_value array = typed_array(next(), name, napi_float64_array, "a Float64Array", &length, &data);
    if (!refused_ && length < room) {
      refuse("ERR_OUT_OF_RANGE", napi_throw_range_error,
             "Pass at least " + std::to_string(room) + " elements as " + name + ", not " +
                 std::to_string(length));
    }
    return array;
  }

  // Two arguments: a Float64Array and how many of its elements. They are copied, whole numbers all.
  std::vector<int64_t> whole_numbers(const char* name, const char* count_name) {
    size_t length = 0;
    void* data = nullptr;
    typed_array(next(), name, napi_float64_array, "a Float64Array", &length, &data);
    const int64_t count = whole(count_name, static_cast<int64_t>(length));
    std::vector<int64_t> copy;
    for (int64_t index = 0; !refused_ && index < count; ++index) {
      copy.push_back(checked_whole(name, static_cast<double*>(data)[index], kWholeMax));
    }
    return copy;
  }

  bool boolean(const char* name) {
    const napi_value value = next();
    bool is_true = false;
    if (!refused_ && napi_get_value_bool(env_, value, &is_true) != napi_ok) refuse_type(name, "a boolean");
    return is_true;
  }

  // An object that was given this tag: for what a binding keeps in it.
  napi_value tagged(const char* name, const char* wanted, const napi_type_tag& tag) {
    const napi_value value = next();
    bool is_tagged = false;
    if (!refused_ && (type_of(value) != napi_object ||
                      napi_check_object_type_tag(env_, value, &tag, &is_tagged) != napi_ok || !is_tagged)) {
      refuse_type(name, wanted);
    }
    return value;
  }

  napi_value function(const char* name) {
    const napi_value value = next();
    if (!refused_ && type_of(value) != napi_function) refuse_type(name, "a function");
    return value;
  }

  // As UTF-8 bytes.
  std::string string(const char* name) {
    const napi_value value = next();
    if (refused_) return std::string();
    size_t length = 0;
    if (type_of(value) != napi_string ||
        napi_get_value_string_utf8(env_, value, nullptr, 0, &length) != napi_ok) {
      refuse_type(name, "a string");
      return std::string();
    }
    std::string text(length + 1, '\0');
    if (napi_get_value_string_utf8(env_, value, &text[0], text.size(), &length) != napi_ok) {
      refuse_type(name, "a string");
      return std::string();
    }
    text.resize(length);
    return text;
  }

 private:
  using Throw = napi_status(NAPI_CDECL*)(napi_env, const char* code, const char* message);

  napi_value next() { return info_[position_++]; }

  napi_valuetype type_of(napi_value value) const {
    napi_valuetype type = napi_undefined;
    return napi_typeof(env_, value, &type) == napi_ok ? type : napi_undefined;
  }

  int64_t whole(const char* name, int64_t max) {
    const napi_value value = next();
    if (refused_) return 0;
    double number = 0;
    if (napi_get_value_double(env_, value, &number) != napi_ok) {
      refuse_type(name, "a number");
      return 0;
    }
    return checked_whole(name, number, max);
  }

  int64_t checked_whole(const char* name, double number, int64_t max) {
    if (refused_) return 0;
    // Written so that NaN fails it.
    if (!(number >= 0 && number <= static_cast<double>(max)) || number != std::floor(number)) {
      refuse_range(name, number, 0, max);
      return 0;
    }
    return static_cast<int64_t>(number);
  }

  napi_value typed_array(napi_value value, const char* name, napi_typedarray_type wanted, const char* wanted_text,
                         size_t* length, void** data) {
    if (refused_) return value;
    bool is_typed_array = false;
    napi_typedarray_type type = napi_int8_array;
    if (napi_is_typedarray(env_, value, &is_typed_array) != napi_ok || !is_typed_array ||
        napi_get_typedarray_info(env_, value, &type, length, data, nullptr, nullptr) != napi_ok ||
        type != wanted) {
      *length = 0;
      refuse_type(name, wanted_text);
    }
    return value;
  }

  void refuse_type(const char* name, const char* wanted) {
    refuse("ERR_INVALID_ARG_TYPE", napi_throw_type_error, std::string("Pass ") + wanted + " as " + name);
  }

  void refuse_range(const char* name, double number, int64_t min, int64_t max) {
    char text[32] = "NaN";
    if (!std::isnan(number)) std::snprintf(text, sizeof text, "%.17g", number);
    refuse("ERR_OUT_OF_RANGE", napi_throw_range_error,
           "Pass a whole number from " + std::to_string(min) + " to " + std::to_string(max) + " as " + name +
               ", not " + text);
  }

  void refuse(const char* code, Throw throw_error, const std::string& message) {
    refused_ = true;
    // It fails when JavaScript may not run any more (a terminated worker): then nobody can see the error.
    (void)throw_error(env_, code, message.c_str());
  }

  const Napi::CallbackInfo& info_;
  const napi_env env_;
  size_t position_ = 0;
  bool refused_ = false;
};

// A result for JavaScript. `undefined` when it cannot be made, which only a terminated worker sees.
inline Napi::Value to_number(napi_env env, int64_t number) {
  napi_value value = nullptr;
  if (napi_create_double(env, static_cast<double>(number), &value) != napi_ok) return Napi::Value();
  return Napi::Value(env, value);
}

// As to_number. Bytes that are no UTF-8 become U+FFFD.
inline Napi::Value to_text(napi_env env, const std::string& text) {
  napi_value value = nullptr;
  if (napi_create_string_utf8(env, text.data(), text.size(), &value) != napi_ok) return Napi::Value();
  return Napi::Value(env, value);
}

}  // namespace nbd_serve
