"""How an operation of MIL is written here: one small function, whose annotations say what each parameter is.

    @operation("reduce_sum", returns="x")
    def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        ...

Parameters have MIL's names; a missing one takes the Python default, which is MIL's. A `Tensor` arrives in its type's carrier
(float32 for every float, see `export.mlpackage.dtypes`), the other kinds as Python values. What the function returns is rounded
to the declared type and held against the declared shape by the evaluator. Functions never change their arguments in place.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from export.errors import PackageError

Ints = list[int]  # the kinds beside Tensor, int, float, bool and str: flat Python lists
Floats = list[float]
Bools = list[bool]
Strings = list[str]
Scalar = int | float | bool
Tensors = Sequence[torch.Tensor]  # a parameter that takes any number of tensors (`values` of concat)
TensorList = tuple[torch.Tensor, ...]  # MIL's list type

KINDS = ("Tensor", "Tensors", "TensorList", "State", "Call", "int", "float", "bool", "str", "Ints", "Floats", "Bools", "Strings", "Scalar")
SCALARS: dict[str, Callable] = {"int": int, "float": float, "bool": bool, "Scalar": lambda x: x}
LISTS: dict[str, Callable] = {"Ints": int, "Floats": float, "Bools": bool}
ANY = "any"  # as `returns`: the declared type is what decides (`cast`)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of an operation."""

    name: str
    kind: str  # one of KINDS
    required: bool

    def convert(self, value: Any) -> Any:
        """A value of the evaluator as what the function takes.

        Raises:
            PackageError: it is something else.
        """
        try:
            if self.kind in ("Tensor", "Tensors", "TensorList", "State"):
                return value
            if self.kind == "str":
                if not isinstance(value, str):
                    raise TypeError("is no text")
                return value
            if self.kind == "Strings":
                return [value] if isinstance(value, str) else [str(v) for v in value.reshape(-1)]
            if isinstance(value, torch.Tensor):
                if self.kind in SCALARS:
                    return SCALARS[self.kind](value.item())
                return [LISTS[self.kind](v) for v in value.reshape(-1).tolist()]
            raise TypeError(f"is {type(value).__name__}")
        except (TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            raise PackageError(f"its input {self.name} is no {self.kind}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation type.

    `returns`: for each output, a parameter's name (the output has its element type), an element type, or ANY. `same`: parameters
    that must have one element type. `exact`: results are elements of the inputs or integers, and need no rounding.
    """

    name: str
    function: Callable[..., Any]
    parameters: dict[str, Parameter]
    returns: tuple[str, ...]
    same: tuple[str, ...]
    exact: bool
    call: str | None  # the parameter that takes the Call


OPERATIONS: dict[str, Operation] = {}


def operation(*names: str, returns: str | tuple[str, ...], same: tuple[str, ...] = (), exact: bool = False) -> Callable:
    """Decorate the function of one or more operation types that it computes alike."""

    def register(function: Callable) -> Callable:
        parameters, call = {}, None
        for parameter in inspect.signature(function).parameters.values():
            kind = str(parameter.annotation).removesuffix(" | None")
            assert kind in KINDS, f"{function.__name__}: parameter {parameter.name} is of the unknown kind {kind}"
            if kind == "Call":
                call = parameter.name
            else:
                parameters[parameter.name] = Parameter(parameter.name, kind, parameter.default is inspect.Parameter.empty)
        rules = (returns,) if isinstance(returns, str) else returns
        for name in names:
            assert name not in OPERATIONS, f"{name} is defined twice"
            OPERATIONS[name] = Operation(name, function, parameters, rules, same, exact, call)
        return function

    return register


def elementwise(functions: Mapping[str, Callable[[torch.Tensor], torch.Tensor]], exact: bool = False) -> None:
    """Define operation types that compute each element by itself: a name to a function of one tensor, each."""
    for name, function in functions.items():

        def compute(x, function=function):
            return function(x)

        parameters = {"x": Parameter("x", "Tensor", True)}
        assert name not in OPERATIONS, f"{name} is defined twice"
        OPERATIONS[name] = Operation(name, compute, parameters, ("x",), (), exact, None)
