// What the kernels for training must give: HetConv with weights that have no centre, and its gradients.
#pragma once

#include <string>

#include "kernels_oracle.h"

namespace hetconv {

// Of the output, the input and both kinds of weights, in double, by the definition.
struct Trained {
  std::vector<double> y, grad_x, grad_w, grad_w_kxk;
};

// Every product of an input and a weight goes into an output, whose gradient times one of the two goes to the other.
inline Trained trained(const Case& c, const Floats& x, const Floats& w, const Floats& w_kxk, const Floats& bias,
                       const Floats& grad) {
  const LayerShape& s = c.s;
  const Sizes sizes = sizes_of(s, c.batch, c.height, c.width);
  const int m = s.in_channels / s.part, n = s.out_channels / s.part, taps = s.kernel[0] * s.kernel[1];
  Trained t{std::vector<double>(grad.size()), std::vector<double>(x.size()), std::vector<double>(w.size()),
            std::vector<double>(w_kxk.size())};
  for (size_t pixel = 0; pixel < size_t(sizes.pixels()); pixel++) {
    const int64_t ox = pixel % sizes.out_width, row = pixel / sizes.out_width, oy = row % sizes.out_height;
    for (int out = 0; out < s.out_channels; out++) t.y[pixel * s.out_channels + out] = bias[out];
    for (int tap = 0; tap < taps; tap++) {
      const int64_t iy = oy * s.stride[0] - s.pads[0] + tap / s.kernel[1] * s.dilation[0];
      const int64_t ix = ox * s.stride[1] - s.pads[1] + tap % s.kernel[1] * s.dilation[1];
      if (iy < 0 || iy >= c.height || ix < 0 || ix >= c.width) continue;
      const size_t first = ((row / sizes.out_height * c.height + iy) * c.width + ix) * s.in_channels;
      const bool centre = tap == taps / 2;
      const int count = centre ? s.in_channels : m, step = centre ? 1 : taps - 1;
      for (int out = 0; out < s.out_channels; out++) {
        // Pointers: without optimisation, a vector's elements take most of the time.
        const size_t at = pixel * s.out_channels + out, in = first + (centre ? 0 : out / n * m);
        const size_t weight = size_t(out) * count * step + (centre ? 0 : tap - (tap > taps / 2));
        const float *from = &x[in], *by = centre ? &w[weight] : &w_kxk[weight];
        double *to_x = &t.grad_x[in], *to_weights = centre ? &t.grad_w[weight] : &t.grad_w_kxk[weight];
        const double g = grad[at];
        double sum = 0;
        for (int i = 0; i < count; i++) {
          sum += double(from[i]) * by[i * step];
          to_x[i] += g * by[i * step];
          to_weights[i * step] += g * from[i];
        }
        t.y[at] += sum;
      }
    }
  }
  return t;
}

// Calls `run`, which writes tensors, on one, two and three threads: they are those wanted, and the same bits each time.
template <class Run>
bool agrees(const Case& c, const Isa& isa, const std::string& what,
            std::initializer_list<const std::vector<double>*> wanted, Run run) {
  std::vector<Floats> first;
  for (size_t threads = 1; threads <= 3; threads++) {
    std::vector<Floats> results;
    for (const auto* tensor : wanted) results.emplace_back(tensor->size(), NAN);
    run(results, Parallel{run_threads, &threads});
    if (threads == 1) first = results;
    for (size_t k = 0; k < results.size(); k++) {
      const std::vector<double>& right = *wanted.begin()[k];
      double largest = 1e-3;
      for (double value : right) largest = std::max(largest, std::abs(value));
      for (size_t i = 0; i < right.size(); i++) {
        const float y = results[k][i];
        if (std::abs(y - right[i]) / largest < 1e-4 && y == first[k][i]) continue;
        const LayerShape& s = c.s;
        std::printf(
            "%s %s, %d threads: M %d N %d P %d K %dx%d stride %dx%d dilation %dx%d size %ldx%ldx%ld: %g instead of "
            "%g\n",
            isa.name, what.c_str(), int(threads), s.in_channels, s.out_channels, s.part, s.kernel[0], s.kernel[1],
            s.stride[0], s.stride[1], s.dilation[0], s.dilation[1], long(c.batch), long(c.height), long(c.width), y,
            right[i]);
        return false;
      }
    }
  }
  return true;
}

// A HetConv layer's output and gradients, on every instruction set, by one of the algorithms; memory of the exact size,
// so that a sanitizer sees what is read past it. A layer is made for each run, as c_api.cpp does, and packed by its
// threads.
inline bool check_gradient_case(const Case& c) {
  const LayerShape& s = c.s;
  const Sizes sizes = sizes_of(s, c.batch, c.height, c.width);
  const int m = s.in_channels / s.part, taps = s.kernel[0] * s.kernel[1];
  const Floats w = normal(size_t(s.out_channels) * s.in_channels), bias = normal(s.out_channels);
  const Floats w_kxk = normal(size_t(s.out_channels) * m * (taps - 1));
  const Floats x = normal(c.batch * c.height * c.width * s.in_channels), grad = normal(sizes.pixels() * s.out_channels);
  const Trained t = trained(c, x, w, w_kxk, bias, grad);
  LayerShape turned = s;
  std::swap(turned.in_channels, turned.out_channels);
  const Scratch scratch{allocate, release, nullptr};
  const Weights weights{w.data(), w_kxk.data(), bias.data(), -INFINITY, INFINITY, true, false};
  const Weights opposite{w.data(), w_kxk.data(), nullptr, -INFINITY, INFINITY, true, true};
  Algorithm algorithm;
  do {
    algorithm = static_cast<Algorithm>(generator() % kAlgorithms);
  } while (!can_take(algorithm, s, true));
  const std::string by = " by algorithm " + std::to_string(int(algorithm));
  using Results = std::vector<Floats>;
  for (const Isa* isa : all_isas()) {
    if (!isa->available()) continue;
    const auto to_weights = [&](Results& results, const Parallel& parallel) {
      Layer(s, weights, Algorithm::kAuto, *isa)
          .weight_gradient(
              {{c.batch, c.height, c.width, 0, 0}, x.data(), grad.data(), results[0].data(), results[1].data()},
              parallel);
    };
    if (!agrees(c, *isa, "gradient to the weights", {&t.grad_w, &t.grad_w_kxk}, to_weights)) return false;
    const auto forward = [&](Results& results, const Parallel& parallel) {
      Layer(s, weights, algorithm, *isa)
          .run(x.data(), nullptr, results[0].data(), c.batch, c.height, c.width, parallel, scratch);
    };
    if (!agrees(c, *isa, "training" + by, {&t.y}, forward)) return false;
    if (s.stride[0] != 1 || s.stride[1] != 1) continue;
    const auto to_input = [&](Results& results, const Parallel& parallel) {
      Layer(turned, opposite, algorithm, *isa)
          .run(grad.data(), nullptr, results[0].data(), c.batch, c.height, c.width, parallel, scratch);
    };
    if (!agrees(c, *isa, "gradient to the input" + by, {&t.grad_x}, to_input)) return false;
  }
  return true;
}

}  // namespace hetconv
