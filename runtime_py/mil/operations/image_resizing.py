"""Images in other sizes, [..., height, width]: along each dimension, every element of the result lies at a point of the input's grid
of whole numbers, and is interpolated between its two neighbours or taken from the nearest.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from export.errors import PackageError
from runtime_py.mil.registry import Ints, Scalar, operation
from runtime_py.mil.sizes import checked

STRICT, ALIGN, DEFAULT, OFFSET, UNALIGN = "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"
MODES = (STRICT, ALIGN, DEFAULT, OFFSET, UNALIGN)


def points(size: Tensor | float, count: int, mode: str) -> Tensor:
    """Where `count` elements lie on a line of `size` grid points, which begins at 0: [..., count] for `size` of [..., 1].

    The first two modes put the outer elements on the outer points, and differ for a single one. DEFAULT divides the line from its
    first point on, UNALIGN_CORNERS from half a step before it. OFFSET_CORNERS divides the line between the outer points, and takes
    the middle of each part.
    """
    if mode not in MODES:
        raise PackageError(f"sampling mode {mode!r}: known are {', '.join(MODES)}")
    last = torch.as_tensor(size, dtype=torch.float64) - 1
    steps = torch.arange(count, dtype=torch.float64)
    if mode in (STRICT, ALIGN):
        if count == 1:
            return (last / 2 if mode == ALIGN else last * 0).reshape([*last.shape[:-1], 1])
        return last * (steps / (count - 1))
    if mode == OFFSET:
        found = (steps + 0.5) * last.clamp(min=1) / count
    else:
        spacing = (last + 1) / count
        found = steps * spacing if mode == DEFAULT else (steps + 0.5) * spacing - 0.5
    return torch.minimum(found.clamp(min=0), last)


def _interpolated(x: Tensor, dimension: int, places: Tensor) -> Tensor:
    """Linear between neighbours along one dimension, at `places` within it."""
    lower = places.floor().clamp(0, x.shape[dimension] - 1)
    shape = [1] * x.ndim
    shape[dimension] = -1
    weight = (places - lower).to(x.dtype).reshape(shape)
    first = x.index_select(dimension, lower.long())
    second = x.index_select(dimension, (lower.long() + 1).clamp(max=x.shape[dimension] - 1))
    return first * (1 - weight) + second * weight


def _linear(x: Tensor, sizes: list[int], mode: str) -> Tensor:
    """The last dimensions in other sizes. One that keeps its size and its points is left as it is."""
    checked([*x.shape[: x.ndim - len(sizes)], *sizes])
    for dimension, size in enumerate(sizes, x.ndim - len(sizes)):
        places = points(x.shape[dimension], size, mode)
        if size != x.shape[dimension] or not torch.equal(places, torch.arange(size, dtype=torch.float64)):
            x = _interpolated(x, dimension, places)
    return x


def _nearest(x: Tensor, sizes: list[int], offset: float) -> Tensor:
    """The same with the element below each place: element i lies at (i + offset) / size of the line."""
    checked([*x.shape[: x.ndim - len(sizes)], *sizes])
    for dimension, size in enumerate(sizes, x.ndim - len(sizes)):
        old = x.shape[dimension]
        if size != old:
            places = ((torch.arange(size, dtype=torch.float64) + offset) * old / size).floor().long()
            x = x.index_select(dimension, places.clamp(max=old - 1))
    return x


def _scaled(size: int, factor: Scalar) -> int:
    """In float32, in which coremltools computes the declared shape: 10 times 0.7 is 7, and not a little less."""
    return int(np.floor(np.float32(factor) * np.float32(size)))


@operation("upsample_nearest_neighbor", returns="x", exact=True)
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Scalar = 1, scale_factor_width: Scalar = 1) -> Tensor:
    """As PyTorch's `nearest`: element i is the one at floor(i * old size / new size)."""
    return _nearest(x, [_scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)], 0.0)


@operation("upsample_bilinear", returns="x")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Scalar = 1,
    scale_factor_width: Scalar = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """The step follows from the sizes, not from the factors. `half_pixel_centers` is the opposite of `align_corners` by default."""
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and half:
        raise PackageError("align_corners and half_pixel_centers are both true")
    sizes = [_scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)]
    return _linear(x, sizes, STRICT if align_corners else UNALIGN if half else DEFAULT)


@operation("resize_nearest_neighbor", returns="x", exact=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """As TensorFlow's with half-pixel centers: element i is the one at floor((i + 1/2) * old size / new size)."""
    return _nearest(x, [target_size_height, target_size_width], 0.5)


@operation("resize_bilinear", returns="x")
def resize_bilinear(x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = DEFAULT) -> Tensor:
    return _linear(x, [target_size_height, target_size_width], sampling_mode)


@operation("resize", returns="x")
def resize(x: Tensor, shape: Ints, resized_dims: int, interpolation_mode: str = "LINEAR", sampling_mode: str = DEFAULT) -> Tensor:
    """The last `resized_dims` dimensions get the last sizes of `shape`; 0 keeps a size."""
    if not 0 <= resized_dims <= len(shape) <= x.ndim:
        raise PackageError(f"resizes {resized_dims} dimensions to {shape} of a tensor of rank {x.ndim}")
    new, old = shape[len(shape) - resized_dims :], x.shape[x.ndim - resized_dims :]
    sizes = [size or kept for size, kept in zip(new, old)]
    if interpolation_mode == "LINEAR" and x.is_floating_point():
        return _linear(x, sizes, sampling_mode)
    if interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode == DEFAULT:
        return _nearest(x, sizes, 0.5)
    raise PackageError(f"interpolation mode {interpolation_mode} with the sampling mode {sampling_mode} on {x.dtype}")


@operation("crop", returns="x", exact=True)
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """Without so many rows above and below, and columns left and right."""
    (top, bottom), (left, right) = crop_height, crop_width
    height, width = x.shape[-2:]
    if min(top, bottom, left, right) < 0 or top + bottom > height or left + right > width:
        raise PackageError(f"crops {crop_height} of {height} rows and {crop_width} of {width} columns")
    return x[..., top : height - bottom, left : width - right]
