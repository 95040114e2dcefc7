// What the custom ops have in common: options, shapes from attributes and weights, inputs and outputs of a call,
// threads and memory of ONNX Runtime.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <tuple>

#include "int8_layer.h"
#include "ort_values.h"

namespace ops {

using namespace hetconv;

using ort::api, ort::check, ort::config, ort::constant, ort::guarded, ort::Info, ort::narrow, ort::read, ort::read_list,
    ort::read_text, ort::refuse;

struct Options {
  Algorithm algorithm = Algorithm::kAuto;
  std::string isa;  // one of those in eight bits, which are as many or more
  bool operator<(const Options& other) const { return std::tie(algorithm, isa) < std::tie(other.algorithm, other.isa); }

  const Int8Isa& bytes() const { return isa.empty() ? best_int8_isa() : find_int8_isa(isa.c_str()); }
  const Isa& floats() const { return isa.empty() ? best_isa() : find_isa(bytes().floats); }
};

// From the attributes and the shapes of the weights, of which `w` counts for HetConv only.
inline LayerShape read_shape(const Info& info, bool hetconv, const std::vector<int64_t>& w,
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

inline void read_bounds(const Info& info, float* low, float* high) {
  const float infinity = std::numeric_limits<float>::infinity();
  *low = read(info, "min", -infinity), *high = read(info, "max", infinity);
}

inline PoolShape read_pool(const Info& info, bool average) {
  PoolShape s{};
  s.average = average;
  s.include_pad = average && read(info, "count_include_pad") != 0;
  read(info, "kernel_shape", s.kernel);
  read(info, "strides", s.stride);
  read(info, "pads", s.pads);
  check_pool(s);
  return s;
}

// Threads and memory of one call.
struct Means {
  Parallel parallel;
  Scratch scratch;
};

// What every op does: X, and perhaps a residual Z, to Y. Constant inputs are read once, when it is made.
class Kernel {
 public:
  virtual ~Kernel() = default;
  // The axes of Y; throws for inputs that make no sense. `z` may be null.
  virtual ort::Axes output(const ort::Tensor& x, const ort::Tensor* z) const = 0;
  virtual void run(const ort::Tensor& x, const ort::Tensor* z, const ort::Tensor& y, const Means& means) const = 0;
};

// The same of a convolution.
inline ort::Axes conv_output(const LayerShape& s, const ort::Tensor& x, const ort::Tensor* z) {
  if (x.rank != 4 || x.axes[3] != s.in_channels) {
    refuse("X must be (batch, height, width, " + std::to_string(s.in_channels) + ")");
  }
  ort::Axes axes{x.axes[0], 0, 0, s.out_channels};
  output_size(s, x.axes[1], x.axes[2], &axes[1], &axes[2]);
  if (z && (z->rank != 4 || z->axes != axes)) refuse("Z must have the shape of Y");
  return axes;
}

inline void check_rank(const ort::Tensor& x) {
  if (x.rank != 4) refuse("X must be (batch, height, width, channels)");
}

// Of a pooling.
inline ort::Axes pool_output(const PoolShape& s, const ort::Tensor& x) {
  check_rank(x);
  ort::Axes axes = x.axes;
  pool_output_size(s, x.axes[1], x.axes[2], &axes[1], &axes[2]);
  return axes;
}

// Input i of a call; false where it was left out.
inline bool read_input(ort::KernelContext* context, size_t i, ort::Tensor* tensor) {
  const ort::Value* value = nullptr;
  check(api.input(context, i, &value));
  if (!value) return false;
  std::vector<int64_t> shape;
  *tensor = {ort::data_of<void>(value), ort::describe(value, &shape), {}};
  tensor->rank = shape.size();
  std::copy_n(shape.begin(), std::min(shape.size(), tensor->axes.size()), tensor->axes.begin());
  return true;
}

// The memory of the output.
inline void* output_of(ort::KernelContext* context, const ort::Axes& axes) {
  ort::Value* value = nullptr;
  check(api.output(context, 0, axes.data(), axes.size(), &value));
  return ort::data_of<void>(value);
}

inline Parallel parallel_of(ort::KernelContext* context) {
  return {[](void* context, void (*work)(void*, size_t), size_t count, void* argument) {
            check(api.parallel_for(static_cast<ort::KernelContext*>(context), work, count, 0, argument));
          },
          context};
}

// The rows of Y of all images, where there are any numbers in them.
inline void each_row(const Parallel& parallel, const ort::Tensor& y, void (*row)(void*, size_t), void* run) {
  const size_t rows = y.axes[3] ? static_cast<size_t>(y.axes[0] * y.axes[1]) : 0;
  if (rows) parallel.run(parallel.context, row, rows, run);
}

// ONNX Runtime's allocator.
class Memory {
 public:
  explicit Memory(const Info& info) { check(api.allocator(info.kernel, 0, &allocator_)); }
  Memory(const Memory&) = delete;
  ~Memory() { api.release(allocator_); }
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

// A pooling of elements T.
template <class T, class Run, class Isa>
class PoolKernelOf : public Kernel {
 public:
  PoolKernelOf(const Info& info, bool average, const Isa& isa) : s_(read_pool(info, average)), isa_(&isa) {}

  ort::Axes output(const ort::Tensor& x, const ort::Tensor*) const override { return pool_output(s_, x); }

  void run(const ort::Tensor& x, const ort::Tensor*, const ort::Tensor& y, const Means& means) const override {
    Run run{static_cast<T*>(x.data),
            static_cast<T*>(y.data),
            x.axes[1],
            x.axes[2],
            x.axes[3],
            y.axes[1],
            y.axes[2],
            &s_,
            isa_};
    each_row(means.parallel, y, Run::row, &run);
  }

 private:
  PoolShape s_;
  const Isa* isa_;
};

}  // namespace ops
