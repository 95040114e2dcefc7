// Winograd's F(4x4,3x3) or F(2x2,3x3) on the K x K part of a layer, and the 1x1 kernels of the other groups in the same
// pass.
//
// A tile of 4x4 outputs takes 6x6 inputs: V = B^T d B, one product a group for each of the 36 points, Y = A^T Q A. The
// centre taps of a group's own channels go with its 3x3 kernels; the 1x1 product runs over the other channels only.
#pragma once

#include "channels.h"
#include "winograd_points.h"
#include "winograd_transforms.h"

namespace hetconv {
namespace HETCONV_ISA {

template <int kOut>
class Winograd : public Packed {
  static constexpr int kIn = kOut + 2, kPoints = kIn * kIn;
  using T = Transforms<kOut>;

 public:
  Winograd(const LayerShape& shape, const Weights& weights) : s_(shape), bias_(shape.out_channels + 2 * kWidth) {
    m_ = s_.in_channels / s_.part, n_ = s_.out_channels / s_.part;
    if (weights.bias) std::copy_n(weights.bias, s_.out_channels, bias_.data());
    low_ = weights.low, high_ = weights.high;
    pointwise_ = weights.w && s_.part > 1;
    // Groups that are transformed together: enough to fill a vector.
    groups_ = 1;
    while (groups_ < s_.part && (s_.part % groups_ || groups_ * std::min(m_, n_) < kWidth)) groups_++;
    pack(weights);
  }

  size_t items(const Run& run) const override { return blocks(run) * (s_.part / groups_); }

  size_t scratch_bytes(const Run& run) const override {
    const size_t size = block_tiles(run);
    return sizeof(float) * kPoints * size * kWidth * (in_vectors_ + out_vectors_) +
           sizeof(void*) * 3 * kOut * kOut * size;
  }

  void item(const Run& run, size_t i, void* scratch) const override {
    const size_t chunks = s_.part / groups_;
    const int chunk = static_cast<int>(i % chunks);
    Block b{};
    b.size = static_cast<int>(block_tiles(run));
    b.across = (run.out_width + kOut - 1) / kOut, b.down = (run.out_height + kOut - 1) / kOut;
    b.begin = static_cast<int64_t>(i / chunks) * b.size;
    b.count = static_cast<int>(std::min<int64_t>(b.size, run.batch * b.across * b.down - b.begin));
    b.v = static_cast<float*>(scratch);
    b.q = b.v + static_cast<size_t>(kPoints) * b.size * kWidth * in_vectors_;
    b.pointers = reinterpret_cast<const float**>(b.q + static_cast<size_t>(kPoints) * b.size * kWidth * out_vectors_);
    for (int t = 0; t < b.count; t++) transform_input(run, b, t, chunk);
    multiply_points(b, chunk);
    for (int t = 0; t < b.count; t++) transform_output(run, b, t, chunk);
    if (pointwise_) add_pointwise(run, b, chunk);
  }

  size_t weight_bytes() const override { return (u_.size() + w_.size()) * sizeof(float); }

 private:
  struct Block {
    int64_t begin;  // first tile
    int count, size;
    int64_t across, down;  // tiles of an image
    float* v;              // [point][vector of input channels][tile][kWidth]
    float* q;              // [point][vector of output channels][tile][kWidth]
    const float** pointers;
  };
  struct Place {
    int64_t image, y, x;  // of a tile's first output
  };

  Place place(const Block& b, int t) const {
    const int64_t i = b.begin + t, image = i / (b.across * b.down);
    return {image, i / b.across % b.down * kOut, i % b.across * kOut};
  }

  int64_t block_tiles(const Run& run) const {
    const int64_t tiles = run.batch * ((run.out_width + kOut - 1) / kOut) * ((run.out_height + kOut - 1) / kOut);
    const int64_t bytes = 4ll * kPoints * groups_ * (m_ + n_) + 4ll * kOut * kOut * s_.in_channels;
    const int64_t block = std::max<int64_t>(kBlockBytes / bytes / kRows[1], 1) * kRows[1];
    const int64_t count = (tiles + block - 1) / block;
    return std::max<int64_t>(1, (tiles + count - 1) / std::max<int64_t>(count, 1));
  }
  size_t blocks(const Run& run) const {
    const int64_t tiles = run.batch * ((run.out_width + kOut - 1) / kOut) * ((run.out_height + kOut - 1) / kOut);
    const int64_t block = block_tiles(run);
    return (tiles + block - 1) / block;
  }

