// The micro-kernel in eight bits: a register tile of pixels x NV = 1 or 2 vectors of output channels walks a list of
// segments, as in tile.h, four input channels a step.
#pragma once

#include <type_traits>
#include <utility>

#include "int8_layer.h"
#include "int8_simd.h"
#include "tile.h"

namespace hetconv {
namespace HETCONV_ISA {

// Some input channels at one tap, which lie side by side.
struct Int8Segment {
  int tap;      // row of the table of input pointers
  int channel;  // first input channel
  int steps;    // of four input channels
  bool lanes;   // every lane takes the input channels of its own group, out of the 16 from `channel` on
};

// What a tile's sums become.
struct Int8Epilogue {
  const int32_t* start;         // of the sums: by channel of the tile, padded to its vectors
  const float *scale, *bias;    // likewise
  float low, high;              // in steps of y, where that is in bytes
  float z_scale, z_zero_point;  // likewise
  int32_t y_zero_point;
  bool float_output, float_residual;
};

struct Int8Rows {
  const uint8_t* const* in;  // [tap][row], taps `in_stride` apart
  int in_stride;
  const int64_t* offset;  // [row], of the row's pixel in y and in the residual
  int channel;            // the tile's first
  void* y;
  const void* residual;  // or null
};

// How far ahead of its use a weight is fetched, in bytes.
constexpr int kInt8Prefetch = 2048;

// Products of one step: weights at w, inputs `c` channels into each row's.
template <int MR, int NV>
static HETCONV_INLINE void step(const uint8_t* const* in, int64_t c, const int8_t* w, VI (&sum)[MR][NV]) {
  Weights4 w4[NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) w4[v] = weights4(load_bytes(w + v * kVectorBytes));
#pragma GCC unroll 32
  for (int i = 0; i < MR; i++) {
    const Inputs4 x = inputs4(splat_bytes(in[i] + c));
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) sum[i][v] = dot(sum[i][v], x, w4[v]);
  }
}

template <int MR, int NV>
static HETCONV_INLINE void multiply(const Int8Segment& s, const uint8_t* const* in, const int8_t*& w,
                                    VI (&sum)[MR][NV]) {
  int64_t c = s.channel;
  const int64_t end = c + 4 * s.steps;
  if (kManyRegisters) {
    // Two steps at once, row by row: a row's pointer, which rarely has a register, is then fetched half as often.
    for (; c + 8 <= end; c += 8, w += 2 * NV * kVectorBytes) {
      Weights4 w0[NV], w1[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) {
        w0[v] = weights4(load_bytes(w + v * kVectorBytes));
        w1[v] = weights4(load_bytes(w + (NV + v) * kVectorBytes));
      }
#pragma GCC unroll 8
      for (int v = 0; v < 2 * NV; v++) __builtin_prefetch(w + kInt8Prefetch + v * kVectorBytes);
#pragma GCC unroll 32
      for (int i = 0; i < MR; i++) {
        const uint8_t* p = in[i] + c;
        const Inputs4 x0 = inputs4(splat_bytes(p)), x1 = inputs4(splat_bytes(p + 4));
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[i][v] = dot(sum[i][v], x0, w0[v]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[i][v] = dot(sum[i][v], x1, w1[v]);
      }
    }
  }
  for (; c < end; c += 4, w += NV * kVectorBytes) step<MR, NV>(in, c, w, sum);
}

// Groups of fewer output channels than a vector has lanes: `order` says for each byte of the vector where, of the 16
// channels from s.channel on, that lane's group has its first four.
template <int MR>
static HETCONV_INLINE void multiply_lanes(const Int8Segment& s, const uint8_t* const* in, const int8_t*& w, VI order,
                                          VI (&sum)[MR][1]) {
  for (int step = 0; step < s.steps; step++, w += kVectorBytes) {
    const Weights4 w4 = weights4(load_bytes(w));
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) {
      sum[i][0] = dot(sum[i][0], inputs4(shuffle_bytes(in[i] + s.channel, order)), w4);
    }
    order += 0x04040404;
  }
}

// The epilogue of one vector of a tile, with all its numbers in registers.
struct Int8Finish {
  Int8Finish(const Int8Epilogue& e, int channel)
      : scale(load(e.scale + channel)),
        bias(load(e.bias + channel)),
        low(splat(e.low)),
        high(splat(e.high)),
        z_scale(splat(e.z_scale)),
        z_zero_point(splat(e.z_zero_point)),
        y_zero_point(e.y_zero_point - VI{}) {}

