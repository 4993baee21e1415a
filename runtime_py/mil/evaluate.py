"""Running blocks: each step's function is called with the values of its operands, and its results are rounded and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from export.errors import PackageError, one_line
from export.mlpackage import DTYPES, ListType, StateType, TensorType, ValueType
from export.mlpackage.dtypes import STRING, from_carrier, rounded, to_carrier
from runtime_py.mil.graph import Block, Constant, Operand, Output, Step

ROUNDED = ("fp16", "bf16")


class State:
    """The named tensors that live from call to call. Made by `Program.make_state`, zero at first."""

    def __init__(self, types: dict[str, StateType]):
        self.types = types
        self.values: dict[str, torch.Tensor] = {}
        for name, type in types.items():
            try:
                zero = torch.zeros((), dtype=DTYPES[type.wrapped.dtype].carrier)
                self.values[name] = zero.expand([d or 1 for d in type.wrapped.shape or ()])
            except (RuntimeError, KeyError) as error:
                raise PackageError(f"the state {name!r}, which is {type.wrapped}, cannot be made: {one_line(error)}") from None

    def numpy(self, name: str) -> np.ndarray:
        """A copy of one state as an array."""
        return from_carrier(self.values[name].clone(), DTYPES[self.types[name].wrapped.dtype])

    def write(self, name: str, array: np.ndarray) -> None:
        """Give one state a value; it is rounded to the declared element type.

        Raises:
            PackageError: there is no such state, or it has another shape or kind of element.
        """
        if name not in self.types:
            raise PackageError(f"there is no state {name!r}: there are {', '.join(self.types) or 'none'}")
        type, array = self.types[name].wrapped, np.asarray(array)
        dtype = DTYPES[type.dtype]
        if not type.admits(array.shape) or array.dtype.kind not in ("f" if dtype.floating else "biu"):
            raise PackageError(f"the state {name!r} is {type}, and is given {array.dtype}{list(array.shape)}")
        with np.errstate(over="ignore"):
            array = np.array(array, dtype=np.float32 if dtype.name == "bf16" else dtype.numpy)  # a copy
        self.values[name] = rounded(torch.from_numpy(array), dtype) if dtype.name == "bf16" else to_carrier(array, dtype)


class StateCell:
    """One state of a run, as the operations `read_state` and `write_state` see it."""

    def __init__(self, state: State, name: str):
        self.state, self.name = state, name

    def read(self) -> torch.Tensor:
        return self.state.values[self.name]

    def write(self, value: torch.Tensor) -> None:
        expected = self.state.types[self.name].wrapped
        if not expected.admits(tuple(value.shape)):
            raise PackageError(f"a value of the shape {list(value.shape)} for the state {self.name}, which is {expected}")
        self.state.values[self.name] = value


class Call:
    """What an operation may ask about its place: declared types, operator set (the iOS that brought it), nested blocks."""

    def __init__(self, step: Step, frame: list[Any] | None):
        self.step = step
        self.frame = frame

    @property
    def opset(self) -> int:
        return self.step.opset

    @property
    def outputs(self) -> list[ValueType]:
        """The declared types of the results."""
        return [output.type for output in self.step.outputs]

    def input(self, name: str) -> Any:
        """The declared type of a parameter's value; None where it is left out."""
        return self.step.input_types.get(name)

    def run(self, block: int, inputs: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Run a nested block on the values of its inputs."""
        assert self.frame is not None
        return run_block(self.step.blocks[block], inputs, self.frame)


def run_block(block: Block, inputs: Sequence[Any], frame: list[Any]) -> tuple[Any, ...]:
    """The values of a block's outputs. `frame` has a place for every slot of the function.

    Raises:
        PackageError: an operation cannot be computed, or gives something else than is declared; it names the operation.
    """
    if len(inputs) != len(block.inputs):
        raise PackageError(f"a block with {len(block.inputs)} inputs is given {len(inputs)}")
    for place, value in zip(block.inputs, inputs):
        frame[place.slot] = value
    for step in block.steps:
        for output, value in zip(step.outputs, run_step(step, frame)):
            frame[output.slot] = value
        for slot in step.frees:
            frame[slot] = None
    results = tuple(value_of(operand, frame) for _, operand, _ in block.outputs)
    for slot in block.frees:
        frame[slot] = None
    return results


def value_of(operand: Operand, frame: list[Any] | None) -> Any:
    if isinstance(operand, Constant):
        return operand.get()
    assert frame is not None
    return frame[operand]


def run_step(step: Step, frame: list[Any] | None) -> tuple[Any, ...]:
    """The results of one operation."""
    operation = step.operation
    try:
        arguments = dict(step.static)
        for parameter, operand in step.dynamic:
            if isinstance(operand, tuple):
                arguments[parameter.name] = tuple(value_of(part, frame) for part in operand)
            else:
                arguments[parameter.name] = parameter.convert(value_of(operand, frame))
        if operation.call is not None:
            arguments[operation.call] = Call(step, frame)
        results = operation.function(**arguments)
        # A list is a tuple too: an operation with one list as its result returns it in a tuple of one.
        if not isinstance(results, tuple):
            results = (results,)
        if len(results) != len(step.outputs):
            raise PackageError(f"it has {len(results)} results, and {len(step.outputs)} are declared")
        return tuple(_finish(value, output, operation.exact) for value, output in zip(results, step.outputs))
    except PackageError as error:
        message = str(error)
        raise PackageError(message if message.startswith("function ") else f"{step.where}: {message}") from error.__cause__
    except Exception as error:  # wrong sizes, indices and options show as whatever error PyTorch has for them
        raise PackageError(f"{step.where}: cannot be computed ({one_line(error)})") from error


def _finish(value: Any, output: Output, exact: bool) -> Any:
    """A result, rounded to its declared element type and of its declared shape."""
    type = output.type
    if isinstance(type, ListType):
        if not isinstance(value, tuple):
            raise PackageError(f"its output {output.name!r} is declared as {type}, and is no list")
        return value
    if not isinstance(type, TensorType) or type.dtype == STRING:
        return value
    if not isinstance(value, torch.Tensor):
        raise PackageError(f"its output {output.name!r} is declared as {type}, and is no tensor")
    if not type.admits(tuple(value.shape)):
        raise PackageError(f"its output {output.name!r} is declared as {type}, and has the shape {list(value.shape)}")
    dtype = DTYPES[type.dtype]
    if value.dtype != dtype.carrier:
        raise PackageError(f"its output {output.name!r} is declared as {type}, and is computed as {value.dtype}")
    return value if exact or (dtype.carrier == torch.float32 and dtype.name not in ROUNDED) else rounded(value, dtype)
