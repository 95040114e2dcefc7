// ONNX Runtime custom ops of domain `hetconv.nhwc`, activations (batch, height, width, channels):
//
//   Y = HetConv2d(X, W, W_kxk, B, Z)   attributes part, kernel_shape, strides, pads, dilations, min, max, algorithm
//   Y = Conv(X, W, B, Z)               attributes group, the others the same
//   Y = MaxPool(X)                     attributes kernel_shape, strides, pads
//   Y = AveragePool(X)                 attributes kernel_shape, strides, pads, count_include_pad
//
// W is (N, M, 1, 1) or (N, M/group, K, K), W_kxk (N, M/P, K, K), B (N), all constant; Z is added before the clamp to
// [min, max], and optional; `algorithm` is one of Algorithm's numbers, by default 0: by the cost model.
//
// Session options, set before the library is registered: `hetconv.algorithm` goes before the attribute, `direct`
// forbids Winograd's algorithm; `hetconv.isa` names an instruction set.
//
// Kernels keep no state between calls but weights packed once, so any number of threads may run a session at once.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <string>

#include "layer.h"
#include "ort_values.h"

namespace {

using namespace hetconv;

using ort::api, ort::check, ort::config, ort::constant, ort::data_of, ort::guarded, ort::narrow, ort::read, ort::refuse,
    ort::shape_of;

struct Options {
  Algorithm algorithm = Algorithm::kAuto;
  std::string isa;
  bool operator<(const Options& other) const { return std::tie(algorithm, isa) < std::tie(other.algorithm, other.isa); }
};

struct Op : ort::CustomOp {
  const Options* options;
};

class ConvKernel {
 public:
  ConvKernel(const ort::KernelInfo* info, bool hetconv, const Options& options) : hetconv_(hetconv) {
    LayerShape s{};
    Weights weights{};
    std::vector<int64_t> w, w_kxk, bias;
    const char* kernel_name = hetconv ? "W_kxk" : "W";
    if (hetconv) weights.w = constant(info, 1, "W", &w);
    weights.w_kxk = constant(info, hetconv ? 2 : 1, kernel_name, &w_kxk);
    weights.bias = constant(info, hetconv ? 3 : 2, "B", &bias);
    const char* part_name = hetconv ? "part" : "group";
    s.part = narrow(read(info, part_name), part_name);
    if (s.part < 1) refuse(std::string(part_name) + " must be at least 1");
    read(info, "kernel_shape", s.kernel);
    read(info, "strides", s.stride);
    read(info, "dilations", s.dilation);
    read(info, "pads", s.pads);
    const float infinity = std::numeric_limits<float>::infinity();
    weights.low = read(info, "min", -infinity), weights.high = read(info, "max", infinity);
    if (w_kxk.size() != 4 || w_kxk[2] != s.kernel[0] || w_kxk[3] != s.kernel[1]) {
      refuse(std::string(kernel_name) + " must be (N, M/groups) of kernel_shape");
    }
    s.out_channels = narrow(w_kxk[0], "N");
    s.in_channels = narrow(int64_t{narrow(w_kxk[1], "M/groups")} * s.part, "M");
    if (bias != std::vector<int64_t>{w_kxk[0]}) refuse("B must be (N)");
    if (hetconv && w != std::vector<int64_t>{w_kxk[0], s.in_channels, 1, 1}) refuse("W must be (N, M, 1, 1)");
    const Isa& isa = options.isa.empty() ? best_isa() : find_isa(options.isa.c_str());
    layer_ = std::make_unique<Layer>(s, weights, algorithm_of(info, s, options), isa);
    layer_->prepare();
    check(api.allocator(info, 0, &allocator_));
  }
  ~ConvKernel() {
    if (allocator_) api.release(allocator_);
  }

  void compute(ort::KernelContext* context) const {
    const ort::Value *x = nullptr, *z = nullptr;
    check(api.input(context, 0, &x));
    size_t inputs = 0;
    check(api.input_count(context, &inputs));
    const size_t last = hetconv_ ? 4 : 3;
    if (inputs > last) check(api.input(context, last, &z));
    const std::vector<int64_t> shape = shape_of(x);
    const LayerShape& s = layer_->shape();
    if (shape.size() != 4 || shape[3] != s.in_channels) {
      refuse("X must be (batch, height, width, " + std::to_string(s.in_channels) + ")");
    }
    int64_t out[4] = {shape[0], 0, 0, s.out_channels};
    layer_->output_size(shape[1], shape[2], &out[1], &out[2]);
    if (z && shape_of(z) != std::vector<int64_t>(out, out + 4)) refuse("Z must have the shape of Y");
    ort::Value* y = nullptr;
    check(api.output(context, 0, out, 4, &y));
    layer_->run(data_of(x), z ? data_of(z) : nullptr, data_of(y), shape[0], shape[1], shape[2], {run_parallel, context},
                {allocate, release, allocator_});
  }

 private:
  static Algorithm algorithm_of(const ort::KernelInfo* info, const LayerShape& shape, const Options& options) {
    if (options.algorithm == Algorithm::kDirect || (options.algorithm != Algorithm::kAuto && can_winograd(shape))) {
      return options.algorithm;
    }
    const int64_t attribute = read(info, "algorithm", int64_t{0});
    if (attribute < 0 || attribute > 3) refuse("algorithm of " + std::to_string(attribute) + " makes no sense");
    return static_cast<Algorithm>(attribute);
  }

  static void run_parallel(void* context, void (*work)(void*, size_t), size_t count, void* argument) {
    check(api.parallel_for(static_cast<ort::KernelContext*>(context), work, count, 0, argument));
  }
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

