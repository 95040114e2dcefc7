// The weights of a layer as Winograd's algorithm reads them, packed once.
#pragma once

#include "channels.h"
#include "weight_view.h"
#include "winograd_points.h"
#include "winograd_transforms.h"

namespace hetconv {
namespace HETCONV_ISA {

// Groups are taken together in chunks, all alike: one chunk's channels are transformed and multiplied in one go.
template <int kOut>
class WinogradWeights {
 public:
  static constexpr int kIn = kOut + 2, kPoints = kIn * kIn;

  WinogradWeights(const LayerShape& shape, const Weights& weights) : s_(shape) {
    m_ = s_.in_channels / s_.part, n_ = s_.out_channels / s_.part;
    pointwise = weights.w && s_.part > 1;
    // Enough groups to fill a vector; two where 1x1 kernels are to come, so that their register tile is a full one.
    const int lanes = pointwise && n_ <= kWidth && s_.out_channels >= 2 * kWidth ? 2 * kWidth : kWidth;
    int groups = 1;
    while (groups < s_.part && (s_.part % groups || groups * std::min(m_, n_) < lanes)) groups++;
    chunks = s_.part / groups;
    in_channels = groups * m_, out_channels = groups * n_;
    add_products();
    if (pointwise) add_pointwise();
  }

  // The weights of one tile.
  size_t fills() const { return products.tiles.size() + others.tiles.size(); }
  void fill(const Weights& weights, size_t i) {
    if (i < products.tiles.size()) {
      transform_kernels(weights, products.tiles[i]);
    } else {
      fill_pointwise(weights, others.tiles[i - products.tiles.size()]);
    }
  }

  size_t bytes() const { return (u.size() + w.size()) * sizeof(float); }

  // Floats of one point of a tile's weights.
  size_t point_size(const ChannelTile& tile) const {
    return static_cast<size_t>(products.segments[tile.segment].count) * tile.vectors * kWidth;
  }

  bool pointwise;  // there are 1x1 kernels outside the groups
  int chunks;      // each of:
  int in_channels, out_channels;
  int in_vectors, out_vectors;  // of points
  int product_tiles, other_tiles;
  // The products of the groups' own channels. Offsets are of one point; a tile's points follow each other in `u`.
  ChannelTiles products;
  Buffer u;
  // Of each tile of a chunk: its first vector, and its input channels.
  std::vector<size_t> out_vector;
  std::vector<std::vector<Piece>> pieces;
  // The 1x1 kernels of the other groups' channels.
  ChannelTiles others;
  Buffer w;

 private:
  void add_products() {
    auto add_tile = [&](int first, int width) {
      const int begin = first / n_ * m_, end = ((first + width - 1) / n_ + 1) * m_;
      products.add(first, width);
      // Lanes can be used where the input channels of all groups of a tile lie within one vector.
      const int channel = begin % in_channels, lane = channel % kWidth;
      if (n_ < kWidth && width == kWidth && lane + end - begin <= kWidth) {
        products.add_segment(0, begin, m_);
        products.segments.back().vector = Segment::kLanes;
        for (int j = 0; j < kWidth; j++) products.tiles.back().lane[j] = (first + j) / n_ * m_ - begin + lane;
      } else {
        products.add_segment(0, begin, end - begin);
      }
      products.segments.back().channel = channel;
    };
    for (int begin = 0; begin < s_.out_channels; begin += out_channels) {
      const int end = begin + out_channels;
      if (n_ >= kWidth) {
        for (int n = begin; n < end; n += n_) cut(n, n + n_, add_tile);
      } else {
        const int width = kWidth / n_ * n_;
        for (int n = begin; n < end; n += width) add_tile(n, std::min(width, end - n));
      }
    }
    product_tiles = static_cast<int>(products.tiles.size()) / chunks;
    in_vectors = (in_channels + kWidth - 1) / kWidth, out_vectors = 0;
    for (int t = 0; t < product_tiles; t++) {
      pieces.push_back(cut_pieces(products.segments[products.tiles[t].segment]));
      out_vector.push_back(out_vectors);
      out_vectors += products.tiles[t].vectors;
    }
    u = Buffer(products.floats * kPoints);
  }

