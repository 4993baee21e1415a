"""Elementwise operations on two tensors, broadcast against each other as in NumPy."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime_py.mil.registry import operation

BOTH = ("x", "y")


@operation("add", returns="x", same=BOTH)
def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


@operation("sub", returns="x", same=BOTH)
def sub(x: Tensor, y: Tensor) -> Tensor:
    return x - y


@operation("mul", returns="x", same=BOTH)
def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


@operation("real_div", returns="x", same=BOTH)
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Integers are divided as floats and truncated."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operation("maximum", returns="x", same=BOTH)
def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


@operation("greater", returns="bool", same=BOTH)
def greater(x: Tensor, y: Tensor) -> Tensor:
    return x > y
