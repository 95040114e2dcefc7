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

using PointFunction = void (*)(const float*, const Piece*, int, const float*, float*, size_t);

}  // namespace HETCONV_ISA
}  // namespace hetconv
