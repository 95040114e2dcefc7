// Winograd's F(3x3,2x2), for the gradient to 3x3 kernels: a tile of 2x2 gradients and the 4x4 inputs that it meets give
// sixteen products for a pair of channels, where 36 are needed directly.
//
// At the points 0, 1, -1 and infinity, those of F(2x2,3x3): V = B^T x B, U = G g G^T, and dW = A^T Q A of the sums Q of
// U V over all tiles. The halves in G are left to the end, where there are few numbers.
#pragma once

#include "buffer.h"
#include "layer.h"
#include "outer.h"
#include "winograd_transforms.h"

namespace hetconv {
namespace HETCONV_ISA {

constexpr int kTileSide = 2, kInputSide = 4, kTilePoints = kInputSide * kInputSide;

// V of a vector of channels; `at` gives the address of a row and column of the inputs.
template <class At>
static HETCONV_INLINE void input_points(At at, float* v, size_t point) {
  V rows[kInputSide][kInputSide];
#pragma GCC unroll 4
  for (int k = 0; k < kInputSide; k++) {
    const V d[] = {load(at(0, k)), load(at(1, k)), load(at(2, k)), load(at(3, k))};
    V o[kInputSide];
    Transforms<2>::input(d, o);
#pragma GCC unroll 4
    for (int r = 0; r < kInputSide; r++) rows[r][k] = o[r];
  }
#pragma GCC unroll 4
  for (int r = 0; r < kInputSide; r++) {
    V o[kInputSide];
    Transforms<2>::input(rows[r], o);
#pragma GCC unroll 4
    for (int k = 0; k < kInputSide; k++) store(v + (r * kInputSide + k) * point, o[k]);
  }
}

// G g without its halves; the last point's sign is that of B.
static HETCONV_INLINE void gradient_column(V g0, V g1, V (&o)[kInputSide]) {
  o[0] = g0, o[1] = g0 + g1, o[2] = g0 - g1, o[3] = g1;
}

// U of a vector of output channels, without the halves.
template <class At>
static HETCONV_INLINE void gradient_points(At at, float* u, size_t point) {
  V columns[kTileSide][kInputSide];
#pragma GCC unroll 2
  for (int k = 0; k < kTileSide; k++) gradient_column(load(at(0, k)), load(at(1, k)), columns[k]);
#pragma GCC unroll 4
  for (int r = 0; r < kInputSide; r++) {
    V o[kInputSide];
    gradient_column(columns[0][r], columns[1][r], o);
#pragma GCC unroll 4
    for (int k = 0; k < kInputSide; k++) store(u + (r * kInputSide + k) * point, o[k]);
  }
}

static HETCONV_INLINE void taps_column(const V (&m)[kInputSide], V (&o)[3]) {
  const V sum = 0.5f * (m[1] + m[2]);
  o[0] = m[0] + sum;
  o[1] = 0.5f * (m[1] - m[2]);
  o[2] = sum - m[3];
}

// A^T Q A in place: of the sums of sixteen points, `point` floats each, those of nine taps.
static void points_to_taps(float* sums, size_t point) {
  for (size_t i = 0; i < point; i += kWidth) {
    float* q = sums + i;
    V rows[3][kInputSide];
    for (int k = 0; k < kInputSide; k++) {
      V m[kInputSide], o[3];
      for (int r = 0; r < kInputSide; r++) m[r] = load(q + (r * kInputSide + k) * point);
      taps_column(m, o);
      for (int r = 0; r < 3; r++) rows[r][k] = o[r];
    }
    for (int r = 0; r < 3; r++) {
      V o[3];
      taps_column(rows[r], o);
      for (int k = 0; k < 3; k++) store(q + (r * 3 + k) * point, o[k]);
    }
  }
}

// Some rows of tiles at their points: of a group's input channels, and of one or two vectors of output channels.
class GradientPoints {
 public:
  // channels: input channels of a group, at least a vector of them. rows: of tiles, at most.
  GradientPoints(const LayerShape& shape, const GradientRun& run, int channels, int64_t rows)
      : s_(shape),
        run_(run),
        channels_(channels),
        across_((run.out_width + 1) / kTileSide),
        down_((run.out_height + 1) / kTileSide),
        zeros_(std::max(channels, 2 * kWidth)),
        v_(kTilePoints * point_of(rows * across_, channels)),
        u_(kTilePoints * point_of(rows * across_, 2 * kWidth)) {}

