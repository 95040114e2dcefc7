// The kernels for one instruction set: compiled once for each, with HETCONV_ISA naming it and the compiler's flags.
#include <cmath>

#include "direct.h"
#include "patches.h"
#include "pool.h"
#include "weight_gradient.h"
#include "winograd.h"

#define HETCONV_STRING_(x) #x
#define HETCONV_STRING(x) HETCONV_STRING_(x)
#define HETCONV_JOIN_(a, b) a##b
#define HETCONV_JOIN(a, b) HETCONV_JOIN_(a, b)

namespace hetconv {
namespace HETCONV_ISA {

static bool available() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
#elif defined(__SSSE3__)
  return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
#else
  return true;
#endif
}

static std::unique_ptr<Packed> pack(Algorithm algorithm, const LayerShape& shape, const Weights& weights) {
  switch (algorithm) {
    case Algorithm::kWinograd4:
      return std::make_unique<Winograd<4>>(shape, weights);
    case Algorithm::kWinograd2:
      return std::make_unique<Winograd<2>>(shape, weights);
    case Algorithm::kPatches:
      return std::make_unique<Patches>(shape, weights);
    default:
      return std::make_unique<Direct>(shape, weights);
  }
}

}  // namespace HETCONV_ISA

extern const Isa HETCONV_JOIN(isa_, HETCONV_ISA);
const Isa HETCONV_JOIN(isa_, HETCONV_ISA) = {HETCONV_STRING(HETCONV_ISA),  HETCONV_ISA::pool_row,
                                             HETCONV_ISA::available,       HETCONV_ISA::pack,
                                             HETCONV_ISA::weight_gradient, HETCONV_ISA::kWidth};

}  // namespace hetconv
