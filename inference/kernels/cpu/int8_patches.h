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
    for (int i = 0; i < count; i++) in[i] = patch + i * size(), offset[i] = (begin + i) * s_.out_channels;
    // Pixels of one row of the output at a time.
    for (int i = 0; i < count;) {
      const int64_t row = (begin + i) / run.out_width, ox = (begin + i) % run.out_width;
      const int length = static_cast<int>(std::min<int64_t>(count - i, run.out_width - ox));
      const uint8_t* image = x + row / run.out_height * run.height * run.width * s_.in_channels;
      const int64_t top = row % run.out_height * s_.stride[0] - s_.pads[0], left = ox * s_.stride[1] - s_.pads[1];
      for (int ky = 0; ky < s_.kernel[0]; ky++) {
        uint8_t* to = patch + i * size() + ky * row_;
        if (row_ >= 16) {
          fill_row<16>(run, image, top + ky * s_.dilation[0], left, length, to);
        } else if (row_ >= 8) {
          fill_row<8>(run, image, top + ky * s_.dilation[0], left, length, to);
        } else {
          fill_row<1>(run, image, top + ky * s_.dilation[0], left, length, to);
        }
      }
      i += length;
    }
    return {count, in, offset, patch};
  }

 private:
  // A row of taps of `length` pixels side by side, the first of which has its first tap at (y, x); in pieces of a known
  // size, the last of which may overlap with the one before.
  template <int kPiece>
  void fill_row(const Sizes& run, const uint8_t* image, int64_t y, int64_t x, int length, uint8_t* to) const {
    // Copies of the numbers: to the compiler, a byte that is written may be part of any of them.
    const int64_t channels = s_.in_channels, width = s_.kernel[1], stride = s_.stride[1], most = run.width - width;
    const int size = row_;
    const size_t patch = this->size();
    const uint8_t* row = image + y * run.width * channels;
    const bool inside = y >= 0 && y < run.height;
    for (int i = 0; i < length; i++, x += stride, to += patch) {
      if (inside && x >= 0 && x <= most) {
        const uint8_t* from = row + x * channels;
        for (int j = 0; j + kPiece <= size; j += kPiece) std::memcpy(to + j, from + j, kPiece);
        if (kPiece > 1) std::memcpy(to + size - kPiece, from + size - kPiece, kPiece);
        continue;
      }
      std::fill_n(to, size, static_cast<uint8_t>(padding_));
      const int64_t first = std::max<int64_t>(x, 0), last = std::min<int64_t>(x + width, run.width);
      if (inside && first < last) std::copy(row + first * channels, row + last * channels, to + (first - x) * channels);
    }
  }

  LayerShape s_;
  int row_;  // bytes of a row of taps
  int32_t padding_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
