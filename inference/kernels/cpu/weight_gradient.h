// The gradient of a HetConv layer to its weights: for every tap, products of gradients and the inputs that the tap
// sees, summed over all pixels. The centre takes all pairs of channels, the other taps those of one group. Where groups
// fill vectors, Winograd's algorithm takes the nine taps of a group's pairs at once, and the centre the other pairs.
//
// The work is cut by pixels into shares, each of which has sums of its own, and where the weights are many by output
// channels. The cuts depend on the shapes alone, so a result is the same with any number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <new>
#include <vector>

#include "buffer.h"
#include "gradient_tiles.h"
#include "layer.h"

namespace hetconv {
namespace HETCONV_ISA {

class WeightGradient {
 public:
  WeightGradient(const LayerShape& shape, const GradientRun& run)
      : s_(shape), run_(run), m_(shape.in_channels / shape.part), n_(shape.out_channels / shape.part), tiles_(s_, run) {
    // A line is a row of pixels, or two that tiles of 2x2 share.
    line_rows_ = tiles_.winograd() ? kTileSide : 1;
    lines_of_image_ = (run.out_height + line_rows_ - 1) / line_rows_;
    lines_ = run.batch * lines_of_image_;
    const int64_t pixel_bytes = 4ll * (int64_t{s_.in_channels} * s_.stride[0] * s_.stride[1] + s_.out_channels);
    const int64_t least = tiles_.winograd() ? kLeastPointPixels : kLeastPixels;
    const int64_t pixels = std::clamp<int64_t>(kBlockBytes / pixel_bytes, least, kMostPixels);
    block_lines_ = std::clamp<int64_t>(pixels / (run.out_width * line_rows_), 1, std::max<int64_t>(lines_, 1));
    blocks_ = (lines_ + block_lines_ - 1) / block_lines_;
    shares_ = std::clamp<size_t>(kMostSums / tiles_.floats(), 1, std::clamp<int64_t>(blocks_, 1, kPieces));
    parts_ = std::min((kPieces + shares_ - 1) / shares_, tiles_.size());
    sums_ = Buffer(shares_ * tiles_.floats());
  }

  size_t items() const { return shares_ * parts_; }
  size_t parts() const { return parts_; }

  // As `item`; no exception may leave a thread of somebody else's pool.
  void try_item(size_t i) {
    try {
      item(i);
    } catch (const std::bad_alloc&) {
      failed_ = true;
    }
  }
  bool failed() const { return failed_; }

  // Sums of one share, one part of the tiles.
  void item(size_t i) {
    const size_t share = i / parts_, part = i % parts_, first = first_tile(part), last = first_tile(part + 1);
    std::vector<std::vector<PixelRun>> runs(taps());
    const Buffer border(tiles_.around() ? border_floats() : 0);
    GradientPoints points(s_, run_, m_, tiles_.winograd() && lines_ ? block_lines_ : 0);
    const int64_t end = blocks_ * static_cast<int64_t>(share + 1) / static_cast<int64_t>(shares_);
    for (int64_t b = blocks_ * static_cast<int64_t>(share) / static_cast<int64_t>(shares_); b < end; b++) {
      const int64_t begin_line = b * block_lines_, end_line = std::min(lines_, begin_line + block_lines_);
      const int64_t begin_row = row_of(begin_line), end_row = row_of(end_line);
      for (int tap = 0; tap < taps(); tap++) {
        if (tiles_.alone(tap)) find_runs(tap, begin_row, end_row, runs[tap]);
      }
      points.start(begin_line, end_line);
      for (size_t t = first; t < last; t++) {
        const Tile& tile = tiles_[t];
        float* sums = sums_.data() + share * tiles_.floats() + tile.sums;
        if (tile.kind == Tile::kAround) {
          run_around(tile, begin_row, end_row, border.data(), sums);
        } else if (tile.kind == Tile::kPoints) {
          run_points(tile, points, sums);
        } else {
          const std::vector<PixelRun>& seen = runs[tile.tap];
          tile.function({seen.data(), seen.size(), tile.channel, tile.out, int64_t{s_.stride[1]} * s_.in_channels,
                         s_.out_channels, std::min(s_.out_channels, kWidth), tile.lane.data(), sums});
        }
      }
    }
  }

  // All shares' sums of one part of the tiles added up, in order, and put where they belong.
  void finish(size_t part) {
    for (size_t t = first_tile(part); t < first_tile(part + 1); t++) {
      float* sum = sums_.data() + tiles_[t].sums;
      const size_t size = tiles_[t].floats();
      for (size_t share = 1; share < shares_; share++) {
        const float* other = sum + share * tiles_.floats();
        for (size_t i = 0; i < size; i++) sum[i] += other[i];
      }
      write(tiles_[t], sum);
    }
  }

 private:
  using Tile = GradientTile;

  int taps() const { return s_.kernel[0] * s_.kernel[1]; }
  size_t first_tile(size_t part) const { return tiles_.size() * part / parts_; }

  int64_t row_of(int64_t line) const {
    return line / lines_of_image_ * run_.out_height + line % lines_of_image_ * line_rows_;
  }

  void run_points(const Tile& tile, GradientPoints& points, float* sums) const {
    const int channel = (tile.out + tile.begin) / n_ * m_;
    points.fill(channel, tile.out, tile.vectors);
    for (int p = 0; p < kTilePoints; p++, sums += tile.set_floats()) {
      const PixelRun run = points.at(p);
      tile.function({&run, 1, tile.channel - channel, 0, m_, tile.vectors * kWidth, kWidth, nullptr, sums});
    }
  }

