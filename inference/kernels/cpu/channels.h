// How output channels are cut into register tiles, and the weights of each packed as the stream that it reads.
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
  std::vector<float> stream;

  void add(int first, int width) {
    ChannelTile t{};
    t.first = first, t.width = width, t.vectors = (width + kWidth - 1) / kWidth;
    t.segment = static_cast<int>(segments.size());
    t.weight = stream.size();
    tiles.push_back(t);
  }

  // A segment of the last tile; weight(n, c) of output channel n and input channel c.
  template <class Weight>
  void add_segment(int tap, int channel, int count, Weight weight) {
    ChannelTile& t = tiles.back();
    if (count <= 0) return;
    segments.push_back({tap, channel, count, Segment::kAll});
    t.total++;
    for (int c = channel; c < channel + count; c++) {
      for (int j = 0; j < t.vectors * kWidth; j++) {
        stream.push_back(j < t.width ? weight(t.first + j, c) : 0.0f);
      }
    }
  }

  // The same for one of the tile's vectors.
  template <class Weight>
  void add_vector_segment(int tap, int vector, int channel, int count, Weight weight) {
    ChannelTile& t = tiles.back();
    segments.push_back({tap, channel, count, vector});
    t.total++;
    for (int c = channel; c < channel + count; c++) {
      for (int j = vector * kWidth; j < (vector + 1) * kWidth; j++) stream.push_back(weight(t.first + j, c));
    }
  }
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