  // The rows of tiles, which count through the whole batch.
  void start(int64_t begin, int64_t end) { begin_ = begin, end_ = end, channel_ = out_ = -1; }

  // The points of the input channels from `channel` on, and of `vectors` of output channels from `out` on, where they
  // are not there yet.
  void fill(int channel, int out, int vectors) {
    if (channel_ != channel) fill_inputs(channel_ = channel);
    if (out_ != out || vectors_ != vectors) fill_gradients(out_ = out, vectors_ = vectors);
  }

  PixelRun at(int point) const {
    const int64_t tiles = (end_ - begin_) * across_;
    return {v_.data() + point * point_of(tiles, channels_), u_.data() + point * point_of(tiles, vectors_ * kWidth),
            tiles};
  }

 private:
  // Floats between points: a line more than they have, or all would fall into the same sets of the cache.
  static size_t point_of(int64_t tiles, int64_t floats) { return tiles * floats + kLineFloats; }

  // Calls use(image, y, x) for the first output of every tile.
  template <class Use>
  void for_tiles(Use use) const {
    for (int64_t row = begin_; row < end_; row++) {
      for (int64_t x = 0; x < across_; x++) use(row / down_, row % down_ * kTileSide, x * kTileSide);
    }
  }

  void fill_inputs(int channel) {
    const int64_t m = s_.in_channels, row = run_.width * m;
    const size_t point = at_size(channels_);
    float* v = v_.data();
    for_tiles([&](int64_t image, int64_t y, int64_t x) {
      y -= s_.pads[0], x -= s_.pads[1];
      const float* first = run_.x + ((image * run_.height + y) * run_.width + x) * m + channel;
      if (y >= 0 && x >= 0 && y + kInputSide <= run_.height && x + kInputSide <= run_.width) {
        for_vectors(
            [&](int c) { input_points([&](int r, int k) { return first + r * row + k * m + c; }, v + c, point); });
      } else {
        const float* from[kInputSide][kInputSide];
        for (int r = 0; r < kInputSide; r++) {
          for (int k = 0; k < kInputSide; k++) {
            const bool inside = (y + r >= 0) & (y + r < run_.height) & (x + k >= 0) & (x + k < run_.width);
            from[r][k] = inside ? first + r * row + k * m : zeros_.data();
          }
        }
        for_vectors([&](int c) { input_points([&](int r, int k) { return from[r][k] + c; }, v + c, point); });
      }
      v += channels_;
    });
  }

  void fill_gradients(int out, int vectors) {
    const int64_t n = s_.out_channels;
    const size_t point = at_size(vectors * kWidth);
    float* u = u_.data();
    for_tiles([&](int64_t image, int64_t y, int64_t x) {
      const float* from[kTileSide][kTileSide];
      for (int r = 0; r < kTileSide; r++) {
        for (int k = 0; k < kTileSide; k++) {
          const bool inside = (y + r < run_.out_height) & (x + k < run_.out_width);
          const int64_t pixel = (image * run_.out_height + y + r) * run_.out_width + x + k;
          from[r][k] = inside ? run_.grad + pixel * n + out : zeros_.data();
        }
      }
      for (int c = 0; c < vectors * kWidth; c += kWidth) {
        gradient_points([&](int r, int k) { return from[r][k] + c; }, u + c, point);
      }
      u += vectors * kWidth;
    });
  }

  // Calls use(c) for vectors of the channels; the last one reaches back over the one before.
  template <class Use>
  HETCONV_INLINE void for_vectors(Use use) const {
    for (int c = 0; c < channels_; c += kWidth) use(std::min(c, channels_ - kWidth));
  }

  size_t at_size(int64_t floats) const { return point_of((end_ - begin_) * across_, floats); }

  static constexpr size_t kLineFloats = 16;
  const LayerShape& s_;
  const GradientRun& run_;
  int channels_;
  int64_t across_, down_, begin_ = 0, end_ = 0;
  int channel_ = -1, out_ = -1, vectors_ = 0;
  Buffer zeros_, v_, u_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
