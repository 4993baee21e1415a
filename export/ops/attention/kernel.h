// Attention over a key/value cache for grouped queries: rotation, cache, causal softmax and weighted sum in one operator.
//
// The cache is laid out for reading. Of each key/value head, 16 positions' keys lie together with the same element of all 16 side by
// side, so that a vector of scores is a sum of products without a reduction across lanes; values are rows. All query heads that
// share a key/value head are computed together: each key and value is fetched once for them.
//
// Several tokens at once (`attention_unit`): blocks of tokens against blocks of keys, as in Dao et al., "FlashAttention" (arXiv
// 2205.14135), with the running maximum of Milakov and Gimelshein (arXiv 1805.02867). A half precision cache is multiplied as pairs of
// bfloat16 where the processor has such an instruction, and as float32 elsewhere; a float32 cache always as float32. One token
// (`step_unit`): the cache in pieces, so that every core reads some of it, and the pieces' sums are merged (`merge_steps`).

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "../vectors.h"

namespace mobile_videogpt {

constexpr size_t kKeyLanes = 16;  // positions whose keys lie together
constexpr size_t kKeyTile = 128;  // positions that a block of queries meets at a time; a cache holds a multiple of them
constexpr size_t kStepKeys = 256;  // positions of a piece, where there is one token

// Sizes and tensors of one call. `Element` is what the cache holds: float, or uint16_t, the bits of a half precision number.
template <typename Element>
struct Attention {
  size_t tokens, position;  // new ones, and how many the cache holds already
  size_t heads, groups, width, context;  // query heads, key/value heads, elements of a head, positions of the cache
  const float *q, *k, *v;  // rows of H E, K E and K E, before rotation
  size_t stride;  // from one row of any of them to the next
  const float* rotation;  // [S, E]: of each position the cosines of E / 2 angles, then the sines
  Element* keys;  // [K, S / 16, E, 16], rotated
  Element* values;  // [K, S, E]
  float* out;  // [T, H E]

