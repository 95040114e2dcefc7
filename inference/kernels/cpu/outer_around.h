// The micro-kernel of the gradient to the 3x3 kernels of groups of few channels, at stride 1: an input is permuted once
// for all eight taps that see it, each of which multiplies it by another pixel's gradients.
#pragma once

#include "outer.h"

namespace hetconv {
namespace HETCONV_ISA {

constexpr int kAroundTaps = 8;

// Rows of pixels of one image, and the gradients of a vector of output channels with a border around them.
struct AroundArguments {
  const float* x;  // of the first pixel, at the vector that holds the groups' channels
  int64_t x_step, x_row;
  const float* grad;  // above and left of the first pixel; pixels are kWidth floats apart
  int64_t grad_row;
  int64_t rows, columns;
  int channels;          // of a group
  const int32_t* lanes;  // as of multiply_lanes
  float* sums;           // [tap][channel][kWidth], added to
};

// `NC` input channels from `first` on.
template <int NC>
static void outer_around(const AroundArguments& a, int first) {
  V sum[kAroundTaps][NC] = {};
  VI index;
  std::memcpy(&index, a.lanes, sizeof(index));
  index += first;
  for (int64_t r = 0; r < a.rows; r++) {
    const float *x = a.x + r * a.x_row, *grad = a.grad + r * a.grad_row;
    for (int64_t k = 0; k < a.columns; k++, x += a.x_step, grad += kWidth) {
      const V channels = load(x);
      V p[NC];
#pragma GCC unroll 4
      for (int c = 0; c < NC; c++) p[c] = permute(channels, index + c);
#pragma GCC unroll 9
      for (int tap = 0; tap < kAroundTaps; tap++) {
        // What a tap sees below and to the right of an output, the output has above and to the left.
        const int place = 8 - tap - (tap >= 4);
        const V g = load(grad + place / 3 * a.grad_row + place % 3 * kWidth);
#pragma GCC unroll 4
        for (int c = 0; c < NC; c++) sum[tap][c] += g * p[c];
      }
    }
  }
#pragma GCC unroll 9
  for (int tap = 0; tap < kAroundTaps; tap++) {
#pragma GCC unroll 4
    for (int c = 0; c < NC; c++) {
      float* to = a.sums + (tap * a.channels + first + c) * kWidth;
      store(to, load(to) + sum[tap][c]);
    }
  }
}

static void outer_around(const AroundArguments& a) {
  constexpr int kAtOnce = kManyRegisters ? 2 : 1;
  int c = 0;
  for (; c + kAtOnce <= a.channels; c += kAtOnce) outer_around<kAtOnce>(a, c);
  if (c < a.channels) outer_around<1>(a, c);
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
