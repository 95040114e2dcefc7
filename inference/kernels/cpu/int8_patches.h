// The inputs of a block of pixels where there are few channels (the stem): all taps of a pixel copied side by side, so
// that no step of four channels is partly empty but the last.
#pragma once

#include "input_table.h"
#include "int8_tile.h"

namespace hetconv {
namespace HETCONV_ISA {

using Int8Table = InputTable<uint8_t, kInt8Rows[0]>;

class Int8Patches {
 public:
  explicit Int8Patches(const LayerShape& shape, int32_t padding)
      : s_(shape), row_(shape.kernel[1] * shape.in_channels), padding_(padding) {}

  // Bytes of a pixel's taps, and of a patch.
  int taps() const { return s_.kernel[0] * row_; }
  size_t size() const { return (taps() + 3) / 4 * 4; }

  size_t scratch_bytes(size_t pixels) const { return pixels * (sizeof(uint8_t*) + sizeof(int64_t) + size()); }

  // As of a table with one tap.
  Int8Table::Block fill(const Sizes& run, const uint8_t* x, int64_t begin, int count, void* scratch) const {
    const uint8_t** in = static_cast<const uint8_t**>(scratch);
    int64_t* offset = reinterpret_cast<int64_t*>(in + count);
    uint8_t* patch = reinterpret_cast<uint8_t*>(offset + count);
    for (int i = 0; i < count; i++, patch += size()) {
      const int64_t pixel = begin + i, row = pixel / run.out_width, ox = pixel % run.out_width;
      const uint8_t* image = x + row / run.out_height * run.height * run.width * s_.in_channels;
      const int64_t top = row % run.out_height * s_.stride[0] - s_.pads[0], left = ox * s_.stride[1] - s_.pads[1];
      in[i] = patch, offset[i] = pixel * s_.out_channels;
      for (int ky = 0; ky < s_.kernel[0]; ky++) {
        fill_row(run, image, top + ky * s_.dilation[0], left, patch + ky * row_);
      }
    }
    return {count, in, offset, patch};
  }

 private:
  void fill_row(const Sizes& run, const uint8_t* image, int64_t y, int64_t x, uint8_t* to) const {
    const int64_t channels = s_.in_channels, width = s_.kernel[1];
    const uint8_t* row = image + y * run.width * channels;
    if (y >= 0 && y < run.height && x >= 0 && x + width <= run.width) {
      copy(row + x * channels, row_, to);
      return;
    }
    std::fill_n(to, row_, static_cast<uint8_t>(padding_));
    const int64_t first = std::max<int64_t>(x, 0), last = std::min<int64_t>(x + width, run.width);
    if (y < 0 || y >= run.height || first >= last) return;
    std::copy(row + first * channels, row + last * channels, to + (first - x) * channels);
  }

  // In pieces of a known size, the last of which may overlap with the one before.
  static void copy(const uint8_t* from, int size, uint8_t* to) {
    if (size >= 16) {
      copy_pieces<16>(from, size, to);
    } else if (size >= 8) {
      copy_pieces<8>(from, size, to);
    } else {
      for (int i = 0; i < size; i++) to[i] = from[i];
    }
  }
  template <int kPiece>
  static void copy_pieces(const uint8_t* from, int size, uint8_t* to) {
    for (int i = 0; i + kPiece <= size; i += kPiece) std::memcpy(to + i, from + i, kPiece);
    std::memcpy(to + size - kPiece, from + size - kPiece, kPiece);
  }

  LayerShape s_;
  int row_;  // bytes of a row of taps
  int32_t padding_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
