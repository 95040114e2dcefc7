// The quantised kernels for one instruction set: compiled once for each, with HETCONV_ISA naming the namespace,
// HETCONV_NAME the instruction set, HETCONV_FLOATS that of the kernels in fp32 which goes with it.
#include "int8_direct.h"
#include "int8_pool.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define HETCONV_STRING_(x) #x
#define HETCONV_STRING(x) HETCONV_STRING_(x)
#define HETCONV_JOIN_(a, b) a##b
#define HETCONV_JOIN(a, b) HETCONV_JOIN_(a, b)

namespace hetconv {
namespace HETCONV_ISA {

static bool has_products() {
#if defined(__AVX512VNNI__)
  return __builtin_cpu_supports("avx512vnni");
#elif defined(__AVXVNNI__)
  return __builtin_cpu_supports("avxvnni");
#elif defined(__ARM_FEATURE_DOTPROD) && defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  return true;
#endif
}

static std::unique_ptr<Int8Packed> pack(const LayerShape& shape, const Int8Weights& weights) {
  return std::make_unique<Int8Direct>(shape, weights);
}

}  // namespace HETCONV_ISA

extern const Int8Isa HETCONV_JOIN(isa_, HETCONV_ISA);
const Int8Isa HETCONV_JOIN(isa_, HETCONV_ISA) = {
    HETCONV_STRING(HETCONV_NAME),   HETCONV_STRING(HETCONV_FLOATS), HETCONV_ISA::has_products,     HETCONV_ISA::pack,
    HETCONV_ISA::int8_max_pool_row, HETCONV_ISA::int8_mean,         HETCONV_ISA::int8_quantize_row};

}  // namespace hetconv