  // The sums as real numbers, or in steps of y; z is the residual there.
  HETCONV_INLINE V real(VI sum) const { return __builtin_convertvector(sum, V) * scale + bias; }
  HETCONV_INLINE V add(V real, VI z) const { return real + (__builtin_convertvector(z, V) - z_zero_point) * z_scale; }
  HETCONV_INLINE V add(V real, V z) const { return real + z * z_scale; }
  HETCONV_INLINE V bounded(V real) const { return clamp(real, low, high); }
  HETCONV_INLINE VI byte(V real) const { return low_byte(bounded(real)) + y_zero_point; }

  V scale, bias, low, high, z_scale, z_zero_point;
  VI y_zero_point;
};

// Bytes from bytes, whole vectors: what nearly all tiles do.
template <int MR, int NV, bool kResidual>
static HETCONV_INLINE void finish_bytes(const Int8Rows& rows, const Int8Epilogue& e, const VI (&sum)[MR][NV]) {
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) {
    const Int8Finish finish(e, v * kWidth);
    const int64_t* offset = rows.offset;
    uint8_t* y = static_cast<uint8_t*>(rows.y) + rows.channel + v * kWidth;
    const uint8_t* z = static_cast<const uint8_t*>(rows.residual) + (kResidual ? rows.channel + v * kWidth : 0);
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) {
      V real = finish.real(sum[i][v]);
      if (kResidual) real = finish.add(real, load_u8(z + offset[i]));
      store_u8(y + offset[i], finish.byte(real));
    }
  }
}

// All the rest, `width` channels. Rare, so it is kept small: it goes through memory.
static HETCONV_NOINLINE void finish_rest(const Int8Rows& rows, const Int8Epilogue& e, const VI* sums, int count,
                                         int vectors, int width) {
  for (int v = 0; v * kWidth < width; v++) {
    const Int8Finish finish(e, v * kWidth);
    const int left = width - v * kWidth < kWidth ? width - v * kWidth : kWidth;
    for (int i = 0; i < count; i++) {
      const int64_t place = rows.offset[i] + rows.channel + v * kWidth;
      V real = finish.real(sums[i * vectors + v]);
      if (rows.residual && e.float_residual) {
        real = finish.add(real, load_part(static_cast<const float*>(rows.residual) + place, left));
      } else if (rows.residual) {
        uint8_t z[kWidth] = {};
        std::memcpy(z, static_cast<const uint8_t*>(rows.residual) + place, left);
        real = finish.add(real, load_u8(z));
      }
      if (e.float_output) {
        store_part(static_cast<float*>(rows.y) + place, finish.bounded(real), left);
      } else {
        uint8_t y[kWidth];
        store_u8(y, finish.byte(real));
        std::memcpy(static_cast<uint8_t*>(rows.y) + place, y, left);
      }
    }
  }
}

template <int MR, int NV>
static void int8_tile(const Int8Segment* segments, int count, const uint8_t* order, const int8_t* w,
                      const Int8Rows& rows, const Int8Epilogue& e, int width) {
  VI sum[MR][NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) {
    const VI start = load_bytes(e.start + v * kWidth);
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) sum[i][v] = start;
  }
  for (const Int8Segment* s = segments; s < segments + count; s++) {
    const uint8_t* const* in = rows.in + s->tap * rows.in_stride;
    if constexpr (NV == 1) {
      if (s->lanes) {
        multiply_lanes<MR>(*s, in, w, load_bytes(order), sum);
        continue;
      }
    }
    multiply<MR, NV>(*s, in, w, sum);
  }
  if (width == NV * kWidth && !e.float_output && (!rows.residual || !e.float_residual)) {
    if (rows.residual) {
      finish_bytes<MR, NV, true>(rows, e, sum);
    } else {
      finish_bytes<MR, NV, false>(rows, e, sum);
    }
  } else {
    VI copy[MR][NV];
    std::memcpy(copy, sum, sizeof(copy));
    finish_rest(rows, e, copy[0], MR, NV, width);
  }
}

using Int8TileFunction = void (*)(const Int8Segment*, int, const uint8_t*, const int8_t*, const Int8Rows&,
                                  const Int8Epilogue&, int);

template <int NV>
static Int8TileFunction int8_tile_of(int rows) {
  return by_rows_of<Int8TileFunction>(
      rows, [](auto mr) -> Int8TileFunction { return int8_tile<mr.value, NV>; },
      std::make_integer_sequence<int, kInt8Rows[NV - 1]>{});
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
