// The kernels for a caller without C++: plain functions, for the tests and for PyTorch.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "layer.h"

using namespace hetconv;

namespace {

void run_threads(void* context, void (*work)(void*, size_t), size_t count, void* argument) {
  const size_t threads = std::min(*static_cast<size_t*>(context), count);
  auto share = [&](size_t t) {
    for (size_t i = count * t / threads; i < count * (t + 1) / threads; i++) work(argument, i);
  };
  std::vector<std::thread> others;
  for (size_t t = 1; t < threads; t++) others.emplace_back(share, t);
  if (threads) share(0);
  for (std::thread& other : others) other.join();
}

void* allocate(void*, size_t bytes) { return std::aligned_alloc(64, (bytes + 63) / 64 * 64); }
void release(void*, void* memory) { std::free(memory); }

template <class Body>
int guarded(char* error, size_t size, Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}

}  // namespace

#define HETCONV_API extern "C" __attribute__((visibility("default")))

// Names of the instruction sets, best first, those that this machine has; separated by spaces.
HETCONV_API const char* hetconv_isas() {
  static const std::string names = [] {
    std::string all;
    for (const Isa* isa : all_isas()) {
      if (isa->available()) all += std::string(all.empty() ? "" : " ") + isa->name;
    }
    return all;
  }();
  return names.c_str();
}

// The weights must live as long as the layer. shape: in_channels, out_channels, part, then kernel, stride, dilation (2
// each) and pads (4).
HETCONV_API int hetconv_create(const int32_t* shape, const float* w, const float* w_kxk, const float* bias, float low,
                               float high, int32_t algorithm, const char* isa, void** layer, char* error, size_t size) {
  return guarded(error, size, [&] {
    LayerShape s;
    static_assert(sizeof(s) == 13 * sizeof(int32_t), "the shape is 13 numbers");
    std::memcpy(&s, shape, sizeof(s));
    if (algorithm < 0 || algorithm > 3) throw std::invalid_argument("unknown algorithm");
    *layer = new Layer(s, {w, w_kxk, bias, low, high}, static_cast<Algorithm>(algorithm),
                       isa && *isa ? find_isa(isa) : best_isa());
  });
}

HETCONV_API void hetconv_destroy(void* layer) { delete static_cast<Layer*>(layer); }

HETCONV_API size_t hetconv_weight_bytes(const void* layer) { return static_cast<const Layer*>(layer)->weight_bytes(); }

HETCONV_API int hetconv_output_size(const void* layer, int64_t height, int64_t width, int64_t* out, char* error,
                                    size_t size) {
  return guarded(error, size, [&] { static_cast<const Layer*>(layer)->output_size(height, width, out, out + 1); });
}

HETCONV_API int hetconv_run(const void* layer, const float* x, const float* residual, float* y, int64_t batch,
                            int64_t height, int64_t width, size_t threads, char* error, size_t size) {
  return guarded(error, size, [&] {
    static_cast<const Layer*>(layer)->run(x, residual, y, batch, height, width, {run_threads, &threads},
                                          {allocate, release, nullptr});
  });
}

// The algorithm that a layer takes for an input, by its number.
HETCONV_API int32_t hetconv_algorithm(const void* layer, int64_t batch, int64_t height, int64_t width) {
  return static_cast<int32_t>(static_cast<const Layer*>(layer)->algorithm_for(batch, height, width));
}
