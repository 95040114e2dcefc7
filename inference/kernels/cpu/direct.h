// The direct kernel: a list of segments a tile of output channels, padding and stride by a table of input pointers.
#pragma once

#include "channels.h"

namespace hetconv {
namespace HETCONV_ISA {

class Direct : public Packed {
 public:
  Direct(const LayerShape& shape, const Weights& weights) : s_(shape), bias_(shape.out_channels + 2 * kWidth) {
    merged_ = !weights.w && s_.part == 1 && s_.kernel[1] > 1 && s_.dilation[1] == 1 && s_.in_channels < kFewChannels;
    zeros_ = Buffer(static_cast<size_t>(s_.in_channels) * (merged_ ? s_.kernel[1] : 1) + kWidth);
    if (weights.bias) std::copy_n(weights.bias, shape.out_channels, bias_.data());
    low_ = weights.low, high_ = weights.high;
    pack(weights);
    stream_ = Buffer(channels_.stream.size());
    std::copy(channels_.stream.begin(), channels_.stream.end(), stream_.data());
    std::vector<float>().swap(channels_.stream);
  }

  size_t items(const Run& run) const override { return blocks(run) * splits(run); }

  size_t scratch_bytes(const Run& run) const override {
    const size_t pixels = block_pixels(run), row = merged_ ? sizeof(float) * s_.kernel[1] * s_.in_channels : 0;
    return pixels * (sizeof(float*) * taps() + sizeof(int64_t) + taps() * row);
  }

  void item(const Run& run, size_t i, void* scratch) const override {
    const size_t cuts = splits(run), block = i / cuts, cut = i % cuts;
    const int64_t pixels = run.batch * run.out_height * run.out_width, size = block_pixels(run);
    const int64_t begin = block * size;
    const int count = static_cast<int>(std::min(size, pixels - begin));
    const float** in = static_cast<const float**>(scratch);
    int64_t* offset = reinterpret_cast<int64_t*>(in + static_cast<size_t>(taps()) * count);
    float* copies = reinterpret_cast<float*>(offset + count);
    for (int i = 0; i < count; i++) offset[i] = (begin + i) * s_.out_channels;
    // Pixels of one row of the output at a time.
    for (int i = 0; i < count;) {
      const int64_t row = (begin + i) / run.out_width, ox = (begin + i) % run.out_width;
      const int length = static_cast<int>(std::min<int64_t>(count - i, run.out_width - ox));
      const float* image = run.x + row / run.out_height * run.height * run.width * s_.in_channels;
      const int64_t y = row % run.out_height * s_.stride[0] - s_.pads[0], x = ox * s_.stride[1] - s_.pads[1];
      if (merged_) {
        copies = fill_rows(run, image, y, x, length, in + i, count, copies);
      } else {
        fill_table(run, image, y, x, length, in + i, count);
      }
      i += length;
    }
    const size_t tiles = channels_.tiles.size();
    for (size_t t = tiles * cut / cuts; t < tiles * (cut + 1) / cuts; t++) {
      run_tile(run, channels_.tiles[t], count, in, offset);
    }
  }

  size_t weight_bytes() const override { return stream_.size() * sizeof(float); }

 private:
  // Rows of the table of pointers. With few input channels (the stem) a row of taps, which lies side by side in memory,
  // is one segment: 7 of 21 numbers instead of 49 of 3.
  int taps() const { return merged_ ? s_.kernel[0] : s_.kernel[0] * s_.kernel[1]; }

