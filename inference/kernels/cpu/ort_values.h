// Errors, attributes, constants and shapes of ONNX Runtime, in the terms of C++.
#pragma once

#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
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

inline std::vector<int64_t> shape_of(const Value* value, Type* type = nullptr) {
  ShapeInfo* info = nullptr;
  check(api.tensor_shape(value, &info));
  size_t count = 0;
  int element = kAnyType;
  Status* status = api.dimensions_count(info, &count);
  std::vector<int64_t> shape(status ? 0 : count);
  if (!status) status = api.dimensions(info, shape.data(), count);
  if (!status && type) status = api.element_type(info, &element);
  api.release(info);
  check(status);
  if (type) *type = static_cast<Type>(element);
  return shape;
}

template <class T = float>
T* data_of(const Value* value) {
  void* data = nullptr;
  check(api.tensor_data(value, &data));
  return static_cast<T*>(data);
}

inline int32_t narrow(int64_t value, const char* name) {
  if (value < 0 || value > (1 << 24)) refuse(std::string(name) + " of " + std::to_string(value) + " makes no sense");
  return static_cast<int32_t>(value);
}

template <size_t kCount>
void read(const KernelInfo* info, const char* name, int32_t (&out)[kCount]) {
  int64_t values[kCount] = {};
  size_t count = kCount;
  Status* status = api.attributes(info, name, values, &count);
  if (status || count != kCount) {
    if (status) api.release(status);
    refuse(std::string(name) + " must be " + std::to_string(kCount) + " ints");
  }
  for (size_t i = 0; i < kCount; i++) out[i] = narrow(values[i], name);
}

// An attribute of one type that must not be there as the other: ONNX Runtime does not say whether one is missing or of
// another type, which must not pass for missing.
template <class Value, class Other>
Value read_or(const KernelInfo* info, const char* name, Value otherwise, const char* kind) {
  Value value = otherwise;
  Status* status = api.attribute(info, name, &value);
  if (!status) return value;
  api.release(status);
  Other other{};
  status = api.attribute(info, name, &other);
  if (!status) refuse(std::string(name) + " must be " + kind);
  api.release(status);
  return otherwise;
}
inline float read(const KernelInfo* info, const char* name, float otherwise) {
  return read_or<float, int64_t>(info, name, otherwise, "a float");
}
inline int64_t read(const KernelInfo* info, const char* name, int64_t otherwise) {
  return read_or<int64_t, float>(info, name, otherwise, "an int");
}

inline int64_t read(const KernelInfo* info, const char* name) {
  int64_t value = 0;
  if (Status* status = api.attribute(info, name, &value)) {
    api.release(status);
    refuse(std::string(name) + " must be an int");
  }
  return value;
}

template <class T = float>
const T* constant(const KernelInfo* info, size_t i, const char* name, std::vector<int64_t>* shape) {
  int is_constant = 0;
  const Value* value = nullptr;
  check(api.constant_input(info, i, &is_constant, &value));
  if (!is_constant || !value) refuse(std::string(name) + " must be a constant");
  *shape = shape_of(value);
  return data_of<T>(value);
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
