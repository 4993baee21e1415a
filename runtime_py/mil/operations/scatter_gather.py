"""Elements of a tensor at computed places, read (gather) and written (scatter).

A place that is not in the tensor is an error here. Core ML leaves open what it then does, unless `validate_indices` is set. Until
iOS 16 an index may count from the end; since iOS 17 a negative one is no place.
"""

from __future__ import annotations

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


def _places(indices: Tensor, size: int, call: Call) -> Tensor:
    """Indices of a dimension as int64, counted from the front."""
    indices = indices.long()
    if indices.numel() == 0:
        return indices
    low, high = (int(bound) for bound in torch.aminmax(indices))
    if high >= size or low < (0 if call.opset >= 17 else -size):
        outside = high if high >= size else low
        until = ": a negative index is no place since iOS 17" if -size <= outside < 0 else ""
        raise PackageError(f"index {outside} in a dimension of the size {size}{until}")
    return torch.where(indices < 0, indices + size, indices) if low < 0 else indices


@operation("gather", returns="x", exact=True)
def gather(x: Tensor, indices: Tensor, call: Call, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """x.shape[:axis] + indices.shape[batch_dims:] + x.shape[axis + 1:]; the first `batch_dims` dimensions of both go together."""
    axis = axis_of(axis, x.ndim)
    places = _places(indices, x.shape[axis], call)
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
    return x.gather(axis, _places(indices, x.shape[axis], call))


def _check_beside(x: Tensor, indices: Tensor, axis: int) -> None:
    sizes = [list(t.shape[:axis]) + list(t.shape[axis + 1 :]) for t in (x, indices)]
    if x.ndim != indices.ndim or sizes[0] != sizes[1]:
        raise PackageError(f"indices of the shape {list(indices.shape)} along axis {axis} of {list(x.shape)}")


def _tuple(indices: Tensor, sizes: torch.Size, call: Call) -> tuple[Tensor, ...]:
    """The last dimension of `indices` as indices of one dimension each."""
    depth = indices.shape[-1]
    if depth > len(sizes):
        raise PackageError(f"indices of {depth} dimensions of a tensor of the shape {list(sizes)}")
    return tuple(_places(indices[..., i], sizes[i], call) for i in range(depth))


@operation("gather_nd", returns="x", exact=True)
def gather_nd(x: Tensor, indices: Tensor, call: Call, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices x[i0, i1, ...] for each vector in the last dimension of `indices`, below the batch dimensions that both share."""
    if not 0 <= batch_dims < min(x.ndim + 1, indices.ndim) or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise PackageError(f"{batch_dims} batch dimensions of {list(x.shape)} and of indices {list(indices.shape)}")
    places = _tuple(indices, x.shape[batch_dims:], call)
    checked([*indices.shape[:-1], *x.shape[batch_dims + len(places) :]])
    rank = indices.ndim - 1
    batch = tuple(torch.arange(x.shape[i]).reshape([-1 if j == i else 1 for j in range(rank)]) for i in range(batch_dims))
    return x[batch + places]


def _scatter(data: Tensor, where: tuple, updates: Tensor, mode: str) -> Tensor:
    """`data` changed at the places `where` (as NumPy indexes): of two updates to one place both count, `update` takes the last.

    Integers are divided as floats and truncated.
    """
    whole = mode == "div" and not data.is_floating_point()
    result = data.to(torch.float64 if whole else data.dtype, copy=True, memory_format=torch.contiguous_format)
    target, values = result.numpy(), updates.numpy()
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
    places = _places(indices, data.shape[axis], call).numpy()
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
    where[axis] = _places(indices, data.shape[axis], call).numpy()
    return _scatter(data, tuple(where), updates, mode)


@operation("scatter_nd", returns="data", same=BOTH)
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, call: Call, mode: str = "add", validate_indices: bool = False) -> Tensor:
    """Slices of `updates` go to data[i0, i1, ...] for each vector in the last dimension of `indices`."""
    where = tuple(places.numpy() for places in _tuple(indices, data.shape, call))
    expected = (*indices.shape[:-1], *data.shape[len(where) :])
    if tuple(updates.shape) != expected:
        raise PackageError(f"updates of the shape {list(updates.shape)}, where {list(expected)} are indexed")
    return _scatter(data, where, updates, mode)
