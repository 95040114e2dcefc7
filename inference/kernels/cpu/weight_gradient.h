// The gradient of a HetConv layer to its weights: for every tap, products of gradients and the inputs that the tap
// sees, summed over all pixels. The centre takes all pairs of channels, the other taps those of one group.
//
// The work is cut by pixels into shares, each of which has sums of its own, and where the weights are many by output
// channels. The cuts depend on the shapes alone, so a result is the same with any number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <new>
#include <vector>

#include "buffer.h"
#include "layer.h"
#include "outer_around.h"

namespace hetconv {
namespace HETCONV_ISA {

class WeightGradient {
 public:
  WeightGradient(const LayerShape& shape, const GradientRun& run)
      : s_(shape),
        run_(run),
        m_(shape.in_channels / shape.part),
        n_(shape.out_channels / shape.part),
        seen_(taps() + 1) {
    add_tiles();
    rows_ = run.batch * run.out_height;
    const int64_t pixel_bytes = 4ll * (int64_t{s_.in_channels} * s_.stride[0] * s_.stride[1] + s_.out_channels);
    const int64_t pixels = std::clamp<int64_t>(kBlockBytes / pixel_bytes, kLeastPixels, kMostPixels);
    block_rows_ = std::clamp<int64_t>(pixels / run.out_width, 1, std::max<int64_t>(rows_, 1));
    blocks_ = (rows_ + block_rows_ - 1) / block_rows_;
    shares_ = std::clamp<size_t>(kMostSums / floats_, 1, std::clamp<int64_t>(blocks_, 1, kPieces));
    parts_ = std::min((kPieces + shares_ - 1) / shares_, tiles_.size());
    sums_ = Buffer(shares_ * floats_);
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
    const Buffer border(seen_.back() ? border_floats() : 0);
    const int64_t end = blocks_ * static_cast<int64_t>(share + 1) / static_cast<int64_t>(shares_);
    for (int64_t b = blocks_ * static_cast<int64_t>(share) / static_cast<int64_t>(shares_); b < end; b++) {
      const int64_t begin_row = b * block_rows_, end_row = std::min(rows_, begin_row + block_rows_);
      for (int tap = 0; tap < taps(); tap++) {
        if (seen_[tap]) find_runs(tap, begin_row, end_row, runs[tap]);
      }
      for (size_t t = first; t < last; t++) {
        const Tile& tile = tiles_[t];
        if (tile.tap == taps()) {
          run_around(tile, begin_row, end_row, border.data(), sums_.data() + share * floats_ + tile.sums);
          continue;
        }
        const std::vector<PixelRun>& seen = runs[tile.tap];
        tile.function({seen.data(), seen.size(), tile.channel, tile.out, int64_t{s_.stride[1]} * s_.in_channels,
                       s_.out_channels, std::min(s_.out_channels, kWidth), tile.lane.data(),
                       sums_.data() + share * floats_ + tile.sums});
      }
    }
  }

  // All shares' sums of one part of the tiles added up, in order, and put where they belong.
  void finish(size_t part) {
    for (size_t t = first_tile(part); t < first_tile(part + 1); t++) {
      float* sum = sums_.data() + tiles_[t].sums;
      const size_t size = static_cast<size_t>(tiles_[t].rows) * tiles_[t].vectors * kWidth;
      for (size_t share = 1; share < shares_; share++) {
        const float* other = sum + share * floats_;
        for (size_t i = 0; i < size; i++) sum[i] += other[i];
      }
      write(tiles_[t], sum);
    }
  }

 private:
  struct Tile {
    int tap;  // or the number of taps, for all but the centre: rows are [tap][channel] then
    int out, vectors, channel, rows;
    int begin, end;  // lanes that are this tile's to write
    bool lanes;      // row i is the i-th channel of each lane's own group
    std::array<int32_t, kWidth> lane;
    OuterFunction function;
    size_t sums;
  };

  int taps() const { return s_.kernel[0] * s_.kernel[1]; }
  size_t first_tile(size_t part) const { return tiles_.size() * part / parts_; }

