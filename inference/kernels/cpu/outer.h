// The micro-kernel of the gradient to the weights: sums, over runs of pixels, of products of an input channel and a
// vector of the output's gradients. A register tile of up to kRows[NV - 1] input channels x NV vectors.
#pragma once

#include "tile.h"

namespace hetconv {
namespace HETCONV_ISA {

// Pixels side by side.
struct PixelRun {
  const float* x;     // of the first pixel
  const float* grad;  // likewise
  int64_t length;
};

struct OuterArguments {
  const PixelRun* runs;
  size_t count;
  int64_t channel, out;      // the tile's first input and output channel
  int64_t x_step, out_step;  // floats from pixel to pixel
  int width;                 // output channels to read, where those are fewer than a vector
  const int32_t* lanes;      // as of multiply_lanes
  float* sums;               // [rows][vectors], added to
};

template <int MR, int NV>
static HETCONV_INLINE void add_sums(float* sums, const V (&sum)[MR][NV]) {
#pragma GCC unroll 32
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++, sums += kWidth) store(sums, load(sums) + sum[i][v]);
  }
}

template <int MR, int NV>
static void outer(const OuterArguments& a) {
  V sum[MR][NV] = {};
  for (size_t k = 0; k < a.count; k++) {
    const float *x = a.runs[k].x + a.channel, *grad = a.runs[k].grad + a.out;
    for (int64_t left = a.runs[k].length; left > 0; left--, x += a.x_step, grad += a.out_step) {
      V g[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) g[v] = load(grad + v * kWidth);
#pragma GCC unroll 32
      for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[i][v] += g[v] * x[i];
      }
    }
  }
  add_sums<MR, NV>(a.sums, sum);
}

// All of a layer's output channels are fewer than a vector. Rare, so it is kept small.
template <int MR>
static void outer_part(const OuterArguments& a) {
  V sum[MR][1] = {};
  for (size_t k = 0; k < a.count; k++) {
    const float *x = a.runs[k].x + a.channel, *grad = a.runs[k].grad + a.out;
    for (int64_t left = a.runs[k].length; left > 0; left--, x += a.x_step, grad += a.out_step) {
      const V g = load_part(grad, a.width);
#pragma GCC unroll 32
      for (int i = 0; i < MR; i++) sum[i][0] += g * x[i];
    }
  }
  add_sums<MR, 1>(a.sums, sum);
}

// Groups of fewer channels than a vector has lanes: row i has the i-th input channel of every lane's own group. Two
// pixels at a time where there are few rows, since a sum takes longer than the next one waits.
template <int MR>
static void outer_lanes(const OuterArguments& a) {
  constexpr int kPixels = 2 * MR <= kRows[0] ? 2 : 1;
  V sum[kPixels][MR][1] = {};
  VI lanes;
  std::memcpy(&lanes, a.lanes, sizeof(lanes));
  for (size_t k = 0; k < a.count; k++) {
    const float *x = a.runs[k].x + a.channel, *grad = a.runs[k].grad + a.out;
    int64_t left = a.runs[k].length;
    for (; left >= kPixels; left -= kPixels, x += kPixels * a.x_step, grad += kPixels * a.out_step) {
#pragma GCC unroll 2
      for (int p = 0; p < kPixels; p++) {
        const V g = load(grad + p * a.out_step), channels = load(x + p * a.x_step);
#pragma GCC unroll 32
        for (int i = 0; i < MR; i++) sum[p][i][0] += g * permute(channels, lanes + i);
      }
    }
    if (left > 0) {
      const V g = load(grad), channels = load(x);
#pragma GCC unroll 32
      for (int i = 0; i < MR; i++) sum[0][i][0] += g * permute(channels, lanes + i);
    }
  }
  for (int p = 0; p < kPixels; p++) add_sums<MR, 1>(a.sums, sum[p]);
}

using OuterFunction = void (*)(const OuterArguments&);

template <int NV>
static OuterFunction outer_of(int rows) {
  return by_rows<NV, OuterFunction>(rows, [](auto mr) -> OuterFunction { return outer<mr.value, NV>; });
}
static OuterFunction outer_part_of(int rows) {
  return by_rows<1, OuterFunction>(rows, [](auto mr) -> OuterFunction { return outer_part<mr.value>; });
}
static OuterFunction outer_lanes_of(int rows) {
  return by_rows<1, OuterFunction>(rows, [](auto mr) -> OuterFunction { return outer_lanes<mr.value>; });
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