  void add_pointwise() {
    auto add_tile = [&](int first, int width) {
      const int begin = first / n_ * m_, last = first + width - 1, end = (last / n_ + 1) * m_;
      others.add(first, width);
      others.add_segment(0, 0, begin);
      if (n_ == kWidth && width == 2 * kWidth) {  // two groups, each of which needs the other's channels
        others.add_segment(0, begin, m_, 1);
        others.add_segment(0, begin + m_, m_, 0);
      } else if (end - begin > m_) {
        others.add_segment(0, begin, end - begin);
      }
      others.add_segment(0, end, s_.in_channels - end);
    };
    for (int begin = 0; begin < s_.out_channels; begin += out_channels) {
      const int end = begin + out_channels;
      if (n_ > kWidth) {
        for (int n = begin; n < end; n += n_) cut(n, n + n_, add_tile);
      } else {
        const int width = 2 * kWidth / n_ * n_;
        for (int n = begin; n < end; n += width) add_tile(n, std::min(width, end - n));
      }
    }
    other_tiles = static_cast<int>(others.tiles.size()) / chunks;
    w = Buffer(others.floats);
  }

  void fill_pointwise(const Weights& weights, const ChannelTile& t) {
    float* to = w.data() + t.weight;
    for (int i = t.segment; i < t.segment + t.total; i++) {
      const Segment& s = others.segments[i];
      const int lanes = ChannelTiles::lanes(t, s), skip = std::max(s.vector, 0) * kWidth;
      const int width = std::min(lanes, t.width - skip);
      pointwise_view(s_, weights, t.first + skip, s.channel).copy(to, lanes, width, s.count);
      for (int j = 0; j < width; j++) {  // those of its own group are in the products
        const int own = (t.first + skip + j) / n_ * m_ - s.channel;
        for (int c = std::max(own, 0); c < std::min(own + m_, s.count); c++) to[static_cast<size_t>(c) * lanes + j] = 0;
      }
      to += static_cast<size_t>(s.count) * lanes;
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

  // U = G k G^T of one 3x3 kernel a lane, in double, stored `point` floats apart.
  static void transform_lanes(const double (&k)[9][kWidth], float* to, size_t point) {
    constexpr auto& g = Transforms<kOut>::kernel;
    double t[kIn][3][kWidth];
    for (int i = 0; i < kIn; i++) {
      for (int q = 0; q < 3; q++) {
        for (int j = 0; j < kWidth; j++) t[i][q][j] = g[i][0] * k[q][j] + g[i][1] * k[3 + q][j] + g[i][2] * k[6 + q][j];
      }
    }
    for (int i = 0; i < kIn; i++) {
      for (int l = 0; l < kIn; l++, to += point) {
        for (int j = 0; j < kWidth; j++) {
          to[j] = static_cast<float>(t[i][0][j] * g[l][0] + t[i][1][j] * g[l][1] + t[i][2][j] * g[l][2]);
        }
      }
    }
  }

  void transform_kernels(const Weights& weights, const ChannelTile& t) {
    for (int v = 0; v < t.vectors; v++) transform_vector(weights, t, v * kWidth);
  }

  // The lanes from `skip` on of a tile, zero for channels of another group.
  void transform_vector(const Weights& weights, const ChannelTile& t, int skip) {
    const Segment& s = products.segments[t.segment];
    const int lanes = t.vectors * kWidth, width = std::min(kWidth, t.width - skip);
    WeightView own[kWidth], centre[kWidth];
    ptrdiff_t place[9];  // of a tap, from the first one on
    int first[kWidth];   // where in the segment a lane's group begins
    for (int tap = 0; tap < 9; tap++) {
      place[tap] = own_view(s_, weights, t.first, tap).at - own_view(s_, weights, t.first, 0).at;
    }
    for (int j = 0; j < width; j++) {
      const int out = t.first + skip + j;
      first[j] = s.vector == Segment::kLanes ? 0 : (out / n_ - t.first / n_) * m_;
      own[j] = own_view(s_, weights, out, 0);
      if (weights.w) centre[j] = pointwise_view(s_, weights, out, out / n_ * m_);
    }
    float* to = u.data() + kPoints * t.weight + skip;
    for (int c = 0; c < s.count; c++, to += lanes) {
      double k[9][kWidth] = {};
      for (int j = 0; j < width; j++) {
        const int in = c - first[j];
        if (in < 0 || in >= m_) continue;
        const float* from = own[j].at + in * own[j].in;
        for (int tap = 0; tap < 9; tap++) k[tap][j] = from[place[tap]];
        if (weights.hollow) k[4][j] = 0;
        if (weights.w) k[4][j] += centre[j].at[in * centre[j].in];
      }
      transform_lanes(k, to, point_size(t));
    }
  }

  LayerShape s_;
  int m_, n_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
