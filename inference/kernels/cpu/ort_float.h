// The custom ops in fp32: convolutions and pooling.
#pragma once

#include "ort_calls.h"

namespace ops {

class ConvKernel {
 public:
  ConvKernel(const ort::KernelInfo* info, bool hetconv, const Options& options) : hetconv_(hetconv) {
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
    memory_.open(info);
  }

  void compute(ort::KernelContext* context) const {
    const Call call(context, layer_->shape(), hetconv_ ? 4 : 3);
    layer_->run(data_of(call.x), call.z ? data_of(call.z) : nullptr, data_of(call.y), call.batch, call.height,
                call.width, parallel_of(context), memory_.scratch());
  }

 private:
  static Algorithm algorithm_of(const ort::KernelInfo* info, const LayerShape& shape, bool hetconv,
                                const Options& options) {
    if (options.algorithm != Algorithm::kAuto && can_take(options.algorithm, shape, hetconv)) return options.algorithm;
    const int64_t attribute = read(info, "algorithm", int64_t{0});
    if (attribute < 0 || attribute >= kAlgorithms)
      refuse("algorithm of " + std::to_string(attribute) + " makes no sense");
    return static_cast<Algorithm>(attribute);
  }

  bool hetconv_;
  std::unique_ptr<Layer> layer_;
  Memory memory_;
};

class PoolKernel {
 public:
  PoolKernel(const ort::KernelInfo* info, bool average, const Options& options) {
    s_ = read_pool(info, average);
    isa_ = &options.floats();
  }

  void compute(ort::KernelContext* context) const {
    const PoolCall call(context, s_);
    if (!call.rows) return;
    PoolRun run{data_of(call.x), data_of(call.y), call.height, call.width, call.channels,
                call.out_height, call.out_width,  &s_,         isa_};
    check(api.parallel_for(context, PoolRun::row, call.rows, 0, &run));
  }

 private:
  PoolShape s_;
  const Isa* isa_;
};

}  // namespace ops
