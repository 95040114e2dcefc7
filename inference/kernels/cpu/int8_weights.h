// The weights of a quantised layer as its tiles read them: segment, step of four input channels, lane, channel.
#pragma once

#include <vector>

#include "buffer.h"
#include "int8_tile.h"

namespace hetconv {
namespace HETCONV_ISA {

// Some output channels, side by side: of one group, or of several, where each vector has input channels of its own for
// the K x K kernels.
struct Int8ChannelTile {
  int first, width;  // output channels
  int vectors;
  bool pairs;
  int segment, total;                                           // in `segments`: the first, and how many
  size_t weight, bytes;                                         // of its stream: offset, size
  int channels() const { return pairs ? kWidth / 2 : kWidth; }  // of a vector
  int step() const { return pairs ? 8 : 4; }                    // input channels
};

class Int8Stream {
 public:
  // `copied`: all taps lie side by side, as in int8_patches.h.
  Int8Stream(const LayerShape& shape, const Int8Weights& weights, bool copied)
      : s_(shape), copied_(copied), m_(shape.in_channels / shape.part), n_(shape.out_channels / shape.part) {
    taps_ = s_.kernel[0] * s_.kernel[1];
    skip_ = weights.w && !has_centre(weights) ? taps_ / 2 : -1;
    if (n_ > kWidth || s_.part == 1) {
      for (int g = 0; g < s_.part; g++) cut(g * n_, (g + 1) * n_, 2 * kWidth, weights);
    } else {
      pairs_ = n_ <= kWidth / 2;
      cut(0, s_.out_channels, pairs_ ? kWidth : 2 * kWidth, weights);
    }
    memory_ = Buffer::lasting(bytes_ / sizeof(float));
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
    if (copied_) return add_segment(0, {0, taps_ * s_.in_channels});
    if (weights.w) add_segment(taps_ / 2, {0, s_.in_channels});
    const int half = std::min(t.channels(), width);  // of the first vector
    const bool several = first / n_ != (first + width - 1) / n_ && half < width;
    for (int tap = 0; tap < taps_; tap++) {
      if (tap == skip_) continue;
      if (several) {
        add_segment(tap, inputs_of(first, half), inputs_of(first + half, width - half));
      } else {
        add_segment(tap, inputs_of(first, width));
      }
    }
  }

  struct Inputs {
    int first, count;  // input channels
  };
  // Of the groups of `width` output channels from `first` on.
  Inputs inputs_of(int first, int width) const {
    const int group = first / n_, last = (first + width - 1) / n_;
    return {group * m_, (last - group + 1) * m_};
  }

  void add_segment(int tap, Inputs inputs) { add_segment(tap, inputs, inputs); }

  // For the first vector, and for the second.
  void add_segment(int tap, Inputs a, Inputs b) {
    const int step = tiles.back().step(), steps = (std::max(a.count, b.count) + step - 1) / step;
    const int size = copied_ ? step * steps : s_.in_channels;
    // Whole steps, which may begin earlier so that they end within the pixel.
    const int most = std::max(0, size - step * steps);
    segments.push_back({tap, {std::min(a.first, most), std::min(b.first, most)}, steps});
    tiles.back().total++;
    const size_t bytes = bytes_of(tiles.back(), segments.back());
    tiles.back().bytes += bytes, bytes_ += bytes;
    slack_ = std::max(slack_, step * steps - size);
  }

  static size_t bytes_of(const Int8ChannelTile& t, const Int8Segment& s) {
    return static_cast<size_t>(s.steps) * t.vectors * kVectorBytes;
  }

  // One tile's stream. Zero, as the memory is, for channels of another group.
  void fill(const Int8Weights& weights, const Int8ChannelTile& t) {
    int8_t* to = data() + t.weight;
    for (int i = t.segment; i < t.segment + t.total; i++) {
      const Int8Segment& s = segments[i];
      const bool pointwise = weights.w && i == t.segment;
      for (int j = 0; j < t.width; j++) {
        const size_t out = t.first + j;
        const int8_t* w = weights.w_kxk + out * m_ * taps_;
        const int first = s.channel[j / t.channels()];
        const auto put = [&](int channel, int8_t value) { to[place(t, channel - first, j)] = value; };
        if (pointwise) {
          for (int c = 0; c < s_.in_channels; c++) put(c, weights.w[out * s_.in_channels + c]);
        } else if (copied_) {
          for (int c = 0; c < taps_ * m_; c++) put(c, w[c % m_ * taps_ + tap_of_copy(c / m_)]);
        } else {
          const int own = static_cast<int>(out) / n_ * m_;  // the group's first input channel
          for (int c = 0; c < m_; c++) put(own + c, w[c * taps_ + s.tap]);
        }
      }
      to += bytes_of(t, s);
    }
  }

  // Copies have their taps column by column, see int8_patches.h.
  int tap_of_copy(int i) const { return i % s_.kernel[0] * s_.kernel[1] + i / s_.kernel[0]; }

  // Of an input channel of a segment, and of an output channel of the tile.
  static size_t place(const Int8ChannelTile& t, int channel, int out) {
    const int lanes = t.step() / 4, step = channel / t.step(), lane = channel / 4 % lanes;
    return ((static_cast<size_t>(step) * t.vectors * t.channels() + out) * lanes + lane) * 4 + channel % 4;
  }

  LayerShape s_;
  bool copied_, pairs_ = false;
  int m_, n_, taps_, skip_, slack_ = 0;
  size_t bytes_ = 0;
  Buffer memory_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
