"""Weights that are stored compressed. Each is decompressed once, at its first use.

Two operations have other parameters since iOS 18: before, elements of less than a byte are packed in bytes, and `shape` says what
they make up; since then they are element types of their own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from export.errors import PackageError
from export.mlpackage import DTYPES
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import Ints, operation

NEW_SET = 18  # the iOS whose operator set changed them


def _blocks(x: Tensor, counts: list[int]) -> tuple[Tensor, list[int]]:
    """x viewed with each dimension split in (blocks, size of a block), and the shape of one value for each block beside it."""
    if x.dim() != len(counts) or any(count < 1 or size % count for size, count in zip(x.shape, counts)):
        raise PackageError(f"its data are {list(x.shape)}, which do not split in {counts} blocks")
    split = [part for size, count in zip(x.shape, counts) for part in (count, size // count)]
    return x.reshape(split), [part for count in counts for part in (count, 1)]


def _shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    if offset is not None and offset.shape != scale.shape:
        raise PackageError(f"its offset is {list(offset.shape)}, and its scale {list(scale.shape)}")
    blocks, shape = _blocks(data, list(scale.shape))
    result = torch.empty(blocks.shape).copy_(blocks)  # converting first is faster than products of different types
    if offset is not None:
        result.sub_(offset.reshape(shape))
    return result.mul_(scale.reshape(shape)).reshape(data.shape)


def _look_up(indices: Tensor, lut: Tensor, vector_axis: int | None) -> Tensor:
    """indices [*d] in tables [*t, entries, length], one table for each block of indices: [*d], times the length along the axis."""
    *tables, entries, length = lut.shape
    blocks, shape = _blocks(indices, tables)
    firsts = torch.arange(math.prod(tables), dtype=torch.int32).reshape(shape) * entries
    places = (blocks + firsts).reshape(-1)
    values = lut.reshape(-1, length).index_select(0, places) if length > 1 else lut.reshape(-1).index_select(0, places)
    if length == 1:
        return values.reshape(indices.shape)
    if vector_axis is None or not -indices.dim() <= vector_axis < indices.dim():
        raise PackageError(f"its tables hold vectors, and its vector_axis is {vector_axis}")
    axis = vector_axis % indices.dim()
    sizes = [size * length if index == axis else size for index, size in enumerate(indices.shape)]
    return values.reshape(*indices.shape, length).movedim(-1, axis + 1).reshape(sizes)


def _check_table(lut: Tensor, indices: Tensor, dtype: str) -> None:
    if lut.dim() != indices.dim() + 2 or lut.shape[-2] != 1 << DTYPES[dtype].bits:
        raise PackageError(f"its lut is {list(lut.shape)}, and its indices are {dtype}{list(indices.shape)}")


def _fill(values: Tensor, mask: Tensor) -> Tensor:
    """Zeros of the mask's shape, with the values in their order where the mask is set."""
    chosen = mask != 0
    count = int(chosen.sum())
    if values.dim() != 1 or len(values) != count:
        raise PackageError(f"its mask has {count} elements set, and its values are {list(values.shape)}")
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter_(chosen, values)


def _unpacked(data: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` numbers of `bits` bits in bytes: from each byte's lowest bit up, across bytes."""
    size = bits // math.gcd(bits, 8)  # bytes that hold whole numbers
    if data.dim() != 1 or len(data) != -(-count * bits // 8):
        raise PackageError(f"its data are {list(data.shape)} bytes, and hold {count} numbers of {bits} bits")
    groups = torch.nn.functional.pad(data, (0, -len(data) % size)).reshape(-1, size).int()
    words = sum((groups[:, i] << 8 * i for i in range(size)), torch.zeros(len(groups), dtype=torch.int32))
    numbers = (words[:, None] >> torch.arange(0, 8 * size, bits, dtype=torch.int32)) & ((1 << bits) - 1)
    return numbers.reshape(-1)[:count]


@operation("constexpr_affine_dequantize", returns="scale")
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """scale * (quantized_data - zero_point), each one number or one for each place along the axis."""
    if not -quantized_data.dim() <= axis < quantized_data.dim() or scale.dim() > 1 or zero_point.dim() > 1:
        raise PackageError(f"its scale is {list(scale.shape)} along the axis {axis} of {list(quantized_data.shape)}")
    shape = [-1 if index == axis % quantized_data.dim() else 1 for index in range(quantized_data.dim())]
    return torch.empty(quantized_data.shape).copy_(quantized_data).sub_(zero_point.reshape(shape)).mul_(scale.reshape(shape))


@operation("constexpr_cast", returns="fp32")
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """float16 as float32."""
    if output_dtype != "fp32":
        raise PackageError(f"it casts to {output_dtype!r}: MIL has only fp32 here")
    return source_val


@operation("constexpr_blockwise_shift_scale", returns="scale")
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * (data - offset), with one scale and offset for each block: data's sizes are multiples of scale's."""
    return _shift_scale(data, scale, offset)


@operation("constexpr_lut_to_dense", returns="lut", exact=True)
def constexpr_lut_to_dense(indices: Tensor, lut: Tensor, call: Call, shape: Ints | None = None, vector_axis: int | None = None) -> Tensor:
    """The entries of tables at the indices: see _look_up. Before iOS 18: packed indices in one table [entries], of this shape."""
    if call.opset >= NEW_SET:
        if shape is not None:
            raise PackageError("it has the parameter shape, which ended with iOS 17")
        _check_table(lut, indices, call.input("indices").dtype)
        return _look_up(indices, lut, vector_axis)
    bits = lut.numel().bit_length() - 1
    if shape is None or vector_axis is not None or lut.dim() != 1 or lut.numel() not in (2, 4, 16, 64, 256):
        raise PackageError(f"before iOS 18 it has a shape and one table of 2, 4, 16, 64 or 256 entries, and its lut is {list(lut.shape)}")
    return lut.index_select(0, _unpacked(indices, bits, math.prod(shape))).reshape(shape)


@operation("constexpr_sparse_to_dense", returns="nonzero_data", exact=True)
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, call: Call, shape: Ints | None = None) -> Tensor:
    """Zeros, and where the mask is set the values in their order. Before iOS 18: a mask of packed bits, of this shape."""
    if call.opset >= NEW_SET:
        if shape is not None:
            raise PackageError("it has the parameter shape, which ended with iOS 17")
        return _fill(nonzero_data, mask)
    if shape is None:
        raise PackageError("its input shape is missing")
    return _fill(nonzero_data, _unpacked(mask, 1, math.prod(shape)).reshape(shape))


@operation("constexpr_lut_to_sparse", returns=("uint1", "lut"), exact=True)
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, call: Call, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mask (repeated along the axis for tables of vectors) and the entries, in the order of the dense tensor."""
    _check_table(lut, indices_mask, call.input("indices_nonzero_data").dtype)
    dense = _look_up(_fill(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask if lut.shape[-1] == 1 else indices_mask.repeat_interleave(lut.shape[-1], dim=vector_axis)
    return mask, dense[mask != 0]


@operation("constexpr_sparse_blockwise_shift_scale", returns=("uint1", "scale"))
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mask, and scale * (data - offset) of the values, by the blocks that they have in the dense tensor."""
    return data_mask, _shift_scale(_fill(nonzero_data, data_mask), scale, offset)[data_mask != 0]
