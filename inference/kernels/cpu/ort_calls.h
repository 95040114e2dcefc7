// What the custom ops have in common: options, shapes from attributes and weights, inputs and outputs of a call,
// threads and memory of ONNX Runtime.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <tuple>

#include "int8_layer.h"
#include "ort_values.h"

namespace ops {

using namespace hetconv;

using ort::api, ort::check, ort::config, ort::constant, ort::data_of, ort::guarded, ort::narrow, ort::read, ort::refuse,
    ort::shape_of;

struct Options {
  Algorithm algorithm = Algorithm::kAuto;
  std::string isa;  // one of those in eight bits, which are as many or more
  bool operator<(const Options& other) const { return std::tie(algorithm, isa) < std::tie(other.algorithm, other.isa); }

  const Int8Isa& bytes() const { return isa.empty() ? best_int8_isa() : find_int8_isa(isa.c_str()); }
  const Isa& floats() const { return isa.empty() ? best_isa() : find_isa(bytes().floats); }
};

// From the attributes and the shapes of the weights, of which `w` counts for HetConv only.
inline LayerShape read_shape(const ort::KernelInfo* info, bool hetconv, const std::vector<int64_t>& w,
                             const std::vector<int64_t>& w_kxk) {
  LayerShape s{};
  const char* part_name = hetconv ? "part" : "group";
  s.part = narrow(read(info, part_name), part_name);
  if (s.part < 1) refuse(std::string(part_name) + " must be at least 1");
  read(info, "kernel_shape", s.kernel);
  read(info, "strides", s.stride);
  read(info, "dilations", s.dilation);
  read(info, "pads", s.pads);
  if (w_kxk.size() != 4 || w_kxk[2] != s.kernel[0] || w_kxk[3] != s.kernel[1]) {
    refuse(std::string(hetconv ? "W_kxk" : "W") + " must be (N, M/groups) of kernel_shape");
  }
  s.out_channels = narrow(w_kxk[0], "N");
  s.in_channels = narrow(int64_t{narrow(w_kxk[1], "M/groups")} * s.part, "M");
  if (hetconv && w != std::vector<int64_t>{w_kxk[0], s.in_channels, 1, 1}) refuse("W must be (N, M, 1, 1)");
  return s;
}

inline void read_bounds(const ort::KernelInfo* info, float* low, float* high) {
  const float infinity = std::numeric_limits<float>::infinity();
  *low = read(info, "min", -infinity), *high = read(info, "max", infinity);
}

inline PoolShape read_pool(const ort::KernelInfo* info, bool average) {
  PoolShape s{};
  s.average = average;
  s.include_pad = average && read(info, "count_include_pad") != 0;
  read(info, "kernel_shape", s.kernel);
  read(info, "strides", s.stride);
  read(info, "pads", s.pads);
  check_pool(s);
  return s;
}

// Inputs and output of one call of a convolution, whose residual is input `last`.
struct Call {
  Call(ort::KernelContext* context, const LayerShape& s, size_t last) {
    check(api.input(context, 0, &x));
    size_t inputs = 0;
    check(api.input_count(context, &inputs));
    if (inputs > last) check(api.input(context, last, &z));
    const std::vector<int64_t> shape = shape_of(x);
    if (shape.size() != 4 || shape[3] != s.in_channels) {
      refuse("X must be (batch, height, width, " + std::to_string(s.in_channels) + ")");
    }
    batch = shape[0], height = shape[1], width = shape[2];
    int64_t out[4] = {batch, 0, 0, s.out_channels};
    output_size(s, height, width, &out[1], &out[2]);
    if (z && shape_of(z, &z_type) != std::vector<int64_t>(out, out + 4)) refuse("Z must have the shape of Y");
    check(api.output(context, 0, out, 4, &y));
  }

  const ort::Value *x = nullptr, *z = nullptr;
  ort::Type z_type = ort::kAnyType;
  ort::Value* y = nullptr;
  int64_t batch, height, width;
};

// The same of a pooling.
struct PoolCall {
  PoolCall(ort::KernelContext* context, const PoolShape& s) {
    check(api.input(context, 0, &x));
    const std::vector<int64_t> shape = shape_of(x);
    if (shape.size() != 4) refuse("X must be (batch, height, width, channels)");
    height = shape[1], width = shape[2], channels = shape[3];
    pool_output_size(s, height, width, &out_height, &out_width);
    const int64_t out[4] = {shape[0], out_height, out_width, channels};
    check(api.output(context, 0, out, 4, &y));
    rows = channels ? static_cast<size_t>(shape[0] * out_height) : 0;
  }

  const ort::Value* x = nullptr;
  ort::Value* y = nullptr;
  int64_t height, width, channels, out_height, out_width;
  size_t rows;  // of the output; 0 where there is nothing to do, however many rows there are of it
};

inline Parallel parallel_of(ort::KernelContext* context) {
  return {[](void* context, void (*work)(void*, size_t), size_t count, void* argument) {
            check(api.parallel_for(static_cast<ort::KernelContext*>(context), work, count, 0, argument));
          },
          context};
}

// ONNX Runtime's allocator.
class Memory {
 public:
  ~Memory() {
    if (allocator_) api.release(allocator_);
  }
  void open(const ort::KernelInfo* info) { check(api.allocator(info, 0, &allocator_)); }
  Scratch scratch() const { return {allocate, release, allocator_}; }

 private:
  static void* allocate(void* context, size_t bytes) {
    ort::Allocator* allocator = static_cast<ort::Allocator*>(context);
    try {
      return allocator->alloc(allocator, bytes);
    } catch (...) {  // ONNX Runtime's arena throws, which must not leave a thread of its pool
      return nullptr;
    }
  }
  static void release(void* context, void* memory) {
    ort::Allocator* allocator = static_cast<ort::Allocator*>(context);
    allocator->free(allocator, memory);
  }

  ort::Allocator* allocator_ = nullptr;
};

}  // namespace ops
