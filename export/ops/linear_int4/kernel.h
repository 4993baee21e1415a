// A linear layer with int4 weights in groups of 32 and activations quantized to int8, in groups of 32 too, as they come in.
//
// Weights are read as they lie in the file. Of 16 output channels, 8 inputs make 64 bytes: byte 4 c + j of them holds, for channel c,
// input j in its low half and input 4 + j in its high half, each plus 8. So one load gives two vectors whose 32-bit lanes are 4
// inputs of 16 channels, and an instruction that multiplies and adds 4 bytes at a time needs no shuffle. What the 8 adds is taken
// off by beginning each group's sum at -8 times the sum of its activations.
//
// Inputs are quantized once (`quantize_tile`), symmetrically: scale = largest magnitude / 127. The rows of a tile lie together, 4
// inputs of each in turn, so that all of them are found from one address. A group with an infinity or a NaN has the scale NaN, and so
// has every result of its row.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../vectors.h"

namespace mobile_videogpt {

constexpr int32_t kInfinity = 0x7f800000;  // the bits of float32's
constexpr size_t kGroup = 32;  // inputs that share a scale
constexpr size_t kChannels = 16;  // whose weights lie together
constexpr size_t kLinearUnit = 4;  // blocks of channels that a thread takes at a time
constexpr size_t kRowTile = 8;  // rows whose sums are in registers at once

typedef int8_t Bytes __attribute__((vector_size(kLanes)));

// Rows of activations as int8: what a linear reads. A tile of R rows that begins at row t begins at t I values, t I / 32 scales.
struct QuantizedRows {
  size_t rows, width;
  int8_t* values;  // of a tile [I / 4, R, 4]
  float* scales;  // of a tile [I / 32, R]
  int32_t* starts;  // of a tile [I / 32, R]: -8 times the sum of a group
};

// Rows of the tile that begins at `row`.
inline size_t tile_rows(size_t rows, size_t row) {
  const size_t left = rows - row;
  return left >= kRowTile ? kRowTile : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

struct LinearInt4 {
  size_t inputs, outputs;
  const uint8_t* weight;  // [O / 16, I / 8, 16, 4]
  const uint16_t* scale;  // [O / 16, I / 32, 16], half precision
  const float* bias;  // [O], or null
  const float* residual;  // [T, O], added to the result, or null; it may be the result's own place
  bool gated;  // the first half of the outputs goes through SiLU and multiplies the second half: [T, O / 2]
  float* out;  // [T, O], or [T, O / 2]

  size_t width() const { return gated ? outputs / 2 : outputs; }  // of a row of results
};

inline size_t linear_units(const LinearInt4& linear) {
  return (linear.width() / kChannels + kLinearUnit - 1) / kLinearUnit;
}

// The `count` rows from `row` on of x [T, I] as a tile. With `norm` [I] each is RMS-normalised and weighed first.
inline void quantize_tile(const float* x, const float* norm, float epsilon, const QuantizedRows& to, size_t row, size_t count) {
  const size_t width = to.width, groups = width / kGroup;
  for (size_t r = 0; r < count; ++r) {
    const float* from = x + (row + r) * width;
    float factor = 1.0f;
    if (norm) {
      Vector squares{};
      for (size_t i = 0; i < width; i += kLanes) squares += load(from + i) * load(from + i);
      float total = 0;
      for (size_t i = 0; i < kLanes; ++i) total += squares[i];
      factor = 1.0f / std::sqrt(total / static_cast<float>(width) + epsilon);
    }
    for (size_t group = 0; group < groups; ++group) {
      constexpr size_t kParts = kGroup / kLanes;
      Vector value[kParts];
      Integers largest{};  // magnitudes as integers, in the order of the numbers; NaN is above infinity
      for (size_t part = 0; part < kParts; ++part) {
        const size_t i = group * kGroup + part * kLanes;
        value[part] = load(from + i) * factor;
        if (norm) value[part] *= load(norm + i);
        const Integers size = (Integers)value[part] & 0x7fffffff;
        largest = size > largest ? size : largest;
      }
      int32_t most_bits = largest[0];
      for (size_t i = 1; i < kLanes; ++i) most_bits = std::max(most_bits, static_cast<int32_t>(largest[i]));
      float most;
      std::memcpy(&most, &most_bits, sizeof most);
      const bool finite = most_bits < kInfinity;
      const float inverse = finite && most > 0 ? 127.0f / most : 0.0f;
      int8_t rounded[kGroup] = {};
      Integers totals{};
      for (size_t part = 0; finite && part < kParts; ++part) {
        constexpr float kRound = 12582912.0f;  // 1.5 2^23: what is added to it is rounded to an integer, ties to even
        const Integers whole = __builtin_convertvector((value[part] * inverse + kRound) - kRound, Integers);
        totals += whole;
        const Bytes bytes = __builtin_convertvector(whole, Bytes);
        std::memcpy(rounded + part * kLanes, &bytes, sizeof bytes);
      }
      int32_t total = 0;
      for (size_t i = 0; i < kLanes; ++i) total += totals[i];
      int8_t* values = to.values + row * width + (group * kGroup / 4 * count + r) * 4;
      if (count == 1) std::memcpy(values, rounded, kGroup);
      else
        for (size_t four = 0; four < kGroup / 4; ++four) std::memcpy(values + four * count * 4, rounded + four * 4, 4);
      to.scales[row * groups + group * count + r] = finite ? most / 127.0f : std::numeric_limits<float>::quiet_NaN();
      to.starts[row * groups + group * count + r] = -8 * total;
    }
  }
}

namespace linear_detail {

// Vectors of 32-bit lanes that cover the 16 channels.
constexpr size_t kChannelParts = kChannels / kLanes;

inline Integers add_dots(Integers sums, Integers unsigned_bytes, int32_t signed_bytes) {
#if defined(__AVX512VNNI__)
  return (Integers)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)unsigned_bytes, _mm512_set1_epi32(signed_bytes));
#elif defined(__AVX512BW__)
  const auto pairs = _mm512_maddubs_epi16((__m512i)unsigned_bytes, _mm512_set1_epi32(signed_bytes));  // at most 15 127 2: no overflow
  return sums + (Integers)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__) && !defined(__AVX512F__)
  const auto pairs = _mm256_maddubs_epi16((__m256i)unsigned_bytes, _mm256_set1_epi32(signed_bytes));
  return sums + (Integers)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
  return (Integers)vdotq_s32((int32x4_t)sums, (int8x16_t)unsigned_bytes, vreinterpretq_s8_s32(vdupq_n_s32(signed_bytes)));
#else
  const Integers signed_all = Integers{} + signed_bytes;
  for (int byte = 0; byte < 4; ++byte)
    sums += ((unsigned_bytes >> (8 * byte)) & 0xff) * (signed_all << (24 - 8 * byte) >> 24);
  return sums;
#endif
}

