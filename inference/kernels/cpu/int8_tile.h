// The micro-kernel in eight bits: a register tile of pixels x NV = 1 or 2 vectors of output channels walks a list of
// segments, as in tile.h, four input channels a step.
//
// A tile of pairs has two lanes for each output channel, and takes eight input channels a step, four in each of the
// two. Half as many output channels a vector: for groups that have no more, which would otherwise multiply zeros.
#pragma once

#include <type_traits>
#include <utility>

#include "int8_layer.h"
#include "int8_simd.h"
#include "tile.h"

namespace hetconv {
namespace HETCONV_ISA {

// Some input channels at one tap, which lie side by side: the same for all vectors of a tile, or as many for each of
// two.
struct Int8Segment {
  int tap;         // row of the table of input pointers
  int channel[2];  // first input channel, by vector
  int steps;       // of four input channels, or eight
  bool split() const { return channel[0] != channel[1]; }
};

// What a tile's sums become.
struct Int8Epilogue {
  const int32_t* start;         // of the sums: by channel of the tile, padded to its vectors
  const float *scale, *bias;    // likewise
  float low, high;              // in steps of y, where that is in bytes
  float z_scale, z_zero_point;  // likewise
  int32_t y_zero_point;
  bool float_output, float_residual;
  // Bytes out, without zero points or bounds but those of a byte, as behind a ReLU; and reals that 32 bits hold.
  bool plain;
};

// The weights of the next tile, on their way from memory into the second level of the cache. The register tiles of a
// block of pixels take turns at it, a line or less a step: four or more of them fetch all, fewer a part, which the
// processor's own prefetcher completes.
struct Int8Ahead {
  const int8_t* next;
  int64_t bytes;  // a step
  HETCONV_INLINE void fetch(int steps) {
    __builtin_prefetch(next, 0, 2);
    next += steps * bytes;
  }
};

struct Int8Rows {
  const uint8_t* const* in;  // [tap][row], taps `in_stride` apart
  int in_stride;
  int64_t first, step;  // in y and in the residual: the tile's first output, and from one row to the next
  void* y;
  const void* residual;  // or null
  Int8Ahead ahead;
};

template <bool kPairs>
static HETCONV_INLINE Inputs4 spread(const uint8_t* p) {
  return inputs4(kPairs ? splat_eight(p) : splat_bytes(p));
}

template <int MR, int NV, bool kPairs>
static HETCONV_INLINE void multiply(const Int8Segment& s, const uint8_t* const* in, const int8_t*& w, Int8Ahead& ahead,
                                    VI (&sum)[MR][NV]) {
  constexpr int kStep = kPairs ? 8 : 4;
  int64_t c = s.channel[0];
  const int64_t end = c + kStep * s.steps;
  if (kManyRegisters) {
    // Two steps at once, row by row: a row's pointer, which rarely has a register, is then fetched half as often.
    for (; c + 2 * kStep <= end; c += 2 * kStep, w += 2 * NV * kVectorBytes) {
      Weights4 w0[NV], w1[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) {
        w0[v] = weights4(load_bytes(w + v * kVectorBytes));
        w1[v] = weights4(load_bytes(w + (NV + v) * kVectorBytes));
      }
      ahead.fetch(2);
#pragma GCC unroll 32
      for (int i = 0; i < MR; i++) {
        const uint8_t* p = in[i] + c;
        const Inputs4 x0 = spread<kPairs>(p), x1 = spread<kPairs>(p + kStep);
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[i][v] = dot(sum[i][v], x0, w0[v]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[i][v] = dot(sum[i][v], x1, w1[v]);
      }
    }
  }
  for (; c < end; c += kStep, w += NV * kVectorBytes) {
    Weights4 w0[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) w0[v] = weights4(load_bytes(w + v * kVectorBytes));
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) {
      const Inputs4 x = spread<kPairs>(in[i] + c);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[i][v] = dot(sum[i][v], x, w0[v]);
    }
  }
}

// Two vectors, each with input channels of its own.
template <int MR, bool kPairs>
static HETCONV_INLINE void multiply_split(const Int8Segment& s, const uint8_t* const* in, const int8_t*& w,
                                          Int8Ahead& ahead, VI (&sum)[MR][2]) {
  constexpr int kStep = kPairs ? 8 : 4;
  int64_t c = s.channel[0];
  const int64_t end = c + kStep * s.steps, apart = s.channel[1] - s.channel[0];
  for (; c < end; c += kStep, w += 2 * kVectorBytes) {
    const Weights4 w0 = weights4(load_bytes(w)), w1 = weights4(load_bytes(w + kVectorBytes));
    if (!kPairs) ahead.fetch(1);  // pairs have few weights, and a step or two a segment
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) {
      const uint8_t* p = in[i] + c;
      sum[i][0] = dot(sum[i][0], spread<kPairs>(p), w0);
      sum[i][1] = dot(sum[i][1], spread<kPairs>(p + apart), w1);
    }
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
  HETCONV_INLINE V add_plain(V real, VI z) const { return real + __builtin_convertvector(z, V) * z_scale; }
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
    uint8_t* y = static_cast<uint8_t*>(rows.y) + rows.first + v * kWidth;
    const uint8_t* z = static_cast<const uint8_t*>(rows.residual) + (kResidual ? rows.first + v * kWidth : 0);
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) {
      V real = finish.real(sum[i][v]);
      if (kResidual) real = finish.add(real, load_u8(z + i * rows.step));
      store_u8(y + i * rows.step, finish.byte(real));
    }
  }
}

