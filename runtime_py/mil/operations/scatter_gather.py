"""Elements of a tensor at computed places, read (gather) and written (scatter).

Until iOS 16 an index may count from the end; beyond the tensor it is an error here.

Since iOS 17 a negative index is no place, an error with `validate_indices`; without it Apple's text promises nothing. Then scattering
drops an update that has no place, since coremltools' tests expect a result, and neither that of counting from the end nor that of the
nearest place. Gathering counts from the end, as coremltools does where it folds constants, and an index beyond is an error.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from export.errors import PackageError
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import operation
from runtime_py.mil.sizes import axis_of, checked

BOTH = ("data", "updates")
MODES = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _outside(indices: Tensor, low: int, size: int) -> Tensor:
    """Which indices are not from `low` to `size`."""
    return (indices < low) | (indices >= size)


def _places(indices: Tensor, size: int, call: Call, validate: bool) -> Tensor:
    """Indices of a dimension as int64, counted from the front."""
    indices = indices.long()
    strict = validate and call.opset >= 17
    outside = indices[_outside(indices, 0 if strict else -size, size)]
    if outside.numel():
        first = int(outside[0])
        until = ": a negative index is no place since iOS 17" if strict and -size <= first < 0 else ""
        raise PackageError(f"index {first} in a dimension of the size {size}{until}")
    return torch.where(indices < 0, indices + size, indices)


@operation("gather", returns="x", exact=True)
def gather(x: Tensor, indices: Tensor, call: Call, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """x.shape[:axis] + indices.shape[batch_dims:] + x.shape[axis + 1:]; the first `batch_dims` dimensions of both go together."""
    axis = axis_of(axis, x.ndim)
    places = _places(indices, x.shape[axis], call, validate_indices)
    result = checked([*x.shape[:axis], *indices.shape[batch_dims:], *x.shape[axis + 1 :]])
    if batch_dims == 0:
        return x.select(axis, int(places)) if places.ndim == 0 else x.index_select(axis, places.reshape(-1)).reshape(result)
    if not 0 < batch_dims <= min(axis, indices.ndim) or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise PackageError(f"{batch_dims} batch dimensions of {list(x.shape)} at axis {axis} and of indices {list(indices.shape)}")
    batch, inner, after = x.shape[:batch_dims], math.prod(x.shape[batch_dims:axis]), math.prod(x.shape[axis + 1 :])
    count = math.prod(indices.shape[batch_dims:])
    x = x.reshape(math.prod(batch), inner, x.shape[axis], after)
    places = places.reshape(math.prod(batch), 1, count, 1).expand(-1, inner, -1, after)
    return x.gather(2, places).reshape(result)


@operation("gather_along_axis", returns="x", exact=True)
def gather_along_axis(x: Tensor, indices: Tensor, call: Call, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Elements that differ from their places in `indices` along `axis` alone."""
    axis = axis_of(axis, x.ndim)
    _check_beside(x, indices, axis)
    return x.gather(axis, _places(indices, x.shape[axis], call, validate_indices))


def _check_beside(x: Tensor, indices: Tensor, axis: int) -> None:
    sizes = [list(t.shape[:axis]) + list(t.shape[axis + 1 :]) for t in (x, indices)]
    if x.ndim != indices.ndim or sizes[0] != sizes[1]:
        raise PackageError(f"indices of the shape {list(indices.shape)} along axis {axis} of {list(x.shape)}")


def _columns(indices: Tensor, sizes: torch.Size) -> list[tuple[Tensor, int]]:
    """The last dimension of `indices` as indices of one dimension each, with that dimension's size."""
    depth = indices.shape[-1]
    if depth > len(sizes):
        raise PackageError(f"indices of {depth} dimensions of a tensor of the shape {list(sizes)}")
    return [(indices[..., i], sizes[i]) for i in range(depth)]