  bool hetconv_;
  std::unique_ptr<Layer> layer_;
  ort::Allocator* allocator_ = nullptr;
};

class PoolKernel {
 public:
  PoolKernel(const ort::KernelInfo* info, bool average, const Options& options) {
    s_.average = average;
    s_.include_pad = average && read(info, "count_include_pad") != 0;
    read(info, "kernel_shape", s_.kernel);
    read(info, "strides", s_.stride);
    read(info, "pads", s_.pads);
    check_pool(s_);
    isa_ = options.isa.empty() ? &best_isa() : &find_isa(options.isa.c_str());
  }

  void compute(ort::KernelContext* context) const {
    const ort::Value* x = nullptr;
    check(api.input(context, 0, &x));
    const std::vector<int64_t> shape = shape_of(x);
    if (shape.size() != 4) refuse("X must be (batch, height, width, channels)");
    int64_t out[4] = {shape[0], 0, 0, shape[3]};
    pool_output_size(s_, shape[1], shape[2], &out[1], &out[2]);
    ort::Value* y = nullptr;
    check(api.output(context, 0, out, 4, &y));
    if (!out[0] || !out[3]) return;  // nothing to do, however many rows there are of it
    PoolRun run{data_of(x), data_of(y), shape[1], shape[2], shape[3], out[1], out[2], &s_, isa_};
    check(api.parallel_for(context, PoolRun::row, static_cast<size_t>(out[0] * out[1]), 0, &run));
  }

 private:
  PoolShape s_;
  const Isa* isa_;
};

enum Kind { kHetConv2d, kConv, kMaxPool, kAveragePool };
constexpr const char* kNames[] = {"HetConv2d", "Conv", "MaxPool", "AveragePool"};
constexpr size_t kInputs[] = {5, 4, 1, 1};  // of the convolutions the last is optional

template <Kind kKind>
Op make_op(const Options& options) {
  Op op{};
  op.options = &options;
  op.version = ort::kApiVersion;
  constexpr bool kPool = kKind == kMaxPool || kKind == kAveragePool;
  op.name = [](const ort::CustomOp*) { return kNames[kKind]; };
  op.provider = [](const ort::CustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.input_type = [](const ort::CustomOp*, size_t) { return 1; };  // float
  op.output_type = [](const ort::CustomOp*, size_t) { return 1; };
  op.inputs = [](const ort::CustomOp*) { return kInputs[kKind]; };
  op.outputs = [](const ort::CustomOp*) -> size_t { return 1; };
  op.input_characteristic = [](const ort::CustomOp*, size_t i) { return !kPool && i + 1 == kInputs[kKind] ? 1 : 0; };
  op.output_characteristic = [](const ort::CustomOp*, size_t) { return 0; };
  op.input_memory = [](const ort::CustomOp*, size_t) { return 0; };
  const auto one = [](const ort::CustomOp*) { return 1; };
  op.variadic_input_arity = op.variadic_input_homogeneity = one;
  op.variadic_output_arity = op.variadic_output_homogeneity = one;
  op.start_version = one;
  op.end_version = [](const ort::CustomOp*) { return std::numeric_limits<int>::max(); };
  using Kernel = std::conditional_t<kPool, PoolKernel, ConvKernel>;
  op.create_v2 = [](const ort::CustomOp* self, const void*, const ort::KernelInfo* info, void** kernel) {
    return guarded([&] {
      const Options& chosen = *static_cast<const Op*>(self)->options;
      if constexpr (kPool) {
        *kernel = new PoolKernel(info, kKind == kAveragePool, chosen);
      } else {
        *kernel = new ConvKernel(info, kKind == kHetConv2d, chosen);
      }
    });
  };
  op.compute_v2 = [](void* kernel, ort::KernelContext* context) {
    return guarded([&] { static_cast<const Kernel*>(kernel)->compute(context); });
  };
  op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

// The ops for one choice of options. They live as long as the library: ONNX Runtime keeps pointers to them.
struct Ops {
  Options options;
  std::vector<Op> ops;
  ort::Domain* domain = nullptr;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                 const ort::ApiBase* base) {
  const void* const* table = base->get_api(ort::kApiVersion);
  if (!table)
    return ort::Api(base->get_api(1)).create_status(ort::kFail, "libhetconv needs ONNX Runtime 1.20 or newer");
  // Once: a session of another thread may be running.
  static std::once_flag once;
  std::call_once(once, [&] { api = ort::Api(table); });
  return guarded([&] {
    static std::mutex mutex;
    static std::map<Options, std::unique_ptr<Ops>> known;
    Options chosen;
    const std::string algorithm = config(options, "hetconv.algorithm");
    if (!algorithm.empty()) chosen.algorithm = find_algorithm(algorithm.c_str());
    chosen.isa = config(options, "hetconv.isa");
    if (!chosen.isa.empty()) find_isa(chosen.isa.c_str());
    std::lock_guard<std::mutex> lock(mutex);
    std::unique_ptr<Ops>& ops = known[chosen];
    if (!ops) {
      auto made = std::make_unique<Ops>();
      made->options = chosen;
      const Options& kept = made->options;
      made->ops = {make_op<kHetConv2d>(kept), make_op<kConv>(kept), make_op<kMaxPool>(kept),
                   make_op<kAveragePool>(kept)};
      check(api.create_domain("hetconv.nhwc", &made->domain));
      for (const Op& op : made->ops) check(api.domain_add(made->domain, &op));
      ops = std::move(made);
    }
    check(api.add_domain(options, ops->domain));
  });
}
