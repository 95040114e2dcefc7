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

  size_t scratch_bytes(size_t pixels) const {
    return pixels * (sizeof(uint8_t*) + sizeof(int64_t) + size()) + kMostPiece;
  }

  // As of a table with one tap.
  Int8Table::Block fill(const Sizes& run, const uint8_t* x, int64_t begin, int count, void* scratch) const {
    const uint8_t** in = static_cast<const uint8_t**>(scratch);
    int64_t* offset = reinterpret_cast<int64_t*>(in + count);
    uint8_t* patch = reinterpret_cast<uint8_t*>(offset + count);
    for (int i = 0; i < count; i++) in[i] = patch + i * size(), offset[i] = (begin + i) * s_.out_channels;
    const uint8_t* end = x + run.batch * run.height * run.width * s_.in_channels;
    // Pixels of one row of the output at a time.
    for (int i = 0; i < count;) {
      const int64_t row = (begin + i) / run.out_width, ox = (begin + i) % run.out_width;
      const int length = static_cast<int>(std::min<int64_t>(count - i, run.out_width - ox));
      const uint8_t* image = x + row / run.out_height * run.height * run.width * s_.in_channels;
      const int64_t top = row % run.out_height * s_.stride[0] - s_.pads[0], left = ox * s_.stride[1] - s_.pads[1];
      if (row_ <= 16) {
        fill_pixels<16>(run, image, end, top, left, length, patch + i * size());
      } else if (row_ <= 32) {
        fill_pixels<32>(run, image, end, top, left, length, patch + i * size());
      } else {
        fill_pixels<0>(run, image, end, top, left, length, patch + i * size());
      }
      i += length;
    }
    return {count, in, offset, patch};
  }

 private:
  // Patches of `length` pixels side by side, the first of which has its first tap at (y, x). A row of taps is one piece
  // of a known size, longer than the row where the image goes on: what is too much is written over by the next row, or
  // the next patch.
  template <int kPiece>
  void fill_pixels(const Sizes& run, const uint8_t* image, const uint8_t* end, int64_t y, int64_t x, int length,
                   uint8_t* to) const {
    // Copies of the numbers: to the compiler, a byte that is written may be part of any of them.
    const int64_t channels = s_.in_channels, width = s_.kernel[1], stride = s_.stride[1], most = run.width - width;
    const int64_t height = run.height, dilation = s_.dilation[0], line = run.width * channels, size = row_;
    const int rows = s_.kernel[0];
    const size_t spare = this->size() - taps();
    for (int i = 0; i < length; i++, x += stride, to += spare) {
      const bool inside = x >= 0 && x <= most;
      for (int ky = 0; ky < rows; ky++, to += size) {
        const int64_t row = y + ky * dilation;
        const uint8_t* from = inside && row >= 0 && row < height ? image + row * line + x * channels : nullptr;
        if (from && end - from >= kPiece) {
          std::memcpy(to, from, kPiece ? kPiece : size);
        } else {
          copy_part(run, image, row, x, to);
        }
      }
    }
  }

  // A row of taps that reaches over the edge.
  HETCONV_NOINLINE void copy_part(const Sizes& run, const uint8_t* image, int64_t y, int64_t x, uint8_t* to) const {
    std::fill_n(to, row_, static_cast<uint8_t>(padding_));
    const int64_t first = std::max<int64_t>(x, 0), last = std::min<int64_t>(x + s_.kernel[1], run.width);
    if (y < 0 || y >= run.height || first >= last) return;
    const uint8_t* row = image + y * run.width * s_.in_channels;
    std::copy(row + first * s_.in_channels, row + last * s_.in_channels, to + (first - x) * s_.in_channels);
  }

  static constexpr size_t kMostPiece = 32;

  LayerShape s_;
  int row_;  // bytes of a row of taps
  int32_t padding_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
