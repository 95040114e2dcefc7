// The inputs of a block of pixels where `is_merged` says that there are few channels (the stem), copied so that all
// taps of a pixel lie side by side and no step of four channels is partly empty but the last. What lies side by side
// are columns of taps: neighbouring pixels share them, and of a kernel of 7x7 with a stride of 2 only two of seven are
// copied for each pixel.
#pragma once

#include "input_table.h"
#include "int8_tile.h"

namespace hetconv {
namespace HETCONV_ISA {

using Int8Table = InputTable<uint8_t, kInt8Rows[0]>;

class Int8Patches {
 public:
  Int8Patches(const LayerShape& shape, int32_t padding)
      : s_(shape), column_(shape.kernel[0] * shape.in_channels), padding_(static_cast<uint8_t>(padding)) {}

  size_t scratch_bytes(size_t pixels) const {
    const size_t columns = pixels * s_.kernel[1];
    return pixels * sizeof(uint8_t*) + columns * column_ + kMostPiece;
  }

  // As of a table with one tap.
  Int8Table::Block fill(const Sizes& run, const uint8_t* x, int64_t begin, int count, void* scratch) const {
    const uint8_t** in = static_cast<const uint8_t**>(scratch);
    uint8_t *copies = reinterpret_cast<uint8_t*>(in + count), *to = copies;
    const uint8_t* end = x + run.batch * run.height * run.width * s_.in_channels;
    each_row(s_, run, x, begin, count, [&](int i, int length, const uint8_t* image, int64_t top, int64_t left) {
      // Of strides wider than the kernel each pixel has columns of its own.
      const int step = std::min(s_.stride[1], s_.kernel[1]), pieces = step < s_.stride[1] ? length : 1;
      const int64_t columns = int64_t{length / pieces - 1} * step + s_.kernel[1];
      for (int p = 0; p < length; p++) in[i + p] = to + size_t(p) * step * column_;
      for (int piece = 0; piece < pieces; piece++, left += s_.stride[1], to += columns * column_) {
        if (s_.in_channels <= 4) {
          fill_columns<4>(run, image, end, top, left, columns, to);
        } else {
          fill_columns<kMostPiece>(run, image, end, top, left, columns, to);
        }
      }
    });
    return {begin, count, in, count, copies};
  }

 private:
  // `columns` columns of taps, the first of which begins at (y, x). A pixel's channels are one piece of a known size:
  // what is too much is written over by the next.
  template <int kPiece>
  void fill_columns(const Sizes& run, const uint8_t* image, const uint8_t* end, int64_t y, int64_t x, int64_t columns,
                    uint8_t* to) const {
    // Copies of the numbers: to the compiler, a byte that is written may be part of any of them.
    const int64_t channels = s_.in_channels, width = run.width, step = s_.dilation[0] * width * channels;
    const int rows = s_.kernel[0];
    uint8_t padding[kPiece];
    std::memset(padding, padding_, kPiece);
    // Taps within the image: [first, last).
    const auto taps_before = [&](int64_t row) {
      return static_cast<int>(std::clamp<int64_t>((row - y + s_.dilation[0] - 1) / s_.dilation[0], 0, rows));
    };
    const int first = taps_before(std::max<int64_t>(y, 0)),
              last = std::max(first, taps_before(std::max(run.height, y)));
    int64_t from = ((y + first * s_.dilation[0]) * width + x) * channels;
    for (int64_t i = 0; i < columns; i++, x++, from += channels) {
      const bool inside = x >= 0 && x < width && first < last;
      if (inside && last - first == rows) {
        // All that are whole at once.
        int64_t whole = std::min(columns - i, width - x);
        const uint8_t* p = image + from;
        while (whole && end - p - (rows - 1) * step < (whole - 1) * channels + kPiece) whole--;
        if (copy_columns<kPiece>(p, step, channels, rows, whole, to)) {
          i += whole - 1, x += whole - 1, from += (whole - 1) * channels, to += whole * rows * channels;
          continue;
        }
      }
      int ky = 0;
      for (const int stop = inside ? first : rows; ky < stop; ky++, to += channels) std::memcpy(to, padding, kPiece);
      if (!inside) continue;
      const uint8_t* p = image + from;
      const bool whole = end - p - (last - 1 - first) * step >= kPiece;
      if (whole) {
        for (; ky < last; ky++, p += step, to += channels) std::memcpy(to, p, kPiece);
      } else {
        for (; ky < last; ky++, p += step, to += channels) std::memcpy(to, p, channels);
      }
      for (; ky < rows; ky++, to += channels) std::memcpy(to, padding, kPiece);
    }
  }

  // `count` columns of all rows, if there are any, and this many rows have a loop of their own here: of those of usual
  // stems it leaves as many moves as there are taps.
  template <int kPiece>
  static bool copy_columns(const uint8_t* p, int64_t step, int64_t channels, int rows, int64_t count, uint8_t* to) {
    if (kPiece != 4 || channels != 3 || !count) return false;
    switch (rows) {
      case 3:
        return copy_rgb<3>(p, step, count, to);
      case 5:
        return copy_rgb<5>(p, step, count, to);
      case 7:
        return copy_rgb<7>(p, step, count, to);
      default:
        return false;
    }
  }
  template <int kRows>
  static bool copy_rgb(const uint8_t* p, int64_t step, int64_t count, uint8_t* to) {
    for (; count; count--, p += 3, to += 3 * kRows) {
#pragma GCC unroll 8
      for (int ky = 0; ky < kRows; ky += 2) {
        // Two at once: a processor stores once a cycle, and loads more often.
        uint32_t one, other = 0;
        std::memcpy(&one, p + ky * step, 4);
        if (ky + 1 < kRows) std::memcpy(&other, p + (ky + 1) * step, 4);
        const uint64_t both = (one & 0xFFFFFF) | uint64_t{other} << 24;
        std::memcpy(to + 3 * ky, &both, ky + 1 < kRows ? 8 : 4);
      }
    }
    return true;
  }

  static constexpr int kMostPiece = 16;
  static_assert(Int8Table::kFewChannels <= kMostPiece);

  LayerShape s_;
  int column_;  // bytes of a column of taps
  uint8_t padding_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
