// The micro-kernel: a register tile of up to kRows[NV - 1] pixels x NV = 1 or 2 vectors of output channels walks a list
// of segments, each some input channels at one tap, through one stream of packed weights: a batch-reduce GEMM with a
// short list.
//
// Convolution, 1x1, and the products of Winograd's algorithm are all such lists.
#pragma once

#include <utility>

#include "simd.h"

namespace hetconv {
namespace HETCONV_ISA {

// How far ahead of its use a weight is fetched, in floats: weights are read once a block and come from far.
constexpr int kPrefetch = 1024;

struct Segment {
  int tap;      // row of the table of input pointers
  int channel;  // first input channel
  int count;    // input channels; for a lane segment, input channels of a group
};

// What happens to a tile's sum before it is stored.
struct Epilogue {
  const float* bias;  // of the tile, padded to its vectors; or null
  V low, high;
  bool clamp;
};

struct Rows {
  const float* const* in;  // [tap][row], rows `stride` apart
  int in_stride;
  float* const* out;             // [row], at the tile's first channel
  const float* const* residual;  // [row], or null
  bool accumulate;               // start from what is in `out`
};

template <int NV>
static HETCONV_INLINE V load_width(const float* p, int v, int width) {
  const int left = width - v * kWidth;
  return left >= kWidth ? load(p + v * kWidth) : left > 0 ? load_part(p + v * kWidth, left) : V{};
}

template <int MR, int NV>
static HETCONV_INLINE void multiply(const Segment& s, const float* const* in, const float*& w, V (&sum)[MR][NV]) {
  const float* p[MR];
#pragma GCC unroll 32
  for (int i = 0; i < MR; i++) p[i] = in[i] + s.channel;
  int c = 0;
  if (kManyRegisters) {
    // Two channels a step, row by row: a row's pointer, which rarely has a register, is then fetched half as often.
    for (; c + 2 <= s.count; c += 2, w += 2 * NV * kWidth) {
      V w0[NV], w1[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) w0[v] = load(w + v * kWidth), w1[v] = load(w + (NV + v) * kWidth);
#pragma GCC unroll 8
      for (int v = 0; v < 2 * NV; v++) __builtin_prefetch(w + kPrefetch + v * kWidth);
#pragma GCC unroll 32
      for (int i = 0; i < MR; i++) {
        const float x0 = p[i][c], x1 = p[i][c + 1];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[i][v] += w0[v] * x0;
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[i][v] += w1[v] * x1;
      }
    }
  }
#pragma GCC unroll 4
  for (; c < s.count; c++, w += NV * kWidth) {
    V wv[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) wv[v] = load(w + v * kWidth);
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) {
      const float x = p[i][c];
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[i][v] += wv[v] * x;
    }
  }
}

// Groups of fewer output channels than a vector has lanes: every lane takes the input channels of its own group.
// `lanes` holds, for the first channel of each group, where in the vector at s.channel it lies.
template <int MR>
static HETCONV_INLINE void multiply_lanes(const Segment& s, const float* const* in, const float*& w, VI lanes,
                                          V (&sum)[MR][1]) {
  V x[MR];
#pragma GCC unroll 32
  for (int i = 0; i < MR; i++) x[i] = load(in[i] + s.channel);
  for (int c = 0; c < s.count; c++, w += kWidth) {
    const V wv = load(w);
    const VI index = lanes + c;
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) sum[i][0] += wv * permute(x[i], index);
  }
}

template <int MR, int NV>
static void tile(const Segment* segments, int plain, int total, const int32_t* lanes, const float* w, const Rows& rows,
                 const Epilogue& epilogue, int width) {
  V sum[MR][NV];
  V start[NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) start[v] = epilogue.bias ? load(epilogue.bias + v * kWidth) : V{};
  const bool full = width == NV * kWidth;
#pragma GCC unroll 32
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) sum[i][v] = start[v];
  }
  for (int k = 0; k < plain; k++) multiply<MR, NV>(segments[k], rows.in + segments[k].tap * rows.in_stride, w, sum);
  if constexpr (NV == 1) {
    if (lanes) {
      VI index;
      std::memcpy(&index, lanes, sizeof(index));
      for (int k = plain; k < total; k++) {
        multiply_lanes<MR>(segments[k], rows.in + segments[k].tap * rows.in_stride, w, index, sum);
      }
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) {
      V y = sum[i][v];
      if (full) {
        if (rows.accumulate) y += load(rows.out[i] + v * kWidth);
        if (rows.residual) y += load(rows.residual[i] + v * kWidth);
        if (epilogue.clamp) y = clamp(y, epilogue.low, epilogue.high);
        store(rows.out[i] + v * kWidth, y);
      } else {
        const int left = width - v * kWidth < kWidth ? width - v * kWidth : kWidth;
        if (left <= 0) continue;
        if (rows.accumulate) y += load_part(rows.out[i] + v * kWidth, left);
        if (rows.residual) y += load_part(rows.residual[i] + v * kWidth, left);
        if (epilogue.clamp) y = clamp(y, epilogue.low, epilogue.high);
        store_part(rows.out[i] + v * kWidth, y, left);
      }
    }
  }
}

using TileFunction = void (*)(const Segment*, int, int, const int32_t*, const float*, const Rows&, const Epilogue&,
                              int);

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// The function for a number of rows, which `make` gives for each constant one.
template <class Function, class Make, int... kRow>
static HETCONV_INLINE Function by_rows_of(int rows, Make make, std::integer_sequence<int, kRow...>) {
  static constexpr Function table[] = {make(Constant<kRow + 1>{})...};
  return table[rows - 1];
}
template <int NV, class Function, class Make>
static HETCONV_INLINE Function by_rows(int rows, Make make) {
  return by_rows_of<Function>(rows, make, std::make_integer_sequence<int, kRows[NV - 1]>{});
}

template <int NV>
static TileFunction tile_of(int rows) {
  return by_rows<NV, TileFunction>(rows, [](auto mr) -> TileFunction { return tile<mr.value, NV>; });
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
