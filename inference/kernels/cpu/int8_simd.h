// Sums of products of four bytes in each lane of 32 bits, exactly, on the instruction set of this translation unit.
#pragma once

#include "simd.h"

namespace hetconv {
namespace HETCONV_ISA {

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define HETCONV_VNNI
#endif

// Pixels of a register tile of 1 or 2 vectors.
#if defined(__AVX512F__)
constexpr int kInt8Rows[] = {12, 12};
#elif defined(HETCONV_VNNI)
constexpr int kInt8Rows[] = {12, 6};
#elif defined(__aarch64__)
constexpr int kInt8Rows[] = {12, 8};
#else
constexpr int kInt8Rows[] = {8, 4};  // products of 16 bits take registers of their own
#endif

constexpr int kVectorBytes = 4 * kWidth;
typedef int32_t VIU __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
typedef uint8_t VB __attribute__((vector_size(kVectorBytes)));
typedef int16_t VS __attribute__((vector_size(kVectorBytes)));
typedef uint16_t VUS __attribute__((vector_size(kVectorBytes)));
typedef uint32_t VUI __attribute__((vector_size(kVectorBytes)));

static HETCONV_INLINE VI load_bytes(const void* p) { return *static_cast<const VIU*>(p); }

// Four bytes in every lane.
static HETCONV_INLINE VI splat_bytes(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return four - VI{};
}

// Eight bytes in every two lanes.
static HETCONV_INLINE VI splat_eight(const uint8_t* p) {
  typedef int64_t VL __attribute__((vector_size(kVectorBytes)));
  int64_t eight;
  std::memcpy(&eight, p, 8);
  return (VI)(eight - VL{});
}

// The sums of every two lanes of `a`, then those of `b`.
static HETCONV_INLINE VI add_pairs(VI a, VI b) {
#if defined(__AVX512F__)
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  return (VI)_mm512_add_epi32(_mm512_permutex2var_epi32((__m512i)a, even, (__m512i)b),
                              _mm512_permutex2var_epi32((__m512i)a, odd, (__m512i)b));
#elif defined(__AVX2__)
  return (VI)_mm256_permute4x64_epi64(_mm256_hadd_epi32((__m256i)a, (__m256i)b), 0xD8);
#elif defined(__SSSE3__)
  return (VI)_mm_hadd_epi32((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
  return (VI)vpaddq_s32((int32x4_t)a, (int32x4_t)b);
#else
  VI sums;
  for (int i = 0; i < kWidth / 2; i++) {
    sums[i] = static_cast<int32_t>(static_cast<uint32_t>(a[2 * i]) + static_cast<uint32_t>(a[2 * i + 1]));
    sums[kWidth / 2 + i] = static_cast<int32_t>(static_cast<uint32_t>(b[2 * i]) + static_cast<uint32_t>(b[2 * i + 1]));
  }
  return sums;
#endif
}

// Weights and inputs in the form that products want, and `dot`, which adds four products a lane to the sums.
#if defined(HETCONV_VNNI)
using Weights4 = VI;
using Inputs4 = VI;
static HETCONV_INLINE Weights4 weights4(VI w) { return w; }
static HETCONV_INLINE Inputs4 inputs4(VI x) { return x; }
static HETCONV_INLINE VI dot(VI sum, Inputs4 x, Weights4 w) {
#if defined(__AVX512VNNI__)
  return (VI)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#else
  return (VI)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)w);
#endif
}
constexpr int kInputShift = 0;
#elif defined(__ARM_FEATURE_DOTPROD)
// Both signed: inputs less 128, which the start of the sums makes up for.
using Weights4 = VI;
using Inputs4 = VI;
static HETCONV_INLINE Weights4 weights4(VI w) { return w; }
static HETCONV_INLINE Inputs4 inputs4(VI x) { return x ^ static_cast<int32_t>(0x80808080); }
static HETCONV_INLINE VI dot(VI sum, Inputs4 x, Weights4 w) { return (VI)vdotq_s32(sum, (int8x16_t)x, (int8x16_t)w); }
constexpr int kInputShift = 128;
#elif defined(__SSSE3__)
// In 16 bits, the even bytes and the odd ones: products of bytes summed in 16 bits, as of vpmaddubsw, would saturate.
struct Weights4 {
  VS even, odd;
};
struct Inputs4 {
  VS even, odd;
};
static HETCONV_INLINE Weights4 weights4(VI w) { return {(VS)((VUS)w << 8) >> 8, (VS)w >> 8}; }
static HETCONV_INLINE Inputs4 inputs4(VI x) { return {(VS)(x & 0x00FF00FF), (VS)((VUS)x >> 8)}; }
static HETCONV_INLINE VI pairs(VS x, VS w) {
#if defined(__AVX512F__)
  return (VI)_mm512_madd_epi16((__m512i)x, (__m512i)w);
#elif defined(__AVX2__)
  return (VI)_mm256_madd_epi16((__m256i)x, (__m256i)w);
#else
  return (VI)_mm_madd_epi16((__m128i)x, (__m128i)w);
#endif
}
static HETCONV_INLINE VI dot(VI sum, Inputs4 x, Weights4 w) {
  return (VI)((VUI)sum + (VUI)pairs(x.even, w.even) + (VUI)pairs(x.odd, w.odd));
}
constexpr int kInputShift = 0;
#else
struct Weights4 {
  VI of[4];
};
struct Inputs4 {
  VI of[4];
};
static HETCONV_INLINE Weights4 weights4(VI w) {
  return {{(VI)((VUI)w << 24) >> 24, (VI)((VUI)w << 16) >> 24, (VI)((VUI)w << 8) >> 24, w >> 24}};
}
static HETCONV_INLINE Inputs4 inputs4(VI x) {
  return {{x & 255, (VI)((VUI)x >> 8) & 255, (VI)((VUI)x >> 16) & 255, (VI)((VUI)x >> 24)}};
}
static HETCONV_INLINE VI dot(VI sum, Inputs4 x, Weights4 w) {
  for (int i = 0; i < 4; i++) sum = (VI)((VUI)sum + (VUI)(x.of[i] * w.of[i]));
  return sum;
}
constexpr int kInputShift = 0;
#endif

// Bytes in memory as lanes of 32 bits, and back: the low byte of each lane.
typedef uint8_t Bytes __attribute__((vector_size(kWidth)));
typedef uint8_t BytesU __attribute__((vector_size(kWidth), aligned(1), may_alias));
static HETCONV_INLINE VI load_u8(const uint8_t* p) {
  // GCC makes single bytes of __builtin_convertvector here.
#if defined(__AVX512F__)
  return (VI)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
  return (VI)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#elif defined(__SSE4_1__)
  int32_t four;
  std::memcpy(&four, p, 4);
  return (VI)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(four));
#else
  return __builtin_convertvector(*reinterpret_cast<const BytesU*>(p), VI);
#endif
}
static HETCONV_INLINE void store_u8(uint8_t* p, VI v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__)
  // The bytes of each half side by side, then the halves.
  const __m256i order = _mm256_set1_epi32(0x0C080400);
  const __m256i halves = _mm256_shuffle_epi8((__m256i)v, order);
  const __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), both);
