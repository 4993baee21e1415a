"""Elementwise operations on two tensors, broadcast against each other as in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from runtime_py.mil.registry import operation

Function = Callable[[Tensor, Tensor], Tensor]
BOTH = ("x", "y")
ARITHMETIC: dict[str, Function] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
}
CHOICES: dict[str, Function] = {"maximum": torch.maximum, "minimum": torch.minimum}
TRUTHS: dict[str, Function] = {
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}


def _register(name: str, function: Function, returns: str, exact: bool) -> None:
    @operation(name, returns=returns, same=BOTH, exact=exact)
    def compute(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)


for _name, _function in ARITHMETIC.items():
    _register(_name, _function, "x", exact=False)
for _name, _function in CHOICES.items():
    _register(_name, _function, "x", exact=True)
for _name, _function in TRUTHS.items():
    _register(_name, _function, "bool", exact=True)


@operation("real_div", returns="x", same=BOTH)
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Quotients of integers are truncated."""
    return x / y if x.is_floating_point() else _of_integers(lambda x, y: torch.div(x, y, rounding_mode="trunc"), x, y)


@operation("floor_div", returns="x", same=BOTH)
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.floor_divide(x, y) if x.is_floating_point() else _of_integers(torch.floor_divide, x, y)


@operation("mod", returns="x", same=BOTH)
def mod(x: Tensor, y: Tensor) -> Tensor:
    """What floor_div leaves: it has the sign of y."""
    return torch.remainder(x, y) if x.is_floating_point() else _of_integers(torch.remainder, x, y)


@operation("pow", returns="x", same=BOTH)
def pow(x: Tensor, y: Tensor) -> Tensor:
    """Powers of integers are computed as floats and truncated: 2 ** -1 is 0."""
    return torch.pow(x, y) if x.is_floating_point() else torch.pow(x.double(), y.double()).long().to(x.dtype)


def _of_integers(divide: Function, x: Tensor, y: Tensor) -> Tensor:
    """A division in int64: the lowest int32 by -1 has no quotient in int32, and the processor stops the program. By 0 is an error."""
    return divide(x.long(), y.long()).to(x.dtype)
