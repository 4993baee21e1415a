"""Lists of tensors of one shape. A list is a tuple; a None in it was never written, in a list whose element shape is not declared.

Elements that were never written are zeros. A write behind the end makes a list longer, unless its length is fixed: `FixedList`, since
the declared type holds the first length either way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.errors import PackageError
from export.mlpackage import DTYPES, ListType, TensorType
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import Ints, TensorList, Tensors, operation

MAX_LENGTH = 1_000_000


class FixedList(tuple):
    """A list of a fixed length."""


@operation("make_list", returns="any")
def make_list(
    call: Call, elem_shape: Tensors = (), init_length: int = 1, dynamic_length: bool = True, dtype: str = "fp32"
) -> tuple[TensorList]:
    """`elem_shape`: sizes; a text is the name of a size that is known when the first element is written."""
    element = _element(call)
    sizes = [None if isinstance(size, str) else int(size.item()) for size in elem_shape]
    if element.dtype != dtype or element.shape != tuple(sizes):
        raise PackageError(f"makes a list of {TensorType(dtype, tuple(sizes))}, and its output is declared as {call.outputs[0]}")
    made = _grown((), init_length, _zeros(element))
    return (made if dynamic_length else FixedList(made),)


@operation("list_length", returns="int32")
def list_length(ls: TensorList) -> Tensor:
    return torch.tensor(len(ls), dtype=torch.int32)


@operation("list_read", returns="ls", exact=True)
def list_read(ls: TensorList, index: int) -> Tensor:
    return _elements(ls, [index])[0]


@operation("list_write", returns="ls", same=("ls", "value"))
def list_write(ls: TensorList, index: int, value: Tensor, call: Call) -> tuple[TensorList]:
    return (_written(ls, [index], [value], call),)


@operation("list_gather", returns="ls", exact=True)
def list_gather(ls: TensorList, indices: Ints, call: Call) -> Tensor:
    """Elements of the shape [*D], stacked: [len(indices), *D]."""
    if not indices:
        declared = call.outputs[0]
        sizes = [0 if size is None else size for size in declared.shape[1:]]
        return torch.zeros([0, *sizes], dtype=DTYPES[declared.dtype].carrier)
    return torch.stack(_elements(ls, indices))


@operation("list_scatter", returns="ls", same=("ls", "value"))
def list_scatter(ls: TensorList, indices: Ints, value: Tensor, call: Call) -> tuple[TensorList]:
    """`value`: [len(indices), *D], one element for each index; the last of several for one index stays."""
    if value.shape[0] != len(indices):
        raise PackageError(f"{value.shape[0]} elements for {len(indices)} indices")
    return (_written(ls, indices, list(value), call),)


def _element(call: Call) -> TensorType:
    """The declared element type of the list that an operation returns."""
    declared = call.outputs[0]
    if not isinstance(declared, ListType) or not isinstance(declared.element, TensorType) or declared.element.dtype not in DTYPES:
        raise PackageError(f"its output is declared as {declared}, and is a list of tensors")
    return declared.element


def _zeros(element: TensorType) -> Tensor | None:
    """What stands in a list before it is written; None where the shape of its elements is not known."""
    if element.shape is None or None in element.shape:
        return None
    return torch.zeros((), dtype=DTYPES[element.dtype].carrier).expand(element.shape)


def _grown(ls: TensorList, length: int, zeros: Tensor | None) -> TensorList:
    if not 0 <= length <= MAX_LENGTH:
        raise PackageError(f"a list of {length} elements: it may have up to {MAX_LENGTH}")
    return ls if length <= len(ls) else ls + (zeros,) * (length - len(ls))


def _written(ls: TensorList, indices: list[int], values: list[Tensor], call: Call) -> TensorList:
    element = _element(call)
    end = 1 + max(indices, default=-1)
    if min(indices, default=0) < 0 or (isinstance(ls, FixedList) and end > len(ls)):
        raise PackageError(f"writes the elements {indices} of a list of {len(ls)}")
    result = list(_grown(ls, end, _zeros(element)))
    for index, value in zip(indices, values):
        if not element.admits(tuple(value.shape)):
            raise PackageError(f"writes an element of the shape {list(value.shape)} into a {call.outputs[0]}")
        result[index] = value
    return type(ls)(result)


def _elements(ls: TensorList, indices: list[int]) -> list[Tensor]:
    if min(indices) < 0 or max(indices) >= len(ls):
        raise PackageError(f"reads the elements {indices} of a list of {len(ls)}")
    known = [element for element in ls if element is not None]
    if not known:
        raise PackageError("reads a list that was never written, and whose elements have no declared shape")
    return [torch.zeros_like(known[0]) if ls[i] is None else ls[i] for i in indices]