// The same, plain: two vectors at a time, side by side or of two pixels, which AVX-512 makes bytes of together.
template <int MR, int NV, bool kResidual>
static HETCONV_INLINE void finish_plain(const Int8Rows& rows, const Int8Epilogue& e, const VI (&sum)[MR][NV]) {
  const int64_t step = rows.step;
  uint8_t* y = static_cast<uint8_t*>(rows.y) + rows.first;
  const uint8_t* z = static_cast<const uint8_t*>(rows.residual) + (kResidual ? rows.first : 0);
  const Int8Finish first(e, 0), second(e, (NV - 1) * kWidth);
  const auto real = [&](const Int8Finish& finish, int i, int v) __attribute__((always_inline)) {
    const V own = finish.real(sum[i][v]);
    return kResidual ? finish.add_plain(own, load_u8(z + i * step + v * kWidth)) : own;
  };
#pragma GCC unroll 32
  for (int i = 0; i < MR; i += 3 - NV) {
    if constexpr (NV == 2) {
      store_rounded<true>(y + i * step, nullptr, real(first, i, 0), real(second, i, 1));
    } else {
      const int next = i + 1 < MR ? i + 1 : i;  // the last of an odd number twice
      store_rounded<false>(y + i * step, y + next * step, real(first, i, 0), real(first, next, 0));
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
      const int64_t place = rows.first + i * rows.step + v * kWidth;
      V real = finish.real(sums[i * vectors + v]);
      if (rows.residual && e.float_residual) {
        const float* z = static_cast<const float*>(rows.residual) + place;
        real = finish.add(real, left == kWidth ? load(z) : load_part(z, left));
      } else if (rows.residual) {
        uint8_t part[kWidth] = {};
        const uint8_t* z = static_cast<const uint8_t*>(rows.residual) + place;
        if (left < kWidth) z = static_cast<uint8_t*>(std::memcpy(part, z, left));
        real = finish.add(real, load_u8(z));
      }
      if (e.float_output) {
        float* y = static_cast<float*>(rows.y) + place;
        if (left == kWidth) {
          store(y, finish.bounded(real));
        } else {
          store_part(y, finish.bounded(real), left);
        }
      } else {
        uint8_t part[kWidth], *y = static_cast<uint8_t*>(rows.y) + place;
        store_u8(left == kWidth ? y : part, finish.byte(real));
        if (left < kWidth) std::memcpy(y, part, left);
      }
    }
  }
}

template <int MR, int NV>
static HETCONV_INLINE void finish(const Int8Rows& rows, const Int8Epilogue& e, const VI (&sum)[MR][NV], int width) {
  if (width == NV * kWidth && !e.float_output && !rows.residual) {
    e.plain ? finish_plain<MR, NV, false>(rows, e, sum) : finish_bytes<MR, NV, false>(rows, e, sum);
  } else if (width == NV * kWidth && !e.float_output && !e.float_residual) {
    e.plain ? finish_plain<MR, NV, true>(rows, e, sum) : finish_bytes<MR, NV, true>(rows, e, sum);
  } else {
    VI copy[MR][NV];
    std::memcpy(copy, sum, sizeof(copy));
    finish_rest(rows, e, copy[0], MR, NV, width);
  }
}

template <int MR, int NV, bool kPairs>
static void int8_tile(const Int8Segment* segments, int count, const int8_t* w, const Int8Rows& rows,
                      const Int8Epilogue& e, int width) {
  Int8Ahead ahead = rows.ahead;
  VI sum[MR][NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) {
    const VI start = kPairs ? VI{} : load_bytes(e.start + v * kWidth);
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) sum[i][v] = start;
  }
  for (const Int8Segment* s = segments; s < segments + count; s++) {
    const uint8_t* const* in = rows.in + s->tap * rows.in_stride;
    if constexpr (NV == 2) {
      if (s->split()) {
        multiply_split<MR, kPairs>(*s, in, w, ahead, sum);
        continue;
      }
    }
    multiply<MR, NV, kPairs>(*s, in, w, ahead, sum);
  }
  if constexpr (kPairs) {
    const VI start = load_bytes(e.start);
    VI both[MR][1];
#pragma GCC unroll 32
    for (int i = 0; i < MR; i++) both[i][0] = (VI)((VUI)add_pairs(sum[i][0], sum[i][1]) + (VUI)start);
    finish<MR, 1>(rows, e, both, width);
  } else {
    finish<MR, NV>(rows, e, sum, width);
  }
}

using Int8TileFunction = void (*)(const Int8Segment*, int, const int8_t*, const Int8Rows&, const Int8Epilogue&, int);

template <int NV, bool kPairs>
static Int8TileFunction int8_tile_of(int rows) {
  return by_rows_of<Int8TileFunction>(
      rows, [](auto mr) -> Int8TileFunction { return int8_tile<mr.value, NV, kPairs>; },
      std::make_integer_sequence<int, kInt8Rows[NV - 1]>{});
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
