// The custom ops in fp32: convolutions and pooling.
#pragma once

#include "ort_calls.h"

namespace ops {

class ConvKernel : public Kernel {
 public:
  ConvKernel(const Info& info, bool hetconv, const Options& options) {
    Weights weights{};
    std::vector<int64_t> w, w_kxk, bias;
    if (hetconv) weights.w = constant(info, 1, "W", &w);
    weights.w_kxk = constant(info, hetconv ? 2 : 1, hetconv ? "W_kxk" : "W", &w_kxk);
    weights.bias = constant(info, hetconv ? 3 : 2, "B", &bias);
    const LayerShape s = read_shape(info, hetconv, w, w_kxk);
    if (bias != std::vector<int64_t>{s.out_channels}) refuse("B must be (N)");
    read_bounds(info, &weights.low, &weights.high);
    layer_ = std::make_unique<Layer>(s, weights, algorithm_of(info, s, hetconv, options), options.floats());
    layer_->prepare();
  }

  ort::Axes output(const ort::Tensor& x, const ort::Tensor* z) const override {
    if (z && z->type != ort::kFloat) refuse("Z must be float");
    return conv_output(layer_->shape(), x, z);
  }

  void run(const ort::Tensor& x, const ort::Tensor* z, const ort::Tensor& y, const Means& means) const override {
    layer_->run(static_cast<float*>(x.data), z ? static_cast<float*>(z->data) : nullptr, static_cast<float*>(y.data),
                x.axes[0], x.axes[1], x.axes[2], means.parallel, means.scratch);
  }

 private:
  static Algorithm algorithm_of(const Info& info, const LayerShape& shape, bool hetconv, const Options& options) {
    if (options.algorithm != Algorithm::kAuto && can_take(options.algorithm, shape, hetconv)) return options.algorithm;
    const int64_t attribute = read(info, "algorithm", int64_t{0});
    if (attribute < 0 || attribute >= kAlgorithms)
      refuse("algorithm of " + std::to_string(attribute) + " makes no sense");
    return static_cast<Algorithm>(attribute);
  }

  std::unique_ptr<Layer> layer_;
};

class PoolKernel : public PoolKernelOf<float, PoolRun, Isa> {
 public:
  PoolKernel(const Info& info, bool average, const Options& options) : PoolKernelOf(info, average, options.floats()) {}
};

}  // namespace ops
