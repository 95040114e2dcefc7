// Which register tiles the gradient to the weights is made of: for every vector or two of output channels, input
// channels at one tap, or at all taps of a group at once.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "layer.h"
#include "outer_around.h"
#include "winograd_gradient.h"

namespace hetconv {
namespace HETCONV_ISA {

struct GradientTile {
  // One tap; all but the centre; all, at the points of Winograd's algorithm. Sums are [tap or point][row][lane].
  enum Kind { kTap, kAround, kPoints } kind;
  int tap;  // of kTap
  int out, vectors, channel, rows;
  int begin, end;  // lanes that are this tile's to write
  bool lanes;      // row i is the i-th channel of each lane's own group
  std::array<int32_t, kWidth> lane;
  OuterFunction function;
  size_t sums;

  size_t set_floats() const { return static_cast<size_t>(rows) * vectors * kWidth; }
  size_t floats() const { return set_floats() * (kind == kAround ? kAroundTaps : kind == kPoints ? kTilePoints : 1); }
};

class GradientTiles {
 public:
  using Tile = GradientTile;

  GradientTiles(const LayerShape& shape, const Sizes& sizes)
      : s_(shape),
        m_(shape.in_channels / shape.part),
        n_(shape.out_channels / shape.part),
        winograd_(winograd_is_less(sizes)),
        alone_(taps()) {
    if (winograd_) {
      add_group_tiles();
    } else {
      add_tap_tiles();
    }
    // Those that read the same gradients follow each other.
    std::stable_sort(tiles_.begin(), tiles_.end(), [](const Tile& a, const Tile& b) { return a.out < b.out; });
  }

  size_t size() const { return tiles_.size(); }
  const Tile& operator[](size_t i) const { return tiles_[i]; }
  size_t floats() const { return floats_; }
  bool winograd() const { return winograd_; }        // whether there are tiles of points
  bool around() const { return around_; }            // whether there are tiles of all taps but the centre
  bool alone(int tap) const { return alone_[tap]; }  // whether there are tiles of this tap

 private:
  int taps() const { return s_.kernel[0] * s_.kernel[1]; }

  void add(Tile tile, int channels) {
    const int most = kRows[tile.vectors - 1], steps = (channels + most - 1) / most, from = tile.channel;
    for (int step = 0; step < steps; step++) {
      const int i = channels * step / steps;
      tile.channel = from + i, tile.rows = channels * (step + 1) / steps - i;
      if (s_.out_channels < kWidth) {
        tile.function = outer_part_of(tile.rows);
      } else {
        tile.function = tile.vectors == 2 ? outer_of<2>(tile.rows) : outer_of<1>(tile.rows);
      }
      push(tile);
    }
  }

  void push(Tile& tile) {
    tile.sums = floats_;
    floats_ += tile.floats();
    if (tile.kind == Tile::kTap) alone_[tile.tap] = true;
    if (tile.kind == Tile::kAround) around_ = true;
    tiles_.push_back(tile);
  }

  // Cuts output channels [begin, end) into tiles of up to `most` vectors. A last one that is not full reaches back over
  // the one before.
  template <class Use>
  static void cut_vectors(int begin, int end, int most, Use use) {
    for (int i = begin; i < end;) {
      const int vectors = end - i > kWidth && end - begin >= 2 * kWidth ? most : 1;
      const int width = vectors * kWidth, out = std::max(std::min(i, end - width), 0);
      use(Tile{Tile::kTap, 0, out, vectors, 0, 0, i - out, std::min(end - out, width), false, {}, nullptr, 0});
      i = out + width;
    }
  }

  // The points of each group, and its centre with the channels before and behind the group.
  void add_group_tiles() {
    for (int g = 0; g < s_.part; g++) {
      cut_vectors(g * n_, (g + 1) * n_, 2, [&](Tile tile) {
        tile.tap = taps() / 2;
        if (g) add(tile, g * m_);
        tile.channel = (g + 1) * m_;
        if (g + 1 < s_.part) add(tile, s_.in_channels - tile.channel);
        tile.kind = Tile::kPoints, tile.channel = g * m_;
        add(tile, m_);
      });
    }
  }

  void add_tap_tiles() {
    cut_vectors(0, s_.out_channels, 2, [&](Tile tile) {
      tile.tap = taps() / 2;
      add(tile, s_.in_channels);
    });
    for (int tap = 0; tap < taps(); tap++) {
      if (tap == taps() / 2) continue;
      auto use = [&](Tile tile) {
        tile.tap = tap;
        add_group_tile(tile);
      };
      if (n_ < kWidth) {
        cut_vectors(0, s_.out_channels, 1, use);
      } else {
        for (int g = 0; g < s_.part; g++) cut_vectors(g * n_, (g + 1) * n_, 2, use);
      }
    }
  }

  void add_group_tile(Tile tile) {
    const int group = (tile.out + tile.begin) / n_, last = (tile.out + tile.end - 1) / n_;
    const int first = tile.out / n_ * m_, span = (last + 1) * m_ - first;
    if (group != last && tile.vectors == 1 && span <= kWidth && s_.in_channels >= kWidth && s_.out_channels >= kWidth) {
      tile.lanes = true, tile.rows = m_, tile.function = outer_lanes_of(m_);
      tile.channel = std::min(first, s_.in_channels - kWidth);
      for (int j = 0; j < kWidth; j++) tile.lane[j] = std::min((tile.out + j) / n_, last) * m_ - tile.channel;
      if (is_plain()) {
        if (tile.tap) return;  // the first tap's tile is that of all
        tile.kind = Tile::kAround;
      }
      push(tile);
    } else {  // all channels of its groups; those that are another group's are not written
      tile.channel = group * m_;
      add(tile, (last - group + 1) * m_);
    }
  }

  // 3x3, without strides.
  bool is_plain() const {
    for (int i = 0; i < 2; i++) {
      if (s_.kernel[i] != 3 || s_.stride[i] != 1 || s_.dilation[i] != 1) return false;
    }
    return true;
  }

  // Whether Winograd's algorithm takes fewer products, for groups that fill vectors; not where a row of tiles takes
  // more memory than a cache has. Padding is that of HetConv layers, 'same'.
  bool winograd_is_less(const Sizes& sizes) const {
    if (!is_plain() || m_ < kWidth || n_ < kWidth) return false;
    const int64_t across = (sizes.out_width + 1) / kTileSide, down = (sizes.out_height + 1) / kTileSide;
    if (across > kMostTiles * 512 / (m_ + 2 * kWidth)) return false;
    // Rows and columns that the three taps see: all, and one less beside the centre on either side.
    const double rows = 3.0 * sizes.out_height - 2, columns = 3.0 * sizes.out_width - 2, pairs = double(m_) * n_;
    return double(down) * across * (kTilePoints * pairs + kTransform * (m_ + n_)) < rows * columns * pairs;
  }

  // Products that take as long as the transforms of one channel of a tile, by `perf` at 64 channels.
  static constexpr double kTransform = 75;
  // Side by side, of 512 channels: 8 MiB of points.
  static constexpr int64_t kMostTiles = 256;

  const LayerShape& s_;
  int m_, n_;
  bool winograd_, around_ = false;
  std::vector<Tile> tiles_;
  std::vector<char> alone_;
  size_t floats_ = 0;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