@operation("gather_nd", returns="x", exact=True)
def gather_nd(x: Tensor, indices: Tensor, call: Call, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices x[i0, i1, ...] for each vector in the last dimension of `indices`, below the batch dimensions that both share."""
    if not 0 <= batch_dims < min(x.ndim + 1, indices.ndim) or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise PackageError(f"{batch_dims} batch dimensions of {list(x.shape)} and of indices {list(indices.shape)}")
    columns = _columns(indices, x.shape[batch_dims:])
    places = tuple(_places(column, size, call, validate_indices) for column, size in columns)
    checked([*indices.shape[:-1], *x.shape[batch_dims + len(places) :]])
    rank = indices.ndim - 1
    batch = tuple(torch.arange(x.shape[i]).reshape([-1 if j == i else 1 for j in range(rank)]) for i in range(batch_dims))
    return x[batch + places]


def _targets(indices: Tensor, size: int, call: Call, validate: bool) -> np.ndarray:
    """The same to write to. Where Core ML may not fail, an index that is no place becomes -1."""
    if validate or call.opset < 17:
        return _places(indices, size, call, validate).numpy()
    return indices.long().masked_fill(_outside(indices, 0, size), -1).numpy()


def _scatter(data: Tensor, where: tuple[np.ndarray, ...], updates: Tensor, mode: str) -> Tensor:
    """`data` changed at the places `where` (as NumPy indexes): of two updates to one place both count, `update` takes the last.

    Updates to -1 are dropped. Integers are divided as floats and truncated.
    """
    whole = mode == "div" and not data.is_floating_point()
    result = data.to(torch.float64 if whole else data.dtype, copy=True, memory_format=torch.contiguous_format)
    target, values = result.numpy(), updates.numpy()
    if any((places < 0).any() for places in where):
        kept = functools.reduce(np.logical_and, [places >= 0 for places in where])
        where, values = tuple(np.broadcast_to(places, kept.shape)[kept] for places in where), values[kept]
    if mode == "update":
        target[where] = values
    elif mode in MODES:
        with np.errstate(all="ignore"):
            MODES[mode].at(target, where, values)
    else:
        raise PackageError(f"mode {mode!r}")
    return result.trunc().to(data.dtype) if whole else result


@operation("scatter", returns="data", same=BOTH)
def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, call: Call, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Slices of `updates` along `axis` go to the places that the vector `indices` names."""
    axis = axis_of(axis, data.ndim)
    expected = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    if indices.ndim != 1 or tuple(updates.shape) != expected:
        raise PackageError(f"updates of the shape {list(updates.shape)}, where {list(expected)} are indexed")
    places = _targets(indices, data.shape[axis], call, validate_indices)
    return _scatter(data.movedim(axis, 0), (places,), updates.movedim(axis, 0), mode).movedim(0, axis)


@operation("scatter_along_axis", returns="data", same=BOTH)
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, call: Call, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Each element of `updates` goes to its own place, but along `axis` to the place that `indices` names."""
    axis = axis_of(axis, data.ndim)
    _check_beside(data, indices, axis)
    if updates.shape != indices.shape:
        raise PackageError(f"updates of the shape {list(updates.shape)} and indices of the shape {list(indices.shape)}")
    where = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    where[axis] = _targets(indices, data.shape[axis], call, validate_indices)
    return _scatter(data, tuple(where), updates, mode)


@operation("scatter_nd", returns="data", same=BOTH)
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, call: Call, mode: str = "add", validate_indices: bool = False) -> Tensor:
    """Slices of `updates` go to data[i0, i1, ...] for each vector in the last dimension of `indices`."""
    where = tuple(_targets(column, size, call, validate_indices) for column, size in _columns(indices, data.shape))
    expected = (*indices.shape[:-1], *data.shape[len(where) :])
    if tuple(updates.shape) != expected:
        raise PackageError(f"updates of the shape {list(updates.shape)}, where {list(expected)} are indexed")
    return _scatter(data, where, updates, mode)
