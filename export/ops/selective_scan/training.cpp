// The selective scan and its gradient on a CPU, for training: float32, one thread.
//
// The states of all steps are kept ([L, G, N, D], channels contiguous), and the backward pass reads them, as the formula has it:
//
//     h_t = e_t h_{t-1} + delta_t B_t u_t, e_t = exp(delta_t A)        y_t = C_t h_t
//     dh_t = C_t dy_t + e_{t+1} dh_{t+1}                               dC_t = dy_t h_t
//     dB_t = delta_t u_t dh_t    du_t = delta_t B_t dh_t               d(delta_t A) = dh_t h_{t-1} e_t
//
// The skip D u is the caller's. Loops over channels are left to the compiler to vectorise, exp included.

#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

extern "C" {

// u, delta [L, G, D], A [G, N, D], B, C [L, G, N] -> states [L, G, N, D], y [L, G, D].
void selective_scan_forward(
    size_t L, size_t G, size_t D, size_t N, const float* u, const float* delta, const float* A, const float* B, const float* C,
    float* states, float* y) {
  const std::vector<float> zeros(N * D, 0.0f);
  std::vector<float> driven(D);
  for (size_t t = 0; t < L; ++t) {
    for (size_t g = 0; g < G; ++g) {
      const size_t row = t * G + g;
      const float* __restrict dt = delta + row * D;
      float* __restrict out = y + row * D;
      for (size_t d = 0; d < D; ++d) {
        driven[d] = dt[d] * u[row * D + d];
        out[d] = 0.0f;
      }
      for (size_t n = 0; n < N; ++n) {
        const float* __restrict a = A + (g * N + n) * D;
        const float* __restrict before = t == 0 ? zeros.data() : states + ((row - G) * N + n) * D;
        float* __restrict state = states + (row * N + n) * D;
        const float b = B[row * N + n], c = C[row * N + n];
#pragma omp simd
        for (size_t d = 0; d < D; ++d) {
          const float s = std::exp(dt[d] * a[d]) * before[d] + b * driven[d];
          state[d] = s;
          out[d] += c * s;
        }
      }
    }
  }
}

// And dy [L, G, D] -> du, ddelta [L, G, D], dA [G, N, D], dB, dC [L, G, N]; dA comes in as zeros.
void selective_scan_backward(
    size_t L, size_t G, size_t D, size_t N, const float* u, const float* delta, const float* A, const float* B, const float* C,
    const float* states, const float* dy, float* du, float* ddelta, float* dA, float* dB, float* dC) {
  const std::vector<float> zeros(D, 0.0f);
  std::vector<float> carried(G * N * D, 0.0f);  // e_{t+1} dh_{t+1}
  for (size_t t = L; t-- > 0;) {
    for (size_t g = 0; g < G; ++g) {
      const size_t row = t * G + g;
      const float *__restrict x = u + row * D, *__restrict dt = delta + row * D, *__restrict dout = dy + row * D;
      float *__restrict dx = du + row * D, *__restrict ddt = ddelta + row * D;
      std::memset(dx, 0, D * sizeof(float));
      std::memset(ddt, 0, D * sizeof(float));
      for (size_t n = 0; n < N; ++n) {
        const float* __restrict a = A + (g * N + n) * D;
        const float* __restrict before = t == 0 ? zeros.data() : states + ((row - G) * N + n) * D;
        const float* __restrict state = states + (row * N + n) * D;
        float* __restrict carry = carried.data() + (g * N + n) * D;
        float* __restrict da = dA + (g * N + n) * D;
        const float b = B[row * N + n], c = C[row * N + n];
        float db = 0.0f, dc = 0.0f;
#pragma omp simd reduction(+ : db, dc)
        for (size_t d = 0; d < D; ++d) {
          const float e = std::exp(dt[d] * a[d]);
          const float dh = carry[d] + dout[d] * c;
          const float dexponent = dh * before[d] * e;
          dc += dout[d] * state[d];
          db += dh * dt[d] * x[d];
          dx[d] += dh * dt[d] * b;
          ddt[d] += dexponent * a[d] + dh * b * x[d];
          da[d] += dexponent * dt[d];
          carry[d] = dh * e;
        }
        dB[row * N + n] = db;
        dC[row * N + n] = dc;
      }
    }
  }
}
}
