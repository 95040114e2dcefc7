// The matrices of Winograd's algorithm: inputs, kernels and outputs to points and back.
#pragma once

#include "simd.h"

namespace hetconv {
namespace HETCONV_ISA {

// The transforms of F(kOut,3), on vectors of channels (Lavin and Gray, 2016).
template <int kOut>
struct Transforms;

// Points 0, 1, -1, 2, -2 and infinity: 36 products for 16 outputs, where 144 are needed directly.
template <>
struct Transforms<4> {
  static HETCONV_INLINE void input(const V (&d)[6], V (&o)[6]) {
    const V a = d[4] - 4.0f * d[2], b = d[3] - 4.0f * d[1], c = d[4] - d[2], e = d[3] - d[1];
    o[0] = (d[4] - 5.0f * d[2]) + 4.0f * d[0];
    o[1] = a + b;
    o[2] = a - b;
    o[3] = c + 2.0f * e;
    o[4] = c - 2.0f * e;
    o[5] = (d[5] - 5.0f * d[3]) + 4.0f * d[1];
  }
  static HETCONV_INLINE void output(const V (&m)[6], V (&o)[4]) {
    const V a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    o[0] = m[0] + a + c;
    o[1] = b + 2.0f * d;
    o[2] = a + 4.0f * c;
    o[3] = b + 8.0f * d + m[5];
  }
  static constexpr double kernel[6][3] = {{1 / 4., 0, 0},
                                          {-1 / 6., -1 / 6., -1 / 6.},
                                          {-1 / 6., 1 / 6., -1 / 6.},
                                          {1 / 24., 1 / 12., 1 / 6.},
                                          {1 / 24., -1 / 12., 1 / 6.},
                                          {0, 0, 1}};
};

// Points 0, 1, -1 and infinity: 16 products for 4 outputs, where 36 are needed directly. Its weights are less than half
// of F(4,3)'s, which counts where few pixels share them.
template <>
struct Transforms<2> {
  static HETCONV_INLINE void input(const V (&d)[4], V (&o)[4]) {
    o[0] = d[0] - d[2];
    o[1] = d[1] + d[2];
    o[2] = d[2] - d[1];
    o[3] = d[1] - d[3];
  }
  static HETCONV_INLINE void output(const V (&m)[4], V (&o)[2]) {
    o[0] = m[0] + m[1] + m[2];
    o[1] = m[1] - m[2] - m[3];
  }
  static constexpr double kernel[4][3] = {{1, 0, 0}, {1 / 2., 1 / 2., 1 / 2.}, {1 / 2., -1 / 2., 1 / 2.}, {0, 0, 1}};
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