  // Pixels whose inputs stay in the cache while all tiles of output channels pass over them.
  int64_t block_pixels(const Run& run) const {
    const int64_t bytes = 4ll * s_.in_channels * s_.stride[0] * s_.stride[1];
    const int64_t pixels = run.batch * run.out_height * run.out_width;
    int64_t block = std::max<int64_t>(kInputBytes / bytes / kRows[0], 1) * kRows[0];
    block = std::min<int64_t>(block, kMaxPixels);
    block = std::min<int64_t>(block, std::max<int64_t>(kMaxTable / taps(), kRows[0]));
    const int64_t count = (pixels + block - 1) / block;
    return std::max<int64_t>(1, (pixels + count - 1) / std::max<int64_t>(count, 1));
  }
  size_t blocks(const Run& run) const {
    const int64_t pixels = run.batch * run.out_height * run.out_width, block = block_pixels(run);
    return (pixels + block - 1) / block;
  }
  // Few pixels: then the output channels are shared out too.
  size_t splits(const Run& run) const {
    const size_t few = 8, count = blocks(run);
    return count >= few || !count ? 1 : std::min<size_t>((few + count - 1) / count, channels_.tiles.size());
  }

  // Of `length` pixels side by side, whose taps begin at x, x + stride, ..., those with `size` columns from there on
  // inside: [first, last).
  struct Inside {
    int first, last;
  };
  Inside inside(int64_t x, int length, int64_t size, const Run& run) const {
    const int64_t stride = s_.stride[1], first = x >= 0 ? 0 : (-x + stride - 1) / stride;
    const int64_t last = run.width - size - x >= 0 ? (run.width - size - x) / stride + 1 : 0;
    const int begin = static_cast<int>(std::min<int64_t>(first, length));
    return {begin, std::max(begin, static_cast<int>(std::min<int64_t>(last, length)))};
  }

  // The pointers of `length` pixels side by side, the first of which has its first tap at (y, x); taps lie `count`
  // apart.
  void fill_table(const Run& run, const float* image, int64_t y, int64_t x, int length, const float** in,
                  int count) const {
    const int64_t step = static_cast<int64_t>(s_.stride[1]) * s_.in_channels;
    for (int ky = 0; ky < s_.kernel[0]; ky++) {
      const int64_t in_y = y + ky * s_.dilation[0];
      const bool row = in_y >= 0 && in_y < run.height;
      for (int kx = 0; kx < s_.kernel[1]; kx++, in += count) {
        const int64_t in_x = x + kx * s_.dilation[1];
        const Inside range = row ? inside(in_x, length, 1, run) : Inside{0, 0};
        std::fill(in, in + range.first, zeros_.data());
        const float* p = image + (in_y * run.width + in_x) * s_.in_channels;
        for (int i = range.first; i < range.last; i++) in[i] = p + i * step;
        std::fill(in + range.last, in + length, zeros_.data());
      }
    }
  }

  // The same for rows of taps; where one reaches over the edge, a copy with zeros. Returns the end of the copies.
  float* fill_rows(const Run& run, const float* image, int64_t y, int64_t x, int length, const float** in, int count,
                   float* copies) const {
    const int64_t channels = s_.in_channels, step = s_.stride[1] * channels;
    const Inside range = inside(x, length, s_.kernel[1], run);
    for (int ky = 0; ky < s_.kernel[0]; ky++, in += count) {
      const int64_t in_y = y + ky * s_.dilation[0];
      if (in_y < 0 || in_y >= run.height) {
        std::fill(in, in + length, zeros_.data());
        continue;
      }
      const float* row = image + in_y * run.width * channels;
      for (int i = range.first; i < range.last; i++) in[i] = row + x * channels + i * step;
      for (int i = 0; i < length; i++) {
        if (i == range.first) i = range.last;
        if (i == length) break;
        const int64_t in_x = x + i * s_.stride[1];
        const int64_t first = std::max<int64_t>(in_x, 0), last = std::min<int64_t>(in_x + s_.kernel[1], run.width);
        in[i] = first < last ? copies : zeros_.data();
        if (first >= last) continue;
        std::fill_n(copies, s_.kernel[1] * channels, 0.0f);
        std::copy(row + first * channels, row + last * channels, copies + (first - in_x) * channels);
        copies += s_.kernel[1] * channels;
      }
    }
    return copies;
  }

