"""The element types of MIL, how files hold them, and what carries their values in memory."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class DType:
    """One element type.

    `carrier` is the PyTorch type that values are computed in: float32 for all floats (a float16 value is a float32 number that
    float16 can hold), the next larger integer where PyTorch lacks arithmetic. `proto` and `blob` are its numbers in MIL.proto
    and in the weight file (0: cannot stand there). `numpy` is what one element is in a file, after unpacking.
    """

    name: str
    bits: int
    carrier: torch.dtype
    numpy: type
    proto: int
    blob: int = 0
    signed: bool = True

    @property
    def floating(self) -> bool:
        return self.carrier in (torch.float32, torch.float64)


DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        DType("bool", 8, torch.bool, np.bool_, 1),
        DType("fp16", 16, torch.float32, np.float16, 10, blob=1),
        DType("fp32", 32, torch.float32, np.float32, 11, blob=2),
        DType("fp64", 64, torch.float64, np.float64, 12),
        DType("bf16", 16, torch.float32, np.uint16, 13, blob=5),  # its upper half of a float32's bits
        DType("int8", 8, torch.int8, np.int8, 21, blob=4),
        DType("int16", 16, torch.int16, np.int16, 22, blob=6),
        DType("int32", 32, torch.int32, np.int32, 23, blob=14),
        DType("int64", 64, torch.int64, np.int64, 24),
        DType("int4", 4, torch.int8, np.int8, 25, blob=8),
        DType("uint8", 8, torch.uint8, np.uint8, 31, blob=3, signed=False),
        DType("uint16", 16, torch.int32, np.uint16, 32, blob=7, signed=False),
        DType("uint32", 32, torch.int64, np.uint32, 33, blob=15, signed=False),
        DType("uint64", 64, torch.int64, np.uint64, 34, signed=False),
        DType("uint4", 4, torch.uint8, np.uint8, 35, blob=11, signed=False),
        DType("uint2", 2, torch.uint8, np.uint8, 36, blob=10, signed=False),
        DType("uint1", 1, torch.uint8, np.uint8, 37, blob=9, signed=False),
        DType("uint6", 6, torch.uint8, np.uint8, 38, blob=13, signed=False),
        DType("uint3", 3, torch.uint8, np.uint8, 39, blob=12, signed=False),
    )
}
STRING = "string"  # no tensor carries it: a str, or an object array of them
STRING_PROTO = 2
BY_PROTO = {dtype.proto: dtype for dtype in DTYPES.values()}


def rounded(x: torch.Tensor, dtype: DType) -> torch.Tensor:
    """`x` with the nearest values that `dtype` holds, in its carrier; a float that is too large becomes infinite, an integer wraps."""
    if dtype.name == "fp16":
        return x.half().float()
    if dtype.name == "bf16":
        return x.bfloat16().float()
    if x.dtype != dtype.carrier:
        x = x.to(dtype.carrier)
    if dtype.bits < 8 * x.element_size() and not dtype.floating and dtype.name != "bool":
        x = x & ((1 << dtype.bits) - 1)
        if dtype.signed:  # int4 in int8
            x = torch.where(x >= 1 << (dtype.bits - 1), x - (1 << dtype.bits), x)
    return x


def to_carrier(array: np.ndarray, dtype: DType) -> torch.Tensor:
    """A NumPy array of the type's file form as a tensor of its carrier."""
    if dtype.name == "bf16":
        return torch.from_numpy(array.astype(np.uint32) << 16).view(torch.float32)
    wide = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}.get(dtype.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mapped file cannot be written to, and carriers never are
        tensor = torch.from_numpy(np.array(array, dtype=wide, copy=None, order="C"))
    return tensor.to(dtype.carrier)


def from_carrier(tensor: torch.Tensor, dtype: DType) -> np.ndarray:
    """The NumPy array that a host sees; bfloat16, which NumPy lacks, as float32."""
    array = tensor.contiguous().numpy()
    return array if dtype.name == "bf16" else array.astype(dtype.numpy, copy=False)
