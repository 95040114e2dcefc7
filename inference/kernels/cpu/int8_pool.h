// What is around the quantised convolutions: pooling of bytes, the first quantisation. Plain loops, which the compiler
// makes vectors of.
#pragma once

#include <algorithm>
#include <cstring>

#include "int8_layer.h"
#include "int8_simd.h"

namespace hetconv {
namespace HETCONV_ISA {

static void int8_max_pool_row(const PoolShape& s, const uint8_t* image, uint8_t* row, int64_t height, int64_t width,
                              int64_t channels, int64_t out_y, int64_t out_width) {
  constexpr int64_t kBlock = 64;
  const int64_t y0 = std::max<int64_t>(out_y * s.stride[0] - s.pads[0], 0);
  const int64_t y1 = std::min<int64_t>(out_y * s.stride[0] - s.pads[0] + s.kernel[0], height);
  for (int64_t out_x = 0; out_x < out_width; out_x++, row += channels) {
    const int64_t x0 = std::max<int64_t>(out_x * s.stride[1] - s.pads[1], 0);
    const int64_t x1 = std::min<int64_t>(out_x * s.stride[1] - s.pads[1] + s.kernel[1], width);
    for (int64_t first = 0; first < channels; first += kBlock) {
      const int64_t count = std::min(kBlock, channels - first);
      uint8_t most[kBlock] = {};
      for (int64_t y = y0; y < y1; y++) {
        for (int64_t x = x0; x < x1; x++) {
          const uint8_t* p = image + (y * width + x) * channels + first;
          if (count == kBlock) {  // of a known length, which stays in registers
            for (int64_t c = 0; c < kBlock; c++) most[c] = std::max(most[c], p[c]);
          } else {
            for (int64_t c = 0; c < count; c++) most[c] = std::max(most[c], p[c]);
          }
        }
      }
      std::copy_n(most, count, row + first);
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
  constexpr int64_t kBlock = 256;
  const float least = static_cast<float>(-zero_point), most = static_cast<float>(255 - zero_point);
  for (int64_t x = 0; x < width; x += kBlock) {
    const int64_t count = std::min(kBlock, width - x);
    for (int64_t c = 0; c < channels; c++) {
      const float* from = row + c * plane + x;
      uint8_t bytes[kBlock];
      for (int64_t i = 0; i < count; i++) {
        const float v = std::min(most, std::max(least, from[i] / scale));
        // As `low_byte`: rounded by the sum.
        const float shifted = v + 12582912.0f;
        int32_t bits;
        std::memcpy(&bits, &shifted, sizeof(bits));
        bytes[i] = static_cast<uint8_t>(bits + zero_point);
      }
      for (int64_t i = 0; i < count; i++) y[(x + i) * channels + c] = bytes[i];
    }
  }
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