  void run_tile(const Run& run, const ChannelTile& t, int count, const float* const* in, const int64_t* offset) const {
    const Epilogue epilogue{bias_.data() + t.first, splat(low_), splat(high_)};
    const int most = kRows[t.vectors - 1], steps = (count + most - 1) / most;
    for (int step = 0; step < steps; step++) {
      const int i = count * step / steps, rows = count * (step + 1) / steps - i;
      const Rows r{in + i, count, offset + i, run.y + t.first, run.residual ? run.residual + t.first : nullptr, false};
      const TileFunction function = t.vectors == 2 ? tile_of<2>(rows) : tile_of<1>(rows);
      function(channels_.segments.data() + t.segment, t.total, t.lane, stream_.data() + t.weight, r, epilogue, t.width);
    }
  }

  void pack(const Weights& weights) {
    const int m = s_.in_channels / s_.part, n = s_.out_channels / s_.part, centre = weights.w ? taps() / 2 : -1;
    auto kxk = [&](int tap) {
      return [=, &weights](int out, int in) {  // zero for channels of another group
        return in / m == out / n ? weights.w_kxk[(static_cast<size_t>(out) * m + in % m) * taps() + tap] : 0.0f;
      };
    };
    auto pointwise = [&](int out, int in) {
      return weights.w[static_cast<size_t>(out) * s_.in_channels + in] + kxk(centre)(out, in);
    };
    auto add_tile = [&](int first, int width) {
      channels_.add(first, width);
      if (merged_) {
        for (int ky = 0; ky < s_.kernel[0]; ky++) {
          channels_.add_segment(ky, 0, s_.kernel[1] * s_.in_channels, [&](int out, int in) {
            const size_t filter = static_cast<size_t>(out) * s_.in_channels + in % s_.in_channels;
            return weights.w_kxk[(filter * s_.kernel[0] + ky) * s_.kernel[1] + in / s_.in_channels];
          });
        }
        return;
      }
      if (weights.w) channels_.add_segment(centre, 0, s_.in_channels, pointwise);
      const int group = first / n, last = (first + width - 1) / n;
      const bool lanes = group != last && use_lanes(first, width);
      for (int tap = 0; tap < taps(); tap++) {
        if (tap == centre) continue;
        if (lanes) {
          add_lane_segment(tap, first, weights);
        } else {
          channels_.add_segment(tap, group * m, (last - group + 1) * m, kxk(tap));
        }
      }
    };
    if (n >= kWidth) {
      for (int g = 0; g < s_.part; g++) cut(g * n, (g + 1) * n, add_tile);
    } else {  // several groups a vector
      const int width = std::max(1, kWidth / n) * n;
      for (int first = 0; first < s_.out_channels; first += width) {
        add_tile(first, std::min(width, s_.out_channels - first));
      }
    }
  }

  // Lanes can be used where the input channels of all groups of a tile lie within one vector.
  bool use_lanes(int first, int width) const {
    const int m = s_.in_channels / s_.part, n = s_.out_channels / s_.part;
    return width == kWidth && first % n == 0 && width / n * m <= kWidth && s_.in_channels >= kWidth;
  }

  void add_lane_segment(int tap, int first, const Weights& weights) {
    const int m = s_.in_channels / s_.part, n = s_.out_channels / s_.part;
    ChannelTile& t = channels_.tiles.back();
    // The load must not reach past the pixel's channels, which may be the last that there are.
    const int start = std::min(first / n * m, s_.in_channels - kWidth);
    for (int j = 0; j < kWidth; j++) t.lane[j] = (first + j) / n * m - start;
    channels_.segments.push_back({tap, start, m, Segment::kLanes});
    t.total++;
    for (int c = 0; c < m; c++) {
      for (int j = 0; j < kWidth; j++) {
        channels_.stream.push_back(weights.w_kxk[(static_cast<size_t>(first + j) * m + c) * taps() + tap]);
      }
    }
  }

  static constexpr int kFewChannels = 16;
  static constexpr int64_t kInputBytes = 128 << 10, kMaxPixels = 8 * kRows[0], kMaxTable = 1 << 16;

  LayerShape s_;
  ChannelTiles channels_;
  Buffer stream_, bias_, zeros_;
  float low_, high_;
  bool merged_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
