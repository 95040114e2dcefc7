// The custom ops from several threads at once, for ThreadSanitizer: ONNX Runtime, which no sanitizer instruments, is
// the one of fake_ort.h. Sessions are made while others run, kernels pack their weights on their first call.
//
//   hetconv_race ROUNDS       exit code 1 if a result is not, bit for bit, that of a single thread
//   hetconv_race ROUNDS race  with a race of its own: proof that the sanitizer would see one
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "fake_ort.h"
#include "kernels_oracle.h"

using namespace hetconv;

namespace {

enum { kHetConv2d, kConv, kMaxPool, kAveragePool, kOps };
constexpr int64_t kChannels = 32, kPart = 4, kSizes[] = {3, 7, 12, 20};
constexpr size_t kThreads = 4;

struct Weights4 {
  ort::Value w{{kChannels, kChannels, 1, 1}, normal(kChannels * kChannels)};
  ort::Value w_kxk{{kChannels, kChannels / kPart, 3, 3}, normal(kChannels * kChannels / kPart * 9)};
  ort::Value bias{{kChannels}, normal(kChannels)};
};

using Kernels = std::vector<std::unique_ptr<fake::Kernel>>;

Kernels make(const Weights4& weights, const std::map<std::string, std::string>& config) {
  std::vector<const ort::CustomOp*> ops;
  if (!fake::ops(config, &ops).empty()) std::abort();
  ort::KernelInfo info;
  info.lists = {{"kernel_shape", {3, 3}}, {"strides", {1, 1}}, {"dilations", {1, 1}}, {"pads", {1, 1, 1, 1}}};
  info.integers = {{"part", kPart}, {"group", kPart}, {"count_include_pad", 1}};
  info.floats = {{"min", 0.0f}};
  Kernels kernels;
  for (int op = 0; op < kOps; op++) {
    info.constants = {nullptr, &weights.w, &weights.w_kxk, &weights.bias};
    if (op == kConv) info.constants = {nullptr, &weights.w_kxk, &weights.bias};
    kernels.push_back(std::make_unique<fake::Kernel>(ops[op], info));
    if (!kernels.back()->error.empty()) std::abort();
  }
  return kernels;
}

std::vector<const ort::Value*> inputs_of(const Weights4& weights, int op, const ort::Value& x) {
  if (op == kHetConv2d) return {&x, &weights.w, &weights.w_kxk, &weights.bias, &x};
  if (op == kConv) return {&x, &weights.w_kxk, &weights.bias};
  return {&x};
}

Floats run(const Kernels& kernels, const Weights4& weights, int op, const ort::Value& x, size_t threads) {
  std::string why;
  Floats y = kernels[op]->run(inputs_of(weights, op, x), threads, &why).data;
  if (!why.empty()) std::abort();
  return y;
}

int unguarded = 0;  // what `race` counts in

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 1;
  const bool race = argc > 2;
  const std::map<std::string, std::string> configs[] = {{}, {{"hetconv.algorithm", "direct"}}};
  const Weights4 weights;
  std::vector<ort::Value> inputs;
  for (int64_t size : kSizes)
    inputs.push_back({{2, size, size + 1, kChannels}, normal(2 * size * (size + 1) * kChannels)});
  std::atomic<int> wrong{0}, right{0};
  for (int round = 0; round < rounds; round++) {
    const auto& config = configs[round % 2];
    const Kernels shared = make(weights, config);
    std::vector<Floats> results[kThreads];
    auto caller = [&](size_t t) {
      if (race) unguarded++;
      const Kernels own = make(weights, configs[t % 2]);
      for (size_t i = 0; i < inputs.size() * kOps; i++) {
        const size_t k = (i + t) % inputs.size(), op = i % kOps;
        run(own, weights, op, inputs[k], 1);
      }
      for (int op = 0; op < kOps; op++) {
        for (const ort::Value& x : inputs) results[t].push_back(run(shared, weights, op, x, 1 + (t + op) % 3));
      }
    };
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; t++) threads.emplace_back(caller, t);
    for (std::thread& thread : threads) thread.join();
    const Kernels alone = make(weights, config);
    for (int op = 0, i = 0; op < kOps; op++) {
      for (const ort::Value& x : inputs) {
        const Floats expected = run(alone, weights, op, x, 1);
        for (const auto& result : results) (result[i] == expected ? right : wrong)++;
        i++;
      }
    }
  }
  // Without memory for its scratch a convolution fails in words, on however many threads.
  const Kernels starved = make(weights, {});
  fake::full = true;
  for (size_t count = 1; count <= kThreads; count++) {
    for (int op : {int(kHetConv2d), int(kConv)}) {
      std::string why;
      starved[op]->run(inputs_of(weights, op, inputs[0]), count, &why);
      (why.empty() ? wrong : right)++;
    }
  }
  fake::full = false;
  if (wrong || fake::live || !fake::allocated) {
    std::printf("%d results differ, %ld pieces of memory were not given back\n", int(wrong), long(fake::live));
    return 1;
  }
  std::printf("%d results right\n", int(right));
  return 0;
}
