// The selective scan, fused: softplus, the recurrence, the skip weights and the gate in one pass over the inputs.
//
//   h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = C_t h_t + D u_t
//
// One step of one state costs 15 vector instructions, 11 of them for exp2. Nothing of size [L, D, N] is ever stored. Channels are
// independent and are what threads divide among themselves; a thread takes 64 channels, and of those a tile of 32 steps at a
// time (24 KB, so that it stays in the first-level cache): the tile's rows are read whole, then each vector of channels walks
// down its column with 8 states in registers, and meanwhile the rows of the next tile are fetched.

#pragma once

#include <algorithm>
#include <vector>

#include "../vectors.h"

namespace mobile_videogpt {

// One direction's tensors: float32, rows with the given strides (in floats), in the order of time.
struct ScanDirection {
  const float* u;  // [L, D] inputs
  size_t u_stride;
  const float* delta;  // [L, D] step sizes
  size_t delta_stride;
  const float* B;  // [L, N]
  const float* C;  // [L, N]
  size_t maps_stride;  // of B and of C
  const float* A;  // [D, N] decay, not positive
  const float* D;  // [D]
  bool backward;  // from the last step to the first
};

struct Scan {
  size_t length, channels, states;
  bool softplus;  // delta is still to go through softplus
  const ScanDirection* directions;
  size_t count;  // of directions, whose results are added
  const float* gate;  // [L, D], or null: the sum is multiplied by silu(gate)
  size_t gate_stride;
  float* out;  // [L, D]
  size_t out_stride;
};

constexpr size_t kScanUnit = 64;  // channels that a thread takes at a time
constexpr size_t kScanSteps = 32;  // of a tile
constexpr size_t kScanStates = 8;  // in registers

inline size_t scan_units(const Scan& scan) {
  return (scan.channels + kScanUnit - 1) / kScanUnit;
}

namespace scan_detail {

// Some steps of a unit's channels, a column for each vector of them.
struct Tile {
  Vector u[kScanUnit / kLanes][kScanSteps];
  Vector delta[kScanUnit / kLanes][kScanSteps];
  Vector y[kScanUnit / kLanes][kScanSteps];
  const float* B[kScanSteps];
  const float* C[kScanSteps];
  const float* soon[kScanSteps][4];  // rows that are read or written next
};

// Which part of the scan a tile holds: steps `begin` to `begin + steps` of channels `start` to `start + width`.
struct Part {
  const Scan& scan;
  const ScanDirection& in;
  size_t begin, steps, start, width;

