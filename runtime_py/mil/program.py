"""`Program`: a saved Core ML package that runs anywhere PyTorch does.

This is a reference, not Core ML: it evaluates each operation of the saved program by itself, in float32, and rounds the result to
the type that the program declares. Core ML on a device fuses operations and computes in float16 inside them, so that its results
differ in the last digits of float16; what the program means is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import runtime_py.mil.operations  # noqa: F401  (registers every operation)
from export.errors import PackageError
from export.mlpackage import DTYPES, Package, StateType, TensorType, ValueType
from export.mlpackage.dtypes import STRING, from_carrier, rounded, to_carrier
from runtime_py.mil.evaluate import State, StateCell, run_block
from runtime_py.mil.features import Feature, features
from runtime_py.mil.graph import Function
from runtime_py.mil.loading import Loader


class Program:
    """All functions of one package. Constants are decompressed at their first use and kept, shared among functions."""

    def __init__(self, package: Package, functions: dict[str, Function]):
        self.package = package
        self.functions = functions
        self._described = {name: features(package.model, name) for name in functions}

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read an `.mlpackage` folder and check every declaration in it.

        Raises:
            PackageError: one line that names the place: a damaged file, an unknown operation, types that do not fit.
            BackendError: coremltools, which describes the protobuf, is not installed.
        """
        package = Package.open(path)
        if not package.program.functions:
            raise PackageError(f"{package.path} has no function: the file is damaged, copy or build the package again")
        loader = Loader(package)
        return cls(package, {name: loader.function(name, proto) for name, proto in sorted(package.program.functions.items())})

    @property
    def default(self) -> str:
        """The name of the function that Core ML runs when none is named."""
        return self.package.model.description.defaultFunctionName or "main"

    def make_state(self, function: str = "main") -> State:
        """Zeros for every state of a function. Functions with states of the same names and types share one `State`."""
        return State(self._function(function).states)

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, np.ndarray], function: str = "main", state: State | None = None) -> dict[str, np.ndarray]:
        """Run one function: arrays by input name in, arrays by output name out. `state` is read and written in place.

        An input may have another element type of the same kind (float64 for float16); it is rounded to the declared one. An input
        that the package describes as optional, with a default value, may be left out.

        Raises:
            PackageError: an input is missing, unknown or of the wrong shape, or an operation cannot be computed.
        """
        chosen = self._function(function)
        unknown = sorted(set(inputs) - set(chosen.inputs))
        if unknown:
            raise PackageError(f"function {function} has no input {unknown[0]!r}: it takes {', '.join(chosen.inputs) or 'none'}")
        described = self._described[function]
        left_out = {n: f.fill() for n, f in described.items() if f.default is not None and n in chosen.inputs and n not in inputs}
        inputs = {**inputs, **left_out}
        missing = sorted(set(chosen.inputs) - set(inputs))
        if missing:
            raise PackageError(f"function {function} lacks its input {missing[0]!r}: {chosen.inputs[missing[0]]}")
        values = []
        for place in chosen.block.inputs:
            if isinstance(place.type, StateType):
                values.append(self._cell(chosen, state, place.name, place.type))
            else:
                values.append(_take(inputs[place.name], place.name, place.type, function, described.get(place.name)))
        results = run_block(chosen.block, values, [None] * chosen.slots)
        return {name: _give(value, type) for (name, _, type), value in zip(chosen.block.outputs, results)}

    def _function(self, name: str) -> Function:
        if name not in self.functions:
            raise PackageError(f"{self.package.path} has no function {name!r}: it has {', '.join(self.functions) or 'none'}")
        return self.functions[name]

    def _cell(self, function: Function, state: State | None, name: str, type: StateType) -> StateCell:
        if state is None:
            raise PackageError(f"function {function.name} keeps the state {name!r}: give it what make_state returns")
        if state.types.get(name) != type:
            raise PackageError(f"function {function.name} keeps the state {name!r} as {type}: give it what make_state returns for it")
        return StateCell(state, name)


def _take(array: np.ndarray, name: str, type: ValueType, function: str, feature: Feature | None) -> Any:
    """A host's array as a carrier."""
    array = np.asarray(array)
    where = f"function {function}, input {name!r}"
    if not isinstance(type, TensorType) or type.dtype == STRING:
        raise PackageError(f"{where}: {type} cannot be given")
    if not type.admits(array.shape):
        raise PackageError(f"{where}: has the shape {list(array.shape)}, and is declared as {type}")
    if feature is not None and (type.shape is None or None in type.shape):
        try:
            feature.check(array.shape)
        except PackageError as error:
            raise PackageError(f"{where}: {error}") from None
    dtype = DTYPES[type.dtype]
    if array.dtype.kind not in ("f" if dtype.floating else "biu"):
        raise PackageError(f"{where}: holds {array.dtype}, and is declared as {type}")
    if array.size and not dtype.floating and dtype.name != "bool":
        limits = np.iinfo(dtype.numpy)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise PackageError(f"{where}: holds numbers that {dtype.name} cannot hold")
    if dtype.name == "bf16":
        return rounded(torch.from_numpy(array.astype(np.float32)), dtype)
    with np.errstate(over="ignore"):
        return to_carrier(array.astype(dtype.numpy), dtype)


def _give(value: Any, type: ValueType) -> Any:
    """A carrier as the array that a host sees."""
    if isinstance(value, torch.Tensor) and isinstance(type, TensorType):
        return np.array(from_carrier(value, DTYPES[type.dtype]))  # a copy: it may be a constant, or a state
    return value
