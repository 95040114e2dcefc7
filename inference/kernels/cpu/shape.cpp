#include "shape.h"

namespace hetconv {

namespace {

std::string text(int64_t value) { return std::to_string(value); }

// Far above any network, and small enough for every product that the kernels make of these in 32 bits: an offset in a
// table of taps and pixels, a tap times its dilation, a few hundred times the channels.
constexpr int32_t kMostChannels = 1 << 22, kMostKernel = 1 << 10, kMostStep = 1 << 15;
// Of an image's height or width, and of a tensor's elements: in 64 bits.
constexpr int64_t kMostPixels = int64_t{1} << 40, kMostElements = int64_t{1} << 60;

void check_elements(int64_t batch, int64_t height, int64_t width, int64_t channels) {
  if (double(batch) * double(height) * double(width) * double(channels) <= double(kMostElements)) return;
  refuse("a tensor of " + text(batch) + "x" + text(height) + "x" + text(width) + "x" + text(channels) +
         " is too large");
}

}  // namespace

void check_shape(const LayerShape& s, bool hetconv) {
  if (s.in_channels < 1 || s.out_channels < 1) refuse("channels must be at least 1");
  if (s.in_channels > kMostChannels || s.out_channels > kMostChannels) {
    refuse("channels must be at most " + text(kMostChannels));
  }
  if (s.part < 1) refuse("part " + text(s.part) + " must be at least 1");
  if (s.in_channels % s.part || s.out_channels % s.part) {
    refuse("part " + text(s.part) + " must divide " + text(s.in_channels) + " input and " + text(s.out_channels) +
           " output channels");
  }
  for (int i = 0; i < 2; i++) {
    if (s.kernel[i] < 1 || s.stride[i] < 1 || s.dilation[i] < 1) {
      refuse("kernel, stride and dilation must be at least 1");
    }
    if (s.kernel[i] > kMostKernel) refuse("kernel must be at most " + text(kMostKernel));
    if (s.stride[i] > kMostStep || s.dilation[i] > kMostStep) {
      refuse("stride and dilation must be at most " + text(kMostStep));
    }
  }
  for (int pad : s.pads) {
    if (pad < 0) refuse("pads must not be negative");
    if (pad > kMostStep) refuse("pads must be at most " + text(kMostStep));
  }
  if (!hetconv) return;
  for (int i = 0; i < 2; i++) {
    const int same = s.dilation[i] * (s.kernel[i] / 2);
    if (s.kernel[i] % 2 == 0 || s.pads[i] != same || s.pads[i + 2] != same) {
      refuse("HetConv needs an odd kernel and 'same' padding");
    }
  }
}

void check_bounds(float low, float high) {
  if (!(low <= high)) refuse("min must be at most max");
}

void check_size(int64_t height, int64_t width) {
  for (int64_t size : {height, width}) {
    if (size < 1 || size > kMostPixels) refuse("an input of " + text(height) + "x" + text(width) + " makes no sense");
  }
}

void output_size(const LayerShape& shape, int64_t height, int64_t width, int64_t* out_height, int64_t* out_width) {
  check_size(height, width);
  const int64_t in[2] = {height, width};
  int64_t out[2];
  for (int i = 0; i < 2; i++) {
    const int64_t reach = int64_t(shape.dilation[i]) * (shape.kernel[i] - 1) + 1;
    const int64_t padded = in[i] + shape.pads[i] + shape.pads[i + 2];
    if (padded < reach) refuse("an input of " + text(height) + "x" + text(width) + " is smaller than the kernel");
    out[i] = (padded - reach) / shape.stride[i] + 1;
  }
  *out_height = out[0], *out_width = out[1];
}

Sizes sizes_of(const LayerShape& shape, int64_t batch, int64_t height, int64_t width) {
  if (batch < 0) refuse("the batch is negative");
  Sizes sizes{batch, height, width, 0, 0};
  output_size(shape, height, width, &sizes.out_height, &sizes.out_width);
  check_elements(batch, height, width, shape.in_channels);
  check_elements(batch, sizes.out_height, sizes.out_width, shape.out_channels);
  return sizes;
}

}  // namespace hetconv
