"""Activations: elementwise, but for `softmax`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from export.errors import PackageError
from runtime_py.mil.registry import elementwise, operation

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": functional.softplus,  # turns to x above 20, where float32 does not see the difference
    "softsign": functional.softsign,
}
EXACT: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "relu6": functional.relu6}


elementwise(FUNCTIONS)
elementwise(EXACT, exact=True)


@operation("clamped_relu", returns="x")
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """x, or alpha * x where x is negative; at most `beta`."""
    return functional.leaky_relu(x, alpha).clamp(max=beta)


@operation("elu", returns="x")
def elu(x: Tensor, alpha: float) -> Tensor:
    return functional.elu(x, alpha)


@operation("gelu", returns="x")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    if mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise PackageError(f"has the mode {mode!r}: EXACT, TANH_APPROXIMATION and SIGMOID_APPROXIMATION are known")
    return functional.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


@operation("leaky_relu", returns="x")
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return functional.leaky_relu(x, alpha)


@operation("linear_activation", returns="x")
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x * alpha + beta


@operation("prelu", returns="x")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """x [B, C, ...], `alpha` [C]."""
    return torch.where(x > 0, x, _of_channels(alpha, x) * x)


@operation("scaled_tanh", returns="x")
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


@operation("sigmoid_hard", returns="x")
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@operation("softplus_parametric", returns="x")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """x [B, C, ...], `alpha` and `beta` [C]."""
    return _of_channels(alpha, x) * functional.softplus(_of_channels(beta, x) * x)


@operation("softmax", returns="x")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@operation("thresholded_relu", returns="x", exact=True)
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """x where it is at least `alpha`, else 0."""
    return torch.where(x >= alpha, x, 0.0)


def _of_channels(vector: Tensor, x: Tensor) -> Tensor:
    """One number per channel (axis 1 of x), shaped to be broadcast against x."""
    if vector.ndim != 1 or x.ndim < 2 or len(vector) != x.shape[1]:
        raise PackageError(f"has {list(vector.shape)} parameters for the channels of {list(x.shape)}")
    return vector.reshape(-1, *[1] * (x.ndim - 2))
