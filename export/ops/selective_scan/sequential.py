"""The selective scan, one time step after another: the truth that every other form is tested against.

Formula: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752), section 3.2
with the discretisation of the released CUDA kernel (zero-order hold for A, Euler for B):

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = C_t h_t + D u_t

Shapes: G directions (2 in a bidirectional block), L time steps, D channels, N states per channel.
"""

import torch
from torch import Tensor


def selective_scan_sequential(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan `u` along its time axis. The state is float32 whatever the inputs are; the result has `u`'s dtype.

    Args:
        u: [G, L, D] inputs, after convolution and SiLU. A backward direction comes already flipped in time.
        delta: [G, L, D] step sizes, after softplus (not negative).
        A: [G, D, N] continuous-time decay, negative.
        B, C: [G, L, N] input and output maps of each step.
        D: [G, D] skip weights.

    Returns:
        [G, L, D], before the gate.
    """
    dtype = u.dtype
    u, delta, A, B, C, D = (t.float() for t in (u, delta, A, B, C, D))
    state = torch.zeros_like(A)  # [G, D, N]
    outputs = []
    for t in range(u.shape[1]):
        step = delta[:, t, :, None]  # [G, D, 1]
        decay = torch.exp(step * A)  # [G, D, N]
        state = decay * state + (step * u[:, t, :, None]) * B[:, t, None, :]
        outputs.append((state @ C[:, t, :, None]).squeeze(-1))  # [G, D]
    y = torch.stack(outputs, dim=1)  # [G, L, D]
    return (y + u * D[:, None, :]).to(dtype)
