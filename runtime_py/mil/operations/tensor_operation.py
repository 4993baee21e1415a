"""Tensors joined, split, repeated, filled and ordered. Elements move; only `cumsum` and `range_1d` compute."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from export.errors import PackageError
from export.mlpackage import DTYPES
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import ANY, Ints, Scalar, Tensors, operation
from runtime_py.mil.sizes import axis_of, checked

INDEX_TYPES = ("int32", "uint16")  # of topk


@operation("identity", returns="x", exact=True)
def identity(x: Tensor) -> tuple[Tensor]:
    return (x,)  # in a tuple, because x may be a list, which is a tuple itself


@operation("select", returns="a", same=("a", "b"), exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Elements of `a` where `cond` is true, else of `b`; the three are broadcast."""
    return torch.where(cond, a, b)


@operation("shape", returns="int32", exact=True)
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def _alike(values: Tensors, call: Call) -> int:
    """The rank of tensors that are to be joined: they have one element type and one rank."""
    types = {type.dtype for type in call.input("values")}
    if len(types) != 1 or len({value.ndim for value in values}) != 1:
        raise PackageError(f"joins {', '.join(map(str, call.input('values'))) or 'nothing'}: types and ranks must be equal")
    return values[0].ndim


@operation("concat", returns="values", exact=True)
def concat(values: Tensors, axis: int, call: Call, interleave: bool = False) -> Tensor:
    """Scalars are joined to a vector. `interleave`: element 0 of each along `axis`, then element 1 of each, and so on."""
    rank = _alike(values, call)
    if rank == 0:
        return torch.stack(list(values))
    axis = axis_of(axis, rank)
    if interleave:
        return torch.stack(list(values), dim=axis + 1).flatten(axis, axis + 1)
    return torch.cat(list(values), dim=axis)


@operation("stack", returns="values", exact=True)
def stack(values: Tensors, axis: int, call: Call) -> Tensor:
    return torch.stack(list(values), dim=axis_of(axis, _alike(values, call) + 1))


