// The direct kernel: a list of segments a tile of output channels, padding and stride by a table of input pointers.
#pragma once

#include "direct_weights.h"
#include "input_table.h"

namespace hetconv {
namespace HETCONV_ISA {

class Direct : public Packed {
 public:
  Direct(const LayerShape& shape, const Weights& weights)
      : channels_(shape.out_channels),
        table_(shape, Table::is_merged(shape, weights.w), 0.0f, kWidth),
        weights_(shape, weights, table_.merged()),
        bias_(shape.out_channels + 2 * kWidth),
        low_(weights.low),
        high_(weights.high) {
    if (weights.bias) std::copy_n(weights.bias, shape.out_channels, bias_.data());
  }

  size_t fills() const override { return weights_.channels.tiles.size(); }
  void fill(const Weights& weights, size_t i) override { weights_.fill(weights, i); }

  size_t items(const Run& run) const override { return table_.blocks(run) * table_.splits(run, fills()); }

  size_t scratch_bytes(const Run& run) const override {
    return table_.block_pixels(run) * sizeof(int64_t) + table_.scratch_bytes(run);
  }

  void item(const Run& run, size_t i, void* scratch) const override {
    const size_t tiles = fills(), cuts = table_.splits(run, tiles), cut = i % cuts;
    int64_t* offset = static_cast<int64_t*>(scratch);  // [pixel], of the pixel in the output
    const Table::Block block = table_.fill(run, run.x, i / cuts, offset + table_.block_pixels(run));
    for (int p = 0; p < block.count; p++) offset[p] = (block.begin + p) * channels_;
    for (size_t t = tiles * cut / cuts; t < tiles * (cut + 1) / cuts; t++) {
      run_tile(run, weights_.channels.tiles[t], block, offset);
    }
  }

  size_t weight_bytes() const override { return weights_.stream.size() * sizeof(float); }

 private:
  using Table = InputTable<float, kRows[0]>;

  void run_tile(const Run& run, const ChannelTile& t, const Table::Block& block, const int64_t* offset) const {
    const Epilogue epilogue{bias_.data() + t.first, splat(low_), splat(high_)};
    const int count = block.count, most = kRows[t.vectors - 1], steps = (count + most - 1) / most;
    for (int step = 0; step < steps; step++) {
      const int i = count * step / steps, rows = count * (step + 1) / steps - i;
      const Rows r{
          block.in + i, block.apart, offset + i, run.y + t.first, run.residual ? run.residual + t.first : nullptr,
          false};
      const TileFunction function = t.vectors == 2 ? tile_of<2>(rows) : tile_of<1>(rows);
      function(weights_.channels.segments.data() + t.segment, t.total, t.lane, weights_.stream.data() + t.weight, r,
               epilogue, t.width);
    }
  }

  int64_t channels_;
  Table table_;
  DirectWeights weights_;
  Buffer bias_;
  float low_, high_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
