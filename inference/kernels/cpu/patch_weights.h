// The weights of a layer as its patches read them, and which channels lie in which set of inputs.
#pragma once

#include <algorithm>
#include <vector>

#include "buffer.h"
#include "patch.h"
#include "weight_view.h"

namespace hetconv {
namespace HETCONV_ISA {

class PatchWeights {
 public:
  // Output channels of whole groups, or a vector of one group's.
  struct Tile {
    int first, width;
    int set;  // the first of its groups' own channels
    int32_t lane[kWidth];
  };

  explicit PatchWeights(const LayerShape& shape)
      : s_(shape), m_(shape.in_channels / shape.part), n_(shape.out_channels / shape.part) {
    groups_ = std::max(1, kWidth / n_);
    set_channels = std::min(m_, std::max(1, kWidth / groups_));
    for (int g = 0; g < s_.part; g += groups_) {
      const int count = std::min(groups_, s_.part - g), set = sets;
      add_sets(g, count);
      for (int first = g * n_; first < (g + count) * n_; first += kWidth) {
        add_tile(first, std::min(n_ < kWidth ? count * n_ : kWidth, (g + count) * n_ - first), set);
        if (n_ < kWidth) break;
      }
    }
    stream = Buffer(tiles.size() * tile_floats());
  }

  // One tile's stream.
  void fill(const Weights& weights, size_t i) {
    const Tile& t = tiles[i];
    float* to = stream.data() + i * tile_floats();
    for (const PatchPiece& piece : pieces) {
      pointwise_view(s_, weights, t.first, piece.channel).copy(to, kWidth, t.width, piece.count);
      if (!weights.hollow) add_centre(weights, t, piece, to);
      to += static_cast<size_t>(piece.count) * kWidth;
    }
    for (int tap = 0; tap < 9; tap++) {
      if (tap == 4) continue;
      for (int j = 0; j < t.width; j++) own_view(s_, weights, t.first + j, tap).copy(to + j, 8 * kWidth, 1, m_);
      to += kWidth;
    }
  }

  PatchTile tile(size_t i) const {
    return {pieces.data(), static_cast<int>(pieces.size()),  tiles[i].set, m_, set_channels,
            tiles[i].lane, stream.data() + i * tile_floats()};
  }

  std::vector<Tile> tiles;
  std::vector<PatchPiece> pieces;  // all input channels, by set
  int sets = 0, set_channels;      // channels of a group in one set
  Buffer stream;

 private:
  size_t tile_floats() const { return (static_cast<size_t>(s_.in_channels) + 8 * m_) * kWidth; }

  // The channels of `count` groups, a few of each in one set.
  void add_sets(int group, int count) {
    for (int c = 0; c < m_; c += set_channels, sets++) {
      for (int g = 0; g < count; g++) {
        PatchPiece piece{sets, (group + g) * m_ + c, g * set_channels, std::min(set_channels, m_ - c)};
        if (g && piece.channel == pieces.back().channel + pieces.back().count) {
          pieces.back().count += piece.count;
        } else {
          pieces.push_back(piece);
        }
      }
    }
  }

  void add_tile(int first, int width, int set) {
    Tile t{first, width, set, {}};
    for (int j = 0; j < width; j++) t.lane[j] = ((first + j) / n_ - first / n_) * set_channels;
    tiles.push_back(t);
  }

  // Where the K x K kernels have a centre.
  void add_centre(const Weights& weights, const Tile& t, const PatchPiece& piece, float* to) const {
    for (int j = 0; j < t.width; j++) {
      const int own = (t.first + j) / n_ * m_ - piece.channel;
      const WeightView from = own_view(s_, weights, t.first + j, 4);
      for (int c = std::max(own, 0); c < std::min(own + m_, piece.count); c++) {
        to[static_cast<size_t>(c) * kWidth + j] += from.at[(c - own) * from.in];
      }
    }
  }

  LayerShape s_;
  int m_, n_, groups_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
