// The quantised kernel: the direct one in eight bits.
#pragma once

#include <cmath>

#include "int8_patches.h"
#include "int8_weights.h"

namespace hetconv {
namespace HETCONV_ISA {

class Int8Direct : public Int8Packed {
 public:
  Int8Direct(const LayerShape& shape, const Int8Weights& weights)
      : s_(shape),
        copied_(Int8Table::is_merged(shape, weights.w)),
        table_(shape, false, static_cast<uint8_t>(weights.x_zero_point), kVectorBytes),
        patches_(shape, weights.x_zero_point),
        weights_(shape, weights, copied_),
        start_(shape.out_channels + 2 * kWidth),
        scale_(shape.out_channels + 2 * kWidth),
        bias_(shape.out_channels + 2 * kWidth) {
    const double steps = weights.float_output ? 1 : 1 / double(weights.y_scale);
    for (int n = 0; n < shape.out_channels; n++) {
      start_[n] = static_cast<int32_t>((kInputShift - weights.x_zero_point) * sum_of(weights, n));
      scale_.data()[n] = static_cast<float>(weights.scale[n] * steps);
      bias_.data()[n] = weights.bias ? static_cast<float>(weights.bias[n] * steps) : 0;
    }
    e_.z_scale = static_cast<float>((weights.float_residual ? 1 : weights.z_scale) * steps);
    e_.z_zero_point = weights.float_residual ? 0 : static_cast<float>(weights.z_zero_point);
    e_.float_output = weights.float_output, e_.float_residual = weights.float_residual;
    e_.low = weights.low, e_.high = weights.high;
    if (weights.float_output) return;
    // Bounds within those of a byte, so that the clamp saturates too.
    e_.y_zero_point = weights.y_zero_point;
    for (float* bound : {&e_.low, &e_.high}) {
      const double least = -weights.y_zero_point, most = 255 - weights.y_zero_point;
      *bound = static_cast<float>(std::min(std::max(*bound * steps, least), most));
    }
    e_.plain = !e_.y_zero_point && e_.low == 0 && e_.high == 255 && e_.z_zero_point == 0;
    // Beyond 32 bits an integer of AVX-512 would be negative, and a byte 0 instead of 255.
    for (int n = 0; n < shape.out_channels; n++) {
      const double sum = static_cast<double>(largest_sum(shape, weights, n)) * std::abs(scale_.data()[n]);
      e_.plain &= sum + std::abs(bias_.data()[n]) + 255 * std::abs(double{e_.z_scale}) < 0x1p30;
    }
  }

  size_t items(const Int8Run& run) const override {
    return table_.blocks(run) * table_.splits(run, weights_.tiles.size());
  }

  size_t scratch_bytes(const Int8Run& run) const override {
    if (copied_) return patches_.scratch_bytes(table_.block_pixels(run));
    return table_.scratch_bytes(run) + weights_.slack() * (s_.in_channels + weights_.slack());
  }

  void item(const Int8Run& run, size_t i, void* scratch) const override {
    const size_t tiles = weights_.tiles.size(), cuts = table_.splits(run, tiles), cut = i % cuts;
    const Int8Table::Block block = fill(run, i / cuts, scratch);
    for (size_t t = tiles * cut / cuts; t < tiles * (cut + 1) / cuts; t++) run_tile(run, weights_.tiles[t], block);
  }

  size_t weight_bytes() const override { return weights_.bytes(); }

 private:
  // As in 64 bits, of which the sums keep 32.
  int64_t sum_of(const Int8Weights& weights, int64_t n) const {
    const int64_t own = int64_t{s_.in_channels / s_.part} * s_.kernel[0] * s_.kernel[1];
    int64_t sum = 0;
    for (int64_t i = 0; i < own; i++) sum += weights.w_kxk[n * own + i];
    for (int64_t i = 0; weights.w && i < s_.in_channels; i++) sum += weights.w[n * s_.in_channels + i];
    return sum;
  }

  Int8Table::Block fill(const Int8Run& run, size_t i, void* scratch) const {
    if (copied_) {
      const int64_t size = table_.block_pixels(run), begin = i * size;
      return patches_.fill(run, run.x, begin, static_cast<int>(std::min(size, run.pixels() - begin)), scratch);
    }
    const Int8Table::Block block = table_.fill(run, run.x, i, scratch);
    if (weights_.slack()) keep_inside(run, block);
    return block;
  }

  // A number of channels that is no multiple of a step's: a tile reads a few bytes more, times weights of zero. Where
  // the input ends before those, the pointer goes to a copy, one for each distance from the end.
  void keep_inside(const Int8Run& run, const Int8Table::Block& block) const {
    const uint8_t* end = run.x + run.batch * run.height * run.width * s_.in_channels;
    const size_t pixel = s_.in_channels, slack = weights_.slack();
    for (int tap = 0; tap < table_.taps(); tap++) {
      const uint8_t** in = block.in + size_t(tap) * block.apart;
      for (const uint8_t** p = in; p < in + block.count; p++) {
        if (*p < run.x || *p >= end || static_cast<size_t>(end - *p) >= pixel + slack) continue;
        uint8_t* copy = block.copies + (end - *p - pixel) * (pixel + slack);
        std::copy(*p, end, copy);
        *p = copy;
      }
    }
  }

  void run_tile(const Int8Run& run, const Int8ChannelTile& t, const Int8Table::Block& block) const {
    Int8Epilogue e = e_;
    e.start = start_.data() + t.first, e.scale = scale_.data() + t.first, e.bias = bias_.data() + t.first;
    const int count = block.count, most = kInt8Rows[t.vectors - 1], steps = (count + most - 1) / most;
    Int8Ahead ahead{weights_.stream(t) + t.bytes, (t.vectors * kVectorBytes + steps - 1) / steps};
    for (int step = 0; step < steps; step++, ahead.next += t.bytes / steps) {
      const int i = count * step / steps, rows = count * (step + 1) / steps - i;
      const int64_t first = (block.begin + i) * s_.out_channels + t.first;
      const Int8Rows r{block.in + i, block.apart, first, s_.out_channels, run.y, run.residual, ahead};
      const Int8TileFunction function = t.pairs          ? int8_tile_of<2, true>(rows)
                                        : t.vectors == 2 ? int8_tile_of<2, false>(rows)
                                                         : int8_tile_of<1, false>(rows);
      function(weights_.segments.data() + t.segment, t.total, weights_.stream(t), r, e, t.width);
    }
  }

  LayerShape s_;
  bool copied_;
  Int8Table table_;
  Int8Patches patches_;
  Int8Stream weights_;
  std::vector<int32_t> start_;
  Buffer scale_, bias_;
  Int8Epilogue e_{};
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
