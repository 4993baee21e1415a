"""Normalizations. Means and variances are taken in float32; variances divide by the number of elements."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from export.errors import PackageError
from runtime_py.mil.registry import Ints, operation


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: list[int]) -> Tensor:
    """x * gamma + beta, both of them broadcast as `shape`."""
    x = x if gamma is None else x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


def _normalized(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + epsilon)


@operation("batch_norm", returns="x")
def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """x [n, c, *d] by the given statistics [c] of its channels."""
    shape = [-1, *[1] * (x.dim() - 2)]
    y = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + epsilon)
    return _scaled(y, gamma, beta, shape)


@operation("instance_norm", returns="x")
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """x [n, c, *d] by its statistics over *d; gamma and beta [c]."""
    if x.dim() < 3:
        raise PackageError(f"its input is {list(x.shape)}: it has no spatial dimension")
    return _scaled(_normalized(x, list(range(2, x.dim())), epsilon), gamma, beta, [-1, *[1] * (x.dim() - 2)])


@operation("l2_norm", returns="x")
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """x [*batch, c, h, w] by the Euclidean length of each [c, h, w]."""
    if x.dim() < 3:
        raise PackageError(f"its input is {list(x.shape)}: it takes three dimensions or more")
    return x / torch.sqrt((x * x).sum(dim=(-3, -2, -1), keepdim=True) + epsilon)


@operation("layer_norm", returns="x")
def layer_norm(
    x: Tensor, axes: Ints | None = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """x by its statistics over `axes` (all by default); gamma and beta have the sizes of these axes, in the order of x."""
    rank = x.dim()
    if any(not -rank <= axis < rank for axis in axes or ()):
        raise PackageError(f"its axes are {axes}, and its input is {list(x.shape)}")
    chosen = sorted({axis % rank for axis in axes} if axes is not None else range(rank))
    sizes = [x.shape[axis] for axis in chosen]
    for name, value in (("gamma", gamma), ("beta", beta)):
        if value is not None and list(value.shape) != sizes:
            raise PackageError(f"its {name} is {list(value.shape)}, and the axes {chosen} of its input are {sizes}")
    if chosen == list(range(rank - len(chosen), rank)):
        return functional.layer_norm(x, sizes, gamma, beta, epsilon)
    return _scaled(_normalized(x, chosen, epsilon), gamma, beta, [x.shape[a] if a in chosen else 1 for a in range(rank)])


@operation("local_response_norm", returns="x")
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x [n, c, *d] / (k + alpha / size * the sum of squares over `size` neighboring channels) ** beta.

    Of three dimensions, Core ML takes the first for the channels, whatever its text says: so expect coremltools' tests. The window
    of an even size begins with the greater half, as PyTorch's.
    """
    if x.dim() == 3:
        return functional.local_response_norm(x[None], size, alpha, beta, k)[0]
    return functional.local_response_norm(x, size, alpha, beta, k)
