// Winograd's F(4x4,3x3) or F(2x2,3x3) on the K x K part of a layer, and the 1x1 kernels of the other groups in the same
// pass.
//
// A tile of 4x4 outputs takes 6x6 inputs: V = B^T d B, one product a group for each of the 36 points, Y = A^T Q A. The
// centre taps of a group's own channels go with its 3x3 kernels; the 1x1 product runs over the other channels only.
#pragma once

#include "winograd_weights.h"

namespace hetconv {
namespace HETCONV_ISA {

template <int kOut>
class Winograd : public Packed {
  static constexpr int kIn = kOut + 2, kPoints = kIn * kIn;
  using T = Transforms<kOut>;

 public:
  Winograd(const LayerShape& shape, const Weights& weights)
      : s_(shape), weights_(shape, weights), bias_(shape.out_channels + 2 * kWidth), zeros_(shape.in_channels) {
    if (weights.bias) std::copy_n(weights.bias, s_.out_channels, bias_.data());
    low_ = weights.low, high_ = weights.high;
  }

  size_t fills() const override { return weights_.fills(); }
  void fill(const Weights& weights, size_t i) override { weights_.fill(weights, i); }

  size_t items(const Run& run) const override { return blocks(run) * weights_.chunks; }

  size_t scratch_bytes(const Run& run) const override {
    const size_t size = block_tiles(run);
    return sizeof(float) * kPoints * size * kWidth * (weights_.in_vectors + weights_.out_vectors) +
           sizeof(Place) * size + (sizeof(float*) + sizeof(int64_t)) * kOut * (kOut * size + 1);
  }

  void item(const Run& run, size_t i, void* scratch) const override {
    const size_t chunks = weights_.chunks;
    const int chunk = static_cast<int>(i % chunks);
    Block b{};
    b.size = static_cast<int>(block_tiles(run));
    b.across = (run.out_width + kOut - 1) / kOut, b.down = (run.out_height + kOut - 1) / kOut;
    b.begin = static_cast<int64_t>(i / chunks) * b.size;
    b.count = static_cast<int>(std::min<int64_t>(b.size, run.batch * b.across * b.down - b.begin));
    b.v = static_cast<float*>(scratch);
    b.q = b.v + static_cast<size_t>(kPoints) * b.size * kWidth * weights_.in_vectors;
    b.places = reinterpret_cast<Place*>(b.q + static_cast<size_t>(kPoints) * b.size * kWidth * weights_.out_vectors);
    fill_places(b);
    for (int t = 0; t < b.count; t++) transform_input(run, b, t, chunk);
    multiply_points(b, chunk);
    for (int t = 0; t < b.count; t++) transform_output(run, b, t, chunk);
    if (weights_.pointwise) add_pointwise(run, b, chunk);
  }

  size_t weight_bytes() const override { return weights_.bytes(); }

 private:
  struct Place {
    int64_t image, y, x;  // of a tile's first output
  };
  struct Block {
    int64_t begin;  // first tile
    int count, size;
    int64_t across, down;  // tiles of an image
    float* v;              // [point][vector of input channels][tile][kWidth]
    float* q;              // [point][vector of output channels][tile][kWidth]
    Place* places;         // of its tiles
  };

  static void fill_places(const Block& b) {
    const int64_t row = b.begin / b.across;
    Place at{row / b.down, row % b.down * kOut, b.begin % b.across * kOut};
    for (int t = 0; t < b.count; t++) {
      b.places[t] = at;
      at.x += kOut;
      if (at.x < b.across * kOut) continue;
      at.x = 0, at.y += kOut;
      if (at.y < b.down * kOut) continue;
      at.y = 0, at.image++;
    }
  }

  static int64_t tiles_of(const Run& run) {
    return run.batch * ((run.out_width + kOut - 1) / kOut) * ((run.out_height + kOut - 1) / kOut);
  }

  int64_t block_tiles(const Run& run) const {
    const int64_t tiles = tiles_of(run);
    const int64_t bytes =
        4ll * kPoints * (weights_.in_channels + weights_.out_channels) + 4ll * kOut * kOut * s_.in_channels;
    const int64_t block = std::max<int64_t>(kBlockBytes / bytes / kRows[1], 1) * kRows[1];
    const int64_t count = (tiles + block - 1) / block;
    return std::max<int64_t>(1, (tiles + count - 1) / std::max<int64_t>(count, 1));
  }
  size_t blocks(const Run& run) const {
    const int64_t block = block_tiles(run);
    return (tiles_of(run) + block - 1) / block;
  }

