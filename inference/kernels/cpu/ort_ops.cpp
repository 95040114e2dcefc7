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
// In eight bits, X and Y uint8, W and W_kxk int8 with one scale, as in int8_layer.h:
//
//   Y = QHetConv2d(X, W, W_kxk, scale, B, Z)   attributes as above but for the algorithm, and x_zero_point, y_scale,
//   Y = QConv(X, W, scale, B, Z)               y_zero_point; z_scale and z_zero_point where Z is uint8, not float
//   Y = QHetConv2dFloat, QConvFloat            the same with a float Y
//   Y = QMaxPool(X)                            attributes kernel_shape, strides, pads
//   Y = QMean(X)                               (batch, 1, 1, channels), float; attributes x_scale, x_zero_point
//   Y = Quantize(X)                            from (batch, channels, height, width); attributes y_scale, y_zero_point
//   Y = FloatConv(X, W, B, Z)                  Conv under a name of its own: what is called Conv, ONNX Runtime's
//                                              optimiser takes for ONNX's between DequantizeLinear and QuantizeLinear
//
// Session options, set before the library is registered: `hetconv.algorithm` goes before the attribute, `direct`
// forbids Winograd's algorithm; `hetconv.isa` names an instruction set.
//
// Kernels keep no state between calls but weights packed once, so any number of threads may run a session at once.
#include <map>
#include <mutex>

#include "ort_float.h"
#include "ort_int8.h"

namespace {

using namespace ops;
using ort::kAnyType, ort::kFloat, ort::kInt8, ort::kUint8;

struct Op : ort::CustomOp {
  const Options* options;
};

enum Kind {
  kHetConv2d,
  kConv,
  kMaxPool,
  kAveragePool,
  kQHetConv2d,
  kQConv,
  kQHetConv2dFloat,
  kQConvFloat,
  kQMaxPool,
  kQMean,
  kQuantize,
  kFloatConv,
};
struct Signature {
  const char* name;
  size_t count;  // of inputs; of convolutions the last is optional
  bool optional;
  ort::Type output, inputs[6];
};
constexpr Signature kSignatures[] = {
    {"HetConv2d", 5, true, kFloat, {kFloat, kFloat, kFloat, kFloat, kFloat}},
    {"Conv", 4, true, kFloat, {kFloat, kFloat, kFloat, kFloat}},
    {"MaxPool", 1, false, kFloat, {kFloat}},
    {"AveragePool", 1, false, kFloat, {kFloat}},
    {"QHetConv2d", 6, true, kUint8, {kUint8, kInt8, kInt8, kFloat, kFloat, kAnyType}},
    {"QConv", 5, true, kUint8, {kUint8, kInt8, kFloat, kFloat, kAnyType}},
    {"QHetConv2dFloat", 6, true, kFloat, {kUint8, kInt8, kInt8, kFloat, kFloat, kAnyType}},
    {"QConvFloat", 5, true, kFloat, {kUint8, kInt8, kFloat, kFloat, kAnyType}},
    {"QMaxPool", 1, false, kUint8, {kUint8}},
    {"QMean", 1, false, kFloat, {kUint8}},
    {"Quantize", 1, false, kUint8, {kFloat}},
    {"FloatConv", 4, true, kFloat, {kFloat, kFloat, kFloat, kFloat}},
};

template <Kind kKind>
auto make_kernel(const ort::KernelInfo* info, const Options& options) {
  if constexpr (kKind == kHetConv2d || kKind == kConv || kKind == kFloatConv) {
    return new ConvKernel(info, kKind == kHetConv2d, options);
  } else if constexpr (kKind == kMaxPool || kKind == kAveragePool) {
    return new PoolKernel(info, kKind == kAveragePool, options);
  } else if constexpr (kKind == kQMaxPool) {
    return new Int8PoolKernel(info, options);
  } else if constexpr (kKind == kQMean) {
    return new Int8MeanKernel(info, options);
  } else if constexpr (kKind == kQuantize) {
    return new QuantizeKernel(info, options);
  } else {
    return new Int8ConvKernel(info, kKind == kQHetConv2d || kKind == kQHetConv2dFloat,
                              kSignatures[kKind].output == kFloat, options);
  }
}

template <Kind kKind>
Op make_op(const Options& options) {
  Op op{};
  op.options = &options;
  op.version = ort::kApiVersion;
  op.name = [](const ort::CustomOp*) { return kSignatures[kKind].name; };
  op.provider = [](const ort::CustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.input_type = [](const ort::CustomOp*, size_t i) { return int{kSignatures[kKind].inputs[i]}; };
  op.output_type = [](const ort::CustomOp*, size_t) { return int{kSignatures[kKind].output}; };
  op.inputs = [](const ort::CustomOp*) { return kSignatures[kKind].count; };
  op.outputs = [](const ort::CustomOp*) -> size_t { return 1; };
  op.input_characteristic = [](const ort::CustomOp*, size_t i) {
    return kSignatures[kKind].optional && i + 1 == kSignatures[kKind].count ? 1 : 0;
  };
  op.output_characteristic = [](const ort::CustomOp*, size_t) { return 0; };
  op.input_memory = [](const ort::CustomOp*, size_t) { return 0; };
  const auto one = [](const ort::CustomOp*) { return 1; };
  op.variadic_input_arity = op.variadic_input_homogeneity = one;
  op.variadic_output_arity = op.variadic_output_homogeneity = one;
  op.start_version = one;
  op.end_version = [](const ort::CustomOp*) { return std::numeric_limits<int>::max(); };
  using Kernel = std::remove_pointer_t<decltype(make_kernel<kKind>(nullptr, options))>;
  op.create_v2 = [](const ort::CustomOp* self, const void*, const ort::KernelInfo* info, void** kernel) {
    return guarded([&] { *kernel = make_kernel<kKind>(info, *static_cast<const Op*>(self)->options); });
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
    if (!chosen.isa.empty()) find_int8_isa(chosen.isa.c_str());
    std::lock_guard<std::mutex> lock(mutex);
    std::unique_ptr<Ops>& ops = known[chosen];
    if (!ops) {
      auto made = std::make_unique<Ops>();
      made->options = chosen;
      const Options& kept = made->options;
      made->ops = {make_op<kHetConv2d>(kept),       make_op<kConv>(kept),       make_op<kMaxPool>(kept),
                   make_op<kAveragePool>(kept),     make_op<kQHetConv2d>(kept), make_op<kQConv>(kept),
                   make_op<kQHetConv2dFloat>(kept), make_op<kQConvFloat>(kept), make_op<kQMaxPool>(kept),
                   make_op<kQMean>(kept),           make_op<kQuantize>(kept),   make_op<kFloatConv>(kept)};
      check(api.create_domain("hetconv.nhwc", &made->domain));
      for (const Op& op : made->ops) check(api.domain_add(made->domain, &op));
      ops = std::move(made);
    }
    check(api.add_domain(options, ops->domain));
  });
}
