// What a quantised layer computes, and one ready to run. Activations NHWC.
//
//   sum[n] = conv1x1(x - x_zero_point, w) + conv_KxK_in_P_groups(x - x_zero_point, w_kxk)     exactly, in 32 bits
//   real = clamp(sum * scale[n] + bias[n] + (z - z_zero_point) * z_scale)                     fp32
//   y = saturate(round_half_to_even(real / y_scale) + y_zero_point)                           or real itself
//
// x is u8, w and w_kxk are s8 with one scale for both, z and y u8 or float. Padding counts as x_zero_point, that is as
// zero. The division by y_scale is made once, on scale, bias, z_scale and the bounds; the products and sums that are
// left are rounded one by one in this order, so that every instruction set gives the same bits.
#pragma once

#include <memory>
#include <vector>

#include "layer.h"

namespace hetconv {

struct Int8Weights {
  const int8_t* w;      // (N, M) or null
  const int8_t* w_kxk;  // (N, M/P, K, K)
  const float* scale;   // (N)
  const float* bias;    // (N) or null
  float low, high;      // clamp
  int32_t x_zero_point;
  bool float_output;  // then there are no y_scale and y_zero_point
  float y_scale;
  int32_t y_zero_point;
  bool float_residual;  // then there are no z_scale and z_zero_point
  float z_scale;
  int32_t z_zero_point;
};

struct Int8Run : Sizes {
  const uint8_t* x;      // (batch, height, width, in_channels)
  const void* residual;  // of the shape of y, or null
  void* y;               // (batch, out_height, out_width, out_channels)
};

// A layer with its weights packed for one instruction set.
class Int8Packed {
 public:
  virtual ~Int8Packed() = default;
  virtual size_t items(const Int8Run& run) const = 0;
  virtual size_t scratch_bytes(const Int8Run& run) const = 0;  // of one item
  virtual void item(const Int8Run& run, size_t i, void* scratch) const = 0;
  virtual size_t weight_bytes() const = 0;
};

// One instruction set.
struct Int8Isa {
  const char* name;
  const char* floats;      // the one of `Isa` that it builds on
  bool (*has_products)();  // the machine has what it needs beyond that
  std::unique_ptr<Int8Packed> (*pack)(const LayerShape&, const Int8Weights&);
  // As `Isa::pool_row`, the largest.
  void (*max_pool_row)(const PoolShape&, const uint8_t* image, uint8_t* row, int64_t height, int64_t width,
                       int64_t channels, int64_t out_y, int64_t out_width);
  // y[c] = the mean over the pixels of (image[c] - zero_point) * scale, for `count` channels from `first` on.
  void (*mean)(const uint8_t* image, float* y, int64_t pixels, int64_t channels, int64_t first, int64_t count,
               int32_t zero_point, float scale);
  // y[x * channels + c] = saturate(round_half_to_even(row[c * plane + x] / scale) + zero_point).
  void (*quantize_row)(const float* row, uint8_t* y, int64_t width, int64_t channels, int64_t plane, float scale,
                       int32_t zero_point);
};

const std::vector<const Int8Isa*>& all_int8_isas();  // compiled in, best first
const Int8Isa& best_int8_isa();                      // of this machine
const Int8Isa& find_int8_isa(const char* name);      // throws std::invalid_argument
std::string int8_isa_names();                        // as `isa_names`

// One call of a maximum pooling; `row` is a piece of its work, out of batch * out_height.
struct Int8PoolRun {
  const uint8_t* x;
  uint8_t* y;
  int64_t height, width, channels, out_height, out_width;
  const PoolShape* shape;
  const Int8Isa* isa;
  static void row(void* run, size_t i);
};

// One call of a mean over whole images, to float; `piece` is a piece of its work, out of pieces().
struct Int8MeanRun {
  const uint8_t* x;
  float* y;
  int64_t batch, pixels, channels;
  int32_t zero_point;
  float scale;
  const Int8Isa* isa;
  size_t pieces() const { return static_cast<size_t>(batch * shares()); }
  static void piece(void* run, size_t i);

 private:
  int64_t shares() const { return (channels + kShare - 1) / kShare; }
  static constexpr int64_t kShare = 256;  // channels
};

// One call of a quantisation from NCHW to NHWC; `row` is a piece of its work, out of batch * height.
struct Int8QuantizeRun {
  const float* x;
  uint8_t* y;
  int64_t height, width, channels;
  float scale;
  int32_t zero_point;
  const Int8Isa* isa;
  static void row(void* run, size_t i);
};

// The largest size of the sum of output channel n, whatever the input.
int64_t largest_sum(const LayerShape& shape, const Int8Weights& weights, int64_t n);

// Throw std::invalid_argument.
void check_scale(const char* name, float scale);
void check_zero_point(const char* name, int64_t value);

class Int8Layer {
 public:
  // The weights are copied. Throws std::invalid_argument with a clear text for shapes and numbers that make no sense,
  // and for weights whose sums could leave 32 bits.
  Int8Layer(const LayerShape& shape, const Int8Weights& weights, const Int8Isa& isa);

  // Throws std::invalid_argument for sizes that leave no output.
  void run(const uint8_t* x, const void* residual, void* y, int64_t batch, int64_t height, int64_t width,
           const Parallel& parallel, const Scratch& scratch) const;
  const LayerShape& shape() const { return shape_; }
  size_t weight_bytes() const { return packed_->weight_bytes(); }

 private:
  LayerShape shape_;
  std::unique_ptr<Int8Packed> packed_;
};

}  // namespace hetconv
