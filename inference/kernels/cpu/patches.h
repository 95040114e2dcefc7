// HetConv with a 3x3 kernel and stride 1 by patches of outputs: a strip of the image is copied into sets of a vector of
// channels, with its border of zeros, and all tiles of output channels pass over it.
#pragma once

#include "patch_weights.h"

namespace hetconv {
namespace HETCONV_ISA {

class Patches : public Packed {
 public:
  Patches(const LayerShape& shape, const Weights& weights)
      : s_(shape),
        weights_(shape),
        bias_(shape.out_channels + kWidth),
        low_(splat(weights.low)),
        high_(splat(weights.high)) {
    if (weights.bias) std::copy_n(weights.bias, s_.out_channels, bias_.data());
  }

  size_t fills() const override { return weights_.tiles.size(); }
  void fill(const Weights& weights, size_t i) override { weights_.fill(weights, i); }

  size_t items(const Run& run) const override { return run.batch * strips(run); }

  size_t scratch_bytes(const Run& run) const override {
    return weights_.sets * set_floats(run) * sizeof(float) + kLine;
  }

  void item(const Run& run, size_t i, void* scratch) const override {
    const int64_t count = strips(run), rows = strip_rows(run), image = i / count, y = i % count * rows;
    float* const sets = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch) + kLine - 1) / kLine * kLine);
    copy_strip(run, run.x + image * run.height * run.width * s_.in_channels, y, sets);
    const int64_t end = std::min(y + rows, run.height);
    for (size_t t = 0; t < weights_.tiles.size(); t++) {
      for (int64_t at = y; at < end; at += kPatchRows) {
        run_patches(run, image, at, end, sets + (at - y) * row_floats(run), weights_.tiles[t], weights_.tile(t));
      }
    }
  }

  size_t weight_bytes() const override { return weights_.stream.size() * sizeof(float); }

 private:
  static int64_t rounded(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

  static size_t row_floats(const Run& run) { return (rounded(run.width, kPatchColumns) + 2) * kWidth; }
  size_t set_floats(const Run& run) const { return (strip_rows(run) + 2) * row_floats(run); }

  // As many as stay in the cache, but not all where there are few images to share out.
  int64_t strip_rows(const Run& run) const {
    const int64_t bytes = weights_.sets * row_floats(run) * sizeof(float), few = 8;
    int64_t rows = std::min<int64_t>(kStripBytes / bytes, run.height);
    if (run.batch < few) rows = std::min(rows, run.height * run.batch / few);
    return rounded(std::max<int64_t>(rows, 1), kPatchRows);
  }
  int64_t strips(const Run& run) const { return (run.height + strip_rows(run) - 1) / strip_rows(run); }

  // The rows of an image from `y` on, and those above and below, into all sets.
  void copy_strip(const Run& run, const float* image, int64_t y, float* to) const {
    const size_t row = row_floats(run), set = set_floats(run);
    for (int64_t r = 0; r < strip_rows(run) + 2; r++, to += row) {
      const int64_t in_y = y + r - 1;
      const bool inside = in_y >= 0 && in_y < run.height;
      for (int s = 0; s < weights_.sets; s++) {
        if (!inside) std::memset(to + s * set, 0, row * sizeof(float));
      }
      for (const PatchPiece& piece : weights_.pieces) {
        if (inside) copy_row(run, image + in_y * run.width * s_.in_channels, piece, to + piece.set * set);
      }
    }
  }

  void copy_row(const Run& run, const float* from, const PatchPiece& piece, float* to) const {
    const size_t behind = (run.width + 1) * kWidth;
    const bool whole = piece.count == kWidth;
    if (!piece.lane) std::memset(to, 0, kWidth * sizeof(float));
    if (!piece.lane) std::memset(to + behind, 0, (row_floats(run) - behind) * sizeof(float));
    from += piece.channel;
    for (int64_t x = 0; x < run.width; x++, from += s_.in_channels) {
      to += kWidth;
      if (whole) {
        store(to, load(from));
      } else {
        std::memcpy(to + piece.lane, from, piece.count * sizeof(float));
      }
    }
  }

  // One row of patches.
  void run_patches(const Run& run, int64_t image, int64_t y, int64_t end, const float* sets,
                   const PatchWeights::Tile& t, const PatchTile& tile) const {
    const Epilogue epilogue{bias_.data() + t.first, low_, high_};
    const int64_t n = s_.out_channels, first = ((image * run.height + y) * run.width) * n + t.first;
    const int down = static_cast<int>(std::min<int64_t>(kPatchRows, end - y));
    int64_t offset[kPatchPixels];
    for (int i = 0; i < kPatchPixels; i++) offset[i] = (i / kPatchColumns * run.width + i % kPatchColumns) * n;
    for (int64_t x = 0; x < run.width; x += kPatchColumns) {
      const PatchInput in{sets + x * kWidth, set_floats(run), row_floats(run)};
      const int64_t at = first + x * n;
      const Rows rows{nullptr, 0, offset, run.y + at, run.residual ? run.residual + at : nullptr, false};
      const int across = static_cast<int>(std::min<int64_t>(kPatchColumns, run.width - x));
      patch(tile, in, rows, epilogue, down, across, t.width);
    }
  }

  static constexpr int64_t kStripBytes = 96 << 10;
  static constexpr uintptr_t kLine = 64;

  LayerShape s_;
  PatchWeights weights_;
  Buffer bias_;
  V low_, high_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
