"""The constants of an ML program: immediate values in the protobuf, and blobs in the weight files.

A weight file (Core ML's "blob storage", version 2) begins with 64 bytes of header. A blob is found by the offset of its 64 bytes
of metadata (sentinel, element type, bytes, offset of the data, bits of padding), little-endian.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import PackageError, one_line
from export.mlpackage.dtypes import DTYPES, STRING, DType
from export.mlpackage.types import TensorType, decode_type

MODEL_FOLDER = "@model_path/"  # how a blob's file name begins
MAX_REPEATED = 1 << 26  # elements of a constant that the protobuf holds as one value
METADATA = struct.Struct("<IIQQQ")
SENTINEL = 0xDEADBEEF
IMMEDIATE = {  # field of a TensorValue -> what its elements are read as; `bytes` holds the element type's own bytes
    "floats": np.float32,
    "ints": np.int32,
    "bools": np.bool_,
    "longInts": np.int64,
    "doubles": np.float64,
}


class Values:
    """Reads the constants of one package. Weight files are mapped, not read."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._files: dict[str, np.ndarray] = {}

    def tensor(self, proto: Any) -> tuple[TensorType, np.ndarray]:
        """A `Value` message that holds a tensor: its type, and its elements as their type's file form (strings: objects).

        Raises:
            PackageError: it holds something else, or the file is damaged.
        """
        declared = decode_type(proto.type)
        if not isinstance(declared, TensorType) or declared.shape is None or None in declared.shape:
            raise PackageError(f"a constant of type {declared}: only tensors of a known shape are constants")
        if proto.WhichOneof("value") == "blobFileValue":
            array = self._blob(proto.blobFileValue, declared)
        elif proto.WhichOneof("value") == "immediateValue" and proto.immediateValue.WhichOneof("value") == "tensor":
            array = _immediate(proto.immediateValue.tensor, declared)
        else:
            raise PackageError(f"a constant of type {declared} without a value")
        return declared, array.reshape(declared.shape)

    def _blob(self, proto: Any, declared: TensorType) -> np.ndarray:
        where = f"the weights at byte {proto.offset} of {proto.fileName or 'no file'}"
        if declared.dtype not in DTYPES or not DTYPES[declared.dtype].blob:
            raise PackageError(f"{where}: a weight file holds no {declared.dtype}")
        dtype = DTYPES[declared.dtype]
        data = self._file(proto.fileName)
        if proto.offset + 64 > len(data):
            raise PackageError(f"{where} lie beyond its end: the file was cut off, copy or build the package again")
        sentinel, blob, size, offset, padding = METADATA.unpack(data[proto.offset : proto.offset + METADATA.size].tobytes())
        count = math.prod(declared.shape or ())
        if sentinel != SENTINEL or blob != dtype.blob:
            raise PackageError(f"{where} are no {dtype.name} weights: the file is damaged, copy or build the package again")
        if size != declared.bytes or padding >= 8 or offset + size > len(data):
            raise PackageError(f"{where} have the wrong size for {declared}: the file is damaged, copy or build the package again")
        return _elements(data[offset : offset + size], dtype, count)

    def _file(self, name: str) -> np.ndarray:
        """The bytes of a weight file of this package."""
        if name not in self._files:
            path = file_inside(self.folder, name.removeprefix(MODEL_FOLDER)) if name.startswith(MODEL_FOLDER) else None
            if path is None or path.stat().st_size == 0:
                raise PackageError(f"the weight file {name[:200]!r} is missing, empty or outside the package: copy or build it again")
            try:
                self._files[name] = np.memmap(path, np.uint8, mode="r")
            except OSError as error:
                raise PackageError(f"the weight file {name[:200]!r} cannot be read: {one_line(error)}") from None
        return self._files[name]


def file_inside(folder: Path, relative: str) -> Path | None:
    """The file of this name, links followed; None where there is none, or where the name leads out of the folder."""
    try:
        path = (folder / relative).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a name that is too long, has a zero byte, or is a link to itself
        return None


def _immediate(proto: Any, declared: TensorType) -> np.ndarray:
    field = proto.WhichOneof("value")
    count = math.prod(declared.shape or ())
    if field is None:
        raise PackageError(f"a constant of type {declared} without a value")
    values = getattr(proto, field).values
    if declared.dtype == STRING:
        array = np.array(list(values), dtype=object)
    elif field == "bytes":
        dtype = DTYPES[declared.dtype]
        if len(values) != declared.bytes:
            raise PackageError(f"a constant of type {declared} with {len(values)} bytes")
        array = _elements(np.frombuffer(values, np.uint8), dtype, count)
    elif field in IMMEDIATE:
        array = np.array(values, dtype=IMMEDIATE[field]).astype(DTYPES[declared.dtype].numpy)
    else:
        raise PackageError(f"a constant of type {declared} in {field}")
    if array.size == 1 and 1 < count <= MAX_REPEATED:  # one value for all, which Core ML allows
        array = np.repeat(array, count)
    if array.size != count:
        raise PackageError(f"a constant of type {declared} with {array.size} values")
    return array


def _elements(data: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """Bytes of a file as elements. Types of less than 8 bits are packed from each byte's lowest bit up, across bytes."""
    if dtype.bits >= 8:
        if dtype.name == "bool":
            return data.astype(np.bool_)
        offset = data.ctypes.data % np.dtype(dtype.numpy).itemsize
        return (data.copy() if offset else data).view(dtype.numpy)
    if dtype.bits == 4:  # two in a byte: without the detour through single bits
        elements = np.empty(2 * len(data), np.uint8)
        elements[0::2], elements[1::2] = data & 15, data >> 4
        elements = elements[:count]
    else:
        bits = np.unpackbits(data, bitorder="little")[: count * dtype.bits].reshape(count, dtype.bits)
        elements = (bits << np.arange(dtype.bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    if dtype.signed:
        elements = (elements ^ 8).view(np.int8) - np.int8(8)  # two's complement of 4 bits: there is no other signed type below 8
    return elements
