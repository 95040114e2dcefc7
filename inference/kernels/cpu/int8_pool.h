// What is around the quantised convolutions: pooling of bytes, the first quantisation.
#pragma once

#include <algorithm>
#include <cstring>

#include "int8_layer.h"
#include "int8_simd.h"

namespace hetconv {
namespace HETCONV_ISA {

// Blocks of channels of a row of outputs. Windows overlap: a column that two of them have is read once.
static void int8_max_pool_block(const PoolShape& s, const uint8_t* image, uint8_t* row, int64_t y0, int64_t y1,
                                int64_t width, int64_t channels, int64_t out_width) {
  typedef uint8_t VBU __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
  const auto at = [&](int64_t y, int64_t x) {
    return (VB) * reinterpret_cast<const VBU*>(image + (y * width + x) * channels);
  };
  VB last{};
  int64_t last_x = -1;
  for (int64_t out_x = 0; out_x < out_width; out_x++, row += channels) {
    const int64_t x0 = std::max<int64_t>(out_x * s.stride[1] - s.pads[1], 0);
    const int64_t x1 = std::min<int64_t>(out_x * s.stride[1] - s.pads[1] + s.kernel[1], width);
    VB most{};
    for (int64_t x = x0; x < x1; x++) {
      if (x != last_x) {
        last = at(y0, x);
        for (int64_t y = y0 + 1; y < y1; y++) {
          const VB value = at(y, x);
          last = value > last ? value : last;
        }
        last_x = x;
      }
      most = last > most ? last : most;
    }
    *reinterpret_cast<VBU*>(row) = most;
  }
}

static void int8_max_pool_row(const PoolShape& s, const uint8_t* image, uint8_t* row, int64_t height, int64_t width,
                              int64_t channels, int64_t out_y, int64_t out_width) {
  const int64_t y0 = std::max<int64_t>(out_y * s.stride[0] - s.pads[0], 0);
  const int64_t y1 = std::min<int64_t>(out_y * s.stride[0] - s.pads[0] + s.kernel[0], height);
  if (channels >= kVectorBytes) {
    for (int64_t c = 0; c < channels; c += kVectorBytes) {
      const int64_t first = std::min(c, channels - kVectorBytes);  // the last may overlap with the one before
      int8_max_pool_block(s, image + first, row + first, y0, y1, width, channels, out_width);
    }
    return;
  }
  for (int64_t out_x = 0; out_x < out_width; out_x++, row += channels) {
    const int64_t x0 = std::max<int64_t>(out_x * s.stride[1] - s.pads[1], 0);
    const int64_t x1 = std::min<int64_t>(out_x * s.stride[1] - s.pads[1] + s.kernel[1], width);
    std::memset(row, 0, channels);
    for (int64_t y = y0; y < y1; y++) {
      const uint8_t* p = image + (y * width + x0) * channels;
      for (int64_t i = 0; i < (x1 - x0) * channels; i++) row[i % channels] = std::max(row[i % channels], p[i]);
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

// Is one of the lanes, all ones or all zeros, set? Without an instruction for it: yes, to be safe.
static HETCONV_INLINE bool any_lane([[maybe_unused]] VI mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)mask);
#else
  return true;
#endif
}

// The steps of a quantisation: a division, rounded to the nearest integer, ties to even, as the low bytes of the lanes.
struct Steps {
  V scale, reciprocal, least, most;
  bool fast;

  Steps(float scale_, int32_t zero_point)
      : scale(splat(scale_)),
        reciprocal(1.0f / splat(scale_)),
        least(splat(static_cast<float>(-zero_point))),
        most(splat(static_cast<float>(255 - zero_point))),
        fast(scale_ > 1e-30f && scale_ < 1e30f) {}

  HETCONV_INLINE VI divided(V x) const { return low_byte(clamp(x / scale, least, most)); }

  // A product with the reciprocal is within two units in the last place of the quotient, 2^-15 for what is not cut off,
  // so where it is no closer than 2^-14 to a tie both round to the same integer. Division takes several times as long.
  HETCONV_INLINE VI operator()(V x) const {
    constexpr float kShift = 12582912.0f;  // as in low_byte
    const V steps = clamp(x * reciprocal, least, most), shifted = steps + kShift, rest = steps - (shifted - kShift);
    constexpr float kSafe = 0.5f - 1.0f / (1 << 14);
    const VI safe = (rest < kSafe) & (rest > -kSafe);  // not where it is no number
    return __builtin_expect(!fast || any_lane(~safe), 0) ? divided(x) : (VI)shifted;
  }
};

// Three bytes a lane, the low ones, side by side; up to a quarter of a vector beyond them is written too.
static HETCONV_INLINE void store_threes(uint8_t* p, VI v) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_broadcast_i32x4(_mm_set_epi32(-1, 0x0E0D0C0A, 0x09080605, 0x04020100));
  const __m512i threes = _mm512_shuffle_epi8((__m512i)v, order);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_castsi512_si128(threes));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 12), _mm512_extracti32x4_epi32(threes, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 24), _mm512_extracti32x4_epi32(threes, 2));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 36), _mm512_extracti32x4_epi32(threes, 3));
#else
  for (int i = 0; i < kWidth; i++) {
    const int32_t lane = v[i];
    std::memcpy(p + 3 * i, &lane, 4);
  }
#endif
}

// A row of an image of floats, its channels `plane` apart, into bytes with the channels side by side.
static void int8_quantize_row(const float* row, uint8_t* y, int64_t width, int64_t channels, int64_t plane, float scale,
                              int32_t zero_point) {
  const Steps steps(scale, zero_point);
  int64_t x = 0;
  if (channels == 3) {
    // The last vector of the row not: nothing is written beyond it.
    for (; x + kWidth < width - kWidth / 4; x += kWidth) {
      VI lanes{};
      for (int c = 0; c < 3; c++) lanes |= ((steps(load(row + c * plane + x)) + zero_point) & 255) << (8 * c);
      store_threes(y + 3 * x, lanes);
    }
  }
  for (; x < width; x += kWidth) {
    const int count = static_cast<int>(std::min<int64_t>(kWidth, width - x));
    for (int64_t c = 0; c < channels; c++) {
      const float* from = row + c * plane + x;
      uint8_t bytes[kWidth];
      store_u8(bytes, steps(count == kWidth ? load(from) : load_part(from, count)) + zero_point);
      for (int i = 0; i < count; i++) y[(x + i) * channels + c] = bytes[i];
    }
  }
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
