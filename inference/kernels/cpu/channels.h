// How output channels are cut into register tiles, and the weights of each lie in the stream that it reads.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "buffer.h"
#include "layer.h"
#include "tile.h"

namespace hetconv {
namespace HETCONV_ISA {

// Some output channels, side by side, of one group or (with lanes, or padded with zeros) of several.
struct ChannelTile {
  int first, width;  // output channels
  int vectors;
  int segment, total;  // in `segments`: the first, and how many
  int32_t lane[kWidth];
  size_t weight;  // offset of its stream
};

struct ChannelTiles {
  std::vector<ChannelTile> tiles;
  std::vector<Segment> segments;
  size_t floats = 0;  // of all streams

  void add(int first, int width) {
    ChannelTile t{};
    t.first = first, t.width = width, t.vectors = (width + kWidth - 1) / kWidth;
    t.segment = static_cast<int>(segments.size());
    t.weight = floats;
    tiles.push_back(t);
  }

  // A segment of the last tile.
  void add_segment(int tap, int channel, int count, int vector = Segment::kAll) {
    if (count <= 0) return;
    segments.push_back({tap, channel, count, vector});
    tiles.back().total++;
    floats += static_cast<size_t>(count) * lanes(tiles.back(), segments.back());
  }

  // Floats of one input channel in the stream.
  static int lanes(const ChannelTile& t, const Segment& s) { return s.vector >= 0 ? kWidth : t.vectors * kWidth; }
};

// Cuts [begin, end) into tiles of two vectors, and one of what is left.
template <class Use>
static void cut(int begin, int end, Use use) {
  for (int n = begin; n < end;) {
    const int width = std::min(2 * kWidth, end - n);
    use(n, width);
    n += width;
  }
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