  void transform_input(const Run& run, const Block& b, int t, int chunk) const {
    const Place& at = b.places[t];
    const int channels = weights_.in_channels, m = s_.in_channels;
    const int64_t y = at.y - s_.pads[0], x = at.x - s_.pads[1];
    const float* image = run.x + at.image * run.height * run.width * m + chunk * channels;
    const size_t vector = static_cast<size_t>(b.size) * kWidth, point = vector * weights_.in_vectors;
    float* v = b.v + static_cast<size_t>(t) * kWidth;
    const int whole = channels / kWidth * kWidth;
    if (y >= 0 && x >= 0 && y + kIn <= run.height && x + kIn <= run.width) {
      const float* first = image + (y * run.width + x) * m;
      for (int c = 0; c < whole; c += kWidth, v += vector) transform_inside(first + c, run.width * m, m, v, point);
      if (whole == channels) return;
    }
    // A tile that reaches over the edge, or a vector that reaches over the channels.
    const float* from[kPoints];
    bool there[kIn];
    for (int k = 0; k < kIn; k++) there[k] = (x + k >= 0) & (x + k < run.width);
    for (int r = 0; r < kIn; r++) {
      const bool inside = (y + r >= 0) & (y + r < run.height);
      const float* row = image + ((y + r) * run.width + x) * m;
      // Chosen by arithmetic: branches would be as hard to foresee as edges are.
      for (int k = 0; k < kIn; k++) from[r * kIn + k] = (inside & there[k]) ? row + k * m : zeros_.data();
    }
    for (int c = static_cast<int>((v - b.v) / vector) * kWidth; c < channels; c += kWidth, v += vector) {
      if (c < whole) {
        transform_edge(from, c, v, point);
      } else {
        transform_part(from, c, channels - c, v, point);
      }
    }
  }

  // Functions of their own, so that addresses are computed where they are used, not 36 of them kept in memory.
  static HETCONV_NOINLINE void transform_inside(const float* first, int64_t row, int64_t column, float* v,
                                                size_t point) {
    transform_input_at([=](int r, int k) { return load(first + r * row + k * column); }, v, point);
  }
  static HETCONV_NOINLINE void transform_edge(const float* const* from, int c, float* v, size_t point) {
    transform_input_at([=](int r, int k) { return load(from[r * kIn + k] + c); }, v, point);
  }
  static HETCONV_NOINLINE void transform_part(const float* const* from, int c, int left, float* v, size_t point) {
    transform_input_at([=](int r, int k) { return load_part(from[r * kIn + k] + c, left); }, v, point);
  }

  template <class Load>
  static HETCONV_INLINE void transform_input_at(Load load_at, float* v, size_t point) {
    V t[kIn][kIn];
#pragma GCC unroll 6
    for (int r = 0; r < kIn; r++) {
      V d[kIn];
#pragma GCC unroll 6
      for (int k = 0; k < kIn; k++) d[k] = load_at(r, k);
      T::input(d, t[r]);
    }
#pragma GCC unroll 6
    for (int k = 0; k < kIn; k++) {
      V d[kIn];
#pragma GCC unroll 6
      for (int r = 0; r < kIn; r++) d[r] = t[r][k];
      V o[kIn];
      T::input(d, o);
#pragma GCC unroll 6
      for (int r = 0; r < kIn; r++) store(v + (r * kIn + k) * point, o[r]);
    }
  }

  void multiply_points(const Block& b, int chunk) const {
    const size_t tiles = weights_.product_tiles, vector = static_cast<size_t>(b.size) * kWidth;
    for (size_t t = 0; t < tiles; t++) {
      const ChannelTile& tile = weights_.products.tiles[chunk * tiles + t];
      const Segment& segment = weights_.products.segments[tile.segment];
      const std::vector<Piece>& pieces = weights_.pieces[t];
      const int most = kRows[tile.vectors - 1], steps = (b.count + most - 1) / most;
      const float* u = weights_.u.data() + kPoints * tile.weight;
      float* q = b.q + weights_.out_vector[t] * vector;
      for (int k = 0; k < kPoints; k++, u += weights_.point_size(tile)) {
        const float* v = b.v + k * vector * weights_.in_vectors;
        for (int step = 0; step < steps; step++) {
          const int i = b.count * step / steps, rows = b.count * (step + 1) / steps - i;
          float* to = q + k * vector * weights_.out_vectors + i * kWidth;
          if (segment.vector == Segment::kLanes) {
            const float* from = v + segment.channel / kWidth * vector + i * kWidth;
            point_tile_lanes_of(rows)(from, tile.lane, segment.count, u, to);
          } else {
            const PointFunction function = tile.vectors == 2 ? point_tile_of<2>(rows) : point_tile_of<1>(rows);
            function(v + i * kWidth, pieces.data(), static_cast<int>(pieces.size()), u, to, vector);
          }
        }
      }
    }
  }

