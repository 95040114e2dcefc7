// Where the inputs of a block of pixels lie: a table of pointers by tap and pixel, which takes care of padding and
// stride. Elements are floats, or bytes in the quantised kernels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "shape.h"
#include "simd.h"

namespace hetconv {
namespace HETCONV_ISA {

// The output's pixels from `begin` on, those of one row at a time: each(i, length, image, y, x) for `length` pixels
// from number `i` on, the first of which has its first tap at (y, x) of its image.
template <class T, class Each>
static void each_row(const LayerShape& s, const Sizes& run, const T* x, int64_t begin, int count, Each each) {
  for (int i = 0; i < count;) {
    const int64_t row = (begin + i) / run.out_width, out_x = (begin + i) % run.out_width;
    const int length = static_cast<int>(std::min<int64_t>(count - i, run.out_width - out_x));
    each(i, length, x + row / run.out_height * run.height * run.width * s.in_channels,
         row % run.out_height * s.stride[0] - s.pads[0], out_x * s.stride[1] - s.pads[1]);
    i += length;
  }
}

// kStep: pixels of a register tile.
template <class T, int kStep>
class InputTable {
 public:
  static constexpr int kFewChannels = 16;
  // With few input channels (the stem) a row of taps, which lies side by side in memory, is one segment: 7 of 21
  // numbers instead of 49 of 3.
  static bool is_merged(const LayerShape& s, bool hetconv) {
    return !hetconv && s.part == 1 && s.kernel[1] > 1 && s.dilation[1] == 1 && s.in_channels < kFewChannels;
  }

  // `padding` is what lies outside the image. A tile may read `slack` elements more than a row of the table has.
  InputTable(const LayerShape& shape, bool merged, T padding, int slack)
      : s_(shape), merged_(merged), padding_(row_size() + slack, padding) {}

  bool merged() const { return merged_; }
  // Rows of the table.
  int taps() const { return merged_ ? s_.kernel[0] : s_.kernel[0] * s_.kernel[1]; }

  // Pixels whose inputs stay in the cache while all tiles of output channels pass over them.
  int64_t block_pixels(const Sizes& run) const {
    const int64_t bytes = int64_t{sizeof(T)} * s_.in_channels * s_.stride[0] * s_.stride[1];
    int64_t block = std::max<int64_t>(kInputBytes / bytes / kStep, 1) * kStep;
    block = std::min<int64_t>(block, kMaxPixels);
    block = std::min<int64_t>(block, std::max<int64_t>(kMaxTable / taps(), kStep));
    const int64_t pixels = run.pixels(), count = std::max<int64_t>((pixels + block - 1) / block, 1);
    // A few pixels more, where that makes equal shares for threads: 8 blocks instead of 9.
    int64_t even = count / kShares * kShares;
    for (int64_t n = 1; n <= count && n < kShares; n *= 2) even = std::max(even, n);
    const int64_t size = (pixels + even - 1) / even;
    return size <= block + block / 8 ? std::max<int64_t>(size, 1) : (pixels + count - 1) / count;
  }
  size_t blocks(const Sizes& run) const {
    const int64_t block = block_pixels(run);
    return (run.pixels() + block - 1) / block;
  }
  // Few pixels: then the tiles of output channels, of which there are so many, are shared out too.
  size_t splits(const Sizes& run, size_t tiles) const {
    const size_t count = blocks(run);
    return count >= kShares || !count ? 1 : std::min<size_t>((kShares + count - 1) / count, tiles);
  }

  size_t scratch_bytes(const Sizes& run) const {
    const size_t pixels = block_pixels(run), row = merged_ ? sizeof(T) * row_size() : 0;
    return taps() * (sizeof(T*) * padded(pixels) + pixels * row);
  }

  // A block's table, in the scratch memory.
  struct Block {
    int64_t begin;  // the first pixel
    int count;      // pixels
    const T** in;   // [tap][pixel], taps `apart`
    int apart;
    T* copies;  // the rest of the memory
  };
  Block fill(const Sizes& run, const T* x, size_t block, void* scratch) const {
    const int64_t size = block_pixels(run), begin = block * size;
    const int count = static_cast<int>(std::min(size, run.pixels() - begin));
    const int apart = static_cast<int>(padded(count));
    const T** in = static_cast<const T**>(scratch);
    T* copies = reinterpret_cast<T*>(in + static_cast<size_t>(taps()) * apart);
    each_row(s_, run, x, begin, count, [&](int i, int length, const T* image, int64_t top, int64_t left) {
      if (merged_) {
        copies = fill_rows(run, image, top, left, length, in + i, apart, copies);
      } else {
        fill_taps(run, image, top, left, length, in + i, apart);
      }
    });
    return {begin, count, in, apart, copies};
  }

