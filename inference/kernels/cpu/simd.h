// Vectors of floats in the width of the instruction set that this translation unit is compiled for.
//
// GCC and Clang vector extensions do the arithmetic; only a permutation by run-time indices needs intrinsics.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSSE3__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace hetconv {
namespace HETCONV_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;  // floats a vector
// Pixels of a register tile of 1 or 2 vectors. 24 x 1 would fit, but 24 pointers do not.
constexpr int kRows[] = {12, 12};
constexpr int kPatch[] = {4, 4};  // rows and columns of a patch
constexpr bool kManyRegisters = true;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kRows[] = {12, 6};  // 12 accumulators of 16 registers
constexpr int kPatch[] = {4, 2};
constexpr bool kManyRegisters = false;
#elif defined(__aarch64__)
constexpr int kWidth = 4;
constexpr int kRows[] = {16, 8};  // 16 accumulators of 32 registers
constexpr int kPatch[] = {4, 4};
constexpr bool kManyRegisters = true;
#else
constexpr int kWidth = 4;
constexpr int kRows[] = {8, 4};  // 8 accumulators of 16 registers; without FMA a product needs one more
constexpr int kPatch[] = {4, 2};
constexpr bool kManyRegisters = false;
#endif

typedef float V __attribute__((vector_size(kWidth * 4)));
typedef int32_t VI __attribute__((vector_size(kWidth * 4)));
typedef float VU __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

#define HETCONV_INLINE inline __attribute__((always_inline))
#define HETCONV_NOINLINE __attribute__((noinline))

static HETCONV_INLINE V load(const float* p) { return *reinterpret_cast<const VU*>(p); }
static HETCONV_INLINE void store(float* p, V v) { *reinterpret_cast<VU*>(p) = v; }
static HETCONV_INLINE V splat(float x) { return x - V{}; }

// The first n floats; never reads past them.
static HETCONV_INLINE V load_part(const float* p, int n) {
  float lanes[kWidth] = {};
  std::memcpy(lanes, p, n * sizeof(float));
  return load(lanes);
}
static HETCONV_INLINE void store_part(float* p, V v, int n) {
  float lanes[kWidth];
  store(lanes, v);
  std::memcpy(p, lanes, n * sizeof(float));
}

// A value that is not a number stays one, as in PyTorch.
static HETCONV_INLINE V clamp(V v, V low, V high) {
#if defined(__AVX512F__)
  return _mm512_min_ps(high, _mm512_max_ps(low, v));  // with a NaN, these give the second operand
#elif defined(__AVX2__)
  return _mm256_min_ps(high, _mm256_max_ps(low, v));
#elif defined(__SSSE3__)
  return _mm_min_ps(high, _mm_max_ps(low, v));
#elif defined(__aarch64__)
  return vminq_f32(high, vmaxq_f32(low, v));
#else
  v = v < low ? low : v;
  return v > high ? high : v;
#endif
}

// result[i] = v[index[i]], with 0 <= index[i] < kWidth.
static HETCONV_INLINE V permute(V v, VI index) {
#if defined(__AVX512F__)
  return _mm512_permutexvar_ps((__m512i)index, v);
#elif defined(__AVX2__)
  return _mm256_permutevar8x32_ps(v, (__m256i)index);
#elif defined(__SSSE3__) || defined(__aarch64__)
  // Four floats are sixteen bytes: shuffle those.
  const VI bytes = index * 0x04040404 + 0x03020100;
#if defined(__aarch64__)
  return (V)vqtbl1q_u8((uint8x16_t)v, (uint8x16_t)bytes);
#else
  return (V)_mm_shuffle_epi8((__m128i)v, (__m128i)bytes);
#endif
#else
  V result;
  for (int i = 0; i < kWidth; i++) result[i] = v[index[i]];
  return result;
#endif
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
