"""Elementwise operations on one tensor. `cast` stands in its own module, the activations in theirs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from export.errors import PackageError
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import Scalar, elementwise, operation

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
EXACT: dict[str, Callable[[Tensor], Tensor]] = {  # a type that holds x holds the result too
    "abs": torch.abs,
    "ceil": torch.ceil,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,  # halves go to the even neighbour
    "sign": torch.sign,
}


elementwise(FUNCTIONS)
elementwise(EXACT, exact=True)


@operation("exp2", returns="x")
def exp2(x: Tensor) -> Tensor:
    """Integers are computed as floats and truncated: 2 ** -1 is 0."""
    return torch.exp2(x) if x.is_floating_point() else torch.exp2(x.double()).long().to(x.dtype)


@operation("inverse", returns="x")
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


@operation("log", returns="x")
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@operation("rsqrt", returns="x")
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@operation("clip", returns="x", same=("x", "alpha", "beta"), exact=True)
def clip(x: Tensor, alpha: float, beta: float, call: Call) -> Tensor:
    """Below `alpha` becomes `alpha`, then above `beta` becomes `beta`. From iOS 17 on `alpha` must be the smaller one."""
    if call.opset >= 17 and alpha >= beta:
        raise PackageError(f"clips to [{alpha}, {beta}]: alpha must be smaller than beta")
    return torch.clamp(x, alpha, beta)


@operation("threshold", returns="x", same=("x", "alpha"), exact=True)
def threshold(x: Tensor, alpha: Scalar) -> Tensor:
    """Below `alpha` becomes `alpha`."""
    return torch.clamp(x, min=alpha)
