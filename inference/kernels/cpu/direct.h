// The direct kernel: a list of segments a tile of output channels, padding and stride by a table of input pointers.
#pragma once

#include "direct_weights.h"

namespace hetconv {
namespace HETCONV_ISA {

class Direct : public Packed {
 public:
  Direct(const LayerShape& shape, const Weights& weights)
      : s_(shape),
        merged_(is_merged(shape, weights)),
        weights_(shape, weights, merged_),
        bias_(shape.out_channels + 2 * kWidth),
        zeros_(static_cast<size_t>(shape.in_channels) * (merged_ ? shape.kernel[1] : 1) + kWidth),
        low_(weights.low),
        high_(weights.high) {
    if (weights.bias) std::copy_n(weights.bias, shape.out_channels, bias_.data());
  }

  size_t fills() const override { return weights_.channels.tiles.size(); }
  void fill(const Weights& weights, size_t i) override { weights_.fill(weights, i); }

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
    const size_t tiles = weights_.channels.tiles.size();
    for (size_t t = tiles * cut / cuts; t < tiles * (cut + 1) / cuts; t++) {
      run_tile(run, weights_.channels.tiles[t], count, in, offset);
    }
  }

  size_t weight_bytes() const override { return weights_.stream.size() * sizeof(float); }

 private:
  // Rows of the table of pointers. With few input channels (the stem) a row of taps, which lies side by side in memory,
  // is one segment: 7 of 21 numbers instead of 49 of 3.
  int taps() const { return weights_.taps(); }

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
    return count >= few || !count ? 1 : std::min<size_t>((few + count - 1) / count, weights_.channels.tiles.size());
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
      function(weights_.channels.segments.data() + t.segment, t.total, t.lane, weights_.stream.data() + t.weight, r,
               epilogue, t.width);
    }
  }

  static constexpr int kFewChannels = 16;
  static constexpr int64_t kInputBytes = 128 << 10, kMaxPixels = 8 * kRows[0], kMaxTable = 1 << 16;

  static bool is_merged(const LayerShape& s, const Weights& weights) {
    return !weights.w && s.part == 1 && s.kernel[1] > 1 && s.dilation[1] == 1 && s.in_channels < kFewChannels;
  }

  LayerShape s_;
  bool merged_;
  DirectWeights weights_;
  Buffer bias_, zeros_;
  float low_, high_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
