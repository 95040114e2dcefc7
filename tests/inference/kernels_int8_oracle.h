// What the quantised kernels must give, bit for bit: sums in integers, then one rounding to float32 after the other, as
// in inference/kernels/reference_int8.py.
#pragma once

#include "int8_layer.h"
#include "kernels_oracle.h"

namespace hetconv {

template <class T>
std::vector<T> random_bytes(size_t n) {
  std::vector<T> values(n);
  for (T& value : values) value = static_cast<T>(generator() >> 8);
  return values;
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

inline std::vector<int64_t> int8_sums(const Case& c, const Int8Weights& weights, const uint8_t* x) {
  const Sizes sizes = sizes_of(c.s, c.batch, c.height, c.width);
  std::vector<int64_t> sums(sizes.pixels() * c.s.out_channels);
  for (size_t i = 0; i < sums.size(); i++) {
    const int64_t pixel = i / c.s.out_channels, row = pixel / sizes.out_width;
    const uint8_t* image = x + row / sizes.out_height * c.height * c.width * c.s.in_channels;
    sums[i] = int8_sum(c, weights, image, row % sizes.out_height, pixel % sizes.out_width, i % c.s.out_channels);
  }
  return sums;
}

// An operation of float32 made in double, which has bits enough that its own rounding changes nothing. Volatile: else
// GCC makes the operation in float32 after all, and one of two where the processor has a fused multiply-add.
inline float rounded(double value) {
  const volatile float result = static_cast<float>(value);
  return result;
}

// A real number, in steps of one, as a byte, between bounds that are within those of a byte.
inline float int8_byte(float steps, double low, double high, int32_t zero_point) {
  const double least = -zero_point, most = 255 - zero_point;
  const float from = rounded(std::min(std::max(low, least), most)), to = rounded(std::min(std::max(high, least), most));
  return rounded(std::nearbyint(std::min(std::max(steps, from), to)) + zero_point);
}

// What becomes of a sum of output channel n; z is the number in the residual, or null.
inline float int8_output(const Int8Weights& weights, int64_t sum, int n, const float* z) {
  const double steps = weights.float_output ? 1 : 1 / double(weights.y_scale);
  float real = rounded(double(rounded(sum)) * rounded(weights.scale[n] * steps));
  if (weights.bias) real = rounded(double(real) + rounded(weights.bias[n] * steps));
  if (z) {
    const float z_steps = rounded((weights.float_residual ? 1 : double(weights.z_scale)) * steps);
    const float above = rounded(double(*z) - (weights.float_residual ? 0 : weights.z_zero_point));
    real = rounded(double(real) + rounded(double(above) * z_steps));
  }
  if (weights.float_output) return std::min(std::max(real, weights.low), weights.high);
  return int8_byte(real, weights.low * steps, weights.high * steps, weights.y_zero_point);
}

// All outputs, as floats, which bytes are too; `z` is empty without a residual.
inline Floats int8_outputs(const Case& c, const Int8Weights& weights, const std::vector<int64_t>& sums,
                           const Floats& z) {
  Floats outputs(sums.size());
  for (size_t i = 0; i < sums.size(); i++) {
    outputs[i] = int8_output(weights, sums[i], i % c.s.out_channels, z.empty() ? nullptr : &z[i]);
  }
  return outputs;
}

// What follows the sums, at random: so that outputs are spread over the bytes, and beyond them on both sides.
inline Int8Weights int8_epilogue(const Case& c, Floats* scale, Floats* bias) {
  const LayerShape& s = c.s;
  const int inputs = s.in_channels / s.part * s.kernel[0] * s.kernel[1] + (c.hetconv ? s.in_channels : 0);
  const bool ties = pick({0, 1});  // sums in powers of two of a step, so that many lie half way
  *scale = normal(s.out_channels), *bias = normal(s.out_channels);
  for (float& value : *scale) {
    value = (0.5f + std::abs(value)) / (74 * std::sqrt(float(inputs)));
    if (ties) value = std::exp2(std::round(std::log2(value)));
  }
  for (float& value : *bias) value = ties ? std::round(20 * value) / 2 : 20 * value;
  Int8Weights weights{};
  weights.scale = scale->data(), weights.bias = pick({0, 1, 1}) ? bias->data() : nullptr;
  weights.low = c.low, weights.high = c.high;
  const auto zero_point = [] { return pick({0, 255, 128, int(generator() % 256)}); };
  weights.x_zero_point = zero_point(), weights.y_zero_point = zero_point(), weights.z_zero_point = zero_point();
  weights.y_scale = ties ? 1.0f : pick({0.5f, 0.73f, 0.031f}), weights.z_scale = ties ? 0.5f : pick({0.25f, 0.31f});
  weights.float_residual = pick({0, 1});
  return weights;
}

// The same case in eight bits: its sums, then all that follows them, to bytes and to floats. Memory of the exact size,
// so that a sanitizer sees what is read past it.
inline bool check_int8_case(const Case& c) {
  const LayerShape& s = c.s;
  const int m = s.in_channels / s.part, taps = s.kernel[0] * s.kernel[1];
  const auto w = random_bytes<int8_t>(c.hetconv ? size_t(s.out_channels) * s.in_channels : 0);
  auto w_kxk = random_bytes<int8_t>(size_t(s.out_channels) * m * taps);
  if (c.hetconv && pick({0, 1})) {  // as exported
    for (size_t i = taps / 2; i < w_kxk.size(); i += taps) w_kxk[i] = 0;
  }
  const auto x = random_bytes<uint8_t>(c.batch * c.height * c.width * s.in_channels);
  Floats scale, bias;
  Int8Weights weights = int8_epilogue(c, &scale, &bias);
  weights.w = c.hetconv ? w.data() : nullptr, weights.w_kxk = w_kxk.data();
  const std::vector<int64_t> sums = int8_sums(c, weights, x.data());
  const auto z_bytes = random_bytes<uint8_t>(sums.size());
  Floats z_floats = normal(sums.size());
  for (float& value : z_floats) value *= 20;
  enum Form { kSums, kBytes, kFloats };
  for (const Form form : {kSums, kBytes, kFloats}) {
    Int8Weights chosen = weights;
    const Floats ones(s.out_channels, 1.0f);
    chosen.float_output = form != kBytes;
    const bool with_residual = form != kSums && pick({0, 1, 1});
    if (form == kSums) {
      chosen.scale = ones.data(), chosen.bias = nullptr, chosen.low = -INFINITY, chosen.high = INFINITY;
    }
    Floats z;
    if (with_residual) z = chosen.float_residual ? z_floats : Floats(z_bytes.begin(), z_bytes.end());
    const void* residual = chosen.float_residual ? static_cast<const void*>(z_floats.data()) : z_bytes.data();
    const Floats wanted = int8_outputs(c, chosen, sums, z);
    for (const Int8Isa* isa : all_int8_isas()) {
      try {
        find_int8_isa(isa->name);
      } catch (const std::invalid_argument&) {
        continue;
      }
      const Int8Layer layer(s, chosen, *isa);
      Floats y(form == kBytes ? 0 : sums.size(), NAN);
      std::vector<uint8_t> bytes(form == kBytes ? sums.size() : 0, 0xA5);
      size_t threads = 2;
      layer.run(x.data(), with_residual ? residual : nullptr,
                form == kBytes ? bytes.data() : static_cast<void*>(y.data()), c.batch, c.height, c.width,
                {run_threads, &threads}, {allocate, release, nullptr});
      if (form == kBytes) y.assign(bytes.begin(), bytes.end());
      for (size_t i = 0; i < y.size(); i++) {
        if (y[i] == wanted[i]) continue;
        std::printf(
            "%s in eight bits, form %d: M %d N %d P %d K %dx%d stride %d dilation %d size %ldx%ld: %g instead of %g\n",
            isa->name, int(form), s.in_channels, s.out_channels, s.part, s.kernel[0], s.kernel[1], s.stride[0],
            s.dilation[0], long(c.height), long(c.width), y[i], wanted[i]);
        return false;
      }
    }
  }
  return true;
}

}  // namespace hetconv
