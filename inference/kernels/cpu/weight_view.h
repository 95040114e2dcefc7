// Where a layer's weights lie in memory, in each of the forms that `Weights` has.
#pragma once

#include <algorithm>

#include "layer.h"
#include "simd.h"

namespace hetconv {
namespace HETCONV_ISA {

// By output and input channel, from the first of each.
struct WeightView {
  const float* at;
  size_t out, in;  // floats from one channel to the next

  // `width` output channels by `count` input channels, as a tile reads them: `lanes` floats an input channel.
  void copy(float* to, int lanes, int width, int count) const {
    if (out == 1) {
      for (int c = 0; c < count; c++) std::copy_n(at + c * in, width, to + static_cast<size_t>(c) * lanes);
      return;
    }
    for (int j = 0; j < width; j++) {
      const float* from = at + j * out;
      for (int c = 0; c < count; c++) to[static_cast<size_t>(c) * lanes + j] = from[c * in];
    }
  }
};

// From output channel `out` and input channel `in` on.
static WeightView pointwise_view(const LayerShape& s, const Weights& weights, int out, int in) {
  const size_t m = s.in_channels, n = s.out_channels, o = out, i = in;
  if (weights.transposed) return {weights.w + i * n + o, 1, n};
  return {weights.w + o * m + i, m, 1};
}

// From output channel `out`, and the first input channel of its group, on, at one tap of K*K. No further than the
// group.
static WeightView own_view(const LayerShape& s, const Weights& weights, int out, int tap) {
  const size_t m = s.in_channels / s.part, n = s.out_channels / s.part, o = out;
  const size_t taps = static_cast<size_t>(s.kernel[0]) * s.kernel[1], kept = taps - weights.hollow;
  size_t place = weights.transposed ? taps - 1 - tap : tap;
  if (weights.hollow && place > taps / 2) place--;
  if (weights.transposed) return {weights.w_kxk + (o / n * m * n + o % n) * kept + place, kept, n * kept};
  return {weights.w_kxk + o * m * kept + place, m * kept, kept};
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
