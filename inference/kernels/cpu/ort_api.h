// The few functions of ONNX Runtime's C API that the custom ops call, by their place in the table of functions.
//
// The table only ever grows at its end, so one binary serves every version from the one asked for on. Declared here by
// hand, after onnxruntime_c_api.h, since no package ships that header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

constexpr uint32_t kApiVersion = 20;  // ONNX Runtime 1.20, the floor

struct Status;
struct Value;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct Domain;
struct ShapeInfo;

struct ApiBase {
  const void* const* (*get_api)(uint32_t version);
  const char* (*version)();
};

struct Allocator {
  uint32_t version;
  void* (*alloc)(Allocator*, size_t);
  void (*free)(Allocator*, void*);
  const void* (*info)(const Allocator*);
};

// Of the elements of a tensor, as ONNX numbers them.
enum Type : int { kAnyType = 0, kFloat = 1, kUint8 = 2, kInt8 = 3 };

enum Code : int { kFail = 1, kInvalidArgument = 2 };

// Slots of the table.
class Api {
 public:
  explicit Api(const void* const* table = nullptr) : table_(table) {}

  Status* create_status(Code code, const char* text) const { return call<0, Status*>(int(code), text); }
  Status* create_domain(const char* name, Domain** out) const { return call<26, Status*>(name, out); }
  Status* domain_add(Domain* domain, const void* op) const { return call<27, Status*>(domain, op); }
  Status* add_domain(SessionOptions* options, Domain* domain) const { return call<28, Status*>(options, domain); }
  Status* tensor_data(const Value* value, void** out) const { return call<51, Status*>(value, out); }
  Status* element_type(const ShapeInfo* info, int* out) const { return call<60, Status*>(info, out); }
  Status* dimensions_count(const ShapeInfo* info, size_t* out) const { return call<61, Status*>(info, out); }
  Status* dimensions(const ShapeInfo* info, int64_t* out, size_t n) const { return call<62, Status*>(info, out, n); }
  Status* tensor_shape(const Value* value, ShapeInfo** out) const { return call<65, Status*>(value, out); }
  Status* attribute(const KernelInfo* info, const char* name, float* out) const {
    return call<85, Status*>(info, name, out);
  }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* out) const {
    return call<86, Status*>(info, name, out);
  }
  Status* attribute(const KernelInfo* info, const char* name, char* out, size_t* size) const {
    return call<87, Status*>(info, name, out, size);
  }
  Status* input_count(const KernelContext* context, size_t* out) const { return call<88, Status*>(context, out); }
  Status* input(const KernelContext* context, size_t i, const Value** out) const {
    return call<90, Status*>(context, i, out);
  }
  Status* output(KernelContext* context, size_t i, const int64_t* dims, size_t n, Value** out) const {
    return call<91, Status*>(context, i, dims, n, out);
  }
  void release(Status* status) const { call<93, void>(status); }
  void release(ShapeInfo* info) const { call<99, void>(info); }
  void release(Allocator* allocator) const { call<132, void>(allocator); }
  Status* attributes(const KernelInfo* info, const char* name, int64_t* out, size_t* size) const {
    return call<163, Status*>(info, name, out, size);
  }
  Status* has_config(const SessionOptions* options, const char* key, int* out) const {
    return call<237, Status*>(options, key, out);
  }
  Status* config(const SessionOptions* options, const char* key, char* out, size_t* size) const {
    return call<238, Status*>(options, key, out, size);
  }
  Status* constant_input(const KernelInfo* info, size_t i, int* constant, const Value** out) const {
    return call<249, Status*>(info, i, constant, out);
  }
  Status* parallel_for(const KernelContext* context, void (*work)(void*, size_t), size_t count, size_t batches,
                       void* argument) const {
    return call<274, Status*>(context, work, count, batches, argument);
  }
  Status* allocator(const KernelInfo* info, int memory_type, Allocator** out) const {
    return call<278, Status*>(info, memory_type, out);
  }

 private:
  template <int kSlot, class Result, class... Arguments>
  Result call(Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void*>(table_[kSlot]))(arguments...);
  }

  const void* const* table_;
};

// OrtCustomOp. Fields up to the version of the API that is asked for.
struct CustomOp {
  uint32_t version;
  void* (*create)(const CustomOp*, const void* api, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, size_t);
  size_t (*inputs)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t);
  size_t (*outputs)(const CustomOp*);
  void (*compute)(void* kernel, KernelContext*);
  void (*destroy)(void* kernel);
  int (*input_characteristic)(const CustomOp*, size_t);
  int (*output_characteristic)(const CustomOp*, size_t);
  int (*input_memory)(const CustomOp*, size_t);
  int (*variadic_input_arity)(const CustomOp*);
  int (*variadic_input_homogeneity)(const CustomOp*);
  int (*variadic_output_arity)(const CustomOp*);
  int (*variadic_output_homogeneity)(const CustomOp*);
  Status* (*create_v2)(const CustomOp*, const void* api, const KernelInfo*, void** kernel);
  Status* (*compute_v2)(void* kernel, KernelContext*);
  Status* (*infer_shape)(const CustomOp*, void*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
  size_t (*may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};

}  // namespace ort
