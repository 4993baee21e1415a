"""Pools over windows of one to three spatial dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from export.errors import PackageError
from runtime_py.mil.operations.windows import Pads, padded, pads, spatial
from runtime_py.mil.registry import Ints, operation

MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def _place(
    x: Tensor, kernel: list[int], strides: Ints | None, pad_type: str, pad: Ints | None, ceil_mode: bool
) -> tuple[list[int], Pads, Pads]:
    """The strides, the padding, and the padding with what windows reach beyond it in ceil mode."""
    rank = x.dim() - 2
    if rank not in MAXIMA:
        raise PackageError(f"it pools {list(x.shape)}: MIL has one to three spatial dimensions")
    kernel, strides = spatial(kernel, rank, "kernel_sizes"), spatial(strides, rank, "strides")
    amounts = pads(pad_type, pad, x.shape[2:], kernel, strides)
    if not ceil_mode:
        return strides, amounts, amounts
    if rank > 2 or pad_type.lower() == "same" or any(before != after for before, after in amounts):
        raise PackageError(f"ceil_mode with pad_type {pad_type}, pad {pad} and {rank} spatial dimensions, which MIL does not allow")
    reach = []
    for size, k, stride, (before, after) in zip(x.shape[2:], kernel, strides, amounts):
        count = -(-(size + before + after - k) // stride) + 1
        if before and (count - 1) * stride >= size + before:  # a window that would begin in the padding at the end
            count -= 1
        if (count - 1) * stride >= size + before + after:
            raise PackageError("a window of ceil_mode lies wholly outside its input, and MIL does not say what it gives")
        reach.append((before, (count - 1) * stride + k - size - before))
    return strides, amounts, reach


def _sums(x: Tensor, kernel: list[int], strides: list[int], amounts: Pads) -> Tensor:
    x = padded(x, amounts)
    if x.dim() == 3:  # PyTorch's pool of one dimension cannot leave out the division
        return functional.avg_pool2d(x[:, :, None], [1, *kernel], [1, *strides], divisor_override=1)[:, :, 0]
    pool = functional.avg_pool2d if x.dim() == 4 else functional.avg_pool3d
    return pool(x, kernel, strides, divisor_override=1)


@operation("avg_pool", returns="x")
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Means over the windows of x [n, c, *d]. What a window of ceil mode covers beyond the padding does not count."""
    strides, amounts, reach = _place(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    sums = _sums(x, kernel_sizes, strides, reach)
    counts = torch.ones(())
    for index, (before, after) in enumerate(amounts):
        size, k = x.shape[2 + index], kernel_sizes[index]
        starts = torch.arange(sums.shape[2 + index]) * strides[index] - before
        low, high = (0, size) if exclude_padding_from_average else (-before, size + after)
        covered = (starts + k).clamp(max=high) - starts.clamp(min=low)
        counts = counts[..., None] * covered.clamp(min=1)
    return sums / counts


@operation("l2_pool", returns="x")
def l2_pool(
    x: Tensor, kernel_sizes: Ints, pad_type: str, strides: Ints | None = None, pad: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """Square roots of the sums of squares over the windows of x [n, c, *d]."""
    if x.dim() > 4:
        raise PackageError("MIL's l2_pool has one or two spatial dimensions")
    strides, _, reach = _place(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return _sums(x * x, kernel_sizes, strides, reach).sqrt()


@operation("max_pool", returns="x", exact=True)
def max_pool(
    x: Tensor, kernel_sizes: Ints, pad_type: str, strides: Ints | None = None, pad: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """Greatest elements of the windows of x [n, c, *d]; padding is less than any."""
    strides, _, reach = _place(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return MAXIMA[x.dim() - 2](padded(x, reach, -math.inf), kernel_sizes, strides)
