// Errors, attributes, constants and shapes of ONNX Runtime, in the terms of C++.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "ort_api.h"

namespace ort {

inline Api api;

// An error of ONNX Runtime on its way up to the function that ONNX Runtime called.
struct OrtError {
  Status* status;
};

inline void check(Status* status) {
  if (status) throw OrtError{status};
}

template <class Body>
Status* guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const OrtError& error) {
    return error.status;
  } catch (const std::invalid_argument& error) {
    return api.create_status(kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return api.create_status(kFail, error.what());
  }
}

[[noreturn]] inline void refuse(const std::string& text) { throw std::invalid_argument(text); }

// Of what has four axes, and nothing else: activations, and weights of convolutions.
using Axes = std::array<int64_t, 4>;

// An activation, or a place for one.
struct Tensor {
  void* data;
  Type type;
  Axes axes;
  size_t rank = std::tuple_size_v<Axes>;  // another one makes no sense to any op
  // Throws where it is more than any machine has: sums of such sizes then fit.
  size_t bytes() const {
    size_t count = type == kFloat ? sizeof(float) : 1;
    for (int64_t axis : axes) {
      if (__builtin_mul_overflow(count, static_cast<size_t>(axis), &count)) count = SIZE_MAX;
      if (count > kMostBytes) refuse("an activation is too large");
    }
    return count;
  }
  static constexpr size_t kMostBytes = size_t{1} << 40;
};

// Type and shape of a tensor.
inline Type describe(const Value* value, std::vector<int64_t>* shape) {
  ShapeInfo* info = nullptr;
  check(api.tensor_shape(value, &info));
  size_t count = 0;
  int type = kAnyType;
  Status* status = api.dimensions_count(info, &count);
  shape->resize(status ? 0 : count);
  if (!status) status = api.dimensions(info, shape->data(), count);
  if (!status) status = api.element_type(info, &type);
  api.release(info);
  check(status);
  return static_cast<Type>(type);
}

template <class T = float>
T* data_of(const Value* value) {
  void* data = nullptr;
  check(api.tensor_data(value, &data));
  return static_cast<T*>(data);
}

// Attributes and constant inputs of a node, or of one step of a sequence (ort_sequence.h), whose attributes have a
// prefix and whose inputs are some of the node's.
struct Info {
  const KernelInfo* kernel;
  std::string prefix;
  std::vector<int64_t> inputs;  // empty: the node's

  std::string name(const char* attribute) const { return prefix + attribute; }
  size_t input(size_t i) const {
    if (inputs.empty()) return i;
    if (i >= inputs.size() || inputs[i] < 0) refuse(prefix + "inputs lacks a constant");
    return static_cast<size_t>(inputs[i]);
  }
};

inline int32_t narrow(int64_t value, const char* name) {
  if (value < 0 || value > (1 << 24)) refuse(std::string(name) + " of " + std::to_string(value) + " makes no sense");
  return static_cast<int32_t>(value);
}

template <size_t kCount>
void read(const Info& info, const char* name, int32_t (&out)[kCount]) {
  int64_t values[kCount] = {};
  size_t count = kCount;
  Status* status = api.attributes(info.kernel, info.name(name).c_str(), values, &count);
  if (status || count != kCount) {
    if (status) api.release(status);
    refuse(info.name(name) + " must be " + std::to_string(kCount) + " ints");
  }
  for (size_t i = 0; i < kCount; i++) out[i] = narrow(values[i], name);
}

// An attribute of one type that must not be there as the other: ONNX Runtime does not say whether one is missing or of
// another type, which must not pass for missing.
template <class Value, class Other>
Value read_or(const Info& info, const char* name, Value otherwise, const char* kind) {
  const std::string full = info.name(name);
  Value value = otherwise;
  Status* status = api.attribute(info.kernel, full.c_str(), &value);
  if (!status) return value;
  api.release(status);
  Other other{};
  status = api.attribute(info.kernel, full.c_str(), &other);
  if (!status) refuse(full + " must be " + kind);
  api.release(status);
  return otherwise;
}
inline float read(const Info& info, const char* name, float otherwise) {
  return read_or<float, int64_t>(info, name, otherwise, "a float");
}
inline int64_t read(const Info& info, const char* name, int64_t otherwise) {
  return read_or<int64_t, float>(info, name, otherwise, "an int");
}

inline int64_t read(const Info& info, const char* name) {
  int64_t value = 0;
  if (Status* status = api.attribute(info.kernel, info.name(name).c_str(), &value)) {
    api.release(status);
    refuse(info.name(name) + " must be an int");
  }
  return value;
}

template <class T>
constexpr Type kTypeOf = std::is_same_v<T, float> ? kFloat : kInt8;

template <class T = float>
const T* constant(const Info& info, size_t i, const char* name, std::vector<int64_t>* shape) {
  int is_constant = 0;
  const Value* value = nullptr;
  check(api.constant_input(info.kernel, info.input(i), &is_constant, &value));
  if (!is_constant || !value) refuse(info.name(name) + " must be a constant");
  if (describe(value, shape) != kTypeOf<T>) refuse(info.name(name) + " is of another type");
  return data_of<T>(value);
}

// A list of ints.
inline std::vector<int64_t> read_list(const Info& info, const char* name) {
  const std::string full = info.name(name);
  size_t count = 0;
  if (Status* status = api.attributes(info.kernel, full.c_str(), nullptr, &count)) api.release(status);
  std::vector<int64_t> values(count);
  if (Status* status = api.attributes(info.kernel, full.c_str(), values.data(), &count)) {
    api.release(status);
    refuse(full + " must be ints");
  }
  return values;
}

inline std::string read_text(const Info& info, const char* name) {
  const std::string full = info.name(name);
  size_t size = 0;
  if (Status* status = api.attribute(info.kernel, full.c_str(), nullptr, &size)) api.release(status);
  std::string text(size, '\0');
  if (Status* status = api.attribute(info.kernel, full.c_str(), text.data(), &size)) {
    api.release(status);
    refuse(full + " must be a string");
  }
  text.resize(size ? size - 1 : 0);
  return text;
}

inline std::string config(const SessionOptions* options, const char* key) {
  int has = 0;
  check(api.has_config(options, key, &has));
  if (!has) return "";
  size_t size = 0;
  check(api.config(options, key, nullptr, &size));
  std::string value(size, '\0');
  check(api.config(options, key, value.data(), &size));
  value.resize(size ? size - 1 : 0);
  return value;
}

}  // namespace ort