  void transform_input(const Run& run, const Block& b, int t, int chunk) const {
    const Place at = place(b, t);
    const int channels = groups_ * m_, m = s_.in_channels;
    const int64_t y = at.y - s_.pads[0], x = at.x - s_.pads[1];
    const float* image = run.x + at.image * run.height * run.width * m + chunk * channels;
    const size_t vector = static_cast<size_t>(b.size) * kWidth, point = vector * in_vectors_;
    float* v = b.v + static_cast<size_t>(t) * kWidth;
    if (y >= 0 && x >= 0 && y + kIn <= run.height && x + kIn <= run.width) {
      const float* first = image + (y * run.width + x) * m;
      int c = 0;
      for (; c + kWidth <= channels; c += kWidth, v += vector) {
        transform_input_at(first + c, run.width * m, m, v, point);
      }
      if (c == channels) return;
      transform_border(image + c, y, x, run, channels - c, v, point);
      return;
    }
    for (int c = 0; c < channels; c += kWidth, v += vector) {
      transform_border(image + c, y, x, run, std::min(kWidth, channels - c), v, point);
    }
  }

  // A tile that reaches over the edge, or a vector that reaches over the channels: from a copy with zeros.
  void transform_border(const float* image, int64_t y, int64_t x, const Run& run, int left, float* v,
                        size_t point) const {
    float copy[kPoints * kWidth];
    for (int i = 0; i < kPoints; i++) {
      const int64_t row = y + i / kIn, column = x + i % kIn;
      const bool inside = row >= 0 && row < run.height && column >= 0 && column < run.width;
      const float* from = image + (row * run.width + column) * s_.in_channels;
      store(copy + i * kWidth, !inside ? V{} : left == kWidth ? load(from) : load_part(from, left));
    }
    transform_input_at(copy, kIn * kWidth, kWidth, v, point);
  }