  void add(Tile tile, int channels) {
    const int most = kRows[tile.vectors - 1], steps = (channels + most - 1) / most, from = tile.channel;
    for (int step = 0; step < steps; step++) {
      const int i = channels * step / steps;
      tile.channel = from + i, tile.rows = channels * (step + 1) / steps - i;
      if (s_.out_channels < kWidth) {
        tile.function = outer_part_of(tile.rows);
      } else {
        tile.function = tile.vectors == 2 ? outer_of<2>(tile.rows) : outer_of<1>(tile.rows);
      }
      push(tile);
    }
  }

  void push(Tile& tile) {
    tile.sums = floats_;
    floats_ += static_cast<size_t>(tile.rows) * tile.vectors * kWidth;
    seen_[tile.tap] = true;
    tiles_.push_back(tile);
  }

  // Cuts output channels [begin, end) into tiles of up to `most` vectors. A last one that is not full reaches back over
  // the one before.
  template <class Use>
  static void cut_vectors(int begin, int end, int most, Use use) {
    for (int i = begin; i < end;) {
      const int vectors = end - i > kWidth && end - begin >= 2 * kWidth ? most : 1;
      const int width = vectors * kWidth, out = std::max(std::min(i, end - width), 0);
      use(Tile{0, out, vectors, 0, 0, i - out, std::min(end - out, width), false, {}, nullptr, 0});
      i = out + width;
    }
  }

  void add_tiles() {
    cut_vectors(0, s_.out_channels, 2, [&](Tile tile) {
      tile.tap = taps() / 2;
      add(tile, s_.in_channels);
    });
    for (int tap = 0; tap < taps(); tap++) {
      if (tap == taps() / 2) continue;
      auto use = [&](Tile tile) {
        tile.tap = tap;
        add_group_tile(tile);
      };
      if (n_ < kWidth) {
        cut_vectors(0, s_.out_channels, 1, use);
      } else {
        for (int g = 0; g < s_.part; g++) cut_vectors(g * n_, (g + 1) * n_, 2, use);
      }
    }
    // Those that read the same gradients follow each other.
    std::stable_sort(tiles_.begin(), tiles_.end(), [](const Tile& a, const Tile& b) { return a.out < b.out; });
  }

  void add_group_tile(Tile tile) {
    const int group = (tile.out + tile.begin) / n_, last = (tile.out + tile.end - 1) / n_;
    const int first = tile.out / n_ * m_, span = (last + 1) * m_ - first;
    if (group != last && tile.vectors == 1 && span <= kWidth && s_.in_channels >= kWidth && s_.out_channels >= kWidth) {
      tile.lanes = true, tile.rows = m_, tile.function = outer_lanes_of(m_);
      tile.channel = std::min(first, s_.in_channels - kWidth);
      for (int j = 0; j < kWidth; j++) tile.lane[j] = std::min((tile.out + j) / n_, last) * m_ - tile.channel;
      if (can_around()) {
        if (tile.tap) return;  // the first tap's tile is that of all
        tile.tap = taps(), tile.rows = kAroundTaps * m_;
      }
      push(tile);
    } else {  // all channels of its groups; those that are another group's are not written
      tile.channel = group * m_;
      add(tile, (last - group + 1) * m_);
    }
  }

  bool can_around() const {
    for (int i = 0; i < 2; i++) {
      if (s_.kernel[i] != 3 || s_.stride[i] != 1 || s_.dilation[i] != 1) return false;
    }
    return true;
  }

  int64_t border_row() const { return (run_.width + 2) * kWidth; }
  size_t border_floats() const { return (std::min(block_rows_, run_.height) + 2) * border_row(); }

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

  void write(const Tile& t, const float* sums) const {
    if (t.tap == taps()) {
      Tile one = t;
      one.rows = m_;
      for (one.tap = 0; one.tap < taps(); one.tap++) {
        if (one.tap == taps() / 2) continue;
        write(one, sums);
        sums += m_ * kWidth;
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
  // be fetched and stored too often.
  static constexpr int64_t kBlockBytes = 192 << 10, kLeastPixels = 64, kMostPixels = 1024;
  // Pieces of work, and floats of all shares' sums.
  static constexpr size_t kPieces = 16, kMostSums = 1 << 20;

  LayerShape s_;
  GradientRun run_;
  int m_, n_;
  std::vector<Tile> tiles_;
  std::vector<char> seen_;  // by a tile's tap, whether there is such a tile
  size_t floats_ = 0, shares_, parts_;
  int64_t rows_, block_rows_, blocks_;
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
