"""Parts of tensors by ranges of indices: views where PyTorch has them, which it has not for negative strides."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from export.errors import PackageError
from runtime_py.mil.registry import Bools, Ints, operation

ALIKE = ("x", "update")


@dataclasses.dataclass(frozen=True)
class Part:
    """What the parameters of a slice mean for one shape.

    `ranges`: first index, end and positive stride by dimension. `flips`: dimensions to reverse after that, `squeezed`: those to drop.
    """

    ranges: tuple[slice, ...]
    flips: tuple[int, ...]
    squeezed: tuple[int, ...]

    def of(self, x: Tensor) -> Tensor:
        """The slice as a view of `x`, before its reversal and with all dimensions."""
        return x[self.ranges]


def _part(
    shape: torch.Size,
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Bools | None,
    end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> Part:
    """As NumPy reads `x[begin:end:stride, ...]`; a mask leaves out begin or end, or takes the one element at begin."""
    rank = len(shape)
    no = [False] * rank
    stride, begin_mask, end_mask, squeeze_mask = stride or [1] * rank, begin_mask or no, end_mask or no, squeeze_mask or no
    for values in (begin, end, stride, begin_mask, end_mask, squeeze_mask):
        if len(values) != rank:
            raise PackageError(f"a slice with {len(values)} values for a tensor of rank {rank}")
    ranges, flips, squeezed = [], [], []
    for i, size in enumerate(shape):
        if squeeze_mask[i]:
            at = 0 if begin_mask[i] else begin[i]
            if not -size <= at < size:
                raise PackageError(f"index {at} of dimension {i}, which has the size {size}")
            ranges.append(slice(at % size, at % size + 1, 1))
            squeezed.append(i)
            continue
        if stride[i] == 0:
            raise PackageError(f"stride 0 in dimension {i}")
        indices = range(*slice(None if begin_mask[i] else begin[i], None if end_mask[i] else end[i], stride[i]).indices(size))
        if not indices:
            ranges.append(slice(0, 0, 1))
        elif stride[i] > 0:
            ranges.append(slice(indices[0], indices[-1] + 1, stride[i]))
        else:
            ranges.append(slice(indices[-1], indices[0] + 1, -stride[i]))
            flips.append(i)
    return Part(tuple(ranges), tuple(flips), tuple(squeezed))


@operation("slice_by_index", returns="x", exact=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    part = _part(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = part.of(x)
    if part.flips:
        result = result.flip(part.flips)
    return result.squeeze(part.squeezed) if part.squeezed else result


@operation("slice_update", returns="x", same=ALIKE, exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """`x` with `update` in the place of a slice of its shape."""
    part = _part(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = x.clone()
    target = part.of(result)
    expected = [size for i, size in enumerate(target.shape) if i not in part.squeezed]
    if list(update.shape) != expected or not expected:
        raise PackageError(f"an update of the shape {list(update.shape)} for a slice of the shape {expected}")
    update = update.reshape(target.shape)
    target.copy_(update.flip(part.flips) if part.flips else update)
    return result


@operation("slice_by_size", returns="x", exact=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """`size` elements of each dimension from `begin` on, which may count from the end; size -1: all that remain."""
    if not len(begin) == len(size) == x.ndim:
        raise PackageError(f"a slice with {len(begin)} begins and {len(size)} sizes for a tensor of rank {x.ndim}")
    for dimension, (first, count) in enumerate(zip(begin, size)):
        whole = x.shape[dimension]
        first = first + whole if first < 0 else first
        count = whole - first if count == -1 else count
        if first < 0 or count < 0 or first + count > whole:
            raise PackageError(f"{size[dimension]} elements from {begin[dimension]} of dimension {dimension}, which has the size {whole}")
        x = x.narrow(dimension, first, count)
    return x
