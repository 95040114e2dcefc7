// The kernels against an oracle, without Python: for sanitizers, and for processors that only an emulator has.
//
//   hetconv_check CASES SEED      random layers and gradients on every instruction set; exit code 1 at the first wrong
//                                 result
//
// Also runs one layer from several threads at once, each call with threads of its own.
#include <string>

#include "kernels_gradient_oracle.h"
#include "kernels_int8_oracle.h"

using namespace hetconv;

namespace {

Case make_case() {
  Case c{};
  const int part = pick({1, 2, 3, 4, 8, 16});
  c.s.part = part;
  c.s.in_channels = part * pick({1, 2, 3, 4, 8, 17});
  c.s.out_channels = part * pick({1, 2, 3, 4, 8, 16, 20});
  const int kernel = pick({1, 3, 3, 3, 5, 7}), stride = pick({1, 1, 2, 3}), dilation = pick({1, 1, 2});
  c.hetconv = kernel > 1 && pick({0, 1});
  for (int i = 0; i < 2; i++) {
    c.s.kernel[i] = kernel, c.s.stride[i] = stride, c.s.dilation[i] = dilation;
  }
  for (int& pad : c.s.pads) pad = c.hetconv ? dilation * (kernel / 2) : pick({0, 1, 2, 3});
  c.low = pick({0, 1}) ? 0.0f : -INFINITY, c.high = pick({0, 1}) ? 6.0f : INFINITY;
  const int reach = dilation * (kernel - 1) + 1;
  c.batch = pick({1, 2, 3});
  c.height = std::max(pick({1, 4, 7, 10, 13}), reach), c.width = std::max(pick({1, 5, 8, 11, 14}), reach);
  return c;
}

// A layer to train. Half of them have few channels a group, where most of the kernels are, and of those some have as
// many pixels as are cut into shares.
Case make_trained_case() {
  Case c = make_case();
  const bool few = pick({0, 1}), large = few && pick({0, 0, 0, 1});
  if (few) {
    c.s.part = pick({2, 4, 8, 16});
    c.s.in_channels = c.s.part * pick({1, 2, 3, 4, 8}), c.s.out_channels = c.s.part * pick({1, 2, 3, 4, 8});
  }
  c.hetconv = true;
  for (int i = 0; i < 2; i++) {
    c.s.kernel[i] = few ? 3 : pick({1, 3, 3, 5});
    c.s.stride[i] = few ? 1 : pick({1, 1, 2, 3}), c.s.dilation[i] = few ? 1 : pick({1, 1, 2});
    c.s.pads[i] = c.s.pads[i + 2] = c.s.dilation[i] * (c.s.kernel[i] / 2);
  }
  if (large) c.batch = 3, c.height = 21, c.width = 20;
  // No more products than the oracle has milliseconds for.
  const double inputs = double(c.s.in_channels) / c.s.part * c.s.kernel[0] * c.s.kernel[1] + c.s.in_channels;
  return sizes_of(c.s, c.batch, c.height, c.width).pixels() * c.s.out_channels * inputs < 15e5 ? c
                                                                                               : make_trained_case();
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 50;
  generator.seed(argc > 2 ? std::atoi(argv[2]) : 0);
  std::string names;
  for (const Isa* isa : all_isas()) {
    if (isa->available()) names += std::string(" ") + isa->name;
  }
  for (int i = 0; i < cases; i++) {
    const Case c = make_case();
    if (!check_case(c) || !check_int8_case(c) || !check_gradient_case(make_trained_case())) return 1;
  }
  std::printf("%d cases right on%s\n", cases, names.c_str());
  return 0;
}
