"""The selective scan, one time step after another: the truth that every other form is tested against.

Formula: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752), section 3.2
with the discretisation of the released CUDA kernel (zero-order hold for A, Euler for B):

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = C_t h_t + D u_t

Shapes: L time steps, G directions (2 in a bidirectional block), D channels, N states per channel. Time comes first: one
step of both directions is one contiguous slice.
"""

import torch
from torch import Tensor


def selective_scan_sequential(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan `u` along its time axis. The state is float32 whatever the inputs are; the result has `u`'s dtype.

    Args:
        u: [L, G, D] inputs, after convolution and SiLU. A backward direction comes already flipped in time.
        delta: [L, G, D] step sizes, after softplus (not negative).
        A: [G, D, N] continuous-time decay, negative.
        B, C: [L, G, N] input and output maps of each step.
        D: [G, D] skip weights.

    Returns:
        [L, G, D], before the gate.
    """
    dtype = u.dtype
    u, delta, A, B, C, D = (t.float() for t in (u, delta, A, B, C, D))
    state = torch.zeros_like(A)  # [G, D, N]
    outputs = []
    for u_t, delta_t, B_t, C_t in zip(u, delta, B, C):
        step = delta_t[..., None]  # [G, D, 1]
        state = torch.exp(step * A) * state + (step * u_t[..., None]) * B_t[:, None, :]
        outputs.append((state @ C_t[..., None]).squeeze(-1))  # [G, D]
    return (torch.stack(outputs) + u * D).to(dtype)
