// The custom ops from several threads at once, for ThreadSanitizer: ONNX Runtime, which no sanitizer instruments, is
// the one of fake_ort.h. Sessions are made while others run, kernels pack their weights on their first call.
//
//   hetconv_race ROUNDS       exit code 1 if a result is not, bit for bit, that of a single thread
//   hetconv_race ROUNDS race  with a race of its own: proof that the sanitizer would see one
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "fake_ort.h"
#include "kernels_int8_oracle.h"

using namespace hetconv;

namespace {

using fake::kOps;

constexpr int64_t kChannels = 32, kPart = 4, kSizes[] = {3, 7, 12, 20};
constexpr size_t kThreads = 4;

struct Constants {
  ort::Value w{{kChannels, kChannels, 1, 1}, normal(kChannels * kChannels)};
  ort::Value w_kxk{{kChannels, kChannels / kPart, 3, 3}, normal(kChannels * kChannels / kPart * 9)};
  ort::Value int8_w{w.shape, {}, random_bytes<uint8_t>(w.data.size()), ort::kInt8};
  ort::Value int8_w_kxk{w_kxk.shape, {}, random_bytes<uint8_t>(w_kxk.data.size()), ort::kInt8};
  ort::Value scale{{kChannels}, Floats(kChannels, 1e-3f)}, bias{{kChannels}, normal(kChannels)};

  // A node's inputs but the first, which is no constant, and the residual.
  std::vector<const ort::Value*> of(int op) const {
    const bool bytes = fake::is_int8_conv(op);
    std::vector<const ort::Value*> inputs = {nullptr};
    if (!fake::is_conv(op)) return inputs;
    if (fake::is_hetconv(op)) inputs.push_back(bytes ? &int8_w : &w);
    inputs.push_back(bytes ? &int8_w_kxk : &w_kxk);
    if (bytes) inputs.push_back(&scale);
    inputs.push_back(&bias);
    return inputs;
  }
};

// What a sequence is made of here; any other is itself.
int node_of(int op) {
  return op == fake::kSequence ? fake::kHetConv2d : op == fake::kQSequence ? fake::kQHetConv2d : op;
}

// The same input for every op.
struct Input {
  explicit Input(int64_t size)
      : floats{{2, size, size + 1, kChannels}, normal(2 * size * (size + 1) * kChannels)},
        bytes{floats.shape, {}, random_bytes<uint8_t>(floats.data.size()), ort::kUint8} {}

  const ort::Value& of(int op) const {
    return fake::is_int8_conv(op) || op == fake::kQMaxPool || op == fake::kQMean ? bytes : floats;
  }

  ort::Value floats, bytes;
};

using Kernels = std::vector<std::unique_ptr<fake::Kernel>>;

Kernels make(const Constants& constants, const std::map<std::string, std::string>& config) {
  std::vector<const ort::CustomOp*> ops;
  if (!fake::ops(config, &ops).empty()) std::abort();
  ort::KernelInfo info;
  info.lists = {{"kernel_shape", {3, 3}}, {"strides", {1, 1}}, {"dilations", {1, 1}}, {"pads", {1, 1, 1, 1}}};
  info.integers = {{"part", kPart},      {"group", kPart},      {"count_include_pad", 1},
                   {"x_zero_point", 77}, {"y_zero_point", 100}, {"z_zero_point", 3}};
  info.floats = {{"min", 0.0f}, {"x_scale", 0.1f}, {"y_scale", 0.5f}, {"z_scale", 0.25f}};
  Kernels kernels;
  for (int op = 0; op < kOps; op++) {
    info.constants = constants.of(node_of(op));
    ort::KernelInfo sequence;
    if (op != node_of(op)) {  // that node twice
      sequence.constants = info.constants;
      std::vector<int64_t> places(info.constants.size());
      for (size_t i = 0; i < places.size(); i++) places[i] = static_cast<int64_t>(i);
      const char* name = ops[node_of(op)]->name(ops[node_of(op)]);
      fake::add_step(&sequence, name, info, places);
      places[0] = -1, places.push_back(-1);
      fake::add_step(&sequence, name, info, places);
    }
    kernels.push_back(std::make_unique<fake::Kernel>(ops[op], op == node_of(op) ? info : sequence));
    if (!kernels.back()->error.empty()) std::abort();
  }
  return kernels;
}

std::vector<const ort::Value*> inputs_of(const Constants& constants, int op, const Input& input) {
  std::vector<const ort::Value*> inputs = constants.of(node_of(op));
  inputs[0] = &input.of(node_of(op));
  if (fake::is_hetconv(op)) inputs.push_back(inputs[0]);
  return inputs;
}

ort::Value run(const Kernels& kernels, const Constants& constants, int op, const Input& input, size_t threads) {
  std::string why;
  ort::Value y = kernels[op]->run(inputs_of(constants, op, input), threads, &why);
  if (!why.empty()) std::abort();
  return y;
}

int unguarded = 0;  // what `race` counts in

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 1;
  const bool race = argc > 2;
  const std::map<std::string, std::string> configs[] = {{}, {{"hetconv.algorithm", "direct"}}};
  const Constants constants;
  const std::vector<Input> inputs(std::begin(kSizes), std::end(kSizes));
  std::atomic<int> wrong{0}, right{0};
  for (int round = 0; round < rounds; round++) {
    const auto& config = configs[round % 2];
    const Kernels shared = make(constants, config);
    std::vector<ort::Value> results[kThreads];
    auto caller = [&](size_t t) {
      if (race) unguarded++;
      const Kernels own = make(constants, configs[t % 2]);
      for (size_t i = 0; i < inputs.size() * kOps; i++) {
        const size_t k = (i + t) % inputs.size(), op = i % kOps;
        run(own, constants, op, inputs[k], 1);
      }
      for (int op = 0; op < kOps; op++) {
        for (const Input& input : inputs) results[t].push_back(run(shared, constants, op, input, 1 + (t + op) % 3));
      }
    };
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; t++) threads.emplace_back(caller, t);
    for (std::thread& thread : threads) thread.join();
    const Kernels alone = make(constants, config);
    for (int op = 0, i = 0; op < kOps; op++) {
      for (const Input& input : inputs) {
        const ort::Value expected = run(alone, constants, op, input, 1);
        for (const auto& result : results) (result[i] == expected ? right : wrong)++;
        i++;
      }
    }
  }
  // Without memory for its scratch a convolution fails in words, on however many threads.
  // A sequence has one piece more, for the activations of its steps.
  const Kernels starved = make(constants, {});
  for (size_t count = 1; count <= kThreads; count++) {
    for (int op = 0; op < kOps; op++) {
      if (!fake::is_conv(node_of(op))) continue;
      for (int pieces = 0; pieces <= (op != node_of(op)); pieces++) {
        fake::left = pieces;
        std::string why;
        starved[op]->run(inputs_of(constants, op, inputs[0]), count, &why);
        fake::left = fake::kPlenty;
        (why.empty() ? wrong : right)++;
      }
    }
  }
  if (wrong || fake::live || !fake::allocated) {
    std::printf("%d results differ, %ld pieces of memory were not given back\n", int(wrong), long(fake::live));
    return 1;
  }
  std::printf("%d results right\n", int(right));
  return 0;
}
