// The weights of a direct layer as its tiles read them: where each goes, then copied there.
#pragma once

#include "channels.h"

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
    stream = Buffer(floats_);
    for (const ChannelTile& t : channels.tiles) fill(weights, t);
  }

  // Rows of the table of pointers.
  int taps() const { return merged_ ? s_.kernel[0] : s_.kernel[0] * s_.kernel[1]; }

  ChannelTiles channels;  // without their stream
  Buffer stream;

 private:
  void add(int first, int width) {
    channels.add(first, width);
    ChannelTile& t = channels.tiles.back();
    t.weight = floats_;
    auto add_segment = [&](int tap, int channel, int count, int vector) {
      channels.segments.push_back({tap, channel, count, vector});
      t.total++;
      floats_ += static_cast<size_t>(count) * t.vectors * kWidth;
    };
    if (merged_) {
      for (int ky = 0; ky < taps(); ky++) add_segment(ky, 0, s_.kernel[1] * s_.in_channels, Segment::kAll);
      return;
    }
    if (centre_ >= 0) add_segment(centre_, 0, s_.in_channels, Segment::kAll);
    const int group = first / n_, last = (first + width - 1) / n_;
    // The load must not reach past the pixel's channels, which may be the last that there are.
    const int start = std::min(group * m_, s_.in_channels - kWidth);
    const bool lanes = group != last && use_lanes(first, width);
    for (int j = 0; lanes && j < kWidth; j++) t.lane[j] = (first + j) / n_ * m_ - start;
    for (int tap = 0; tap < taps(); tap++) {
      if (tap == centre_) continue;
      if (lanes) {
        add_segment(tap, start, m_, Segment::kLanes);
      } else {
        add_segment(tap, group * m_, (last - group + 1) * m_, Segment::kAll);
      }
    }
  }

  // Lanes can be used where the input channels of all groups of a tile lie within one vector.
  bool use_lanes(int first, int width) const {
    return width == kWidth && first % n_ == 0 && width / n_ * m_ <= kWidth && s_.in_channels >= kWidth;
  }

  // Weights as they lie in memory, by output and input channel.
  struct View {
    const float* at;
    size_t out, in;  // from one to the next
  };

  View pointwise(const Weights& weights, int out) const {
    if (weights.transposed) return {weights.w + out, 1, static_cast<size_t>(s_.out_channels)};
    return {weights.w + static_cast<size_t>(out) * s_.in_channels, static_cast<size_t>(s_.in_channels), 1};
  }

  // Of an output channel's own group at one tap; the first input channel is the group's.
  View own(const Weights& weights, int out, int tap) const {
    const size_t taps = s_.kernel[0] * s_.kernel[1], kept = taps - weights.hollow;
    size_t place = weights.transposed ? taps - 1 - tap : tap;
    if (weights.hollow && place > taps / 2) place--;
    if (weights.transposed) {
      const size_t row = static_cast<size_t>(out / n_) * m_ * n_;
      return {weights.w_kxk + (row + out % n_) * kept + place, kept, n_ * kept};
    }
    return {weights.w_kxk + static_cast<size_t>(out) * m_ * kept + place, m_ * kept, kept};
  }

  static void copy(float* to, int lanes, int width, int count, const View& from) {
    if (from.out == 1) {
      for (int c = 0; c < count; c++) std::copy_n(from.at + c * from.in, width, to + static_cast<size_t>(c) * lanes);
      return;
    }
    for (int j = 0; j < width; j++) {
      const float* at = from.at + j * from.out;
      for (int c = 0; c < count; c++) to[static_cast<size_t>(c) * lanes + j] = at[c * from.in];
    }
  }

  void fill(const Weights& weights, const ChannelTile& t) {
    float* to = stream.data() + t.weight;
    const int lanes = t.vectors * kWidth;
    for (int i = t.segment; i < t.segment + t.total; i++) {
      const Segment& s = channels.segments[i];
      if (merged_) {
        fill_row(weights, t, s, to);
      } else if (s.tap == centre_) {
        copy(to, lanes, t.width, s.count, pointwise(weights, t.first));
        if (!weights.hollow) add_centre(weights, t, to);
      } else {
        fill_groups(weights, t, s, to);
      }
      to += static_cast<size_t>(s.count) * lanes;
    }
  }

  // Zero, as the memory is, for channels of another group.
  void fill_groups(const Weights& weights, const ChannelTile& t, const Segment& s, float* to) const {
    const int lanes = t.vectors * kWidth, end = t.first + t.width;
    for (int out = t.first, next; out < end; out = next) {
      next = std::min(end, (out / n_ + 1) * n_);
      const int channel = s.vector == Segment::kLanes ? 0 : out / n_ * m_ - s.channel;
      copy(to + static_cast<size_t>(channel) * lanes + out - t.first, lanes, next - out, m_, own(weights, out, s.tap));
    }
  }

  void add_centre(const Weights& weights, const ChannelTile& t, float* to) const {
    for (int j = 0; j < t.width; j++) {
      const View from = own(weights, t.first + j, centre_);
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
  size_t floats_ = 0;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