inline Vector to_floats(Integers x) {
  return __builtin_convertvector(x, Vector);
}

// The sums of a tile of kR rows with some of the channels of a block, `part` of kChannelParts.
template <size_t kR>
inline void sum_part(const LinearInt4& linear, const QuantizedRows& x, size_t row, size_t block, size_t part, Vector (&sums)[kR]) {
  const size_t groups = linear.inputs / kGroup;
  const uint8_t* weight = linear.weight + block * linear.inputs * (kChannels / 2) + part * kLanes * 4;
  const uint16_t* scale = linear.scale + block * groups * kChannels + part * kLanes;
  const int8_t* values = x.values + row * linear.inputs;
  const float* scales = x.scales + row * groups;
  const int32_t* starts = x.starts + row * groups;
  for (size_t r = 0; r < kR; ++r) sums[r] = linear.bias ? load(linear.bias + block * kChannels + part * kLanes) : Vector{};
  for (size_t group = 0; group < groups; ++group) {
    Integers dots[kR];
#pragma GCC unroll 8
    for (size_t r = 0; r < kR; ++r) dots[r] = Integers{} + starts[r];
#pragma GCC unroll 4
    for (size_t eight = 0; eight < kGroup / 8; ++eight) {
      Integers packed;
      std::memcpy(&packed, weight, sizeof packed);
      const Integers low = packed & 0x0f0f0f0f, high = (Integers)((Bits)packed >> 4) & 0x0f0f0f0f;
#pragma GCC unroll 8
      for (size_t r = 0; r < kR; ++r) {
        int32_t one, other;
        std::memcpy(&one, values + r * 4, sizeof one);
        std::memcpy(&other, values + (kR + r) * 4, sizeof other);
        dots[r] = add_dots(add_dots(dots[r], low, one), high, other);
      }
      weight += kChannels * 4;
      values += kR * 8;
    }
    const Vector factor = load_half(scale);
#pragma GCC unroll 8
    for (size_t r = 0; r < kR; ++r) sums[r] += to_floats(dots[r]) * (factor * scales[r]);
    scale += kChannels;
    scales += kR;
    starts += kR;
  }
}

// A tile of kR rows with one block of 16 channels of the result.
template <size_t kR>
void tile_of_block(const LinearInt4& linear, const QuantizedRows& x, size_t row, size_t block) {
  const size_t width = linear.width();
  for (size_t part = 0; part < kChannelParts; ++part) {
    Vector sums[kR];
    sum_part<kR>(linear, x, row, block, part, sums);
    if (linear.gated) {
      Vector gates[kR];
      std::copy(sums, sums + kR, gates);
      sum_part<kR>(linear, x, row, block + width / kChannels, part, sums);
      for (size_t r = 0; r < kR; ++r) sums[r] *= silu(gates[r]);
    }
    const size_t channel = block * kChannels + part * kLanes;
    for (size_t r = 0; r < kR; ++r) {
      const size_t at = (row + r) * width + channel;
      store(linear.out + at, linear.residual ? sums[r] + load(linear.residual + at) : sums[r]);
    }
  }
}

}  // namespace linear_detail

// Unit `unit` of `linear_units`: some channels of all rows.
inline void linear_unit(const LinearInt4& linear, const QuantizedRows& x, size_t unit) {
  using namespace linear_detail;
  const size_t blocks = linear.width() / kChannels, end = std::min(blocks, (unit + 1) * kLinearUnit);
  for (size_t block = unit * kLinearUnit; block < end; ++block) {
    for (size_t row = 0, count; row < x.rows; row += count) {
      count = tile_rows(x.rows, row);
      if (count == 8) tile_of_block<8>(linear, x, row, block);
      else if (count == 4) tile_of_block<4>(linear, x, row, block);
      else if (count == 2) tile_of_block<2>(linear, x, row, block);
      else tile_of_block<1>(linear, x, row, block);
    }
  }
}

}  // namespace mobile_videogpt
