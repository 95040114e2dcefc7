#include "layer.h"

#include <algorithm>
#include <string>

namespace hetconv {

Algorithm find_algorithm(const char* name) {
  const char* const names[] = {"auto", "direct", "winograd4", "winograd2", "patches"};
  for (int32_t i = 0; i < kAlgorithms; i++) {
    if (std::string(name) == names[i]) return static_cast<Algorithm>(i);
  }
  refuse(std::string("unknown algorithm ") + name + "; there are auto, direct, winograd4, winograd2 and patches");
}

bool can_take(Algorithm algorithm, const LayerShape& shape, bool hetconv) {
  if (algorithm == Algorithm::kAuto || algorithm == Algorithm::kDirect) return true;
  for (int i = 0; i < 2; i++) {
    if (shape.kernel[i] != 3 || shape.stride[i] != 1 || shape.dilation[i] != 1) return false;
  }
  return hetconv || algorithm != Algorithm::kPatches;
}

Layer::Layer(const LayerShape& shape, const Weights& weights, Algorithm algorithm, const Isa& isa)
    : shape_(shape), weights_(weights), allowed_(algorithm), isa_(&isa) {
  check_shape(shape, weights.w);
  check_bounds(weights.low, weights.high);
  if (!can_take(algorithm, shape_, weights.w)) {
    refuse(algorithm == Algorithm::kPatches ? "patches need HetConv, a 3x3 kernel, stride 1 and dilation 1"
                                            : "Winograd needs a 3x3 kernel, stride 1 and dilation 1");
  }
  if (!weights.hollow && !weights.transposed) return;
  if (!weights.w) refuse("training is for HetConv, which has 1x1 kernels");
  if (weights.transposed && (shape.stride[0] != 1 || shape.stride[1] != 1)) refuse("the opposite needs stride 1");
}

namespace {

struct Fill {
  Packed* packed;
  const Weights* weights;

  static void piece(void* fill, size_t i) {
    const Fill& f = *static_cast<Fill*>(fill);
    f.packed->fill(*f.weights, i);
  }
};

void run_serially(void*, void (*work)(void*, size_t), size_t count, void* argument) {
  for (size_t i = 0; i < count; i++) work(argument, i);
}

}  // namespace

void Layer::prepare() const {
  if (allowed_ != Algorithm::kAuto) packed(allowed_, {run_serially, nullptr});
}

const Packed& Layer::packed(Algorithm algorithm, const Parallel& parallel) const {
  const int i = static_cast<int>(algorithm);
  std::call_once(once_[i], [&] {
    std::unique_ptr<Packed> packed = isa_->pack(algorithm, shape_, weights_);
    Fill fill{packed.get(), &weights_};
    // In training weights are packed for each run, so it counts. Otherwise once, and others may wait for it: then not
    // on threads that they may be.
    const Parallel& chosen = weights_.hollow ? parallel : Parallel{run_serially, nullptr};
    chosen.run(chosen.context, Fill::piece, packed->fills(), &fill);
    packed_[i] = std::move(packed);
  });
  return *packed_[i];
}

// Time in multiply-accumulates, as if each took as long: what a layer's own arithmetic takes, or what its weights take
// to arrive where few pixels share them. The factors were fitted to measured layers of ResNet and VGG.
double Layer::cost(Algorithm algorithm, const Run& run) const {
  constexpr double kFetch = 20;  // of one weight from far away
  const double m = shape_.in_channels / shape_.part, n = shape_.out_channels, others = shape_.in_channels - m;
  const double pixels = double(run.batch) * run.out_height * run.out_width;
  const double pointwise = weights_.w ? others : 0;  // input channels of the 1x1 kernels outside the group
  if (algorithm == Algorithm::kDirect) {
    const double weights = n * (pointwise + m * shape_.kernel[0] * shape_.kernel[1]);
    // Lanes that a group of few channels leaves empty, or fills by permutations.
    const double lanes = n / shape_.part < isa_->width ? 1.6 : 1.05;
    return std::max(n * (pointwise + lanes * m * shape_.kernel[0] * shape_.kernel[1]) * pixels, kFetch * weights);
  }
  if (algorithm == Algorithm::kPatches) {
    // For groups that are smaller than a vector: what whole groups of them leave empty.
    const int group = shape_.out_channels / shape_.part;
    const double idle = double(isa_->width) / (isa_->width / group * group);
    const double all = double(run.batch) * ((run.out_height + 3) / 4) * ((run.out_width + 3) / 4) * 16;
    // The 1x1 kernels fetch an input for each product, and narrow products are faster than that.
    const double fetched = isa_->width < 16 ? 1.3 : 0.93;
    const double weights = n * (shape_.in_channels + 8 * m);
    return std::max(idle * n * (fetched * shape_.in_channels + 0.93 * 8 * m) * all, kFetch * weights);
  }
  const int out = algorithm == Algorithm::kWinograd4 ? 4 : 2, points = (out + 2) * (out + 2);
  const double tiles = double(run.batch) * ((run.out_height + out - 1) / out) * ((run.out_width + out - 1) / out);
  const double lanes = n / shape_.part < isa_->width ? 1.6 : 1.0;
  const double transforms = tiles * (out == 4 ? 160 * shape_.in_channels + 100 * n : 60 * shape_.in_channels + 40 * n);
  const double weights = points * m * n + pointwise * n;
  return std::max(tiles * points * m * n * lanes + 1.1 * pointwise * n * pixels + transforms, kFetch * weights);
}

Algorithm Layer::algorithm_for(int64_t batch, int64_t height, int64_t width) const {
  if (allowed_ != Algorithm::kAuto) return allowed_;
  Run run{{batch, height, width, 0, 0}, nullptr, nullptr, nullptr};
  output_size(height, width, &run.out_height, &run.out_width);
  Algorithm best = Algorithm::kDirect;
  for (Algorithm candidate : {Algorithm::kPatches, Algorithm::kWinograd2, Algorithm::kWinograd4}) {
    if (!can_take(candidate, shape_, weights_.w)) continue;
    // Where a group fills a vector, nothing has to be permuted.
    if (candidate == Algorithm::kPatches && shape_.out_channels / shape_.part >= isa_->width) continue;
    // In training results are to be those of PyTorch's own operators: F(4x4) is less exact than they are.
    if (weights_.hollow && candidate == Algorithm::kWinograd4) continue;
    if (cost(candidate, run) < cost(best, run)) best = candidate;
  }
  return best;
}

size_t Layer::weight_bytes() const {
  size_t bytes = 0;
  for (const std::unique_ptr<Packed>& packed : packed_) bytes += packed ? packed->weight_bytes() : 0;
  return bytes;
}

namespace {

struct Piece {
  const Packed& packed;
  const Run& run;