@operation("split", returns="x", exact=True)
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> tuple[Tensor, ...]:
    """Parts of the sizes `split_sizes`, or `num_splits` equal ones."""
    axis = axis_of(axis, x.ndim)
    size = x.shape[axis]
    if split_sizes is None:
        if not num_splits or num_splits < 1 or size % num_splits:
            raise PackageError(f"{num_splits or 'no'} equal parts of {size} elements")
        split_sizes = [size // num_splits] * num_splits
    elif num_splits is not None and num_splits != len(split_sizes):
        raise PackageError(f"num_splits is {num_splits}, and split_sizes has {len(split_sizes)} sizes")
    if min(split_sizes) < 0 or sum(split_sizes) != size:
        raise PackageError(f"parts of the sizes {split_sizes} of {size} elements")
    return x.split(split_sizes, dim=axis)


@operation("tile", returns="x", exact=True)
def tile(x: Tensor, reps: Ints) -> Tensor:
    """Dimension i is repeated reps[i] times; 0 comes from an index that selects nothing. A dimension of size 1 is repeated by a view."""
    if len(reps) != x.ndim or min(reps, default=0) < 0:
        raise PackageError(f"reps {reps} for a tensor of rank {x.ndim}: one number, at least 0, for each dimension")
    result = checked([size * rep for size, rep in zip(x.shape, reps)])
    if all(size == 1 or rep == 1 for size, rep in zip(x.shape, reps)):
        return x.expand(result)
    return x.repeat(reps)


def _filled(sizes: list[int], value: Scalar, call: Call) -> Tensor:
    return torch.full(checked(sizes), value, dtype=DTYPES[call.outputs[0].dtype].carrier)


@operation("fill", returns="value", exact=True)
def fill(shape: Ints, call: Call, value: Scalar = 0.0) -> Tensor:
    return _filled(shape, value, call)


@operation("fill_like", returns="value", exact=True)
def fill_like(ref_tensor: Tensor, call: Call, value: Scalar = 0.0) -> Tensor:
    """A tensor of the shape of `ref_tensor`, and of the element type of `value`."""
    return _filled(list(ref_tensor.shape), value, call)


@operation("range_1d", returns="start", same=("start", "end", "step"))
def range_1d(start: Scalar, end: Scalar, step: Scalar, call: Call) -> Tensor:
    """start, start + step, ... as far as they lie before `end`. Their number is counted in the element type, as coremltools does."""
    dtype = DTYPES[call.outputs[0].dtype]
    if step == 0:
        raise PackageError("step 0")
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype.floating:
            kind = dtype.numpy if dtype.name != "bf16" else np.float32
            length = float((kind(end) - kind(start)) / kind(step))
        else:
            length = (int(end) - int(start)) / int(step)
    if not math.isfinite(length):
        raise PackageError(f"a range from {start} to {end} by {step}")
    (count,) = checked([max(0, math.ceil(length))])
    return (torch.arange(count, dtype=torch.float64 if dtype.floating else torch.int64) * step + start).to(dtype.carrier)


@operation("one_hot", returns="on_value", same=("on_value", "off_value"), exact=True)
def one_hot(indices: Tensor, one_hot_vector_size: int, call: Call, axis: int = -1, on_value: Scalar = 1, off_value: Scalar = 0) -> Tensor:
    """A new dimension at `axis`, with `on_value` at the index and `off_value` elsewhere: everywhere, if no place has the index."""
    axis = axis_of(axis, indices.ndim + 1)
    sizes = list(indices.shape)
    sizes.insert(axis, one_hot_vector_size)
    dtype = DTYPES[call.outputs[0].dtype].carrier
    checked(sizes)
    places = torch.arange(one_hot_vector_size).reshape([-1] + [1] * (indices.ndim - axis))
    return torch.where(indices.unsqueeze(axis) == places, torch.tensor(on_value, dtype=dtype), torch.tensor(off_value, dtype=dtype))


@operation("pad", returns="x", exact=True)
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: Scalar = 0.0) -> Tensor:
    """`pad` has the numbers of elements before and after, for each of the last dimensions in their order."""
    if len(pad) % 2 or len(pad) > 2 * x.ndim or min(pad, default=0) < 0:
        raise PackageError(f"pad {pad} for a tensor of rank {x.ndim}")
    before = [0] * (x.ndim - len(pad) // 2) + pad[0::2]
    after = [0] * (x.ndim - len(pad) // 2) + pad[1::2]
    checked([b + size + a for b, size, a in zip(before, x.shape, after)])
    if mode == "constant":
        pairs = [count for i in reversed(range(x.ndim)) for count in (before[i], after[i])]
        return F.pad(x, pairs, value=constant_val)
    if mode not in ("reflect", "replicate"):
        raise PackageError(f"mode {mode!r}")
    for dimension, size in enumerate(x.shape):
        if not before[dimension] and not after[dimension]:
            continue
        if max(before[dimension], after[dimension]) > (size - 1 if mode == "reflect" else size):
            raise PackageError(f"mode {mode} with the pad {pad} in dimension {dimension}, which has the size {size}")
        places = torch.arange(-before[dimension], size + after[dimension])
        if mode == "reflect":
            places = size - 1 - (size - 1 - places.abs()).abs()
        x = x.index_select(dimension, places.clamp(0, size - 1))
    return x


@operation("band_part", returns="x", exact=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zeros beyond `lower` diagonals below the main one and `upper` above it; a negative number keeps all."""
    if x.ndim < 2:
        raise PackageError(f"a tensor of rank {x.ndim}: the last two dimensions are a matrix")
    below = torch.arange(x.shape[-2]).unsqueeze(1) - torch.arange(x.shape[-1])
    kept = torch.ones_like(below, dtype=torch.bool)
    if lower >= 0:
        kept &= below <= lower
    if upper >= 0:
        kept &= -below <= upper
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


@operation("cumsum", returns="x")
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """`exclusive`: without the element itself. `reverse`: from the end."""
    axis = axis_of(axis, x.ndim)
    if reverse:
        x = x.flip(axis)
    result = x.cumsum(axis, dtype=x.dtype)
    if exclusive and x.shape[axis]:
        result = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), result.narrow(axis, 0, x.shape[axis] - 1)], dim=axis)
    return result.flip(axis) if reverse else result


@operation("non_zero", returns="int32", exact=True)
def non_zero(x: Tensor) -> Tensor:
    """The places of what is not 0, [count, rank], in the order of rows."""
    return x.nonzero().to(torch.int32)


@operation("argsort", returns="int32", exact=True)
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Among equal values the lower index comes first."""
    return torch.sort(x, dim=axis_of(axis, x.ndim), descending=not ascending, stable=True).indices.to(torch.int32)


@operation("topk", returns=("x", ANY), exact=True)
def topk(
    x: Tensor,
    call: Call,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The `k` largest (`ascending`: smallest) values and their indices; k -1: all, since iOS 17. Ties go to the lower index.

    Without `sort` any order is right: they are sorted then too.
    """
    axis = axis_of(axis, x.ndim)
    size = x.shape[axis]
    if k == -1 and call.opset >= 17:
        k = size
    if not 0 < k <= size:
        raise PackageError(f"the first {k} of {size} elements")
    if not return_indices and output_indices_dtype is not None:
        raise PackageError(f"output_indices_dtype is {output_indices_dtype}, and return_indices is false")
    values, indices = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    values, indices = values.narrow(axis, 0, k), indices.narrow(axis, 0, k)
    if not return_indices:
        return values
    dtype = output_indices_dtype or "int32"
    if dtype not in INDEX_TYPES or dtype != call.outputs[-1].dtype:
        raise PackageError(f"its indices are {dtype}, and are declared as {call.outputs[-1]}")
    if size > 1 << 16 and dtype == "uint16":
        raise PackageError(f"indices of {size} elements in uint16")
    return values, indices.to(torch.int32)
