// What the kernels must give, in C++: shared by the programs that check, fuzz and race them.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "int8_layer.h"

namespace hetconv {

using Floats = std::vector<float>;

struct Case {
  LayerShape s;
  bool hetconv;
  float low, high;
  int64_t batch, height, width;
};

inline std::mt19937 generator;

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

inline void run_threads(void* context, void (*work)(void*, size_t), size_t count, void* argument) {
  const size_t threads = *static_cast<size_t*>(context);
  std::vector<std::thread> pool;
  for (size_t t = 0; t < threads; t++) {
    pool.emplace_back([=] {
      for (size_t i = t; i < count; i += threads) work(argument, i);
    });
  }
  for (std::thread& thread : pool) thread.join();
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

// The exact sum of one output, by the definition; what lies outside the image counts as zero.
inline int64_t int8_sum(const Case& c, const Int8Weights& weights, const uint8_t* image, int64_t oy, int64_t ox,
                        int n) {
  const LayerShape& s = c.s;
  const int m = s.in_channels / s.part, group = n / (s.out_channels / s.part);
  int64_t sum = 0;
  for (int ky = 0; ky < s.kernel[0]; ky++) {
    for (int kx = 0; kx < s.kernel[1]; kx++) {
      const int64_t y = oy * s.stride[0] - s.pads[0] + ky * s.dilation[0];
      const int64_t x = ox * s.stride[1] - s.pads[1] + kx * s.dilation[1];
      if (y < 0 || y >= c.height || x < 0 || x >= c.width) continue;
      const uint8_t* pixel = image + (y * c.width + x) * s.in_channels;
      for (int i = 0; i < m; i++) {
        const int8_t w = weights.w_kxk[((size_t(n) * m + i) * s.kernel[0] + ky) * s.kernel[1] + kx];
        sum += (int64_t{pixel[group * m + i]} - weights.x_zero_point) * w;
      }
      if (weights.w && ky == s.kernel[0] / 2 && kx == s.kernel[1] / 2) {
        for (int i = 0; i < s.in_channels; i++) {
          sum += (int64_t{pixel[i]} - weights.x_zero_point) * weights.w[size_t(n) * s.in_channels + i];
        }
      }
    }
  }
  return sum;
}

template <class T>
std::vector<T> random_bytes(size_t n) {
  std::vector<T> values(n);
  for (T& value : values) value = static_cast<T>(generator() >> 8);
  return values;
}

// The same case in eight bits, where every instruction set must give the same bits; memory of the exact size, so that a
// sanitizer sees what is read past it.
inline bool check_int8_case(const Case& c) {
  const LayerShape& s = c.s;
  const int m = s.in_channels / s.part;
  const auto w = random_bytes<int8_t>(c.hetconv ? size_t(s.out_channels) * s.in_channels : 0);
  const auto w_kxk = random_bytes<int8_t>(size_t(s.out_channels) * m * s.kernel[0] * s.kernel[1]);
  const auto x = random_bytes<uint8_t>(c.batch * c.height * c.width * s.in_channels);
  const Floats scale(s.out_channels, 1e-3f), bias = normal(s.out_channels);
  Int8Weights weights{c.hetconv ? w.data() : nullptr,
                      w_kxk.data(),
                      scale.data(),
                      bias.data(),
                      c.low,
                      c.high,
                      0,
                      false,
                      0.25f,
                      3,
                      false,
                      0.5f,
                      77};
  weights.x_zero_point = static_cast<int32_t>(generator() % 256);
  const Sizes sizes = sizes_of(s, c.batch, c.height, c.width);
  const auto residual = random_bytes<uint8_t>(sizes.pixels() * s.out_channels);
  const float infinity = INFINITY;
  Floats wanted(residual.size());
  for (size_t i = 0; i < wanted.size(); i++) {
    const int n = i % s.out_channels;
    const int64_t pixel = i / s.out_channels, row = pixel / sizes.out_width;
    const uint8_t* image = x.data() + row / sizes.out_height * c.height * c.width * s.in_channels;
    wanted[i] = float(int8_sum(c, weights, image, row % sizes.out_height, pixel % sizes.out_width, n));
  }
  for (const bool exact : {true, false}) {  // the sums themselves, then all that follows
    Int8Weights chosen = weights;
    const Floats ones(s.out_channels, 1.0f);
    if (exact) {
      chosen.scale = ones.data(), chosen.bias = nullptr, chosen.low = -infinity, chosen.high = infinity;
      chosen.float_output = true;
    }
    std::vector<uint8_t> first;
    for (const Int8Isa* isa : all_int8_isas()) {
      try {
        find_int8_isa(isa->name);
      } catch (const std::invalid_argument&) {
        continue;
      }
      const Int8Layer layer(s, chosen, *isa);
      Floats sums(exact ? residual.size() : 0, NAN);
      std::vector<uint8_t> bytes(exact ? 0 : residual.size());
      size_t threads = 2;
      layer.run(x.data(), exact ? nullptr : residual.data(), exact ? static_cast<void*>(sums.data()) : bytes.data(),
                c.batch, c.height, c.width, {run_threads, &threads}, {allocate, release, nullptr});
      if (first.empty()) first = bytes;
      if ((exact && sums != wanted) || bytes != first) {
        std::printf("%s in eight bits: M %d N %d P %d K %dx%d stride %d dilation %d size %ldx%ld: wrong\n", isa->name,
                    s.in_channels, s.out_channels, s.part, s.kernel[0], s.kernel[1], s.stride[0], s.dilation[0],
                    long(c.height), long(c.width));
        return false;
      }
    }
  }
  return true;
}

}  // namespace hetconv