  static void item(const void* piece, size_t i, void* memory) {
    const Piece& p = *static_cast<const Piece*>(piece);
    p.packed.item(p.run, i, memory);
  }
};

}  // namespace

void Layer::run(const float* x, const float* residual, float* y, int64_t batch, int64_t height, int64_t width,
                const Parallel& parallel, const Scratch& scratch) const {
  const Run run{sizes_of(shape_, batch, height, width), x, residual, y};
  if (!batch) return;
  const Packed& chosen = packed(algorithm_for(batch, height, width), parallel);
  const Piece piece{chosen, run};
  share_out(chosen.items(run), chosen.scratch_bytes(run), Piece::item, &piece, parallel, scratch);
}

void Layer::weight_gradient(GradientRun run, const Parallel& parallel) const {
  if (!weights_.hollow) refuse("the gradient is that to weights without a centre");
  static_cast<Sizes&>(run) = sizes_of(shape_, run.batch, run.height, run.width);
  isa_->weight_gradient(shape_, run, parallel);
}

void check_pool(const PoolShape& s) {
  for (int i = 0; i < 2; i++) {
    if (s.kernel[i] < 1 || s.stride[i] < 1) refuse("kernel and stride must be at least 1");
    for (int pad : {s.pads[i], s.pads[i + 2]}) {
      if (pad < 0 || pad >= s.kernel[i]) refuse("pads must be less than the kernel");
    }
  }
}

void pool_output_size(const PoolShape& s, int64_t height, int64_t width, int64_t* out_height, int64_t* out_width) {
  check_size(height, width);
  const int64_t in[2] = {height, width};
  int64_t out[2];
  for (int i = 0; i < 2; i++) {
    const int64_t padded = in[i] + s.pads[i] + s.pads[i + 2];
    if (padded < s.kernel[i]) {
      refuse("an input of " + std::to_string(height) + "x" + std::to_string(width) + " is smaller than the kernel");
    }
    out[i] = (padded - s.kernel[i]) / s.stride[i] + 1;
  }
  *out_height = out[0], *out_width = out[1];
}

void PoolRun::row(void* argument, size_t i) {
  const PoolRun& r = *static_cast<PoolRun*>(argument);
  const int64_t image = i / r.out_height, y = i % r.out_height;
  r.isa->pool_row(*r.shape, r.x + image * r.height * r.width * r.channels,
                  r.y + static_cast<int64_t>(i) * r.out_width * r.channels, r.height, r.width, r.channels, y,
                  r.out_width);
}

}  // namespace hetconv
