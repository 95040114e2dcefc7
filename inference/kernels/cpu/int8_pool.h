// What is around the quantised convolutions: pooling of bytes, the first quantisation.
#pragma once

#include <algorithm>
#include <cstring>

#include "int8_layer.h"
#include "int8_simd.h"

namespace hetconv {
namespace HETCONV_ISA {

static void int8_max_pool_row(const PoolShape& s, const uint8_t* image, uint8_t* row, int64_t height, int64_t width,
                              int64_t channels, int64_t out_y, int64_t out_width) {
  typedef uint8_t VBU __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
  const int64_t y0 = std::max<int64_t>(out_y * s.stride[0] - s.pads[0], 0);
  const int64_t y1 = std::min<int64_t>(out_y * s.stride[0] - s.pads[0] + s.kernel[0], height);
  for (int64_t out_x = 0; out_x < out_width; out_x++, row += channels) {
    const int64_t x0 = std::max<int64_t>(out_x * s.stride[1] - s.pads[1], 0);
    const int64_t x1 = std::min<int64_t>(out_x * s.stride[1] - s.pads[1] + s.kernel[1], width);
    if (channels < kVectorBytes) {
      std::memset(row, 0, channels);
      for (int64_t y = y0; y < y1; y++) {
        const uint8_t* p = image + (y * width + x0) * channels;
        for (int64_t i = 0; i < (x1 - x0) * channels; i++) row[i % channels] = std::max(row[i % channels], p[i]);
      }
      continue;
    }
    for (int64_t c = 0; c < channels; c += kVectorBytes) {
      const int64_t first = std::min(c, channels - kVectorBytes);  // the last may overlap with the one before
      VB most{};
      for (int64_t y = y0; y < y1; y++) {
        for (int64_t x = x0; x < x1; x++) {
          const VB value = *reinterpret_cast<const VBU*>(image + (y * width + x) * channels + first);
          most = value > most ? value : most;
        }
      }
      *reinterpret_cast<VBU*>(row + first) = most;
    }
  }
}

// The mean of all pixels, of `count` channels from `first` on: its sums are integers, exactly.
static void int8_mean(const uint8_t* image, float* y, int64_t pixels, int64_t channels, int64_t first, int64_t count,
                      int32_t zero_point, float scale) {
  constexpr int64_t kBlock = 64;
  for (int64_t begin = first; begin < first + count; begin += kBlock) {
    const int64_t block = std::min(kBlock, first + count - begin);
    int64_t sums[kBlock] = {};
    // As many pixels as 32 bits have room for.
    for (int64_t pixel = 0; pixel < pixels;) {
      uint32_t part[kBlock] = {};
      for (const int64_t end = std::min(pixels, pixel + (1 << 24)); pixel < end; pixel++) {
        const uint8_t* p = image + pixel * channels + begin;
        for (int64_t c = 0; c < block; c++) part[c] += p[c];
      }
      for (int64_t c = 0; c < block; c++) sums[c] += part[c];
    }
    const double factor = double(scale) / double(pixels);
    for (int64_t c = 0; c < block; c++) y[begin + c] = static_cast<float>((sums[c] - zero_point * pixels) * factor);
  }
}

// A row of an image of floats, its channels `plane` apart, into bytes with the channels side by side.
static void int8_quantize_row(const float* row, uint8_t* y, int64_t width, int64_t channels, int64_t plane, float scale,
                              int32_t zero_point) {
  const V least = splat(static_cast<float>(-zero_point)), most = splat(static_cast<float>(255 - zero_point));
  for (int64_t x = 0; x < width; x += kWidth, y += kWidth * channels) {
    const int count = static_cast<int>(std::min<int64_t>(kWidth, width - x));
    for (int64_t c = 0; c < channels; c++) {
      const float* from = row + c * plane + x;
      const V steps = (count == kWidth ? load(from) : load_part(from, count)) / scale;
      uint8_t bytes[kWidth];
      store_u8(bytes, low_byte(clamp(steps, least, most)) + zero_point);
      for (int i = 0; i < count; i++) y[i * channels + c] = bytes[i];
    }
  }
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
