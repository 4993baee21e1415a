"""MIL's value types, decoded from the protobuf."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from export.errors import PackageError
from export.mlpackage.dtypes import BY_PROTO, DTYPES, STRING, STRING_PROTO

MAX_ELEMENTS = 1 << 34  # of one tensor: more than any model for a phone, so a damaged file


@dataclasses.dataclass(frozen=True)
class TensorType:
    """`dtype` is a key of DTYPES or "string". A None in `shape` is a size known at run time; None for all: so is the rank."""

    dtype: str
    shape: tuple[int | None, ...] | None

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a value may have this shape."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(d is None or d == s for d, s in zip(self.shape, shape))

    @property
    def bytes(self) -> int:
        """What a file holds of it, sizes that are known at run time as 1; of text nothing."""
        if self.dtype == STRING:
            return 0
        return -(-math.prod(1 if d is None else d for d in self.shape or ()) * DTYPES[self.dtype].bits // 8)

    def __str__(self) -> str:
        return f"{self.dtype}{_shape_text(self.shape)}"


@dataclasses.dataclass(frozen=True)
class ListType:
    """A list of equal elements; `length` None: any."""

    element: ValueType
    length: int | None

    def __str__(self) -> str:
        return f"list of {self.element}"


@dataclasses.dataclass(frozen=True)
class StateType:
    """A tensor that outlives a call."""

    wrapped: TensorType

    def __str__(self) -> str:
        return f"state {self.wrapped}"


@dataclasses.dataclass(frozen=True)
class DictionaryType:
    """What a classifier returns."""

    key: ValueType
    value: ValueType

    def __str__(self) -> str:
        return f"dictionary of {self.value}"


ValueType = TensorType | ListType | StateType | DictionaryType


def decode_type(proto: Any) -> ValueType:
    """A `ValueType` message.

    Raises:
        PackageError: a type that MIL's reader does not know, or a shape that no value can have.
    """
    kind = proto.WhichOneof("type")
    if kind == "tensorType":
        return _tensor(proto.tensorType)
    if kind == "listType":
        return ListType(decode_type(proto.listType.type), _dimension(proto.listType.length))
    if kind == "stateType":
        wrapped = decode_type(proto.stateType.wrappedType)
        if not isinstance(wrapped, TensorType):
            raise PackageError(f"a state of {wrapped}: a state holds a tensor")
        return StateType(wrapped)
    if kind == "dictionaryType":
        return DictionaryType(decode_type(proto.dictionaryType.keyType), decode_type(proto.dictionaryType.valueType))
    raise PackageError(f"a value of type {kind or 'nothing'}, which this reader does not know")


def _tensor(proto: Any) -> TensorType:
    if proto.dataType == STRING_PROTO:
        dtype = STRING
    elif proto.dataType in BY_PROTO:
        dtype = BY_PROTO[proto.dataType].name
    else:
        raise PackageError(f"a tensor of element type {proto.dataType}, which this reader does not know")
    if proto.rank < 0 or any(d.WhichOneof("dimension") == "unknown" and d.unknown.variadic for d in proto.dimensions):
        return TensorType(dtype, None)
    if proto.rank != len(proto.dimensions):
        raise PackageError(f"a tensor of rank {proto.rank} with {len(proto.dimensions)} sizes")
    shape = tuple(_dimension(d) for d in proto.dimensions)
    if math.prod(d for d in shape if d is not None) > MAX_ELEMENTS:
        raise PackageError(f"a tensor of the shape {_shape_text(shape)}, which no machine holds")
    return TensorType(dtype, shape)


def _dimension(proto: Any) -> int | None:
    return int(proto.constant.size) if proto.WhichOneof("dimension") == "constant" else None


def _shape_text(shape: tuple[int | None, ...] | None) -> str:
    return "[any rank]" if shape is None else "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
