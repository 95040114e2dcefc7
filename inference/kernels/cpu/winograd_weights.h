// The weights of a layer as Winograd's algorithm reads them, packed once.
#pragma once

#include "channels.h"
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
    pack_products(weights);
    if (pointwise) pack_pointwise(weights);
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
  bool own(int out, int in) const { return in / m_ == out / n_; }

  void pack_products(const Weights& weights) {
    auto add_tile = [&](int first, int width) {
      const int begin = first / n_ * m_, end = ((first + width - 1) / n_ + 1) * m_;
      auto unknown = [](int, int) { return 0.0f; };
      products.add(first, width);
      // Lanes can be used where the input channels of all groups of a tile lie within one vector.
      const int channel = begin % in_channels, lane = channel % kWidth;
      if (n_ < kWidth && width == kWidth && lane + end - begin <= kWidth) {
        products.add_segment(0, begin, m_, unknown);
        products.segments.back().vector = Segment::kLanes;
        for (int j = 0; j < kWidth; j++) products.tiles.back().lane[j] = (first + j) / n_ * m_ - begin + lane;
      } else {
        products.add_segment(0, begin, end - begin, unknown);
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
    u = Buffer(products.stream.size() * kPoints);
    std::vector<float>().swap(products.stream);
    for (const ChannelTile& t : products.tiles) transform_kernels(weights, t);
  }

  void pack_pointwise(const Weights& weights) {
    auto pointwise_weight = [&](int out, int in) {
      return own(out, in) ? 0.0f : weights.w[static_cast<size_t>(out) * s_.in_channels + in];
    };
    auto add_tile = [&](int first, int width) {
      const int begin = first / n_ * m_, last = first + width - 1, end = (last / n_ + 1) * m_;
      others.add(first, width);
      others.add_segment(0, 0, begin, pointwise_weight);
      if (n_ == kWidth && width == 2 * kWidth) {  // two groups, each of which needs the other's channels
        others.add_vector_segment(0, 1, begin, m_, pointwise_weight);
        others.add_vector_segment(0, 0, begin + m_, m_, pointwise_weight);
      } else if (end - begin > m_) {
        others.add_segment(0, begin, end - begin, pointwise_weight);
      }
      others.add_segment(0, end, s_.in_channels - end, pointwise_weight);
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
    w = Buffer(others.stream.size());
    std::copy(others.stream.begin(), others.stream.end(), w.data());
    std::vector<float>().swap(others.stream);
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

  // U = G k G^T of one 3x3 kernel, in double: it is done once.
  static void transform_kernel(const float* k, float centre, double (&u)[kPoints]) {
    constexpr auto& g = Transforms<kOut>::kernel;
    double t[kIn][3];
    for (int i = 0; i < kIn; i++) {
      for (int q = 0; q < 3; q++) {
        t[i][q] = 0;
        for (int r = 0; r < 3; r++) t[i][q] += g[i][r] * (k[3 * r + q] + (r == 1 && q == 1 ? double(centre) : 0));
      }
    }
    for (int i = 0; i < kIn; i++) {
      for (int j = 0; j < kIn; j++) u[i * kIn + j] = t[i][0] * g[j][0] + t[i][1] * g[j][1] + t[i][2] * g[j][2];
    }
  }

  void transform_kernels(const Weights& weights, const ChannelTile& t) {
    const int lanes = t.vectors * kWidth;
    const Segment& s = products.segments[t.segment];
    float* to = u.data() + kPoints * t.weight;
    for (int j = 0; j < t.width; j++) {
      const int out = t.first + j;
      for (int c = 0; c < s.count; c++) {
        const int in = (s.vector == Segment::kLanes ? out : t.first) / n_ * m_ + c;
        if (!own(out, in)) continue;
        double points[kPoints];
        const float centre = weights.w ? weights.w[static_cast<size_t>(out) * s_.in_channels + in] : 0.0f;
        transform_kernel(weights.w_kxk + (static_cast<size_t>(out) * m_ + in % m_) * 9, centre, points);
        for (int k = 0; k < kPoints; k++) to[k * point_size(t) + c * lanes + j] = static_cast<float>(points[k]);
      }
    }
  }

  LayerShape s_;
  int m_, n_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
