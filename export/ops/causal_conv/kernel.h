// Depthwise convolution along time, and SiLU.
//
//   y_t = silu(bias + sum_k w_k x_{t - (K - 1) + k})      backward: y_t = silu(bias + sum_k w_k x_{t + (K - 1) - k})
//
// Backward is what the reversed input would give, put back into the order of time: nothing is ever reversed. Bound by memory:
// x is read once, since the rows of a few steps stay in the first-level cache, and the result is written once.

#pragma once

#include <algorithm>

#include "../vectors.h"

namespace mobile_videogpt {

struct Convolution {
  size_t length, channels, taps;
  const float* x;  // [L, D]
  size_t x_stride;
  const float* weight;  // [K, D]
  const float* bias;  // [D]
  bool backward;
  float* out;  // [L, D]
};

constexpr size_t kConvolutionRows = 16;  // that a thread takes at a time

inline size_t convolution_units(const Convolution& conv) {
  return (conv.length + kConvolutionRows - 1) / kConvolutionRows;
}

// Rows of unit `unit` of `convolution_units(conv)`; units may run at the same time.
inline void convolution_unit(const Convolution& conv, size_t unit) {
  const size_t end = std::min(conv.length, (unit + 1) * kConvolutionRows);
  for (size_t t = unit * kConvolutionRows; t < end; ++t) {
    const size_t reach = std::min(conv.taps, conv.backward ? conv.length - t : t + 1);  // taps that meet a row of x
    for (size_t channel = 0; channel < conv.channels; channel += kLanes) {
      const size_t lanes = std::min(kLanes, conv.channels - channel);
      Vector sum = load(conv.bias + channel, lanes);
      for (size_t away = 0; away < reach; ++away) {
        const float* x = conv.x + (conv.backward ? t + away : t - away) * conv.x_stride;
        sum += load(conv.weight + (conv.taps - 1 - away) * conv.channels + channel, lanes) * load(x + channel, lanes);
      }
      store(conv.out + t * conv.channels + channel, silu(sum), lanes);
    }
  }
}

}  // namespace mobile_videogpt
