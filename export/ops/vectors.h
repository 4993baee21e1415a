// Vectors of float32 as wide as the target's registers, and the three functions that the kernels need of them.
//
// Compiler vectors (GCC and Clang): the same source becomes AVX-512, AVX2, SSE or NEON. Intrinsics only where a kernel uses an
// instruction that has no other name: half precision here, dot products of bytes and of bfloat16 pairs there.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace mobile_videogpt {

#if defined(__AVX512F__)
constexpr size_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr size_t kVectorBytes = 32;
#else
constexpr size_t kVectorBytes = 16;
#endif
constexpr size_t kLanes = kVectorBytes / sizeof(float);

typedef float Vector __attribute__((vector_size(kVectorBytes)));
typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));
typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));

constexpr float kLog2E = 1.44269504088896340736f;

inline Vector load(const float* from) {
  Vector value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline void store(float* to, Vector value) {
  std::memcpy(to, &value, sizeof value);
}

// The first `count` lanes; the others are zero.
inline Vector load(const float* from, size_t count) {
  if (count >= kLanes) return load(from);
  Vector value{};
  std::memcpy(&value, from, count * sizeof(float));
  return value;
}

inline void store(float* to, Vector value, size_t count) {
  if (count >= kLanes) return store(to, value);
  std::memcpy(to, &value, count * sizeof(float));
}

// The value of a half precision number, and the nearest of those to a value, ties to even.
inline float from_half(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  uint32_t bits = (magnitude << 13) + (112u << 23);
  if (magnitude >= 0x7c00u) bits += 112u << 23;  // infinite, or no number
  float value;
  std::memcpy(&value, &bits, sizeof value);
  if (magnitude < 0x0400u) value = static_cast<float>(magnitude) * 0x1p-24f;  // subnormal
  std::memcpy(&bits, &value, sizeof bits);
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);  // no number
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65,536 or more
  if (magnitude < 0x38800000u) {  // subnormal: adding 1/2 leaves steps of 2^-24 in the lowest bits
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    shifted += 0.5f;
    std::memcpy(&bits, &shifted, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

// kLanes half precision numbers, widened.
inline Vector load_half(const uint16_t* from) {
#if defined(__AVX512F__)
  return (Vector)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX__) && defined(__F16C__)
  return (Vector)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__aarch64__)
  return (Vector)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#else
  Vector value;
  for (size_t i = 0; i < kLanes; ++i) value[i] = from_half(from[i]);
  return value;
#endif
}

// 2^x for x < 128, relative error at most 1.8e-7; below -126 it stays at 2^-126, the smallest normal number.
//
// x = n + f with n the nearest integer (the addition of 1.5 2^23 leaves it in the low bits) and f in [-1/2, 1/2]. 2^f is the
// minimax polynomial of degree 5 whose constant is 1: error 8.1e-8 before rounding, and in proportion to |f| near 0, so that a
// decay of nearly 1 is as exact as float32 holds it. n is added to the exponent.
inline Vector exp2(Vector x) {
  constexpr float kRound = 12582912.0f;  // 1.5 2^23
  // For negative floats a larger magnitude is a larger unsigned integer: one integer minimum is the clamp, and lets NaN pass, but not
  // one with its sign bit set (what x86 makes of infinity minus infinity), which becomes 2^-126: who calls has to let it through.
  const Bits bits = (Bits)x, lowest = Bits{} + 0xc2fc0000u;  // -126
  x = (Vector)(lowest < bits ? lowest : bits);
  const Vector rounded = x + kRound;
  const Vector f = x - (rounded - kRound);
  Vector p = f * 0.0013274633092805743f + 0.009671961888670921f;
  p = p * f + 0.055506784468889236f;
  p = p * f + 0.24022234976291656f;
  p = p * f + 0.6931470632553101f;
  p = p * f + 1.0f;
  return (Vector)((Bits)p + ((Bits)rounded << 23));
}

inline Vector exp_negative(Vector x) {  // exp(-|x|)
  return exp2((Vector)((Integers)x & 0x7fffffff) * -kLog2E);
}

// log(1 + exp(x)): max(x, 0) + log1p(exp(-|x|)), where log1p(e) / e on [0, 1] is its minimax polynomial of degree 8 (2.6e-8), so
// that small results keep their digits. Relative error at most 3e-7 above -1; below, rounding x log2(e) adds up to 7e-8 for each
// 1 that x goes down (1.2e-6 at -16, 4e-6 at -87, from where on the result stays at 2^-126).
inline Vector softplus(Vector x) {
  const Vector e = exp_negative(x);
  Vector p = e * 0.005555187817662954f - 0.03079412132501602f;
  p = p * e + 0.08032526075839996f;
  p = p * e - 0.13842640817165375f;
  p = p * e + 0.1919230818748474f;
  p = p * e - 0.24866288900375366f;
  p = p * e + 0.3332241177558899f;
  p = p * e - 0.49999701976776123f;
  p = p * e + 1.0f;
  return (x > 0.0f ? x : Vector{}) + p * e;
}

// x / (1 + exp(-x)), from exp(-|x|) so that nothing overflows. Relative error as softplus's; absolute at most 1.4e-7 of the larger of
// 1 and the result. Below -87 it stays at 2^-126 x instead of going to 0.
inline Vector silu(Vector x) {
  const Vector e = exp_negative(x);
  return x * (x > 0.0f ? Vector{} + 1.0f : e) / (1.0f + e);
}

}  // namespace mobile_videogpt
