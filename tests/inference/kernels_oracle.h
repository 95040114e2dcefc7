// What the kernels in fp32 must give, in C++: shared by the programs that check, fuzz and race them.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "layer.h"

namespace hetconv {

using Floats = std::vector<float>;

struct Case {
  LayerShape s;
  bool hetconv;
  float low, high;
  int64_t batch, height, width;
};

inline std::mt19937 generator;

template <class T>
T pick(std::initializer_list<T> values) {
  return values.begin()[generator() % values.size()];
}

inline Floats normal(size_t n) {
  std::normal_distribution<float> distribution;
  Floats values(n);
  for (float& value : values) value = distribution(generator);
  return values;
}

// One output, in double, by the definition.
inline double expected(const Case& c, const Floats& x, const Floats& w, const Floats& w_kxk, const Floats& bias,
                       const Floats& residual, int64_t b, int64_t oy, int64_t ox, int n, size_t index) {
  const LayerShape& s = c.s;
  const int m = s.in_channels / s.part, group = n / (s.out_channels / s.part);
  double sum = bias[n] + double(residual[index]);
  for (int ky = 0; ky < s.kernel[0]; ky++) {
    for (int kx = 0; kx < s.kernel[1]; kx++) {
      const int64_t y = oy * s.stride[0] - s.pads[0] + ky * s.dilation[0];
      const int64_t xx = ox * s.stride[1] - s.pads[1] + kx * s.dilation[1];
      if (y < 0 || y >= c.height || xx < 0 || xx >= c.width) continue;
      const float* pixel = &x[((b * c.height + y) * c.width + xx) * s.in_channels];
      for (int i = 0; i < m; i++) {
        sum += double(pixel[group * m + i]) * w_kxk[((size_t(n) * m + i) * s.kernel[0] + ky) * s.kernel[1] + kx];
      }
      if (c.hetconv && ky == s.kernel[0] / 2 && kx == s.kernel[1] / 2) {
        for (int i = 0; i < s.in_channels; i++) sum += double(pixel[i]) * w[size_t(n) * s.in_channels + i];
      }
    }
  }
  return std::min<double>(std::max<double>(sum, c.low), c.high);
}

// One output of a pooling, likewise, of floats or of bytes.
template <class T>
double pooled(const PoolShape& s, const T* image, int64_t height, int64_t width, int64_t channels, int64_t oy,
              int64_t ox, int64_t c) {
  double sum = 0, most = -INFINITY;
  int count = 0;
  for (int64_t ky = 0; ky < s.kernel[0]; ky++) {
    for (int64_t kx = 0; kx < s.kernel[1]; kx++) {
      const int64_t y = oy * s.stride[0] - s.pads[0] + ky, x = ox * s.stride[1] - s.pads[1] + kx;
      if (y < 0 || y >= height || x < 0 || x >= width) continue;
      const double value = image[(y * width + x) * channels + c];
      sum += value, most = std::max(most, value), count++;
    }
  }
  return s.average ? sum / (s.include_pad ? s.kernel[0] * s.kernel[1] : count) : most;
}

inline void run_threads(void* context, void (*work)(void*, size_t), size_t count, void* argument) {
  const size_t threads = std::min(*static_cast<size_t*>(context), count);
  const auto share = [=](size_t t) {
    for (size_t i = t; i < count; i += threads) work(argument, i);
  };
  std::vector<std::thread> others;
  for (size_t t = 1; t < threads; t++) others.emplace_back(share, t);
  if (threads) share(0);
  for (std::thread& other : others) other.join();
}

inline void* allocate(void*, size_t bytes) { return std::malloc(bytes); }
inline void release(void*, void* memory) { std::free(memory); }

// Random weights and inputs for a case, on every instruction set and algorithm, from several threads at once; prints
// the first wrong result.
inline bool check_case(const Case& c) {
  const LayerShape& s = c.s;
  const int m = s.in_channels / s.part;
  const Floats w = normal(c.hetconv ? size_t(s.out_channels) * s.in_channels : 0);
  const Floats w_kxk = normal(size_t(s.out_channels) * m * s.kernel[0] * s.kernel[1]), bias = normal(s.out_channels);
  const Weights weights{c.hetconv ? w.data() : nullptr, w_kxk.data(), bias.data(), c.low, c.high};
  const Floats x = normal(c.batch * c.height * c.width * s.in_channels);
  Layer shape_of(s, weights, Algorithm::kDirect, best_isa());
  int64_t out_height, out_width;
  shape_of.output_size(c.height, c.width, &out_height, &out_width);
  const Floats residual = normal(c.batch * out_height * out_width * s.out_channels);
  std::vector<double> wanted(residual.size());
  double largest = 1e-3;
  size_t index = 0;
  for (int64_t b = 0; b < c.batch; b++) {
    for (int64_t oy = 0; oy < out_height; oy++) {
      for (int64_t ox = 0; ox < out_width; ox++) {
        for (int n = 0; n < s.out_channels; n++, index++) {
          wanted[index] = expected(c, x, w, w_kxk, bias, residual, b, oy, ox, n, index);
          largest = std::max(largest, std::abs(wanted[index]));
        }
      }
    }
  }
  for (const Isa* isa : all_isas()) {
    if (!isa->available()) continue;
    for (Algorithm algorithm :
         {Algorithm::kDirect, Algorithm::kWinograd4, Algorithm::kWinograd2, Algorithm::kPatches}) {
      if (!can_take(algorithm, s, c.hetconv)) continue;
      Layer layer(s, weights, algorithm, *isa);
      auto call = [&](Floats* y, size_t threads) {
        layer.run(x.data(), residual.data(), y->data(), c.batch, c.height, c.width, {run_threads, &threads},
                  {allocate, release, nullptr});
      };
      Floats y(residual.size(), NAN), again(y), twice(y);
      std::thread other([&] { call(&again, 2); });
      call(&y, 1);
      other.join();
      call(&twice, 3);
      for (size_t i = 0; i < y.size(); i++) {
        const double error = std::abs(y[i] - wanted[i]) / largest;
        if (!(error < 1e-4) || y[i] != again[i] || y[i] != twice[i]) {
          std::printf("%s algorithm %d: M %d N %d P %d K %dx%d stride %d dilation %d size %ldx%ld: %g instead of %g\n",
                      isa->name, int(algorithm), s.in_channels, s.out_channels, s.part, s.kernel[0], s.kernel[1],
                      s.stride[0], s.dilation[0], long(c.height), long(c.width), y[i], wanted[i]);
          return false;
        }
      }
    }
  }
  return true;
}

}  // namespace hetconv
