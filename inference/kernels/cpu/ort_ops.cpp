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
//   Y = Sequence(X..., constants...)           several of these as one, and QSequence where Y is uint8: `ops` has their
//                                              names, and step i attributes `i.` in front of its own, `i.inputs` (an
//                                              input of the node, or -1 - j for what step j gives) and `i.slot`, the
//                                              part of the sequence's memory that it writes; the last writes Y
//
// Session options, set before the library is registered: `hetconv.algorithm` goes before the attribute, `direct`
// forbids Winograd's algorithm; `hetconv.isa` names an instruction set.
//
// Kernels keep no state between calls but weights packed once, so any number of threads may run a session at once.
#include <map>
#include <mutex>

#include "ort_sequence.h"

namespace {

using namespace ops;

struct Op : ort::CustomOp {
  const Options* options;
  const Kind* kind;  // null: a sequence
  ort::Type output;
};

const Op& op_of(const ort::CustomOp* op) { return *static_cast<const Op*>(op); }

// One op as a node of its own.
struct Node {
  Node(const Op& op, const Info& info) : kind(op.kind), kernel(op.kind->make(info, *op.options)), memory(info) {}

  const Kind* kind;
  std::unique_ptr<Kernel> kernel;
  Memory memory;

  void compute(ort::KernelContext* context) const {
    ort::Tensor x{}, z{};
    size_t inputs = 0;
    if (!read_input(context, 0, &x)) ort::refuse("X is missing");
    if (kind->residual) check(api.input_count(context, &inputs));
    const bool has_z = kind->residual && inputs == kind->count && read_input(context, inputs - 1, &z);
    const ort::Axes axes = kernel->output(x, has_z ? &z : nullptr);
    kernel->run(x, has_z ? &z : nullptr, {output_of(context, axes), kind->output, axes},
                {parallel_of(context), memory.scratch()});
  }
};

Op make_op(const Options& options) {
  Op op{};
  op.options = &options;
  op.version = ort::kApiVersion;
  op.provider = [](const ort::CustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.output_type = [](const ort::CustomOp* self, size_t) { return int{op_of(self).output}; };
  op.outputs = [](const ort::CustomOp*) -> size_t { return 1; };
  op.output_characteristic = [](const ort::CustomOp*, size_t) { return 0; };
  op.input_memory = [](const ort::CustomOp*, size_t) { return 0; };
  const auto one = [](const ort::CustomOp*) { return 1; };
  op.variadic_input_arity = op.variadic_output_arity = op.variadic_output_homogeneity = one;
  op.variadic_input_homogeneity = [](const ort::CustomOp*) { return 0; };
  op.start_version = one;
  op.end_version = [](const ort::CustomOp*) { return std::numeric_limits<int>::max(); };
  return op;
}

Op make_node_op(const Options& options, const Kind& kind) {
  Op op = make_op(options);
  op.kind = &kind, op.output = kind.output;
  op.name = [](const ort::CustomOp* self) { return op_of(self).kind->name; };
  op.inputs = [](const ort::CustomOp* self) { return op_of(self).kind->count; };
  op.input_type = [](const ort::CustomOp* self, size_t i) { return int{op_of(self).kind->inputs[i]}; };
  op.input_characteristic = [](const ort::CustomOp* self, size_t i) {
    return op_of(self).kind->residual && i + 1 == op_of(self).kind->count ? 1 : 0;  // optional
  };
  op.create_v2 = [](const ort::CustomOp* self, const void*, const ort::KernelInfo* info, void** kernel) {
    return guarded([&] { *kernel = new Node(op_of(self), {info, "", {}}); });
  };
  op.compute_v2 = [](void* kernel, ort::KernelContext* context) {
    return guarded([&] { static_cast<const Node*>(kernel)->compute(context); });
  };
  op.destroy = [](void* kernel) { delete static_cast<Node*>(kernel); };
  return op;
}

Op make_sequence_op(const Options& options, ort::Type output) {
  Op op = make_op(options);
  op.output = output;
  op.name = [](const ort::CustomOp* self) { return op_of(self).output == kFloat ? "Sequence" : "QSequence"; };
  op.inputs = [](const ort::CustomOp*) -> size_t { return 1; };
  op.input_type = [](const ort::CustomOp*, size_t) { return int{kAnyType}; };
  op.input_characteristic = [](const ort::CustomOp*, size_t) { return 2; };  // variadic
  op.create_v2 = [](const ort::CustomOp* self, const void*, const ort::KernelInfo* info, void** kernel) {
    return guarded([&] { *kernel = new SequenceKernel(info, *op_of(self).options, op_of(self).output); });
  };
  op.compute_v2 = [](void* kernel, ort::KernelContext* context) {
    return guarded([&] { static_cast<const SequenceKernel*>(kernel)->compute(context); });
  };
  op.destroy = [](void* kernel) { delete static_cast<SequenceKernel*>(kernel); };
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
      for (const Kind& kind : kKinds) made->ops.push_back(make_node_op(kept, kind));
      for (ort::Type output : {kFloat, kUint8}) made->ops.push_back(make_sequence_op(kept, output));
      check(api.create_domain("hetconv.nhwc", &made->domain));
      for (const Op& op : made->ops) check(api.domain_add(made->domain, &op));
      ops = std::move(made);
    }
    check(api.add_domain(options, ops->domain));
  });
}
