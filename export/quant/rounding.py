"""Round-to-nearest weights: the integers and scales of a scheme, for backends that store them themselves."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from export.quant.recipe import Scheme

LEAST_SCALE = 2**-14  # the smallest number that float16 holds in full precision; a row of zeros has no scale of its own


@dataclasses.dataclass(frozen=True)
class Grid:
    """A quantized weight: int8 integers [O, I] and scales [O, I / group], which bfloat16 and float16 both hold exactly."""

    integers: Tensor
    scale: Tensor

    def weight(self) -> Tensor:
        """The float32 weight [O, I] that it stands for."""
        return dequantize(self.integers, self.scale)


def quantize(weight: Tensor, scheme: Scheme, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """weight [O, I] -> integers int8 [O, I] and scales [O, I / group] (one group where the scheme has none).

    Symmetric: the scale is the group's largest magnitude over half the integers' span (7.5 of 4 bits, 127.5 of 8), as torchao's for
    the ExecuTorch target, and is rounded up to `scale_dtype` first: the integers fit the scale that is stored, and no weight moves by
    more than half of it.
    """
    scale = least_scale(weight, scheme)
    scale = (scale * (1 + torch.finfo(scale_dtype).eps / 2)).to(scale_dtype)
    rows, groups = scale.shape
    half = 2 ** (scheme.bits - 1)
    integers = torch.clamp(torch.round(weight.float().reshape(rows, groups, -1) / scale.float()[..., None]), -half, half - 1)
    return integers.to(torch.int8).reshape(weight.shape), scale


def least_scale(weight: Tensor, scheme: Scheme) -> Tensor:
    """The smallest scales [O, I / group], float32, with which no weight [O, I] moves by more than half of one."""
    rows, columns = weight.shape
    largest = weight.float().reshape(rows, columns // (scheme.group_size or columns), -1).abs().amax(dim=-1)
    return (largest / ((2**scheme.bits - 1) / 2)).clamp(min=LEAST_SCALE)


def dequantize(integers: Tensor, scale: Tensor) -> Tensor:
    """The float32 weights [O, I] that integers [O, I] and scales [O, groups] stand for."""
    rows, groups = scale.shape
    return (integers.reshape(rows, groups, -1).float() * scale.float()[..., None]).reshape(integers.shape)
