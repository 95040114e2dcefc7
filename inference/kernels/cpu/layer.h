// What a layer computes, and a layer ready to run.
//
//   y = clamp(conv1x1(x, w) + conv_KxK_in_P_groups(x, w_kxk) + bias + residual)      activations NHWC, fp32
//
// With `w` it is HetConv2d (see inference/hetconv_op.py), without it a convolution in P groups, and a dense one with
// P = 1. Both kernels, direct and Winograd, take all of these; patches take HetConv alone.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "shape.h"
#include "work.h"

namespace hetconv {

// kWinograd4 is F(4x4,3x3), kWinograd2 F(2x2,3x3); kPatches is direct too, for groups of few channels.
enum class Algorithm : int32_t { kAuto = 0, kDirect = 1, kWinograd4 = 2, kWinograd2 = 3, kPatches = 4 };
constexpr int kAlgorithms = 5;
Algorithm find_algorithm(const char* name);  // auto, direct, winograd4, winograd2, patches; throws
                                             // std::invalid_argument
// Winograd needs a 3x3 kernel, stride 1 and dilation 1; patches need that and a HetConv layer.
bool can_take(Algorithm algorithm, const LayerShape& shape, bool hetconv);

// A piece of work of one run.
struct Run : Sizes {
  const float* x;         // (batch, height, width, in_channels)
  const float* residual;  // of the shape of y, or null
  float* y;               // (batch, out_height, out_width, out_channels)
};

struct Weights;

// A layer with its weights packed for one algorithm on one instruction set.
class Packed {
 public:
  virtual ~Packed() = default;
  // The weights are copied into it piece by piece.
  virtual size_t fills() const = 0;
  virtual void fill(const Weights& weights, size_t i) = 0;
  virtual size_t items(const Run& run) const = 0;
  virtual size_t scratch_bytes(const Run& run) const = 0;  // of one item
  virtual void item(const Run& run, size_t i, void* scratch) const = 0;
  virtual size_t weight_bytes() const = 0;
};

struct Weights {
  const float* w;      // (N, M) or null
  const float* w_kxk;  // (N, M/P, K, K)
  const float* bias;   // (N) or null
  float low, high;     // clamp

  // For training, HetConv only. Hollow: w_kxk is (N, M/P, K*K - 1), without the centre, which is in `w`.
  // Transposed: of a layer of stride 1 those of its opposite, which takes gradients of the output to gradients of the
  // input: `w` is (M, N) and w_kxk (M, N/P, taps), and the taps count from the last.
  bool hollow = false, transposed = false;
};

// The gradient of a layer to its weights.
struct GradientRun : Sizes {
  const float* x;     // (batch, height, width, in_channels)
  const float* grad;  // (batch, out_height, out_width, out_channels)
  float* grad_w;      // (N, M)
  float* grad_w_kxk;  // (N, M/P, K*K - 1), without the centre
};

// Pooling, NHWC. What lies outside the input never is the largest, and counts for the average only with `include_pad`.
struct PoolShape {
  bool average, include_pad;
  int32_t kernel[2], stride[2];
  int32_t pads[4];  // top, left, bottom, right; each less than the kernel
};

// One instruction set.
struct Isa {
  const char* name;
  void (*pool_row)(const PoolShape&, const float* image, float* row, int64_t height, int64_t width, int64_t channels,
                   int64_t out_y, int64_t out_width);
  bool (*available)();
  std::unique_ptr<Packed> (*pack)(Algorithm, const LayerShape&, const Weights&);  // to be filled; not kAuto
  void (*weight_gradient)(const LayerShape&, const GradientRun&, const Parallel&);
  int width;  // floats a vector
};

const std::vector<const Isa*>& all_isas();  // compiled in, best first
const Isa& best_isa();                      // of this machine
const Isa& find_isa(const char* name);      // throws std::invalid_argument
std::string isa_names();                    // those that this machine has, best first; separated by spaces

// Both throw std::invalid_argument.
void check_pool(const PoolShape& shape);
void pool_output_size(const PoolShape& shape, int64_t height, int64_t width, int64_t* out_height, int64_t* out_width);

// One call of a pooling; `row` is a piece of its work, out of batch * out_height.
struct PoolRun {
  const float* x;
  float* y;
  int64_t height, width, channels, out_height, out_width;
  const PoolShape* shape;
  const Isa* isa;
  static void row(void* run, size_t i);
};

class Layer {
 public:
  // Weights are read when an algorithm is first used, so they must live as long as the layer.
  // Throws std::invalid_argument with a clear text for shapes that make no sense.
  Layer(const LayerShape& shape, const Weights& weights, Algorithm algorithm, const Isa& isa);

  // Packs the weights of a given algorithm now; of kAuto it is not known yet which one an input will take.
  void prepare() const;
  void output_size(int64_t height, int64_t width, int64_t* out_height, int64_t* out_width) const {
    hetconv::output_size(shape_, height, width, out_height, out_width);
  }
  // Throws std::invalid_argument for sizes that leave no output.
  void run(const float* x, const float* residual, float* y, int64_t batch, int64_t height, int64_t width,
           const Parallel& parallel, const Scratch& scratch) const;
  // The gradient to weights that are hollow; sizes are found here. Throws as `run`.
  void weight_gradient(GradientRun run, const Parallel& parallel) const;
  Algorithm algorithm_for(int64_t batch, int64_t height, int64_t width) const;
  const LayerShape& shape() const { return shape_; }
  size_t weight_bytes() const;

 private:
  double cost(Algorithm algorithm, const Run& run) const;
  const Packed& packed(Algorithm algorithm, const Parallel& parallel) const;

  LayerShape shape_;
  Weights weights_;
  Algorithm allowed_;
  const Isa* isa_;
  // Packed when first used: a session rarely needs more than one. By algorithm.
  mutable std::once_flag once_[kAlgorithms];
  mutable std::unique_ptr<Packed> packed_[kAlgorithms];
};

}  // namespace hetconv
