"""The depthwise convolution along time in front of a selective scan, as one operator with SiLU (kernel: `kernel.h`)."""

import torch.nn.functional as F
from torch import Tensor

from export.ops.library import define

__all__ = ["causal_conv"]


def _causal_conv(projected: Tensor, weight: Tensor, bias: Tensor, backward: bool) -> Tensor:
    """What the operator computes.

    Args:
        projected: [L, 2 D]: the inputs, then D columns that are not used here.
        weight: [K, D], the tap of the present step last. bias: [D].
        backward: from the future instead of the past: the convolution of the reversed input, put back into the order of time.

    Returns:
        [L, D], after SiLU.
    """
    taps, channels = weight.shape
    x = projected[:, :channels]
    x = (x.flip(0) if backward else x).T[None]  # [1, D, L]
    y = F.silu(F.conv1d(F.pad(x, (taps - 1, 0)), weight.T[:, None], bias, groups=channels))[0].T
    return (y.flip(0) if backward else y).contiguous()


causal_conv = define(
    "causal_conv",
    "Tensor projected, Tensor weight, Tensor bias, bool backward",
    eager=_causal_conv,
    shape=lambda projected, weight, bias, backward: projected.new_empty(projected.shape[0], weight.shape[1]),
)