  size_t shared() const { return heads / groups; }  // query heads of a key/value head
  size_t length() const { return position + tokens; }
  Element* key_block(size_t group, size_t block) const { return keys + (group * context + block * kKeyLanes) * width; }
  Element* value_row(size_t group, size_t row) const { return values + (group * context + row) * width; }
};

namespace attention_detail {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

inline Vector load_element(const float* from) { return load(from); }
inline Vector load_element(const uint16_t* from) { return load_half(from); }
inline void store_element(float* to, float value) { *to = value; }
inline void store_element(uint16_t* to, float value) { *to = to_half(value); }

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

inline float largest(Vector x) {
  float most = x[0];
  for (size_t i = 1; i < kLanes; ++i) most = std::max(most, x[i]);
  return most;
}

inline float sum(Vector x) {
  float total = 0;
  for (size_t i = 0; i < kLanes; ++i) total += x[i];
  return total;
}

// A head's E values turned by a position's angles and multiplied by `factor`: x_i and x_{i + E/2} are a pair.
inline void rotate(const float* x, const float* rotation, size_t width, float factor, float* to) {
  const size_t half = width / 2;
  for (size_t i = 0; i < half; ++i) {
    const float cosine = rotation[i] * factor, sine = rotation[half + i] * factor, a = x[i], b = x[half + i];
    to[i] = a * cosine - b * sine;
    to[half + i] = b * cosine + a * sine;
  }
}

// The operands of products, as 32-bit words that hold `kPer` consecutive terms of a sum.
struct Floats {
  static constexpr size_t kPer = 1;
  static Bits words(Vector first, Vector) { return (Bits)first; }
  static Vector add_products(Vector sum, Bits a, Bits b) { return sum + (Vector)a * (Vector)b; }
  static void store_terms(uint32_t* to, Vector first, Vector second) {  // 2 kLanes consecutive terms
    std::memcpy(to, &first, sizeof first);
    std::memcpy(to + kLanes, &second, sizeof second);
  }
  static uint32_t word(const float* terms) {
    uint32_t bits;
    std::memcpy(&bits, terms, sizeof bits);
    return bits;
  }
};

#if defined(__AVX512BF16__)
struct Bfloats {
  static constexpr size_t kPer = 2;
  static Bits words(Vector first, Vector second) {
    const auto low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    const auto high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (Bits)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
  static Vector add_products(Vector sum, Bits a, Bits b) { return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
  static void store_terms(uint32_t* to, Vector first, Vector second) {
    const auto words = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    std::memcpy(to, &words, sizeof words);
  }
  static uint32_t rounded(float x) {  // to the nearest bfloat16, ties to even
    const uint32_t bits = Floats::word(&x);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  }
  static uint32_t word(const float* terms) { return rounded(terms[0]) | rounded(terms[1]) << 16; }
};
using HalfOperands = Bfloats;
#else
using HalfOperands = Floats;
#endif

template <typename Element>
using Operands = std::conditional_t<std::is_same_v<Element, float>, Floats, HalfOperands>;

// Rows and vectors of columns whose sums are in registers at once.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr size_t kRows = 6, kColumns = 4;
#else
constexpr size_t kRows = 4, kColumns = 2;
#endif

// sums[r][c] += a[r] . b[c] over `steps` words; rows of `a` are `a_stride` words apart, those of `b` `b_stride`.
template <typename Format, size_t kC>
inline void multiply(const uint32_t* a, size_t a_stride, const uint32_t* b, size_t b_stride, size_t steps, Vector (&sums)[kRows][kC]) {
  for (size_t s = 0; s < steps; ++s) {
    Bits row[kC];
    for (size_t c = 0; c < kC; ++c) std::memcpy(&row[c], b + s * b_stride + c * kLanes, sizeof row[c]);
#pragma GCC unroll 8
    for (size_t r = 0; r < kRows; ++r) {
      const Bits word = Bits{} + a[r * a_stride + s];
#pragma GCC unroll 8
      for (size_t c = 0; c < kC; ++c) sums[r][c] = Format::add_products(sums[r][c], word, row[c]);
    }
  }
}

// What a thread works with; kept between calls, so that no token allocates.
struct Scratch {
  std::vector<uint32_t> queries, keys, values, shares;
  std::vector<float> scores, sums, most, total;

  template <typename T>
  static T* room(std::vector<T>& buffer, size_t count) {
    if (buffer.size() < count) buffer.resize(count);
    return buffer.data();
  }
};

// Keys `first` to `first + kKeyTile` as words [E / kPer, kKeyTile].
template <typename Format, typename Element>
void pack_keys(const Attention<Element>& call, size_t group, size_t first, uint32_t* to) {
  for (size_t block = 0; block < kKeyTile / kKeyLanes; ++block) {
    const Element* from = call.key_block(group, first / kKeyLanes + block);
    for (size_t e = 0; e < call.width; e += Format::kPer)
      for (size_t lane = 0; lane < kKeyLanes; lane += kLanes) {
        const Vector one = load_element(from + e * kKeyLanes + lane);
        const Vector other = Format::kPer == 2 ? load_element(from + (e + 1) * kKeyLanes + lane) : Vector{};
        const Bits words = Format::words(one, other);
        std::memcpy(to + e / Format::kPer * kKeyTile + block * kKeyLanes + lane, &words, sizeof words);
      }
  }
}

// Values of the same positions as words [kKeyTile / kPer, E]; those behind the last token, which nobody has written yet, are zeros.
template <typename Format, typename Element>
void pack_values(const Attention<Element>& call, size_t group, size_t first, uint32_t* to) {
  for (size_t key = 0; key < kKeyTile; key += Format::kPer)
    for (size_t e = 0; e < call.width; e += kLanes) {
      const size_t row = first + key, length = call.length();
      const Vector one = row < length ? load_element(call.value_row(group, row) + e) : Vector{};
      const Vector other = Format::kPer == 2 && row + 1 < length ? load_element(call.value_row(group, row + 1) + e) : Vector{};
      const Bits words = Format::words(one, other);
      std::memcpy(to + key / Format::kPer * call.width + e, &words, sizeof words);
    }
}

// Scores of kRows queries with the tile's keys, float [kRows, kKeyTile].
template <typename Format>
void score(const uint32_t* queries, size_t words, const uint32_t* keys, float* scores) {
  for (size_t key = 0; key < kKeyTile; key += kColumns * kLanes) {
    Vector sums[kRows][kColumns] = {};
    multiply<Format>(queries, words, keys + key, kKeyTile, words, sums);
    for (size_t r = 0; r < kRows; ++r)
      for (size_t c = 0; c < kColumns; ++c) store(scores + r * kKeyTile + key + c * kLanes, sums[r][c]);
  }
}

// sums = sums factor + shares . values for kRows rows of E columns, kC vectors of them at a time from `e` on.
template <typename Format, size_t kC>
size_t weigh(const uint32_t* shares, const uint32_t* values, size_t width, const float* factors, float* sums, size_t e) {
  for (; e + kC * kLanes <= width; e += kC * kLanes) {
    Vector rows[kRows][kC];
    for (size_t r = 0; r < kRows; ++r)
      for (size_t c = 0; c < kC; ++c) rows[r][c] = load(sums + r * width + e + c * kLanes) * factors[r];
    multiply<Format>(shares, kKeyTile / Format::kPer, values + e, width, kKeyTile / Format::kPer, rows);
    for (size_t r = 0; r < kRows; ++r)
      for (size_t c = 0; c < kC; ++c) store(sums + r * width + e + c * kLanes, rows[r][c]);
  }
  return e;
}

inline Bits larger_bits(Bits one, Bits other) {
  return one > other ? one : other;
}

// NaN where the largest bits of some numbers are those of a NaN with its sign bit set, which `exp2` does not let through; else zero.
inline Vector lost(Bits worst) {
  constexpr uint32_t kMinusInfinity = 0xff800000u;
  return (Vector)(worst > kMinusInfinity);  // all bits set, or none
}

// exp2(scores - most) as the shares of one row, float32 in place and as words; the first `visible` keys take part.
template <typename Format>
void shares_of(float* scores, size_t visible, float& most, Vector& total, float& factor, uint32_t* words) {
  if (visible < kKeyTile) std::fill(scores + visible, scores + kKeyTile, kLowest);
  Vector highest = load(scores);
  for (size_t key = kLanes; key < kKeyTile; key += kLanes) highest = larger(highest, load(scores + key));
  const float now = std::max(most, largest(highest));
  factor = most == now ? 1.0f : std::exp2(most - now);
  most = now;
  Vector added[2] = {};
  Bits worst{};
  for (size_t key = 0; key < kKeyTile; key += 2 * kLanes) {
    const Vector below[2] = {load(scores + key) - now, load(scores + key + kLanes) - now};
    const Vector one = exp2(below[0]), other = exp2(below[1]);
    added[0] += one;
    added[1] += other;
    worst = larger_bits(worst, larger_bits((Bits)below[0], (Bits)below[1]));
    Format::store_terms(words + key / Format::kPer, one, other);
  }
  total = total * factor + added[0] + added[1] + lost(worst);
}

// One token's query heads of a group, rotated and scaled so that a score is an exponent of 2: [shared, E].
template <typename Element>
void turn_queries(const Attention<Element>& call, size_t group, size_t token, float* to) {
  const float* rotation = call.rotation + (call.position + token) * call.width;
  const float factor = kLog2E / std::sqrt(static_cast<float>(call.width));
  for (size_t h = 0; h < call.shared(); ++h)
    rotate(call.q + token * call.stride + (group * call.shared() + h) * call.width, rotation, call.width, factor, to + h * call.width);
}

inline Scratch& scratch() {
  thread_local Scratch mine;
  return mine;
}

}  // namespace attention_detail

// Write unit `unit` of `write_units`: the new tokens' keys and values of one group into the cache.
template <typename Element>
size_t write_units(const Attention<Element>& call) {
  return call.groups;
}

template <typename Element>
void write_unit(const Attention<Element>& call, size_t group) {
  using namespace attention_detail;
  float* key = Scratch::room(scratch().scores, call.width);
  for (size_t token = 0; token < call.tokens; ++token) {
    const size_t at = call.position + token, row = token * call.stride + group * call.width;
    rotate(call.k + row, call.rotation + at * call.width, call.width, 1.0f, key);
    Element* block = call.key_block(group, at / kKeyLanes) + at % kKeyLanes;
    Element* value = call.value_row(group, at);
    for (size_t e = 0; e < call.width; ++e) store_element(block + e * kKeyLanes, key[e]);
    for (size_t e = 0; e < call.width; ++e) store_element(value + e, call.v[row + e]);
  }
}

// Tokens of a block of queries: so many that a tile of keys is unpacked seldom, few where there are few.
inline size_t query_tile(size_t tokens) {
  return tokens >= 128 ? 32 : 8;
}

template <typename Element>
size_t attention_units(const Attention<Element>& call) {
  return call.groups * ((call.tokens + query_tile(call.tokens) - 1) / query_tile(call.tokens));
}

// Attention of one block of tokens in one group, when all keys and values are in the cache. Those who see most come first.
template <typename Element>
void attention_unit(const Attention<Element>& call, size_t unit) {
  using namespace attention_detail;
  using Format = Operands<Element>;
  const size_t blocks = attention_units(call) / call.groups, tile = query_tile(call.tokens);
  const size_t group = unit % call.groups, start = (blocks - 1 - unit / call.groups) * tile;
  const size_t tokens = std::min(tile, call.tokens - start), width = call.width, shared = call.shared();
  const size_t rows = tokens * shared, padded = (rows + kRows - 1) / kRows * kRows, words = width / Format::kPer;

  Scratch& room = scratch();
  uint32_t* queries = Scratch::room(room.queries, padded * words);
  uint32_t* keys = Scratch::room(room.keys, words * kKeyTile);
  uint32_t* values = Scratch::room(room.values, kKeyTile / Format::kPer * width);
  uint32_t* shares = Scratch::room(room.shares, kRows * kKeyTile / Format::kPer);
  float* scores = Scratch::room(room.scores, std::max(kRows * kKeyTile, shared * width));
  float* sums = Scratch::room(room.sums, padded * width);
  float* most = Scratch::room(room.most, padded);
  float* total = Scratch::room(room.total, padded * kLanes);
  std::fill(queries + rows * words, queries + padded * words, 0);
  std::fill(sums, sums + padded * width, 0.0f);
  std::fill(most, most + padded, kLowest);
  std::fill(total, total + padded * kLanes, 0.0f);
  for (size_t token = 0; token < tokens; ++token) {
    turn_queries(call, group, start + token, scores);
    for (size_t i = 0; i < shared * words; ++i) queries[token * shared * words + i] = Format::word(scores + i * Format::kPer);
  }

  const size_t seen = call.position + start + tokens;  // by the block's last token
  for (size_t first = 0; first < seen; first += kKeyTile) {
    pack_keys<Format>(call, group, first, keys);
    pack_values<Format>(call, group, first, values);
    for (size_t row = 0; row < padded; row += kRows) {
      const size_t last = std::min(row + kRows, rows) - 1;
      if (call.position + start + last / shared < first) continue;  // these rows see nothing of the tile
      score<Format>(queries + row * words, words, keys, scores);
      float factors[kRows];
      for (size_t r = 0; r < kRows; ++r) {
        const size_t at = call.position + start + std::min(row + r, last) / shared;
        const size_t visible = at < first ? 0 : std::min(kKeyTile, at + 1 - first);
        Vector sum = load(total + (row + r) * kLanes);
        shares_of<Format>(scores + r * kKeyTile, visible, most[row + r], sum, factors[r], shares + r * kKeyTile / Format::kPer);
        store(total + (row + r) * kLanes, sum);
      }
      size_t e = weigh<Format, kColumns>(shares, values, width, factors, sums + row * width, 0);
      weigh<Format, 1>(shares, values, width, factors, sums + row * width, e);
    }
  }
  for (size_t row = 0; row < rows; ++row) {
    float* to = call.out + ((start + row / shared) * call.heads + group * shared + row % shared) * width;
    const float scale = 1.0f / sum(load(total + row * kLanes));
    for (size_t e = 0; e < width; e += kLanes) store(to + e, load(sums + row * width + e) * scale);
  }
}

namespace attention_detail {

// What one piece of the cache says to one group's heads: for each the largest score, the sum of its shares, and E sums.
constexpr size_t kStepHead = 2;

// Scores of kHeads queries [kHeads, E] with 16 positions' keys, into rows of `stride`.
template <size_t kHeads, typename Element>
void step_scores(const float* queries, size_t width, const Element* keys, float* scores, size_t stride) {
  for (size_t lane = 0; lane < kKeyLanes; lane += kLanes) {
    Vector sums[kHeads] = {};
    for (size_t e = 0; e < width; ++e) {
      const Vector key = load_element(keys + e * kKeyLanes + lane);
#pragma GCC unroll 8
      for (size_t h = 0; h < kHeads; ++h) sums[h] += key * queries[h * width + e];
    }
    for (size_t h = 0; h < kHeads; ++h) store(scores + h * stride + lane, sums[h]);
  }
}

// sums[h] += the values of `count` positions, weighed by rows of shares; kC vectors of columns at a time from `e` on.
template <size_t kHeads, size_t kC, typename Element>
size_t step_sums(const float* shares, size_t stride, const Element* values, size_t count, size_t width, float* sums, size_t sums_stride, size_t e) {
  for (; e + kC * kLanes <= width; e += kC * kLanes) {
    Vector rows[kHeads][kC] = {};
    for (size_t key = 0; key < count; ++key) {
      Vector value[kC];
      for (size_t c = 0; c < kC; ++c) value[c] = load_element(values + key * width + e + c * kLanes);
#pragma GCC unroll 8
      for (size_t h = 0; h < kHeads; ++h)
#pragma GCC unroll 8
        for (size_t c = 0; c < kC; ++c) rows[h][c] += value[c] * shares[h * stride + key];
    }
    for (size_t h = 0; h < kHeads; ++h)
      for (size_t c = 0; c < kC; ++c) store(sums + h * sums_stride + e + c * kLanes, rows[h][c]);
  }
  return e;
}

template <size_t kHeads, typename Element>
void step_heads(const Attention<Element>& call, size_t group, size_t first, size_t count, const float* queries, float* scores, float* out) {
  const size_t width = call.width, stride = kStepKeys, each = width + kStepHead;
  for (size_t key = 0; key < count; key += kKeyLanes)
    step_scores<kHeads>(queries, width, call.key_block(group, (first + key) / kKeyLanes), scores + key, stride);
  const size_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (size_t h = 0; h < kHeads; ++h) {
    float* row = scores + h * stride;
    std::fill(row + count, row + padded, kLowest);
    Vector highest = load(row), added{};
    Bits worst{};
    for (size_t key = kLanes; key < padded; key += kLanes) highest = larger(highest, load(row + key));
    const float most = largest(highest);
    for (size_t key = 0; key < padded; key += kLanes) {
      const Vector below = load(row + key) - most, share = exp2(below);
      added += share;
      worst = larger_bits(worst, (Bits)below);
      store(row + key, share);
    }
    out[h * each] = most;
    out[h * each + 1] = sum(added + lost(worst));
  }
  constexpr size_t kC = kColumns * kHeads <= 28 ? kColumns : kColumns / 2;
  const Element* values = call.value_row(group, first);
  const size_t e = step_sums<kHeads, kC>(scores, stride, values, count, width, out + kStepHead, each, 0);
  step_sums<kHeads, 1>(scores, stride, values, count, width, out + kStepHead, each, e);
}

}  // namespace attention_detail

// One token: pieces of the cache, and the floats that each unit's result takes.
template <typename Element>
size_t step_units(const Attention<Element>& call) {
  return call.groups * ((call.length() + kStepKeys - 1) / kStepKeys);
}

template <typename Element>
size_t step_floats(const Attention<Element>& call) {
  return call.shared() * (call.width + attention_detail::kStepHead);
}

// Unit `unit` of `step_units`: one group's heads and one piece of the cache; the result is `step_floats` floats behind `pieces`.
template <typename Element>
void step_unit(const Attention<Element>& call, size_t unit, float* pieces) {
  using namespace attention_detail;
  const size_t group = unit % call.groups, first = unit / call.groups * kStepKeys, shared = call.shared();
  const size_t count = std::min(kStepKeys, call.length() - first), each = call.width + kStepHead;
  Scratch& room = scratch();
  float* queries = Scratch::room(room.sums, shared * call.width);
  float* scores = Scratch::room(room.scores, 8 * kStepKeys);
  turn_queries(call, group, 0, queries);
  float* out = pieces + unit * step_floats(call);
  for (size_t h = 0; h < shared;) {
    const auto run = [&](auto heads) {
      step_heads<decltype(heads)::value>(call, group, first, count, queries + h * call.width, scores, out + h * each);
      h += decltype(heads)::value;
    };
    const size_t left = shared - h;
    if (left >= 8) run(std::integral_constant<size_t, 8>());
    else if (left == 7) run(std::integral_constant<size_t, 7>());
    else if (left >= 6) run(std::integral_constant<size_t, 6>());
    else if (left >= 4) run(std::integral_constant<size_t, 4>());
    else if (left >= 2) run(std::integral_constant<size_t, 2>());
    else run(std::integral_constant<size_t, 1>());
  }
}

// The pieces of one group into its heads' results.
template <typename Element>
void merge_steps(const Attention<Element>& call, size_t group, const float* pieces) {
  using namespace attention_detail;
  const size_t count = step_units(call) / call.groups, width = call.width, each = width + kStepHead;
  for (size_t h = 0; h < call.shared(); ++h) {
    const auto piece = [&](size_t i) { return pieces + (i * call.groups + group) * step_floats(call) + h * each; };
    float most = kLowest, total = 0;
    for (size_t i = 0; i < count; ++i) most = std::max(most, piece(i)[0]);
    float* to = call.out + (group * call.shared() + h) * width;
    std::fill(to, to + width, 0.0f);
    for (size_t i = 0; i < count; ++i) {
      const float factor = std::exp2(piece(i)[0] - most);
      total += piece(i)[1] * factor;
      for (size_t e = 0; e < width; e += kLanes) store(to + e, load(to + e) + load(piece(i) + kStepHead + e) * factor);
    }
    for (size_t e = 0; e < width; e += kLanes) store(to + e, load(to + e) * (1.0f / total));
  }
}

}  // namespace mobile_videogpt
