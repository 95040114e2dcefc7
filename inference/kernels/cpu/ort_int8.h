// The custom ops in eight bits: convolutions, maximum pooling, the mean over an image, the first quantisation.
#pragma once

#include "ort_calls.h"

namespace ops {

inline int32_t read_zero_point(const ort::KernelInfo* info, const char* name) {
  const int64_t value = read(info, name, int64_t{0});
  check_zero_point(name, value);
  return static_cast<int32_t>(value);
}

class Int8ConvKernel {
 public:
  Int8ConvKernel(const ort::KernelInfo* info, bool hetconv, bool float_output, const Options& options)
      : hetconv_(hetconv) {
    Int8Weights weights{};
    std::vector<int64_t> w, w_kxk, scale, bias;
    if (hetconv) weights.w = constant<int8_t>(info, 1, "W", &w);
    weights.w_kxk = constant<int8_t>(info, hetconv ? 2 : 1, hetconv ? "W_kxk" : "W", &w_kxk);
    weights.scale = constant(info, hetconv ? 3 : 2, "scale", &scale);
    weights.bias = constant(info, hetconv ? 4 : 3, "B", &bias);
    const LayerShape s = read_shape(info, hetconv, w, w_kxk);
    if (scale != std::vector<int64_t>{s.out_channels}) refuse("scale must be (N)");
    if (bias != std::vector<int64_t>{s.out_channels}) refuse("B must be (N)");
    read_bounds(info, &weights.low, &weights.high);
    weights.x_zero_point = read_zero_point(info, "x_zero_point");
    weights.float_output = float_output;
    if (!float_output) {
      weights.y_scale = read(info, "y_scale", 0.0f);
      weights.y_zero_point = read_zero_point(info, "y_zero_point");
    }
    weights.z_scale = read(info, "z_scale", 0.0f);
    weights.z_zero_point = read_zero_point(info, "z_zero_point");
    weights.float_residual = float_residual_ = weights.z_scale == 0;
    layer_ = std::make_unique<Int8Layer>(s, weights, options.bytes());
    memory_.open(info);
  }

  void compute(ort::KernelContext* context) const {
    const Call call(context, layer_->shape(), hetconv_ ? 5 : 4);
    if (call.z && call.z_type != (float_residual_ ? ort::kFloat : ort::kUint8)) {
      refuse("Z must be uint8 with z_scale, and float without");
    }
    layer_->run(data_of<uint8_t>(call.x), call.z ? data_of<void>(call.z) : nullptr, data_of<void>(call.y), call.batch,
                call.height, call.width, parallel_of(context), memory_.scratch());
  }

 private:
  bool hetconv_, float_residual_;
  std::unique_ptr<Int8Layer> layer_;
  Memory memory_;
};

class Int8PoolKernel {
 public:
  Int8PoolKernel(const ort::KernelInfo* info, const Options& options)
      : s_(read_pool(info, false)), isa_(&options.bytes()) {}

  void compute(ort::KernelContext* context) const {
    const PoolCall call(context, s_);
    if (!call.rows) return;
    Int8PoolRun run{data_of<uint8_t>(call.x), data_of<uint8_t>(call.y), call.height, call.width, call.channels,
                    call.out_height,          call.out_width,           &s_,         isa_};
    check(api.parallel_for(context, Int8PoolRun::row, call.rows, 0, &run));
  }

 private:
  PoolShape s_;
  const Int8Isa* isa_;
};

class Int8MeanKernel {
 public:
  Int8MeanKernel(const ort::KernelInfo* info, const Options& options) : isa_(&options.bytes()) {
    scale_ = read(info, "x_scale", 0.0f);
    check_scale("x_scale", scale_);
    zero_point_ = read_zero_point(info, "x_zero_point");
  }

  void compute(ort::KernelContext* context) const {
    const ort::Value* x = nullptr;
    check(api.input(context, 0, &x));
    const std::vector<int64_t> shape = shape_of(x);
    if (shape.size() != 4) refuse("X must be (batch, height, width, channels)");
    check_size(shape[1], shape[2]);
    const int64_t out[4] = {shape[0], 1, 1, shape[3]};
    ort::Value* y = nullptr;
    check(api.output(context, 0, out, 4, &y));
    Int8MeanRun run{data_of<uint8_t>(x), data_of(y), shape[0], shape[1] * shape[2], shape[3],
                    zero_point_,         scale_,     isa_};
    if (run.pieces()) check(api.parallel_for(context, Int8MeanRun::piece, run.pieces(), 0, &run));
  }

 private:
  float scale_;
  int32_t zero_point_;
  const Int8Isa* isa_;
};

class QuantizeKernel {
 public:
  QuantizeKernel(const ort::KernelInfo* info, const Options& options) : isa_(&options.bytes()) {
    scale_ = read(info, "y_scale", 0.0f);
    check_scale("y_scale", scale_);
    zero_point_ = read_zero_point(info, "y_zero_point");
  }

  void compute(ort::KernelContext* context) const {
    const ort::Value* x = nullptr;
    check(api.input(context, 0, &x));
    const std::vector<int64_t> shape = shape_of(x);
    if (shape.size() != 4) refuse("X must be (batch, channels, height, width)");
    check_size(shape[2], shape[3]);
    const int64_t out[4] = {shape[0], shape[2], shape[3], shape[1]};
    ort::Value* y = nullptr;
    check(api.output(context, 0, out, 4, &y));
    if (!shape[0] || !shape[1]) return;
    Int8QuantizeRun run{data_of(x), data_of<uint8_t>(y), shape[2], shape[3], shape[1], scale_, zero_point_, isa_};
    check(api.parallel_for(context, Int8QuantizeRun::row, static_cast<size_t>(shape[0] * shape[2]), 0, &run));
  }

 private:
  float scale_;
  int32_t zero_point_;
  const Int8Isa* isa_;
};

}  // namespace ops
