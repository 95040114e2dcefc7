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
  // For all of a tile's vectors; or, from 0, for that one only; or by lanes, `count` channels of every group's own.
  enum : int { kAll = -1, kLanes = -2 };
  int tap;      // row of the table of input pointers
  int channel;  // first input channel
  int count;    // input channels
  int vector;
};

// What happens to a tile's sum before it is stored.
struct Epilogue {
  const float* bias;  // of the tile, padded to its vectors
  V low, high;
};

struct Rows {
  const float* const* in;  // [tap][row], taps `in_stride` apart
  int in_stride;
  const int64_t* offset;  // [row], of the row's pixel in y and in residual
  float* y;               // at the tile's first channel
  const float* residual;  // likewise, or null
  bool accumulate;        // start from what is in `y`
};

// For NV vectors of a tile of NT, from `first` on.
template <int MR, int NV, int NT>
static HETCONV_INLINE void multiply(const Segment& s, const float* const* in, const float*& w, int first,
                                    V (&sum)[MR][NT]) {
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
        for (int v = 0; v < NV; v++) sum[i][first + v] += w0[v] * x0;
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[i][first + v] += w1[v] * x1;
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
      for (int v = 0; v < NV; v++) sum[i][first + v] += wv[v] * x;
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

// What is in memory is added to the sums, and they are stored: whole vectors.
template <int MR, int NV>
static HETCONV_INLINE void finish(const Rows& rows, const Epilogue& epilogue, V (&sum)[MR][NV]) {
  const float* const addends[] = {rows.accumulate ? rows.y : nullptr, rows.residual};
  for (const float* addend : addends) {
    if (!addend) continue;
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[i][v] += load(addend + rows.offset[i] + v * kWidth);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) {
      store(rows.y + rows.offset[i] + v * kWidth, clamp(sum[i][v], epilogue.low, epilogue.high));
    }
  }
}

// The same for `width` channels, fewer than the vectors hold. Rare, so it is kept small: it goes through memory.
template <int MR, int NV>
static HETCONV_NOINLINE void finish_part(const Rows& rows, const Epilogue& epilogue, const V (&sum)[MR][NV],
                                         int width) {
  for (int i = 0; i < MR; i++) {
    for (int v = 0; v * kWidth < width; v++) {
      const int left = width - v * kWidth < kWidth ? width - v * kWidth : kWidth;
      float* to = rows.y + rows.offset[i] + v * kWidth;
      V y = sum[i][v];
      if (rows.accumulate) y += load_part(to, left);
      if (rows.residual) y += load_part(rows.residual + rows.offset[i] + v * kWidth, left);
      store_part(to, clamp(y, epilogue.low, epilogue.high), left);
    }
  }
}

template <int MR, int NV>
static void tile(const Segment* segments, int count, const int32_t* lanes, const float* w, const Rows& rows,
                 const Epilogue& epilogue, int width) {
  V sum[MR][NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) {
    const V start = load(epilogue.bias + v * kWidth);
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) sum[i][v] = start;
  }
  for (const Segment* s = segments; s < segments + count; s++) {
    const float* const* in = rows.in + s->tap * rows.in_stride;
    if (s->vector == Segment::kAll) {
      multiply<MR, NV, NV>(*s, in, w, 0, sum);
    } else if constexpr (NV == 2) {
      if (s->vector == 0) {
        multiply<MR, 1, NV>(*s, in, w, 0, sum);
      } else {
        multiply<MR, 1, NV>(*s, in, w, 1, sum);
      }
    } else {
      VI index;
      std::memcpy(&index, lanes, sizeof(index));
      multiply_lanes<MR>(*s, in, w, index, sum);
    }
  }
  if (width == NV * kWidth) {
    finish<MR, NV>(rows, epilogue, sum);
  } else {
    V copy[MR][NV];
    std::memcpy(copy, sum, sizeof(copy));
    finish_part<MR, NV>(rows, epilogue, copy, width);
  }
}

using TileFunction = void (*)(const Segment*, int, const int32_t*, const float*, const Rows&, const Epilogue&, int);

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// The function for a number of rows, which `make` gives for each constant one.
template <class Function, class Make, int... kRow>
static HETCONV_INLINE Function by_rows_of(int rows, Make make, std::integer_sequence<int, kRow...>) {
  static const Function table[] = {make(Constant<kRow + 1>{})...};
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
