"""RMSNorm as the delegates take it."""

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
