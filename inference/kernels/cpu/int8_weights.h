// The weights of a quantised layer as its tiles read them: segment, step of four input channels, lane, channel.
#pragma once

#include <vector>

#include "buffer.h"
#include "int8_tile.h"

namespace hetconv {
namespace HETCONV_ISA {

// Some output channels, side by side, of one group or (with lanes, or padded with zeros) of several.
struct Int8ChannelTile {
  int first, width;  // output channels
  int vectors;
  int segment, total;           // in `segments`: the first, and how many
  uint8_t order[kVectorBytes];  // for `shuffle_bytes`
  size_t weight;                // offset of its stream
};

class Int8Stream {
 public:
  // `merged`: a row of taps, which lies side by side in memory, is one segment.
  Int8Stream(const LayerShape& shape, const Int8Weights& weights, bool merged)
      : s_(shape), merged_(merged), m_(shape.in_channels / shape.part), n_(shape.out_channels / shape.part) {
    taps_ = s_.kernel[0] * s_.kernel[1];
    skip_ = weights.w && !has_centre(weights) ? taps_ / 2 : -1;
    if (n_ >= kWidth) {
      for (int g = 0; g < s_.part; g++) cut(g * n_, (g + 1) * n_, weights);
    } else {  // several groups a vector
      const int width = std::max(1, kWidth / n_) * n_;
      for (int first = 0; first < s_.out_channels; first += width) {
        add(first, std::min(width, s_.out_channels - first), weights);
      }
    }
    memory_ = Buffer(bytes_ / sizeof(float));
    for (const Int8ChannelTile& t : tiles) fill(weights, t);
  }

  const int8_t* stream(const Int8ChannelTile& t) const { return data() + t.weight; }
  size_t bytes() const { return bytes_; }
  // How far past a pixel's channels a tile may read.
  int slack() const { return slack_; }

  std::vector<Int8ChannelTile> tiles;
  std::vector<Int8Segment> segments;

 private:
  int8_t* data() const { return reinterpret_cast<int8_t*>(memory_.data()); }

  // A centre of the K x K kernels that is not zero does not fit into the bytes of the 1x1 kernels: it is a tap then.
  bool has_centre(const Int8Weights& weights) const {
    for (size_t i = 0, count = size_t(s_.out_channels) * m_; i < count; i++) {
      if (weights.w_kxk[i * taps_ + taps_ / 2]) return true;
    }
    return false;
  }

  void cut(int begin, int end, const Int8Weights& weights) {
    for (int n = begin; n < end; n += 2 * kWidth) add(n, std::min(2 * kWidth, end - n), weights);
  }

  void add(int first, int width, const Int8Weights& weights) {
    Int8ChannelTile t{};
    t.first = first, t.width = width, t.vectors = (width + kWidth - 1) / kWidth;
    t.segment = static_cast<int>(segments.size());
    t.weight = bytes_;
    tiles.push_back(t);
    if (merged_) {
      for (int ky = 0; ky < s_.kernel[0]; ky++) add_segment(ky, 0, s_.kernel[1] * s_.in_channels);
      return;
    }
    if (weights.w) add_segment(taps_ / 2, 0, s_.in_channels);
    const int group = first / n_, last = (first + width - 1) / n_, span = (last - group + 1) * m_;
    // The load must not reach past the pixel's channels, which may be the last that there are.
    const int start = std::min(group * m_, s_.in_channels - kLoad);
    const bool lanes = group != last && start >= 0 && (last + 1) * m_ <= start + kLoad;
    for (int j = 0; lanes && j < kVectorBytes; j++) {
      const int own = std::min(first + j / 4, first + width - 1) / n_;  // lanes without a channel have zeros as weights
      tiles.back().order[j] = static_cast<uint8_t>(own * m_ - start + j % 4);
    }
    for (int tap = 0; tap < taps_; tap++) {
      if (tap == skip_) continue;
      add_segment(tap, lanes ? start : group * m_, lanes ? m_ : span, lanes);
    }
  }

  void add_segment(int tap, int channel, int count, bool lanes = false) {
    const int steps = (count + 3) / 4, size = merged_ ? s_.kernel[1] * s_.in_channels : s_.in_channels;
    segments.push_back({tap, channel, steps, lanes});
    tiles.back().total++;
    bytes_ += static_cast<size_t>(steps) * tiles.back().vectors * kVectorBytes;
    if (!lanes) slack_ = std::max(slack_, channel + 4 * steps - size);
  }

  // One tile's stream. Zero, as the memory is, for channels of another group.
  void fill(const Int8Weights& weights, const Int8ChannelTile& t) {
    int8_t* to = data() + t.weight;
    for (int i = t.segment; i < t.segment + t.total; i++) {
      const Int8Segment& s = segments[i];
      const bool pointwise = weights.w && i == t.segment;
      for (int j = 0; j < t.width; j++) {
        const int out = t.first + j, own = out / n_ * m_;  // the group's first input channel
        const int8_t* w = weights.w_kxk + static_cast<size_t>(out) * m_ * taps_;
        if (pointwise) {
          const int8_t* w = weights.w + static_cast<size_t>(out) * s_.in_channels;
          for (int c = 0; c < s_.in_channels; c++) *at(to, t, c, j) = w[c];
        } else if (merged_) {
          for (int c = 0; c < s_.kernel[1] * m_; c++) {
            *at(to, t, c, j) = w[c % m_ * taps_ + s.tap * s_.kernel[1] + c / m_];
          }
        } else {
          for (int c = 0; c < m_; c++) *at(to, t, c + (s.lanes ? 0 : own - s.channel), j) = w[c * taps_ + s.tap];
        }
      }
      to += static_cast<size_t>(s.steps) * t.vectors * kVectorBytes;
    }
  }

  static int8_t* at(int8_t* segment, const Int8ChannelTile& t, int channel, int lane) {
    return segment + (static_cast<size_t>(channel / 4) * t.vectors * kWidth + lane) * 4 + channel % 4;
  }

  static constexpr int kLoad = 16;  // channels that `shuffle_bytes` reads

  LayerShape s_;
  bool merged_;
  int m_, n_, taps_, skip_, slack_ = 0;
  size_t bytes_ = 0;
  Buffer memory_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
