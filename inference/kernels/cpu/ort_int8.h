// The custom ops in eight bits: convolutions, maximum pooling, the mean over an image, the first quantisation.
#pragma once

#include "ort_calls.h"

namespace ops {

inline int32_t read_zero_point(const Info& info, const char* name) {
  const int64_t value = read(info, name, int64_t{0});
  check_zero_point(name, value);
  return static_cast<int32_t>(value);
}

class Int8ConvKernel : public Kernel {
 public:
  Int8ConvKernel(const Info& info, bool hetconv, bool float_output, const Options& options) {
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
  }

  ort::Axes output(const ort::Tensor& x, const ort::Tensor* z) const override {
    if (z && z->type != (float_residual_ ? ort::kFloat : ort::kUint8)) {
      refuse("Z must be uint8 with z_scale, and float without");
    }
    return conv_output(layer_->shape(), x, z);
  }

  void run(const ort::Tensor& x, const ort::Tensor* z, const ort::Tensor& y, const Means& means) const override {
    layer_->run(static_cast<uint8_t*>(x.data), z ? z->data : nullptr, y.data, x.axes[0], x.axes[1], x.axes[2],
                means.parallel, means.scratch);
  }

 private:
  bool float_residual_;
  std::unique_ptr<Int8Layer> layer_;
};

class Int8PoolKernel : public PoolKernelOf<uint8_t, Int8PoolRun, Int8Isa> {
 public:
  Int8PoolKernel(const Info& info, const Options& options) : PoolKernelOf(info, false, options.bytes()) {}
};

class Int8MeanKernel : public Kernel {
 public:
  Int8MeanKernel(const Info& info, const Options& options) : isa_(&options.bytes()) {
    scale_ = read(info, "x_scale", 0.0f);
    check_scale("x_scale", scale_);
    zero_point_ = read_zero_point(info, "x_zero_point");
  }

  ort::Axes output(const ort::Tensor& x, const ort::Tensor*) const override {
    check_rank(x);
    check_size(x.axes[1], x.axes[2]);
    return {x.axes[0], 1, 1, x.axes[3]};
  }

  void run(const ort::Tensor& x, const ort::Tensor*, const ort::Tensor& y, const Means& means) const override {
    Int8MeanRun run{static_cast<uint8_t*>(x.data),
                    static_cast<float*>(y.data),
                    x.axes[0],
                    x.axes[1] * x.axes[2],
                    x.axes[3],
                    zero_point_,
                    scale_,
                    isa_};
    if (run.pieces()) means.parallel.run(means.parallel.context, Int8MeanRun::piece, run.pieces(), &run);
  }

 private:
  float scale_;
  int32_t zero_point_;
  const Int8Isa* isa_;
};

class QuantizeKernel : public Kernel {
 public:
  QuantizeKernel(const Info& info, const Options& options) : isa_(&options.bytes()) {
    scale_ = read(info, "y_scale", 0.0f);
    check_scale("y_scale", scale_);
    zero_point_ = read_zero_point(info, "y_zero_point");
  }

  ort::Axes output(const ort::Tensor& x, const ort::Tensor*) const override {
    if (x.rank != 4) refuse("X must be (batch, channels, height, width)");
    check_size(x.axes[2], x.axes[3]);
    return {x.axes[0], x.axes[2], x.axes[3], x.axes[1]};
  }

  void run(const ort::Tensor& x, const ort::Tensor*, const ort::Tensor& y, const Means& means) const override {
    Int8QuantizeRun run{static_cast<float*>(x.data),
                        static_cast<uint8_t*>(y.data),
                        x.axes[2],
                        x.axes[3],
                        x.axes[1],
                        scale_,
                        zero_point_,
                        isa_};
    each_row(means.parallel, y, Int8QuantizeRun::row, &run);
  }

 private:
  float scale_;
  int32_t zero_point_;
  const Int8Isa* isa_;
};

}  // namespace ops
