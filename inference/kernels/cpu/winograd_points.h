// The products of one point of Winograd's algorithm: a small GEMM whose rows lie a constant apart.
#pragma once

#include "tile.h"

namespace hetconv {
namespace HETCONV_ISA {

// Some input channels of one vector of them: lanes [lane, lane + count).
struct Piece {
  int vector, lane, count;
};

// The product of one point: MR tiles x NV vectors of output channels. Rows are kWidth floats apart in v and in q, so
// that every address is a constant away from one register; their vectors are `vector` floats apart.
template <int MR, int NV>
static void point_tile(const float* v, const Piece* pieces, int count, const float* u, float* q, size_t vector) {
  V sum[MR][NV] = {};
  for (int i = 0; i < count; i++) {
    const float* x = v + pieces[i].vector * vector + pieces[i].lane;
    int c = 0;
    for (; c + 4 <= pieces[i].count; c += 4, x += 4) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; k++, u += NV * kWidth) {
        V w[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++) {
          w[j] = load(u + j * kWidth);
          __builtin_prefetch(u + kPrefetch + j * kWidth);
        }
#pragma GCC unroll 32
        for (int r = 0; r < MR; r++) {
#pragma GCC unroll 4
          for (int j = 0; j < NV; j++) sum[r][j] += w[j] * x[r * kWidth + k];
        }
      }
    }
    for (; c < pieces[i].count; c++, x++, u += NV * kWidth) {
#pragma GCC unroll 32
      for (int r = 0; r < MR; r++) {
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++) sum[r][j] += load(u + j * kWidth) * x[r * kWidth];
      }
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < MR; r++) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) store(q + j * vector + r * kWidth, sum[r][j]);
  }
}

// The same for groups of few channels, `count` of each: every lane takes those of its own group, as `lanes` says for
// the first of them.
template <int MR>
static void point_tile_lanes(const float* v, const int32_t* lanes, int count, const float* u, float* q) {
  V sum[MR] = {}, x[MR];
  VI index;
  std::memcpy(&index, lanes, sizeof(index));
#pragma GCC unroll 32
  for (int r = 0; r < MR; r++) x[r] = load(v + r * kWidth);
  for (int c = 0; c < count; c++, u += kWidth, index += 1) {
    const V w = load(u);
#pragma GCC unroll 32
    for (int r = 0; r < MR; r++) sum[r] += w * permute(x[r], index);
  }
#pragma GCC unroll 32
  for (int r = 0; r < MR; r++) store(q + r * kWidth, sum[r]);
}

using PointFunction = void (*)(const float*, const Piece*, int, const float*, float*, size_t);
using PointLanesFunction = void (*)(const float*, const int32_t*, int, const float*, float*);

template <int NV>
static PointFunction point_tile_of(int rows) {
  return by_rows<NV, PointFunction>(rows, [](auto mr) -> PointFunction { return point_tile<mr.value, NV>; });
}
static PointLanesFunction point_tile_lanes_of(int rows) {
  return by_rows<1, PointLanesFunction>(rows, [](auto mr) -> PointLanesFunction { return point_tile_lanes<mr.value>; });
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