  bool first() const { return &in == scan.directions; }
  bool gated() const { return scan.gate && &in + 1 == scan.directions + scan.count; }
  size_t time(size_t step) const {  // of the tile's `step`, which may lie in the next tile
    const size_t s = std::min(begin + step, scan.length - 1);
    return in.backward ? scan.length - 1 - s : s;
  }
  const float* u(size_t step) const { return in.u + time(step) * in.u_stride + start; }
  const float* delta(size_t step) const { return in.delta + time(step) * in.delta_stride + start; }
  const float* gate(size_t step) const { return scan.gate + time(step) * scan.gate_stride + start; }
  float* out(size_t step) const { return scan.out + time(step) * scan.out_stride + start; }
};

// Inputs into the tile; y begins as the skip term.
inline void read_tile(const Part& part, Tile& tile) {
  for (size_t s = 0; s < part.steps; ++s) {
    tile.B[s] = part.in.B + part.time(s) * part.in.maps_stride;
    tile.C[s] = part.in.C + part.time(s) * part.in.maps_stride;
    tile.soon[s][0] = part.u(s + kScanSteps);
    tile.soon[s][1] = part.delta(s + kScanSteps);
    tile.soon[s][2] = part.out(s);
    tile.soon[s][3] = part.gated() ? part.gate(s) : part.out(s);
    const float *u_row = part.u(s), *delta_row = part.delta(s), *D = part.in.D + part.start;
    for (size_t c = 0, v = 0; c < part.width; c += kLanes, ++v) {
      const Vector u = load(u_row + c, part.width - c), delta = load(delta_row + c, part.width - c);
      tile.u[v][s] = u;
      tile.delta[v][s] = part.scan.softplus ? softplus(delta) : delta;
      tile.y[v][s] = u * load(D + c, part.width - c);
    }
  }
}

// The tile's y into the result: the first direction's begins it, the last one's takes it through the gate.
inline void write_tile(const Part& part, const Tile& tile) {
  for (size_t s = 0; s < part.steps; ++s) {
    float* row = part.out(s);
    for (size_t c = 0, v = 0; c < part.width; c += kLanes, ++v) {
      Vector y = tile.y[v][s];
      if (!part.first()) y += load(row + c, part.width - c);
      if (part.gated()) y *= silu(load(part.gate(s) + c, part.width - c));
      store(row + c, y, part.width - c);
    }
  }
}

// The recurrence of column `v` for states `n` to `n + kCount`, whose decay and value `A` and `memory` point at.
template <size_t kCount>
void scan_column(Tile& tile, size_t steps, size_t v, size_t n, const Vector* A, Vector* memory) {
  Vector h[kCount];
  std::copy(memory, memory + kCount, h);
  const size_t edge = v * kLanes + (n ? kLanes - 1 : 0);  // a row that is not aligned needs the lines of both of its ends
  for (size_t s = 0; s < steps; ++s) {
    for (const float* row : tile.soon[s]) __builtin_prefetch(row + edge, 0, 2);
    const Vector delta = tile.delta[v][s], driven = delta * tile.u[v][s];
    const float *B = tile.B[s] + n, *C = tile.C[s] + n;
    Vector sums[4] = {tile.y[v][s], Vector{}, Vector{}, Vector{}};  // four chains of additions, not one
#pragma GCC unroll 8
    for (size_t i = 0; i < kCount; ++i) {
      h[i] = exp2(delta * A[i]) * h[i] + driven * B[i];
      sums[i % 4] += h[i] * C[i];
    }
    tile.y[v][s] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  std::copy(h, h + kCount, memory);
}

}  // namespace scan_detail

// Scan unit `unit` of `scan_units(scan)`; units may run at the same time.
inline void scan_unit(const Scan& scan, size_t unit) {
  using namespace scan_detail;
  const size_t start = unit * kScanUnit, width = std::min(kScanUnit, scan.channels - start), states = scan.states;
  const size_t vectors = (width + kLanes - 1) / kLanes, size = vectors * states;
  std::vector<float> buffer((2 * size + 1) * kLanes);
  Vector* A = reinterpret_cast<Vector*>((reinterpret_cast<uintptr_t>(buffer.data()) + kVectorBytes - 1) & ~(kVectorBytes - 1));
  Vector* h = A + size;  // A and h: [vectors, N]
  Tile tile;
  for (const ScanDirection* in = scan.directions; in < scan.directions + scan.count; ++in) {
    std::fill(A, A + 2 * size, Vector{});
    for (size_t c = 0; c < width; ++c)
      for (size_t n = 0; n < states; ++n) A[c / kLanes * states + n][c % kLanes] = in->A[(start + c) * states + n] * kLog2E;
    for (size_t begin = 0; begin < scan.length; begin += kScanSteps) {
      const Part part{scan, *in, begin, std::min(kScanSteps, scan.length - begin), start, width};
      read_tile(part, tile);
      for (size_t v = 0; v < vectors; ++v) {
        size_t n = 0;
        for (; n + kScanStates <= states; n += kScanStates)
          scan_column<kScanStates>(tile, part.steps, v, n, A + v * states + n, h + v * states + n);
        for (; n < states; ++n) scan_column<1>(tile, part.steps, v, n, A + v * states + n, h + v * states + n);
      }
      write_tile(part, tile);
    }
  }
}

}  // namespace mobile_videogpt
