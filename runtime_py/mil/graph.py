"""A loaded program: functions of blocks of steps that can run, with names resolved to slots. `loading` makes it, `evaluate` runs it.

Every value of a function has a slot of its own, nested blocks included, so that a block reads what stands outside it directly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

from export.mlpackage import StateType, ValueType
from runtime_py.mil.registry import Operation


class Constant:
    """A value that is the same in every run. It is computed when it is first needed, and kept."""

    def __init__(self, key: Hashable, type: ValueType, compute: Callable[[], Any]):
        self.key = key
        self.type = type
        self._compute: Callable[[], Any] | None = compute
        self._value: Any = None

    def get(self) -> Any:
        if self._compute is not None:
            self._value, self._compute = self._compute(), None
        return self._value


Operand = int | Constant  # a slot, or a constant


@dataclasses.dataclass
class Output:
    """Where a result goes, and what it must be."""

    name: str
    slot: int
    type: ValueType


@dataclasses.dataclass
class Step:
    """One operation, ready to run."""

    where: str
    operation: Operation
    static: dict[str, Any]  # parameters that are constants and no tensors, converted
    dynamic: list[tuple[Any, Operand | tuple[Operand, ...]]]  # (Parameter, where its value is)
    outputs: list[Output]
    input_types: dict[str, ValueType | tuple[ValueType, ...]]
    blocks: list[Block]
    opset: int
    frees: tuple[int, ...] = ()  # slots that nothing reads after this step


@dataclasses.dataclass
class Block:
    """Steps in order. `inputs` are slots that the caller fills, `outputs` what it then reads; `frees` hold the block's own values
    still at its end."""

    inputs: list[Output]
    outputs: list[tuple[str, Operand, ValueType]]
    steps: list[Step]
    frees: tuple[int, ...] = ()


@dataclasses.dataclass
class Function:
    """One function of a program. `states` maps a state's name to its type; `operations` counts its operation types."""

    name: str
    inputs: dict[str, ValueType]
    outputs: dict[str, ValueType]
    states: dict[str, StateType]
    operations: dict[str, int]
    opset: int
    block: Block
    slots: int
