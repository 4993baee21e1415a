"""RMSNorm as the targets take it."""

import torch
from torch import Tensor, nn

from export.model.norm import RMSNorm


class RMSNormGraph(nn.Module):
    """RMSNorm whose mean of squares is a product with a constant column, [T, C] -> [T, C].

    A mean over the last axis is an operator that XNNPACK leaves to a portable kernel, and every such one cuts the delegate in two.
    """

    def __init__(self, norm: RMSNorm):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps
        width = norm.weight.shape[0]
        self.register_buffer("mean", torch.full((width, 1), 1 / width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(torch.mm(x * x, self.mean) + self.eps) * self.weight


SMALLEST = 2**-10  # what a row's largest value counts as, at least: its square must not vanish in float16


class RMSNormInRange(nn.Module):
    """RMSNorm for float16, [T, C] -> [T, C].

    The square of a value above 255 is beyond float16, and a language model's residual has such values. So each row is divided by its
    largest first, and with m that value, x rsqrt(mean(x^2) + eps) = y rsqrt(mean(y^2) + (sqrt(eps) / m)^2) for y = x / m.
    """

    def __init__(self, norm: RMSNorm):
        super().__init__()
        self.weight = norm.weight
        # Tensors, since a number over a tensor becomes Core ML's `inverse`, which adds 1e-4 to what it divides by, and a clamp
        # from below one that also clamps to the largest float32, which float16 cannot hold.
        self.register_buffer("root_eps", torch.full((1, 1), norm.eps**0.5), persistent=False)
        self.register_buffer("smallest", torch.full((1, 1), SMALLEST), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        largest = torch.maximum(torch.amax(torch.abs(x), dim=-1, keepdim=True), self.smallest)  # [T, 1]
        y, eps = x / largest, self.root_eps / largest
        return y * torch.rsqrt(torch.mean(y * y, dim=-1, keepdim=True) + eps * eps) * self.weight


def norm_graph(norm: RMSNorm, half: bool) -> nn.Module:
    """The exportable twin of `norm`; `half` as in `Form`."""
    return RMSNormInRange(norm) if half else RMSNormGraph(norm)