 private:
  // Pointers are written a vector at a time, some beyond the last of a row of the table.
  static constexpr int kPointers = sizeof(V) / sizeof(uintptr_t);
  typedef uintptr_t VP __attribute__((vector_size(sizeof(V))));
  typedef uintptr_t VPU __attribute__((vector_size(sizeof(V)), aligned(alignof(uintptr_t)), may_alias));
  static size_t padded(size_t pixels) { return pixels + kPointers - 1; }

  size_t row_size() const { return static_cast<size_t>(s_.in_channels) * (merged_ ? s_.kernel[1] : 1); }

  // Of `length` pixels side by side, whose taps begin at x, x + stride, ..., those with `size` columns from there on
  // inside: [first, last).
  struct Inside {
    int first, last;
  };
  Inside inside(int64_t x, int length, int64_t size, const Sizes& run) const {
    const int64_t stride = s_.stride[1], right = run.width - size - x;
    const int64_t first = x >= 0 ? 0 : stride == 1 ? -x : (-x + stride - 1) / stride;
    const int64_t last = right < 0 ? 0 : stride == 1 ? right + 1 : right / stride + 1;
    const int begin = static_cast<int>(std::min<int64_t>(first, length));
    return {begin, std::max(begin, static_cast<int>(std::min<int64_t>(last, length)))};
  }

  // The pointers of `length` pixels side by side, the first of which has its first tap at (y, x); taps lie `apart`.
  void fill_taps(const Sizes& run, const T* image, int64_t y, int64_t x, int length, const T** in, int apart) const {
    const uintptr_t step = sizeof(T) * s_.stride[1] * s_.in_channels;
    VP steps;
    for (int i = 0; i < kPointers; i++) steps[i] = i * step;
    const T* padding = padding_.data();
    for (int kx = 0; kx < s_.kernel[1]; kx++, in += apart) {
      const int64_t in_x = x + kx * s_.dilation[1];
      const Inside range = inside(in_x, length, 1, run);
      const T** tap = in;
      for (int ky = 0; ky < s_.kernel[0]; ky++, tap += static_cast<int64_t>(s_.kernel[1]) * apart) {
        const int64_t in_y = y + ky * s_.dilation[0];
        if (in_y < 0 || in_y >= run.height) {
          std::fill(tap, tap + length, padding);
          continue;
        }
        // As numbers: some of these pointers lead outside the image.
        const int64_t first = sizeof(T) * (in_y * run.width + in_x) * s_.in_channels;
        VP next = reinterpret_cast<uintptr_t>(image) + static_cast<uintptr_t>(first) + steps;
        for (int i = 0; i < length; i += kPointers, next += kPointers * step) *reinterpret_cast<VPU*>(tap + i) = next;
        for (int i = 0; i < range.first; i++) tap[i] = padding;
        for (int i = range.last; i < length; i++) tap[i] = padding;
      }
    }
  }

  // The same for rows of taps; where one reaches over the edge, a copy with padding. Returns the end of the copies.
  T* fill_rows(const Sizes& run, const T* image, int64_t y, int64_t x, int length, const T** in, int apart,
               T* copies) const {
    const int64_t channels = s_.in_channels, step = s_.stride[1] * channels;
    const Inside range = inside(x, length, s_.kernel[1], run);
    for (int ky = 0; ky < s_.kernel[0]; ky++, in += apart) {
      const int64_t in_y = y + ky * s_.dilation[0];
      if (in_y < 0 || in_y >= run.height) {
        std::fill(in, in + length, padding_.data());
        continue;
      }
      const T* row = image + in_y * run.width * channels;
      for (int i = range.first; i < range.last; i++) in[i] = row + x * channels + i * step;
      for (int i = 0; i < length; i++) {
        if (i == range.first) i = range.last;
        if (i == length) break;
        const int64_t in_x = x + i * s_.stride[1];
        const int64_t first = std::max<int64_t>(in_x, 0), last = std::min<int64_t>(in_x + s_.kernel[1], run.width);
        in[i] = first < last ? copies : padding_.data();
        if (first >= last) continue;
        std::fill_n(copies, s_.kernel[1] * channels, padding_[0]);
        std::copy(row + first * channels, row + last * channels, copies + (first - in_x) * channels);
        copies += s_.kernel[1] * channels;
      }
    }
    return copies;
  }

  static constexpr int kShares = 8;  // equal shares for 1, 2, 4 and 8 threads
  static constexpr int64_t kInputBytes = 128 << 10, kMaxPixels = 8 * kStep, kMaxTable = 1 << 16;

  LayerShape s_;
  bool merged_;
  std::vector<T> padding_;
};

}  // namespace HETCONV_ISA
}  // namespace hetconv