  int64_t border_row() const { return (run_.width + 2) * kWidth; }
  size_t border_floats() const { return (std::min(block_lines_, run_.height) + 2) * border_row(); }

  // All taps but the centre, for these rows of the input. `border` has zeros left and right, where nothing is written.
  void run_around(const Tile& tile, int64_t begin, int64_t end, float* border, float* sums) const {
    const int64_t m = s_.in_channels, n = s_.out_channels, row_size = border_row();
    for (int64_t row = begin, count; row < end; row += count) {
      const int64_t y = row % run_.height;
      count = std::min(end - row, run_.height - y);
      float* to = border;
      for (int64_t r = y - 1; r <= y + count; r++, to += row_size) {
        const bool inside = r >= 0 && r < run_.height;
        const float* grad = run_.grad + (row - y + r) * run_.width * n + tile.out;
        for (int64_t k = 1; k <= run_.width; k++, grad += n) store(to + k * kWidth, inside ? load(grad) : V{});
      }
      outer_around({run_.x + row * run_.width * m + tile.channel, m, run_.width * m, border, row_size, count,
                    run_.width, m_, tile.lane.data(), sums});
    }
  }

  // The pixels of these rows of the output for which the tap sees a pixel of the input.
  void find_runs(int tap, int64_t begin, int64_t end, std::vector<PixelRun>& runs) const {
    runs.clear();
    const int64_t m = s_.in_channels, n = s_.out_channels, stride = s_.stride[1];
    const int64_t x = int64_t{tap % s_.kernel[1]} * s_.dilation[1] - s_.pads[1];
    const int64_t first = x >= 0 ? 0 : (-x + stride - 1) / stride;
    const int64_t last = x >= run_.width ? 0 : std::min(run_.out_width, (run_.width - 1 - x) / stride + 1);
    if (first >= last) return;
    for (int64_t row = begin; row < end; row++) {
      const int64_t image = row / run_.out_height, out_y = row % run_.out_height;
      const int64_t y = out_y * s_.stride[0] + int64_t{tap / s_.kernel[1]} * s_.dilation[0] - s_.pads[0];
      if (y < 0 || y >= run_.height) continue;
      const float* at = run_.x + ((image * run_.height + y) * run_.width + x + first * stride) * m;
      const float* grad = run_.grad + (row * run_.out_width + first) * n;
      if (!runs.empty()) {
        PixelRun& before = runs.back();
        if (before.x + before.length * stride * m == at && before.grad + before.length * n == grad) {
          before.length += last - first;
          continue;
        }
      }
      runs.push_back({at, grad, last - first});
    }
  }

  void write(const Tile& t, float* sums) const {
    if (t.kind == Tile::kPoints) points_to_taps(sums, t.set_floats());
    if (t.kind != Tile::kTap) {
      Tile one = t;
      one.kind = Tile::kTap;
      for (one.tap = 0; one.tap < taps(); one.tap++) {
        if (t.kind == Tile::kAround && one.tap == taps() / 2) continue;
        write(one, sums);
        sums += t.set_floats();
      }
      return;
    }
    const int kept = taps() - 1, place = t.tap - (t.tap > taps() / 2);
    const int step = t.vectors * kWidth;
    for (int j = t.begin; j < t.end; j++) {
      const size_t out = t.out + j;
      const float* sum = sums + j;
      if (t.tap == taps() / 2) {
        float* to = run_.grad_w + out * s_.in_channels + t.channel;
        for (int i = 0; i < t.rows; i++) to[i] = sum[i * step];
        continue;
      }
      // The channels of the tile from the first of the output channel's own group on.
      const int first = t.lanes ? 0 : t.channel - static_cast<int>(out) / n_ * m_;
      float* to = run_.grad_w_kxk + out * m_ * kept + place;
      for (int i = std::max(0, -first); i < std::min(t.rows, m_ - first); i++) to[(first + i) * kept] = sum[i * step];
    }
  }

  // Pixels whose inputs and gradients stay in the cache while all tiles pass over them; enough for a tile's sums not to
  // be fetched and stored too often. With twice as many points a sixtieth would be gained, but long sums are less
  // exact.
  static constexpr int64_t kBlockBytes = 192 << 10, kLeastPixels = 64, kLeastPointPixels = 128, kMostPixels = 1024;
  // Pieces of work, and floats of all shares' sums.
  static constexpr size_t kPieces = 16, kMostSums = 1 << 20;

  LayerShape s_;
  GradientRun run_;
  int m_, n_;
  GradientTiles tiles_;
  size_t shares_, parts_;
  int64_t line_rows_, lines_of_image_, lines_, block_lines_, blocks_;
  Buffer sums_;
  std::atomic<bool> failed_{false};
};

static void weight_gradient(const LayerShape& shape, const GradientRun& run, const Parallel& parallel) {
  WeightGradient gradient(shape, run);
  parallel.run(
      parallel.context, [](void* g, size_t i) { static_cast<WeightGradient*>(g)->try_item(i); }, gradient.items(),
      &gradient);
  if (gradient.failed()) throw std::bad_alloc();
  parallel.run(
      parallel.context, [](void* g, size_t i) { static_cast<WeightGradient*>(g)->finish(i); }, gradient.parts(),
      &gradient);
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
