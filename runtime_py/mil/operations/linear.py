"""Matrix products. Floats are multiplied in float32, integers wrap around."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from export.errors import PackageError
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import Tensors, operation


def _of_type(x: Tensor, like: Tensor) -> Tensor:
    """`x` in the carrier of `like`, where MIL lets a constant be of another type."""
    if x.dtype == like.dtype:
        return x
    converted = x.to(like.dtype)
    if not like.is_floating_point() and not torch.equal(converted.to(x.dtype), x):
        # MIL does not say what becomes of the fractions.
        raise PackageError("it multiplies integers with numbers that are none")
    return converted


@operation("linear", returns="x")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] by weight [out, in], transposed, plus bias [out]: [..., out]."""
    weight = _of_type(weight, x)
    bias = None if bias is None else _of_type(bias, x)
    if x.is_floating_point():
        return functional.linear(x, weight, bias)
    product = x @ weight.T
    return product if bias is None else product + bias


@operation("matmul", returns="any")
def matmul(x: Tensor, y: Tensor, call: Call, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """As NumPy's: [..., n, k] by [..., k, m], the first sizes broadcast, vectors taken as a row of x or a column of y.

    The operands may differ in type where one of them is constant; the result has the other's type.
    """
    types, declared = {"x": call.input("x").dtype, "y": call.input("y").dtype}, call.outputs[0].dtype
    if declared not in types.values():
        raise PackageError(f"it multiplies {types['x']} with {types['y']}, and its output is declared as {declared}")
    if x.dtype != y.dtype:
        x, y = (x, _of_type(y, x)) if declared == types["x"] else (_of_type(x, y), y)
    x = x.transpose(-1, -2) if transpose_x and x.dim() > 1 else x
    y = y.transpose(-1, -2) if transpose_y and y.dim() > 1 else y
    return torch.matmul(x, y)


@operation("einsum", returns="values", same=("values",))
def einsum(values: Tensors, equation: str) -> Tensor:
    """x [(n,) c, h, w] and y [(n,) w, h, u] give [(n,) c, h, u], by any letters; n and h are broadcast. MIL has no other equation."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    x, comma, y = left.partition(",")
    letters = {letter: "nchwu"[index + (len(x) == 3)] for index, letter in enumerate(dict.fromkeys(x + y)) if index + (len(x) == 3) < 5}
    if "".join(letters.get(c, c) for c in equation.replace(" ", "")) not in ("nchw,nwhu->nchu", "chw,whu->chu"):
        raise PackageError(f"the equation {equation!r} is none of MIL's: nchw,nwhu->nchu and chw,whu->chu, by any letters")
    if len(values) != 2:
        raise PackageError(f"it has {len(values)} operands, and takes two")
    # As products of matrices [c, w] and [w, u], one for each n and h.
    return torch.matmul(values[0].transpose(-3, -2), values[1].transpose(-3, -2)).transpose(-3, -2)
