// The shape of a convolution and of its output, and which shapes make sense.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace hetconv {

struct LayerShape {
  int32_t in_channels, out_channels, part;
  int32_t kernel[2], stride[2], dilation[2];
  int32_t pads[4];  // top, left, bottom, right, as in ONNX
};

// Of one run.
struct Sizes {
  int64_t batch, height, width, out_height, out_width;
  int64_t pixels() const { return batch * out_height * out_width; }
};

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument(what); }

// All of these throw std::invalid_argument with a clear text. `hetconv`: with 1x1 kernels over all channels.
void check_shape(const LayerShape& shape, bool hetconv);
void check_bounds(float low, float high);
void output_size(const LayerShape& shape, int64_t height, int64_t width, int64_t* out_height, int64_t* out_width);
Sizes sizes_of(const LayerShape& shape, int64_t batch, int64_t height, int64_t width);
void check_size(int64_t height, int64_t width);

}  // namespace hetconv
