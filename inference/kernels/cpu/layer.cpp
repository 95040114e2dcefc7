#include "layer.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <string>
#include <thread>

namespace hetconv {

namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string text(int64_t value) { return std::to_string(value); }

// Far above any network, and small enough for every product that the kernels make of these in 32 bits: an offset in a
// table of taps and pixels, a tap times its dilation, a few hundred times the channels.
constexpr int32_t kMostChannels = 1 << 22, kMostKernel = 1 << 10, kMostStep = 1 << 15;
// Of an image's height or width, and of a tensor's elements: in 64 bits.
constexpr int64_t kMostPixels = int64_t{1} << 40, kMostElements = int64_t{1} << 60;

void check(const LayerShape& s, const Weights& weights) {
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
  if (!(weights.low <= weights.high)) refuse("min must be at most max");
  if (!weights.w) return;
  for (int i = 0; i < 2; i++) {
    const int same = s.dilation[i] * (s.kernel[i] / 2);
    if (s.kernel[i] % 2 == 0 || s.pads[i] != same || s.pads[i + 2] != same) {
      refuse("HetConv needs an odd kernel and 'same' padding");
    }
  }
}

void check_size(int64_t height, int64_t width) {
  for (int64_t size : {height, width}) {
    if (size < 1 || size > kMostPixels) refuse("an input of " + text(height) + "x" + text(width) + " makes no sense");
  }
}

void check_elements(int64_t batch, int64_t height, int64_t width, int64_t channels) {
  if (double(batch) * double(height) * double(width) * double(channels) <= double(kMostElements)) return;
  refuse("a tensor of " + text(batch) + "x" + text(height) + "x" + text(width) + "x" + text(channels) +
         " is too large");
}

}  // namespace

Algorithm find_algorithm(const char* name) {
  const char* const names[] = {"auto", "direct", "winograd4", "winograd2"};
  for (int32_t i = 0; i < 4; i++) {
    if (std::string(name) == names[i]) return static_cast<Algorithm>(i);
  }
  refuse(std::string("unknown algorithm ") + name + "; there are auto, direct, winograd4 and winograd2");
}

bool can_winograd(const LayerShape& shape) {
  for (int i = 0; i < 2; i++) {
    if (shape.kernel[i] != 3 || shape.stride[i] != 1 || shape.dilation[i] != 1) return false;
  }
  return true;
}

Layer::Layer(const LayerShape& shape, const Weights& weights, Algorithm algorithm, const Isa& isa)
    : shape_(shape), weights_(weights), allowed_(algorithm), isa_(&isa) {
  check(shape, weights);
  if (algorithm != Algorithm::kAuto && algorithm != Algorithm::kDirect && !can_winograd(shape_)) {
    refuse("Winograd needs a 3x3 kernel, stride 1 and dilation 1");
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

void Layer::output_size(int64_t height, int64_t width, int64_t* out_height, int64_t* out_width) const {
  check_size(height, width);
  const int64_t in[2] = {height, width};
  int64_t out[2];
  for (int i = 0; i < 2; i++) {
    const int64_t reach = int64_t(shape_.dilation[i]) * (shape_.kernel[i] - 1) + 1;
    const int64_t padded = in[i] + shape_.pads[i] + shape_.pads[i + 2];
    if (padded < reach) refuse("an input of " + text(height) + "x" + text(width) + " is smaller than the kernel");
    out[i] = (padded - reach) / shape_.stride[i] + 1;
  }
  *out_height = out[0], *out_width = out[1];
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
  const int out = algorithm == Algorithm::kWinograd4 ? 4 : 2, points = (out + 2) * (out + 2);
  const double tiles = double(run.batch) * ((run.out_height + out - 1) / out) * ((run.out_width + out - 1) / out);
  const double lanes = n / shape_.part < isa_->width ? 1.6 : 1.0;
  const double transforms = tiles * (out == 4 ? 160 * shape_.in_channels + 100 * n : 60 * shape_.in_channels + 40 * n);
  const double weights = points * m * n + pointwise * n;
  return std::max(tiles * points * m * n * lanes + 1.1 * pointwise * n * pixels + transforms, kFetch * weights);
}

Algorithm Layer::algorithm_for(int64_t batch, int64_t height, int64_t width) const {
  if (allowed_ != Algorithm::kAuto) return allowed_;
  if (!can_winograd(shape_)) return Algorithm::kDirect;
  Run run{nullptr, nullptr, nullptr, batch, height, width, 0, 0};
  output_size(height, width, &run.out_height, &run.out_width);
  Algorithm best = Algorithm::kDirect;
  for (Algorithm candidate : {Algorithm::kWinograd2, Algorithm::kWinograd4}) {
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

struct Work {
  const Packed* packed;
  const Run* run;
  const Scratch* scratch;
  size_t bytes, items, workers;
  std::atomic<bool> failed;
};

// One worker's share. A contiguous one: neighbouring items share inputs.
void work(void* argument, size_t worker) {
  Work& w = *static_cast<Work*>(argument);
  const size_t begin = w.items * worker / w.workers, end = w.items * (worker + 1) / w.workers;
  if (begin == end) return;
  void* memory = w.scratch->allocate(w.scratch->context, w.bytes);
  if (!memory) {  // no exception may leave a thread of somebody else's pool
    w.failed = true;
    return;
  }
  for (size_t i = begin; i < end; i++) w.packed->item(*w.run, i, memory);
  w.scratch->free(w.scratch->context, memory);
}

}  // namespace

void Layer::run(const float* x, const float* residual, float* y, int64_t batch, int64_t height, int64_t width,
                const Parallel& parallel, const Scratch& scratch) const {
  if (batch < 0) refuse("the batch is negative");
  Run run{x, residual, y, batch, height, width, 0, 0};
  output_size(height, width, &run.out_height, &run.out_width);
  check_elements(batch, height, width, shape_.in_channels);
  check_elements(batch, run.out_height, run.out_width, shape_.out_channels);
  if (!batch) return;
  const Packed& chosen = packed(algorithm_for(batch, height, width), parallel);
  Work w{&chosen, &run, &scratch, chosen.scratch_bytes(run), chosen.items(run), 0, {false}};
  // Some shares more than two threads need, so that they end together; and one for each core, as far as there are
  // items.
  static const size_t cores = std::thread::hardware_concurrency();
  w.workers = std::min(w.items, std::max<size_t>(8, cores));
  parallel.run(parallel.context, work, w.workers, &w);
  if (w.failed) throw std::bad_alloc();
}

void Layer::weight_gradient(GradientRun run, const Parallel& parallel) const {
  if (!weights_.hollow) refuse("the gradient is that to weights without a centre");
  if (run.batch < 0) refuse("the batch is negative");
  output_size(run.height, run.width, &run.out_height, &run.out_width);
  check_elements(run.batch, run.height, run.width, shape_.in_channels);
  check_elements(run.batch, run.out_height, run.out_width, shape_.out_channels);
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
      refuse("an input of " + text(height) + "x" + text(width) + " is smaller than the kernel");
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
