"""Other shapes of the same elements."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from export.errors import PackageError
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import Ints, Tensors, operation
from runtime_py.mil.sizes import axis_of


@operation("reshape", returns="x", exact=True)
def reshape(x: Tensor, shape: Ints, call: Call) -> Tensor:
    """A 0 stands for the size of `x` at the same place, -1 for what remains.

    Since iOS 17 places are counted from the last dimension, and a 0 beyond the first dimension of `x` is 1; before, a 0 needs
    equal ranks.
    """
    if 0 in shape:
        if call.opset < 17 and len(shape) != x.ndim:
            raise PackageError(f"a size of 0 in the shape {shape} for a tensor of rank {x.ndim}: the ranks must be equal before iOS 17")
        own = [1] * (len(shape) - x.ndim) + list(x.shape)
        own = own[len(own) - len(shape) :]
        shape = [size or own[i] for i, size in enumerate(shape)]
    return x.reshape(shape)


@operation("reshape_like", returns="x", exact=True)
def reshape_like(x: Tensor, ref_tensors: Tensors, begins: Tensors, ends: Tensors, end_masks: Tensors) -> Tensor:
    """The new shape is joined from parts of the shapes of `ref_tensors`: of each one, its sizes from begin to end."""
    if not len(ref_tensors) == len(begins) == len(ends) == len(end_masks):
        raise PackageError("ref_tensors, begins, ends and end_masks have different lengths")
    shape: list[int] = []
    for reference, begin, end, whole in zip(ref_tensors, begins, ends, end_masks):
        shape += reference.shape[int(begin) : None if bool(whole) else int(end)]
    return x.reshape(shape)


@operation("transpose", returns="x", exact=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    return x.permute(perm)


@operation("expand_dims", returns="x", exact=True)
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """`axes` are places in the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis_of(axis, rank) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operation("squeeze", returns="x", exact=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Drop dimensions of size 1: all, or those of `axes`. An axis of another size stays."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operation("reverse", returns="x", exact=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(tuple(range(x.ndim)) if axes is None else tuple(axes))


@operation("reverse_sequence", returns="x", exact=True)
def reverse_sequence(x: Tensor, lengths: Ints, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Along `seq_axis`, the first lengths[b] elements of batch b in reverse order, the rest as it is."""
    sequence, batch = axis_of(seq_axis, x.ndim), axis_of(batch_axis, x.ndim)
    size = x.shape[sequence]
    if len(lengths) != x.shape[batch] or any(not 0 <= length <= size for length in lengths):
        raise PackageError(f"the lengths {lengths} for {x.shape[batch]} sequences of {size}")
    if sequence == batch:
        raise PackageError(f"axis {sequence} is that of the sequence and that of the batch")
    steps, ends = torch.arange(size), torch.tensor(lengths).reshape(-1, 1)
    indices = torch.where(steps < ends, ends - 1 - steps, steps)  # [batch, sequence]
    shape = [1] * x.ndim
    shape[batch], shape[sequence] = indices.shape
    return x.gather(sequence, (indices if batch < sequence else indices.T).reshape(shape).expand(x.shape))


@operation("sliding_windows", returns="x", exact=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """[..., n, ...] -> [..., (n - size) // stride + 1, size, ...]."""
    axis = axis_of(axis, x.ndim)
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


@operation("depth_to_space", returns="x", exact=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """[n, c, h, w] -> [n, c / b^2, h b, w b]. A channel's place in its block varies slowest: channel (row, column, rest)."""
    n, c, h, w = x.shape
    x = x.reshape(n, block_size, block_size, _quotient(c, block_size**2), h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * block_size, w * block_size)


@operation("space_to_depth", returns="x", exact=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """The inverse of `depth_to_space`."""
    n, c, h, w = x.shape
    h, w = _quotient(h, block_size), _quotient(w, block_size)
    x = x.reshape(n, c, h, block_size, w, block_size)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h, w)


@operation("pixel_shuffle", returns="x", exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """[n, c, h, w] -> [n, c / f^2, h f, w f]. A channel's place in its block varies fastest."""
    return F.pixel_shuffle(x, upscale_factor)


@operation("pixel_unshuffle", returns="x", exact=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """The inverse of `pixel_shuffle`."""
    return F.pixel_unshuffle(x, downscale_factor)


@operation("space_to_batch", returns="x", exact=True)
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """[n, c, h, w], padded with zeros, -> [bh bw n, c, h / bh, w / bw]: the n of the first place in the blocks come first."""
    (bh, bw), (top, bottom, left, right) = block_shape, paddings
    if min(paddings) < 0:
        raise PackageError(f"paddings {paddings}")
    x = F.pad(x, (left, right, top, bottom))
    n, c, h, w = x.shape
    h, w = _quotient(h, bh), _quotient(w, bw)
    return x.reshape(n, c, h, bh, w, bw).permute(3, 5, 0, 1, 2, 4).reshape(-1, c, h, w)


@operation("batch_to_space", returns="x", exact=True)
def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    """The inverse of `space_to_batch`: what that one pads is cropped."""
    (bh, bw), (top, bottom, left, right) = block_shape, crops
    n, c, h, w = x.shape
    n, height, width = _quotient(n, bh * bw), h * bh, w * bw
    x = x.reshape(bh, bw, n, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n, c, height, width)
    if min(crops) < 0 or top + bottom > height or left + right > width:
        raise PackageError(f"crops {crops} of a result of {height} x {width}")
    return x[:, :, top : height - bottom, left : width - right]


def _quotient(size: int, divisor: int) -> int:
    if divisor < 1 or size % divisor:
        raise PackageError(f"a dimension of {size} in blocks of {divisor}")
    return size // divisor


@operation("flatten2d", returns="x", exact=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """[*a, *b] -> [prod(a), prod(b)], where b begins at `axis`."""
    if not -x.ndim <= axis <= x.ndim:
        raise PackageError(f"axis {axis} of a tensor of rank {x.ndim}")
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