#elif defined(__SSSE3__)
  const int32_t four = _mm_cvtsi128_si32(_mm_shuffle_epi8((__m128i)v, _mm_set1_epi32(0x0C080400)));
  std::memcpy(p, &four, 4);
#else
  *reinterpret_cast<BytesU*>(p) = __builtin_convertvector(v, Bytes);
#endif
}

// The low byte of the nearest integer, ties to even; of what is less than 2^22 in size, where the last bit of the sum
// is worth 1.
static HETCONV_INLINE VI low_byte(V v) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23, whose bits end in a byte of zeros
  return (VI)(v + kShift);
}

// The nearest bytes, ties to even, of what is less than 2^31 in size, cut off at 0 and 255: of `v` to `p`, and of `w`
// to `q`, or where kBeside to what follows `p`.
template <bool kBeside>
static HETCONV_INLINE void store_rounded(uint8_t* p, uint8_t* q, V v, V w) {
#if defined(__AVX512BW__)
  // Both to 16 bits, which fit one vector but alternate by four, then to 8.
  const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
  const __m512i both = _mm512_packus_epi32(_mm512_cvtps_epi32((__m512)v), _mm512_cvtps_epi32((__m512)w));
  const __m256i bytes = _mm512_cvtusepi16_epi8(_mm512_permutexvar_epi64(order, both));
  if (kBeside) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes);
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(bytes));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm256_extracti128_si256(bytes, 1));
  }
#else
  store_u8(p, low_byte(clamp(v, V{}, 255.0f - V{})));
  store_u8(kBeside ? p + kWidth : q, low_byte(clamp(w, V{}, 255.0f - V{})));
#endif
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
