#include "int8_layer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace hetconv {

void check_scale(const char* name, float scale) {
  if (!(scale > 0) || !std::isfinite(scale)) refuse(std::string(name) + " must be positive and finite");
}

void check_zero_point(const char* name, int64_t value) {
  if (value < 0 || value > 255) refuse(std::string(name) + " must be a byte");
}

int64_t largest_sum(const LayerShape& s, const Int8Weights& weights, int64_t n) {
  const auto size = [](const int8_t* w, int64_t count) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += std::abs(w[i]);
    return sum;
  };
  const int64_t own = int64_t{s.in_channels / s.part} * s.kernel[0] * s.kernel[1];
  const int64_t sum =
      size(weights.w_kxk + n * own, own) + (weights.w ? size(weights.w + n * s.in_channels, s.in_channels) : 0);
  return sum * std::max(weights.x_zero_point, 255 - weights.x_zero_point);
}

namespace {

void check_sums(const LayerShape& s, const Int8Weights& weights) {
  for (int64_t n = 0; n < s.out_channels; n++) {
    if (largest_sum(s, weights, n) > std::numeric_limits<int32_t>::max())
      refuse("the sums of these weights do not fit 32 bits");
  }
}

constexpr double kMost = std::numeric_limits<float>::max() / 4;

void check_weights(const LayerShape& shape, const Int8Weights& weights) {
  check_bounds(weights.low, weights.high);
  check_zero_point("x_zero_point", weights.x_zero_point);
  if (!weights.float_output) {
    check_scale("y_scale", weights.y_scale);
    check_zero_point("y_zero_point", weights.y_zero_point);
  }
  if (!weights.float_residual) {
    check_scale("z_scale", weights.z_scale);
    check_zero_point("z_zero_point", weights.z_zero_point);
  }
  // In steps of y, times the largest that each is multiplied with: then no sum of bytes is infinite, or not a number.
  const double steps = weights.float_output ? 1 : 1 / double(weights.y_scale);
  const auto finite = [steps](double value, double times) {
    return std::isfinite(static_cast<float>(value)) && std::abs(value * steps * times) < kMost;
  };
  for (int n = 0; n < shape.out_channels; n++) {
    if (!finite(weights.scale[n], 0x1p31)) refuse("scales must be finite, in steps of y too");
    if (weights.bias && !finite(weights.bias[n], 1)) refuse("the bias must be finite, in steps of y too");
  }
  if (weights.float_residual ? !finite(1, 1) : !finite(weights.z_scale, 255))
    refuse("z_scale must be finite, in steps of y too");
  check_sums(shape, weights);
}

struct Piece {
  const Int8Packed& packed;
  const Int8Run& run;

  static void item(const void* piece, size_t i, void* memory) {
    const Piece& p = *static_cast<const Piece*>(piece);
    p.packed.item(p.run, i, memory);
  }
};

}  // namespace

Int8Layer::Int8Layer(const LayerShape& shape, const Int8Weights& weights, const Int8Isa& isa) : shape_(shape) {
  check_shape(shape, weights.w);
  check_weights(shape, weights);
  packed_ = isa.pack(shape, weights);
}

void Int8Layer::run(const uint8_t* x, const void* residual, void* y, int64_t batch, int64_t height, int64_t width,
                    const Parallel& parallel, const Scratch& scratch) const {
  const Int8Run run{sizes_of(shape_, batch, height, width), x, residual, y};
  if (!batch) return;
  const Piece piece{*packed_, run};
  share_out(packed_->items(run), packed_->scratch_bytes(run), Piece::item, &piece, parallel, scratch);
}

void Int8PoolRun::row(void* argument, size_t i) {
  const Int8PoolRun& r = *static_cast<Int8PoolRun*>(argument);
  const int64_t image = i / r.out_height, y = i % r.out_height;
  r.isa->max_pool_row(*r.shape, r.x + image * r.height * r.width * r.channels,
                      r.y + static_cast<int64_t>(i) * r.out_width * r.channels, r.height, r.width, r.channels, y,
                      r.out_width);
}

void Int8MeanRun::piece(void* argument, size_t i) {
  const Int8MeanRun& r = *static_cast<Int8MeanRun*>(argument);
  const int64_t image = i / r.shares(), first = i % r.shares() * kShare;
  r.isa->mean(r.x + image * r.pixels * r.channels, r.y + image * r.channels, r.pixels, r.channels, first,
              std::min(kShare, r.channels - first), r.zero_point, r.scale);
}

void Int8QuantizeRun::row(void* argument, size_t i) {
  const Int8QuantizeRun& r = *static_cast<Int8QuantizeRun*>(argument);
  const int64_t plane = r.height * r.width, image = i / r.height, y = i % r.height;
  r.isa->quantize_row(r.x + image * r.channels * plane + y * r.width,
                      r.y + static_cast<int64_t>(i) * r.width * r.channels, r.width, r.channels, plane, r.scale,
                      r.zero_point);
}

}  // namespace hetconv
