// Max and average pooling, NHWC: a row of outputs, vectorised over channels.
#pragma once

#include <algorithm>
#include <limits>

#include "layer.h"
#include "simd.h"

namespace hetconv {
namespace HETCONV_ISA {

// The larger, and not a number if either is not.
static HETCONV_INLINE V larger(V a, V b) { return ((a > b) | (a != a)) ? a : b; }

static void pool_row(const PoolShape& s, const float* image, float* row, int64_t height, int64_t width,
                     int64_t channels, int64_t out_y, int64_t out_width) {
  const int64_t y0 = std::max<int64_t>(out_y * s.stride[0] - s.pads[0], 0);
  const int64_t y1 = std::min<int64_t>(out_y * s.stride[0] - s.pads[0] + s.kernel[0], height);
  for (int64_t out_x = 0; out_x < out_width; out_x++, row += channels) {
    const int64_t x0 = std::max<int64_t>(out_x * s.stride[1] - s.pads[1], 0);
    const int64_t x1 = std::min<int64_t>(out_x * s.stride[1] - s.pads[1] + s.kernel[1], width);
    const int64_t count = s.include_pad ? int64_t{s.kernel[0]} * s.kernel[1] : (y1 - y0) * (x1 - x0);
    for (int64_t c = 0; c < channels; c += kWidth) {
      const int left = static_cast<int>(std::min<int64_t>(kWidth, channels - c));
      V result = splat(s.average ? 0.0f : -std::numeric_limits<float>::infinity());
      for (int64_t y = y0; y < y1; y++) {
        for (int64_t x = x0; x < x1; x++) {
          const float* p = image + (y * width + x) * channels + c;
          const V value = left == kWidth ? load(p) : load_part(p, left);
          result = s.average ? result + value : larger(value, result);
        }
      }
      if (s.average) result = result / static_cast<float>(count);
      if (left == kWidth)
        store(row + c, result);
      else
        store_part(row + c, result, left);
    }
  }
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
