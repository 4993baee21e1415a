"""Run-time quantization to 8 bits: of activations, and of weights next to their use."""

from __future__ import annotations

import torch
from torch import Tensor

from export.errors import PackageError
from export.mlpackage import DTYPES
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import ANY, operation

TYPES = ("int8", "uint8")


def _along(parameter: Tensor, x: Tensor, axis: int | None, name: str) -> Tensor:
    """A scale or zero point as it is broadcast against x: one number, or one for each place along the axis."""
    if parameter.dim() == 0:
        return parameter
    if axis is None or not -x.dim() <= axis < x.dim() or list(parameter.shape) != [x.shape[axis]]:
        raise PackageError(f"its {name} is {list(parameter.shape)} along the axis {axis} of {list(x.shape)}")
    return parameter.reshape([-1 if index == axis % x.dim() else 1 for index in range(x.dim())])


@operation("quantize", returns=ANY, same=("input", "scale"))
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, call: Call, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """round(input / scale) + zero_point within the range of the type; halves round to even."""
    declared = call.outputs[0].dtype
    if output_dtype not in TYPES or output_dtype != declared:
        raise PackageError(f"quantizes to {output_dtype!r}, and its output is declared as {declared}")
    y = torch.round(input / _along(scale, input, axis, "scale"))
    if zero_point is not None:
        if call.input("zero_point").dtype != declared:
            raise PackageError(f"its zero_point is {call.input('zero_point').dtype}, and its output {declared}")
        y = y + _along(zero_point, input, axis, "zero_point")
    limits = torch.iinfo(DTYPES[declared].carrier)
    return y.clamp(limits.min, limits.max).to(DTYPES[declared].carrier)


@operation("dequantize", returns="scale", same=("input", "zero_point"))
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """scale * (input - zero_point)."""
    x = input.to(scale.dtype)
    if zero_point is not None:
        x = x - _along(zero_point, input, axis, "zero_point")
    return x * _along(scale, input, axis, "scale")