  void transform_output(const Run& run, const Block& b, int t, int chunk) const {
    const Place& at = b.places[t];
    const int down = static_cast<int>(std::min<int64_t>(kOut, run.out_height - at.y));
    const int across = static_cast<int>(std::min<int64_t>(kOut, run.out_width - at.x));
    const size_t tiles = weights_.product_tiles, vector = static_cast<size_t>(b.size) * kWidth;
    const int64_t offset = ((at.image * run.out_height + at.y) * run.out_width + at.x) * s_.out_channels;
    for (size_t i = 0; i < tiles; i++) {
      const ChannelTile& tile = weights_.products.tiles[chunk * tiles + i];
      for (int j = 0; j < tile.vectors; j++) {
        const float* q = b.q + (weights_.out_vector[i] + j) * vector + static_cast<size_t>(t) * kWidth;
        const int channel = tile.first + j * kWidth, left = std::min(kWidth, tile.first + tile.width - channel);
        if (down == kOut && across == kOut && left == kWidth) {
          transform_output_at<true>(run, q, vector * weights_.out_vectors, offset + channel, left, down, across,
                                    channel);
        } else {
          transform_output_at<false>(run, q, vector * weights_.out_vectors, offset + channel, left, down, across,
                                     channel);
        }
      }
    }
  }

  // `kWhole`: all outputs of the tile are there, and all channels of the vector.
  template <bool kWhole>
  HETCONV_NOINLINE void transform_output_at(const Run& run, const float* q, size_t point, int64_t offset, int left,
                                            int down, int across, int channel) const {
    V t[kOut][kIn];
#pragma GCC unroll 6
    for (int k = 0; k < kIn; k++) {
      V m[kIn], o[kOut];
#pragma GCC unroll 6
      for (int r = 0; r < kIn; r++) m[r] = load(q + (r * kIn + k) * point);
      T::output(m, o);
#pragma GCC unroll 4
      for (int r = 0; r < kOut; r++) t[r][k] = o[r];
    }
    const V low = splat(low_), high = splat(high_), bias = load(bias_.data() + channel);
    const float* residual = weights_.pointwise ? nullptr : run.residual;
#pragma GCC unroll 4
    for (int r = 0; r < kOut; r++) {
      if (!kWhole && r >= down) break;
      V o[kOut];
      T::output(t[r], o);
#pragma GCC unroll 4
      for (int k = 0; k < kOut; k++) {
        if (!kWhole && k >= across) break;
        const int64_t place = offset + (r * run.out_width + k) * s_.out_channels;
        V y = o[k];
        if (!weights_.pointwise) {
          y += bias;
          if (residual) y += kWhole || left == kWidth ? load(residual + place) : load_part(residual + place, left);
          y = clamp(y, low, high);
        }
        if (kWhole || left == kWidth)
          store(run.y + place, y);
        else
          store_part(run.y + place, y, left);
      }
    }
  }

  void add_pointwise(const Run& run, const Block& b, int chunk) const {
    const float** in = reinterpret_cast<const float**>(b.places + b.size);
    int64_t* offset = reinterpret_cast<int64_t*>(in + static_cast<size_t>(kOut) * (kOut * b.size + 1));
    const size_t tiles = weights_.other_tiles;
    int count = 0;
    for (int t = 0; t < b.count; t++) {
      const Place& at = b.places[t];
      const int across = static_cast<int>(std::min<int64_t>(kOut, run.out_width - at.x));
      for (int64_t y = at.y; y < std::min(at.y + kOut, run.out_height); y++) {
        // With 'same' padding, which the 1x1 kernels ask for, inputs and outputs are the same pixels.
        const int64_t pixel = (at.image * run.height + y) * run.width + at.x;
        for (int x = 0; x < kOut; x++) {  // what is too much is overwritten
          in[count + x] = run.x + (pixel + x) * s_.in_channels;
          offset[count + x] = (pixel + x) * s_.out_channels;
        }
        count += across;
      }
    }
    for (size_t t = 0; t < tiles; t++) {
      const ChannelTile& tile = weights_.others.tiles[chunk * tiles + t];
      const int most = kRows[tile.vectors - 1], steps = (count + most - 1) / most;
      const Epilogue epilogue{bias_.data() + tile.first, splat(low_), splat(high_)};
      for (int step = 0; step < steps; step++) {
        const int i = static_cast<int>(int64_t(count) * step / steps);
        const int rows = static_cast<int>(int64_t(count) * (step + 1) / steps) - i;
        const float* residual = run.residual ? run.residual + tile.first : nullptr;
        const Rows r{in + i, 0, offset + i, run.y + tile.first, residual, true};
        const TileFunction function = tile.vectors == 2 ? tile_of<2>(rows) : tile_of<1>(rows);
        function(weights_.others.segments.data() + tile.segment, tile.total, nullptr, weights_.w.data() + tile.weight,
                 r, epilogue, tile.width);
      }
    }
  }

  static constexpr int64_t kBlockBytes = 256 << 10;

  LayerShape s_;
  WinogradWeights<kOut> weights_;
  Buffer bias_, zeros_;
  float low_, high_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