  static HETCONV_INLINE void transform_input_at(const float* from, int64_t row, int64_t column, float* v,
                                                size_t point) {
    V t[kIn][kIn];
#pragma GCC unroll 6
    for (int r = 0; r < kIn; r++) {
      V d[kIn];
#pragma GCC unroll 6
      for (int k = 0; k < kIn; k++) d[k] = load(from + r * row + k * column);
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
    const size_t tiles = products_.tiles.size() / (s_.part / groups_), vector = static_cast<size_t>(b.size) * kWidth;
    for (size_t t = 0; t < tiles; t++) {
      const ChannelTile& tile = products_.tiles[chunk * tiles + t];
      const std::vector<Piece>& pieces = pieces_[t];
      const int most = kRows[tile.vectors - 1], steps = (b.count + most - 1) / most;
      const float* u = u_.data() + kPoints * tile.weight;
      float* q = b.q + out_vector_[t] * vector;
      for (int k = 0; k < kPoints; k++, u += point_size(tile)) {
        const float* v = b.v + k * vector * in_vectors_;
        for (int step = 0; step < steps; step++) {
          const int i = b.count * step / steps, rows = b.count * (step + 1) / steps - i;
          const PointFunction function = tile.vectors == 2 ? point_tile_of<2>(rows) : point_tile_of<1>(rows);
          function(v + i * kWidth, pieces.data(), static_cast<int>(pieces.size()), u,
                   q + k * vector * out_vectors_ + i * kWidth, vector);
        }
      }
    }
  }

  // A segment's channels, cut where a vector of them ends.
  static std::vector<Piece> cut_pieces(const Segment& s) {
    std::vector<Piece> pieces;
    for (int c = s.channel; c < s.channel + s.count;) {
      const int lane = c % kWidth, length = std::min(kWidth - lane, s.channel + s.count - c);
      pieces.push_back({c / kWidth, lane, length});
      c += length;
    }
    return pieces;
  }

  void transform_output(const Run& run, const Block& b, int t, int chunk) const {
    const Place at = place(b, t);
    const int down = static_cast<int>(std::min<int64_t>(kOut, run.out_height - at.y));
    const int across = static_cast<int>(std::min<int64_t>(kOut, run.out_width - at.x));
    const size_t tiles = products_.tiles.size() / (s_.part / groups_), vector = static_cast<size_t>(b.size) * kWidth;
    const int64_t offset = ((at.image * run.out_height + at.y) * run.out_width + at.x) * s_.out_channels;
    for (size_t i = 0; i < tiles; i++) {
      const ChannelTile& tile = products_.tiles[chunk * tiles + i];
      for (int j = 0; j < tile.vectors; j++) {
        const float* q = b.q + (out_vector_[i] + j) * vector + static_cast<size_t>(t) * kWidth;
        const int channel = tile.first + j * kWidth, left = std::min(kWidth, tile.first + tile.width - channel);
        transform_output_at(run, q, vector * out_vectors_, offset + channel, left, down, across, channel);
      }
    }
  }

  HETCONV_INLINE void transform_output_at(const Run& run, const float* q, size_t point, int64_t offset, int left,
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
#pragma GCC unroll 4
    for (int r = 0; r < kOut; r++) {
      if (r >= down) break;
      V o[kOut];
      T::output(t[r], o);
#pragma GCC unroll 4
      for (int k = 0; k < kOut; k++) {
        if (k >= across) break;
        const int64_t place = offset + (r * run.out_width + k) * s_.out_channels;
        V y = o[k];
        if (!pointwise_) {
          y += bias;
          if (run.residual) y += left == kWidth ? load(run.residual + place) : load_part(run.residual + place, left);
          y = clamp(y, low, high);
        }
        if (left == kWidth)
          store(run.y + place, y);
        else
          store_part(run.y + place, y, left);
      }
    }
  }

  void add_pointwise(const Run& run, const Block& b, int chunk) const {
    const float** in = b.pointers;
    float** out = const_cast<float**>(in + static_cast<size_t>(kOut) * kOut * b.size);
    const float** residual = const_cast<const float**>(out + static_cast<size_t>(kOut) * kOut * b.size);
    const size_t tiles = pointwise_tiles_.tiles.size() / (s_.part / groups_);
    int count = 0;
    for (int t = 0; t < b.count; t++) {
      const Place at = place(b, t);
      for (int64_t y = at.y; y < std::min(at.y + kOut, run.out_height); y++) {
        for (int64_t x = at.x; x < std::min(at.x + kOut, run.out_width); x++, count++) {
          in[count] =
              run.x + ((at.image * run.height + y + 1 - s_.pads[0]) * run.width + x + 1 - s_.pads[1]) * s_.in_channels;
          const int64_t offset = ((at.image * run.out_height + y) * run.out_width + x) * s_.out_channels;
          out[count] = run.y + offset;
          residual[count] = run.residual ? run.residual + offset : nullptr;
        }
      }
    }
    int before = 0;
    for (size_t t = 0; t < tiles; t++) {
      const ChannelTile& tile = pointwise_tiles_.tiles[chunk * tiles + t];
      const int most = kRows[tile.vectors - 1], steps = (count + most - 1) / most;
      for (int i = 0; i < count; i++) {
        out[i] += tile.first - before;
        if (run.residual) residual[i] += tile.first - before;
      }
      before = tile.first;
      const Epilogue epilogue{bias_.data() + tile.first, splat(low_), splat(high_), true};
      for (int step = 0; step < steps; step++) {
        const int i = static_cast<int>(int64_t(count) * step / steps);
        const int rows = static_cast<int>(int64_t(count) * (step + 1) / steps) - i;
        const Rows r{in + i, 0, out + i, run.residual ? residual + i : nullptr, true};
        const TileFunction function = tile.vectors == 2 ? tile_of<2>(rows) : tile_of<1>(rows);
        function(pointwise_tiles_.segments.data() + tile.segment, tile.plain, tile.total, nullptr,
                 w_.data() + tile.weight, r, epilogue, tile.width);
      }
    }
  }

  // Floats of one point of a tile's stream.
  size_t point_size(const ChannelTile& tile) const {
    return static_cast<size_t>(products_.segments[tile.segment].count) * tile.vectors * kWidth;
  }

  void pack(const Weights& weights) {
    const int in_chunk = groups_ * m_;
    auto own = [&](int out, int in) { return in / m_ == out / n_; };
    auto pointwise = [&](int out, int in) {
      return own(out, in) ? 0.0f : weights.w[static_cast<size_t>(out) * s_.in_channels + in];
    };
    auto add_tile = [&](int first, int width) {
      const int group = first / n_, last = (first + width - 1) / n_, begin = group * m_, end = (last + 1) * m_;
      products_.add(first, width);
      // Offsets are kept for one point; a tile's 36 points follow each other.
      products_.add_segment(0, begin, end - begin, [](int, int) { return 0.0f; });
      products_.segments.back().channel = begin % in_chunk;
      if (!pointwise_) return;
      pointwise_tiles_.add(first, width);
      if (group == last) {
        pointwise_tiles_.add_segment(0, 0, begin, pointwise);
        pointwise_tiles_.add_segment(0, end, s_.in_channels - end, pointwise);
      } else {
        pointwise_tiles_.add_segment(0, 0, s_.in_channels, pointwise);
      }
    };
    for (int chunk = 0; chunk < s_.part / groups_; chunk++) {
      const int begin = chunk * groups_ * n_, end = begin + groups_ * n_;
      if (n_ >= kWidth) {
        for (int n = begin; n < end; n += n_) cut(n, n + n_, add_tile);
      } else {
        const int width = std::max(1, kWidth / n_) * n_;
        for (int n = begin; n < end; n += width) add_tile(n, std::min(width, end - n));
      }
    }
    in_vectors_ = (in_chunk + kWidth - 1) / kWidth;
    out_vectors_ = 0;
    for (size_t t = 0; t < products_.tiles.size() / (s_.part / groups_); t++) {
      pieces_.push_back(cut_pieces(products_.segments[products_.tiles[t].segment]));
      out_vector_.push_back(out_vectors_);
      out_vectors_ += products_.tiles[t].vectors;
    }
    u_ = Buffer(products_.stream.size() * kPoints);
    std::vector<float>().swap(products_.stream);
    for (const ChannelTile& t : products_.tiles) transform_kernels(weights, t);
    w_ = Buffer(pointwise_tiles_.stream.size());
    std::copy(pointwise_tiles_.stream.begin(), pointwise_tiles_.stream.end(), w_.data());
    std::vector<float>().swap(pointwise_tiles_.stream);
  }

  // U = G k G^T of one 3x3 kernel, in double: it is done once.
  static void transform_kernel(const float* k, float centre, double (&u)[kPoints]) {
    double t[kIn][3];
    for (int i = 0; i < kIn; i++) {
      for (int q = 0; q < 3; q++) {
        t[i][q] = 0;
        for (int r = 0; r < 3; r++)
          t[i][q] += T::kernel[i][r] * (k[3 * r + q] + (r == 1 && q == 1 ? double(centre) : 0));
      }
    }
    for (int i = 0; i < kIn; i++) {
      for (int j = 0; j < kIn; j++) {
        u[i * kIn + j] = t[i][0] * T::kernel[j][0] + t[i][1] * T::kernel[j][1] + t[i][2] * T::kernel[j][2];
      }
    }
  }

  void transform_kernels(const Weights& weights, const ChannelTile& t) {
    const int lanes = t.vectors * kWidth, first_in = t.first / n_ * m_;
    const int count = products_.segments[t.segment].count;
    float* to = u_.data() + kPoints * t.weight;
    for (int j = 0; j < t.width; j++) {
      const int out = t.first + j;
      for (int c = 0; c < count; c++) {
        const int in = first_in + c;
        if (in / m_ != out / n_) continue;
        double u[kPoints];
        const float centre = weights.w ? weights.w[static_cast<size_t>(out) * s_.in_channels + in] : 0.0f;
        transform_kernel(weights.w_kxk + (static_cast<size_t>(out) * m_ + in % m_) * 9, centre, u);
        for (int k = 0; k < kPoints; k++) to[k * point_size(t) + c * lanes + j] = static_cast<float>(u[k]);
      }
    }
  }

  template <int NV>
  static PointFunction point_tile_of(int rows) {
    return by_rows<NV, PointFunction>(rows, [](auto mr) -> PointFunction { return point_tile<mr.value, NV>; });
  }

  static constexpr int64_t kBlockBytes = 256 << 10;

  LayerShape s_;
  int m_, n_, groups_;
  int in_vectors_, out_vectors_;  // of a chunk
  // Of each tile of a chunk, all chunks alike: its first vector, and its input channels.
  std::vector<size_t> out_vector_;
  std::vector<std::vector<Piece>> pieces_;
  bool pointwise_;
  ChannelTiles products_, pointwise_tiles_;
  Buffer u_, w_, bias_;
  float low_, high_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
