// The weights of a direct layer as its tiles read them: where each goes, then copied there.
#pragma once

#include "channels.h"
#include "weight_view.h"

namespace hetconv {
namespace HETCONV_ISA {

class DirectWeights {
 public:
  // `merged`: a row of taps, which lies side by side in memory, is one segment.
  DirectWeights(const LayerShape& shape, const Weights& weights, bool merged)
      : s_(shape), merged_(merged), m_(shape.in_channels / shape.part), n_(shape.out_channels / shape.part) {
    centre_ = weights.w ? taps() / 2 : -1;
    if (n_ >= kWidth) {
      for (int g = 0; g < s_.part; g++) cut(g * n_, (g + 1) * n_, [&](int first, int width) { add(first, width); });
    } else {  // several groups a vector
      const int width = std::max(1, kWidth / n_) * n_;
      for (int first = 0; first < s_.out_channels; first += width) add(first, std::min(width, s_.out_channels - first));
    }
    stream = Buffer(channels.floats);
  }

  // One tile's stream.
  void fill(const Weights& weights, size_t tile) {
    const ChannelTile& t = channels.tiles[tile];
    float* to = stream.data() + t.weight;
    const int lanes = t.vectors * kWidth;
    for (int i = t.segment; i < t.segment + t.total; i++) {
      const Segment& s = channels.segments[i];
      if (merged_) {
        fill_row(weights, t, s, to);
      } else if (s.tap == centre_) {
        pointwise_view(s_, weights, t.first, 0).copy(to, lanes, t.width, s.count);
        if (!weights.hollow) add_centre(weights, t, to);
      } else {
        fill_groups(weights, t, s, to);
      }
      to += static_cast<size_t>(s.count) * lanes;
    }
  }

  // Rows of the table of pointers.
  int taps() const { return merged_ ? s_.kernel[0] : s_.kernel[0] * s_.kernel[1]; }

  ChannelTiles channels;
  Buffer stream;

 private:
  void add(int first, int width) {
    channels.add(first, width);
    ChannelTile& t = channels.tiles.back();
    if (merged_) {
      for (int ky = 0; ky < taps(); ky++) channels.add_segment(ky, 0, s_.kernel[1] * s_.in_channels);
      return;
    }
    if (centre_ >= 0) channels.add_segment(centre_, 0, s_.in_channels);
    const int group = first / n_, last = (first + width - 1) / n_;
    // The load must not reach past the pixel's channels, which may be the last that there are.
    const int start = std::min(group * m_, s_.in_channels - kWidth);
    const bool lanes = group != last && use_lanes(first, width);
    for (int j = 0; lanes && j < kWidth; j++) t.lane[j] = (first + j) / n_ * m_ - start;
    for (int tap = 0; tap < taps(); tap++) {
      if (tap == centre_) continue;
      if (lanes) {
        channels.add_segment(tap, start, m_, Segment::kLanes);
      } else {
        channels.add_segment(tap, group * m_, (last - group + 1) * m_);
      }
    }
  }

  // Lanes can be used where the input channels of all groups of a tile lie within one vector.
  bool use_lanes(int first, int width) const {
    return width == kWidth && first % n_ == 0 && width / n_ * m_ <= kWidth && s_.in_channels >= kWidth;
  }

  // Zero, as the memory is, for channels of another group.
  void fill_groups(const Weights& weights, const ChannelTile& t, const Segment& s, float* to) const {
    const int lanes = t.vectors * kWidth, end = t.first + t.width;
    for (int out = t.first, next; out < end; out = next) {
      next = std::min(end, (out / n_ + 1) * n_);
      const int channel = s.vector == Segment::kLanes ? 0 : out / n_ * m_ - s.channel;
      float* first = to + static_cast<size_t>(channel) * lanes + out - t.first;
      own_view(s_, weights, out, s.tap).copy(first, lanes, next - out, m_);
    }
  }

  void add_centre(const Weights& weights, const ChannelTile& t, float* to) const {
    for (int j = 0; j < t.width; j++) {
      const WeightView from = own_view(s_, weights, t.first + j, centre_);
      float* first = to + static_cast<size_t>((t.first + j) / n_ * m_) * t.vectors * kWidth + j;
      for (int c = 0; c < m_; c++) first[static_cast<size_t>(c) * t.vectors * kWidth] += from.at[c * from.in];
    }
  }

  void fill_row(const Weights& weights, const ChannelTile& t, const Segment& s, float* to) const {
    for (int j = 0; j < t.width; j++) {
      for (int i = 0; i < s.count; i++) {
        const size_t filter = static_cast<size_t>(t.first + j) * s_.in_channels + i % s_.in_channels;
        to[static_cast<size_t>(i) * t.vectors * kWidth + j] =
            weights.w_kxk[(filter * s_.kernel[0] + s.tap) * s_.kernel[1] + i / s_.in_channels];
      }
    }
  }

  LayerShape s_;
  bool merged_;
  int m_, n_, centre_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
