"""Round-to-nearest weights: the integers and scales of a scheme, for backends that store them themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from export.quant.recipe import Scheme

LEAST_SCALE = 2**-14  # the smallest number that float16 holds in full precision; a row of zeros has no scale of its own


def quantize(weight: Tensor, scheme: Scheme, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """weight [O, I] -> integers int8 [O, I] and scales [O, I / group] (one group where the scheme has none).

    Symmetric: the scale is the group's largest magnitude over half the integers' span (7.5 of 4 bits, 127.5 of 8), as torchao's for
    the ExecuTorch target, and is rounded up to `scale_dtype` first: the integers fit the scale that is stored, and no weight moves by
    more than half of it.
    """
    rows, columns = weight.shape
    grouped = weight.float().reshape(rows, -1, scheme.group_size or columns)  # [O, groups, I / groups]
    half_span = (2**scheme.bits - 1) / 2
    scale = (grouped.abs().amax(dim=-1, keepdim=True) / half_span).clamp(min=LEAST_SCALE)
    scale = (scale * (1 + torch.finfo(scale_dtype).eps / 2)).to(scale_dtype).float()
    integers = torch.clamp(torch.round(grouped / scale), -(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1)
    return integers.to(torch.int8).reshape(rows, columns), scale[..., 0].to(scale_dtype)


def dequantize(integers: Tensor, scale: Tensor) -> Tensor:
    """The float32 weights [O, I] that integers [O, I] and scales [O, groups] stand for."""
    rows, groups = scale.shape
    return (integers.reshape(rows, groups, -1).float() * scale.float()[..., None]).reshape(integers.shape)
