// The selective scan as a plain loop at full vector width, which `bench_scan` measures the kernel against: no tiles, no
// prefetching, each vector of channels walks through all steps. Channels are split evenly over threads.

#include <algorithm>
#include <thread>
#include <vector>

#include "vectors.h"

using namespace mobile_videogpt;

namespace {

constexpr size_t kMostStates = 64;

void scan(size_t length, size_t row, size_t states, const float* u, const float* delta, const float* A, const float* B, const float* C,
          const float* D, float* y, size_t maps) {
  Vector rates[kMostStates], h[kMostStates];
  for (size_t n = 0; n < states; ++n) {
    h[n] = Vector{};
    for (size_t lane = 0; lane < kLanes; ++lane) rates[n][lane] = A[lane * states + n] * kLog2E;
  }
  for (size_t t = 0; t < length; ++t) {
    const Vector step = load(delta + t * row), input = load(u + t * row), driven = step * input;
    Vector sum = load(D) * input;
    for (size_t n = 0; n < states; ++n) {
      h[n] = exp2(step * rates[n]) * h[n] + driven * B[t * maps + n];
      sum += h[n] * C[t * maps + n];
    }
    store(y + t * row, sum);
  }
}

}  // namespace

// u, delta, y: [length, groups, channels]; A: [groups, channels, states]; B, C: [length, groups, states]; D: [groups, channels].
// `channels` is a multiple of 16, `states` at most 64.
extern "C" void plain_scan(size_t length, size_t groups, size_t channels, size_t states, size_t threads, const float* u,
                           const float* delta, const float* A, const float* B, const float* C, const float* D, float* y) {
  const size_t row = groups * channels, vectors = row / kLanes;
  std::vector<std::thread> workers;
  for (size_t worker = 0; worker < threads; ++worker) {
    workers.emplace_back([=] {
      for (size_t v = worker * vectors / threads; v < (worker + 1) * vectors / threads; ++v) {
        const size_t at = v * kLanes, group = at / channels;
        scan(length, row, states, u + at, delta + at, A + at * states, B + group * states, C + group * states, D + at, y + at,
             groups * states);
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
}
