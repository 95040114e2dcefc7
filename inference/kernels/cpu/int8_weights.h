// The weights of a quantised layer as its tiles read them: segment, step of four input channels, lane, channel.
#pragma once

#include <vector>

#include "buffer.h"
#include "int8_tile.h"

namespace hetconv {
namespace HETCONV_ISA {

// Some output channels, side by side: of one group, with segments for all of its vectors, or of several, where each
// vector has segments of its own for the K x K kernels.
struct Int8ChannelTile {
  int first, width;  // output channels
  int vectors;
  bool pairs;
  int segment, total;                                           // in `segments`: the first, and how many
  size_t weight;                                                // offset of its stream
  int channels() const { return pairs ? kWidth / 2 : kWidth; }  // of a vector
  int step() const { return pairs ? 8 : 4; }                    // input channels
};

class Int8Stream {
 public:
  // `merged`: a row of taps, which lies side by side in memory, is one segment.
  Int8Stream(const LayerShape& shape, const Int8Weights& weights, bool merged)
      : s_(shape), merged_(merged), m_(shape.in_channels / shape.part), n_(shape.out_channels / shape.part) {
    taps_ = s_.kernel[0] * s_.kernel[1];
    skip_ = weights.w && !has_centre(weights) ? taps_ / 2 : -1;
    if (n_ > kWidth || s_.part == 1) {
      for (int g = 0; g < s_.part; g++) cut(g * n_, (g + 1) * n_, 2 * kWidth, weights);
    } else {
      pairs_ = n_ <= kWidth / 2;
      cut(0, s_.out_channels, pairs_ ? kWidth : 2 * kWidth, weights);
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

  void cut(int begin, int end, int width, const Int8Weights& weights) {
    for (int n = begin; n < end; n += width) add(n, std::min(width, end - n), weights);
  }

  void add(int first, int width, const Int8Weights& weights) {
    Int8ChannelTile t{};
    t.first = first, t.width = width, t.pairs = pairs_;
    t.vectors = pairs_ ? 2 : (width + kWidth - 1) / kWidth;
    t.segment = static_cast<int>(segments.size());
    t.weight = bytes_;
    tiles.push_back(t);
    if (merged_) {
      for (int ky = 0; ky < s_.kernel[0]; ky++) add_segment(ky, 0, s_.kernel[1] * s_.in_channels);
      return;
    }
    if (weights.w) add_segment(taps_ / 2, 0, s_.in_channels);
    const bool one = first / n_ == (first + width - 1) / n_;
    for (int tap = 0; tap < taps_; tap++) {
      if (tap == skip_) continue;
      if (one && !pairs_) {
        add_segment(tap, first / n_ * m_, m_);
        continue;
      }
      for (int v = 0; v * t.channels() < width; v++) {
        const int from = first + v * t.channels(), to = std::min(from + t.channels(), first + width) - 1;
        add_segment(tap, from / n_ * m_, (to / n_ - from / n_ + 1) * m_, v);
      }
    }
  }

  void add_segment(int tap, int channel, int count, int vector = Int8Segment::kAll) {
    const int step = tiles.back().step(), steps = (count + step - 1) / step;
    const int size = merged_ ? s_.kernel[1] * s_.in_channels : s_.in_channels;
    segments.push_back({tap, channel, steps, vector});
    tiles.back().total++;
    bytes_ += bytes_of(tiles.back(), segments.back());
    slack_ = std::max(slack_, channel + step * steps - size);
  }

  static int vectors(const Int8ChannelTile& t, const Int8Segment& s) {
    return s.vector == Int8Segment::kAll ? t.vectors : 1;
  }
  static size_t bytes_of(const Int8ChannelTile& t, const Int8Segment& s) {
    return static_cast<size_t>(s.steps) * vectors(t, s) * kVectorBytes;
  }

  // One tile's stream. Zero, as the memory is, for channels of another group.
  void fill(const Int8Weights& weights, const Int8ChannelTile& t) {
    int8_t* to = data() + t.weight;
    for (int i = t.segment; i < t.segment + t.total; i++) {
      const Int8Segment& s = segments[i];
      const bool pointwise = weights.w && i == t.segment;
      const int first = s.vector == Int8Segment::kAll ? 0 : s.vector * t.channels();
      const int end = s.vector == Int8Segment::kAll ? t.width : std::min(t.width, first + t.channels());
      for (int j = first; j < end; j++) {
        const size_t out = t.first + j;
        const int8_t* w = weights.w_kxk + out * m_ * taps_;
        const auto put = [&](int channel, int8_t value) { to[place(t, s, channel, j - first)] = value; };
        if (pointwise) {
          for (int c = 0; c < s_.in_channels; c++) put(c, weights.w[out * s_.in_channels + c]);
        } else if (merged_) {
          for (int c = 0; c < s_.kernel[1] * m_; c++) put(c, w[c % m_ * taps_ + s.tap * s_.kernel[1] + c / m_]);
        } else {
          const int own = static_cast<int>(out) / n_ * m_;  // the group's first input channel
          for (int c = 0; c < m_; c++) put(own - s.channel + c, w[c * taps_ + s.tap]);
        }
      }
      to += bytes_of(t, s);
    }
  }

  // Of an input channel of a segment, and of an output channel of its vectors.
  static size_t place(const Int8ChannelTile& t, const Int8Segment& s, int channel, int out) {
    const int lanes = t.step() / 4, step = channel / t.step(), lane = channel / 4 % lanes;
    return ((static_cast<size_t>(step) * vectors(t, s) * t.channels() + out) * lanes + lane) * 4 + channel % 4;
  }

  LayerShape s_;
  bool merged_, pairs_ = false;
  int m_, n_, taps_, skip_, slack_ = 0;
  size_t bytes_ = 0;
  Buffer memory_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
