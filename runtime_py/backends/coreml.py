"""Core ML bundles behind the backend interface: through the reference interpreter anywhere, through Core ML itself on macOS.

The decoder's functions take fixed numbers of tokens. A prompt is cut by the rule of the manifest's `decoder.details`: at each point
the function with the fewest tokens that takes all that are left, or else the one with most; none that would write beyond the cache.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from export.bundle import Bundle
from export.errors import BackendError, BundleError, one_line
from export.manifest import TensorSpec
from export.quiet import quiet
from runtime_py.backends.base import bundle_identity, copy_into
from runtime_py.load import CORE_ML_UNITS, INTERPRETED, check_macos

if TYPE_CHECKING:
    from export.backends.pte import CoremlDelegate
    from runtime_py.mil import State

MAIN = "main"


class Engine(Protocol):
    """Something that runs the packages of a bundle."""

    def load(self, graph: str) -> None:
        """Load a graph, if it is not loaded yet."""

    def release(self, graph: str) -> None:
        """Free a graph, if it is loaded. Not the decoder: its state would be of a model that is gone."""

    def run(self, graph: str, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call of a function. The decoder's state is the engine's."""

    def read_states(self, function: str) -> dict[str, np.ndarray]:
        """A copy of every state of the decoder, by name; zeros where it has not run."""

    def write_states(self, function: str, states: Mapping[str, np.ndarray]) -> None:
        """Give them values."""


class CoremlBackend:
    """The graphs of a bundle built with `--target coreml`.

    Args:
        units: "interpreted", or a key of CORE_ML_UNITS for Core ML itself, which needs macOS; None: Core ML where it is there.
    """

    device = "cpu"

    def __init__(self, bundle: Bundle, threads: int | None = None, units: str | None = None):
        if importlib.util.find_spec("coremltools") is None:
            raise BackendError("this bundle needs the package coremltools: pip install -e '.[coreml]'")
        units = units or ("all" if sys.platform == "darwin" else INTERPRETED)
        if threads is not None:
            torch.set_num_threads(threads)
        self.name = "coreml-interpreted" if units == INTERPRETED else f"coreml-{units}"
        self.bundle = bundle
        self.config = bundle.manifest.config()
        self.identity = bundle_identity(bundle, self.name)
        self.max_context = bundle.manifest.decoder.max_context
        self._functions, self._slots = _functions(bundle)
        if bundle.manifest.target == "executorch":
            self._engine: Engine = DelegateEngine(bundle)
        else:
            self._engine = InterpreterEngine(bundle) if units == INTERPRETED else CoremlEngine(bundle, units)

    def run(self, graph: str, *inputs: Tensor) -> Tensor:
        entry = self.bundle.manifest.graphs[graph]
        least = entry.dynamic_axes[0].minimum if entry.dynamic_axes else 0
        if inputs[0].shape[0] < least:  # padded up to what the graph takes, and cut again
            padded = torch.nn.functional.pad(inputs[0], (0, least - inputs[0].shape[0]))
            return self.run(graph, padded)[: inputs[0].shape[0]]
        return self._call(graph, MAIN, {spec.name: _array(x, spec) for spec, x in zip(entry.inputs, inputs)})

    def decode(self, embeds: Tensor, position: int) -> Tensor:
        """The prompt [T, D] in as many calls as the functions' sizes make it; the last call's logits."""
        logits = embeds.new_zeros(0)
        while embeds.shape[0]:
            name, tokens = self._function(embeds.shape[0], position)
            taken = embeds[:tokens]
            padded = torch.nn.functional.pad(taken, (0, 0, 0, tokens - taken.shape[0]))  # [tokens, D]
            inputs = {"embeds": padded.float().numpy(), "position": np.array([position], np.int32)}
            if tokens > 1:
                inputs["last"] = np.array([taken.shape[0] - 1], np.int32)
            logits = self._call("decoder", name, inputs)
            embeds, position = embeds[tokens:], position + taken.shape[0]
        return logits

    def read_cache(self, tokens: int) -> dict[str, Tensor]:
        states = self._engine.read_states(next(iter(self._functions)))
        return {name: torch.from_numpy(np.ascontiguousarray(array[:, :, :tokens])) for name, array in states.items()}  # [1, K, S, E]

    def write_cache(self, tensors: Mapping[str, Tensor]) -> None:
        function = next(iter(self._functions))
        states = {name: torch.from_numpy(array) for name, array in self._engine.read_states(function).items()}
        for name, state in states.items():
            copy_into(state, tensors.get(name))
        self._engine.write_states(function, {name: state.numpy() for name, state in states.items()})

    def load(self, graphs: Iterable[str]) -> None:
        for graph in graphs:
            self._engine.load(graph)

    def release(self, graphs: Iterable[str]) -> None:
        for graph in graphs:
            self._engine.release(graph)

    def synchronize(self) -> None:
        """Every call returns when its result is there."""

    def bundle_bytes(self) -> int:
        return self.bundle.manifest.bundle_bytes

    def versions(self) -> dict[str, str]:
        return {package: importlib.metadata.version(package) for package in ("coremltools", "torch")}

    def _function(self, left: int, position: int) -> tuple[str, int]:
        """The function for the next call: its name and its number of tokens."""
        fitting = [(tokens, name) for name, tokens in self._functions.items() if position + tokens <= self._slots]
        if not fitting:
            raise BundleError(f"the conversation is {position} tokens long, and the bundle's cache holds {self._slots}")
        tokens, name = min((pair for pair in fitting if pair[0] >= left), default=max(fitting))
        return name, tokens

    def _call(self, graph: str, function: str, inputs: Mapping[str, np.ndarray]) -> Tensor:
        (output,) = self.bundle.manifest.graphs[graph].outputs
        results = self._engine.run(graph, function, inputs)
        if output.name not in results:
            raise BundleError(f"{self.bundle.folder}: graph {graph} has no output {output.name}: build the bundle again")
        return torch.from_numpy(np.ascontiguousarray(results[output.name]))


class InterpreterEngine:
    """`runtime_py.mil` runs the packages. What it shows is what the program means, not how a device rounds inside its operations."""

    def __init__(self, bundle: Bundle):
        from runtime_py.mil import Program

        self._bundle = bundle
        self._programs: dict[str, Program] = {}
        self._state: State | None = None

    def load(self, graph: str) -> None:
        from runtime_py.mil import Program

        if graph not in self._programs:
            self._programs[graph] = Program.load(self._bundle.graph_path(graph))

    def release(self, graph: str) -> None:
        self._programs.pop(graph, None)

    def run(self, graph: str, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.load(graph)
        program = self._programs[graph]
        return program.run(inputs, function, self._decoder_state(function) if graph == "decoder" else None)

    def read_states(self, function: str) -> dict[str, np.ndarray]:
        state = self._decoder_state(function)
        return {name: state.numpy(name) for name in state.types}

    def write_states(self, function: str, states: Mapping[str, np.ndarray]) -> None:
        state = self._decoder_state(function)
        for name, array in states.items():
            state.write(name, array)

    def _decoder_state(self, function: str) -> State:
        self.load("decoder")
        if self._state is None:
            self._state = self._programs["decoder"].make_state(function)
        return self._state


class DelegateEngine(InterpreterEngine):
    """The same of the Core ML packages inside ExecuTorch programs, whose inputs and outputs have names of their own."""

    def __init__(self, bundle: Bundle):
        super().__init__(bundle)
        self._folder = tempfile.TemporaryDirectory(prefix="delegates-")  # goes with the engine
        self._names: dict[str, CoremlDelegate] = {}

    def load(self, graph: str) -> None:
        from export.backends.pte import unpack_coreml
        from runtime_py.mil import Program

        if graph not in self._names:
            folder = Path(self._folder.name) / graph
            folder.mkdir()
            self._names[graph] = unpack_coreml(self._bundle.graph_path(graph), folder)
        if graph not in self._programs:
            self._programs[graph] = Program.load(self._names[graph].package)

    def run(self, graph: str, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.load(graph)
        names = self._names[graph]
        entry = self._bundle.manifest.graphs[graph]
        arrays = {inside: inputs[spec.name] for inside, spec in zip(names.inputs, entry.inputs, strict=True)}
        results = super().run(graph, MAIN, arrays)
        return {spec.name: results[inside] for inside, spec in zip(names.outputs, entry.outputs)}


class CoremlEngine:
    """Core ML, through coremltools; macOS only. One model per function, all over the state that the first of them made."""

    def __init__(self, bundle: Bundle, units: str):
        check_macos(units)
        self._bundle = bundle
        self._units = CORE_ML_UNITS[units]
        self._models: dict[tuple[str, str], Any] = {}
        self._state: Any = None

    def load(self, graph: str) -> None:
        for function in _functions(self._bundle)[0] if graph == "decoder" else (MAIN,):
            self._model(graph, function)

    def release(self, graph: str) -> None:
        for key in [key for key in self._models if key[0] == graph]:
            del self._models[key]

    def run(self, graph: str, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        model = self._model(graph, function)
        try:
            state = (self._decoder_state(function),) if graph == "decoder" else ()
            return model.predict(dict(inputs), *state)
        except Exception as error:  # coremltools raises bare Exceptions, also for a model that it could not load and only warned of
            raise BundleError(f"{self._bundle.folder}: Core ML cannot run the graph {graph} ({one_line(error)})") from error

    def read_states(self, function: str) -> dict[str, np.ndarray]:
        state, description = self._decoder_state(function), self._model("decoder", function).get_spec().description
        features = next((f.state for f in description.functions if f.name == function), description.state)
        return {feature.name: np.array(state.read_state(feature.name)) for feature in features}

    def write_states(self, function: str, states: Mapping[str, np.ndarray]) -> None:
        for name, array in states.items():
            self._decoder_state(function).write_state(name, array)

    def _decoder_state(self, function: str) -> Any:
        if self._state is None:
            self._state = self._model("decoder", function).make_state()
        return self._state

    def _model(self, graph: str, function: str) -> Any:
        key = (graph, function)
        if key not in self._models:
            with quiet():
                import coremltools as ct

                units = getattr(ct.ComputeUnit, self._units)
                name = {} if function == MAIN else {"function_name": function}
                try:
                    self._models[key] = ct.models.MLModel(str(self._bundle.graph_path(graph)), compute_units=units, **name)
                except Exception as error:  # as above
                    raise BundleError(f"{self._bundle.folder}: Core ML cannot load the graph {graph} ({one_line(error)})") from error
        return self._models[key]


def _functions(bundle: Bundle) -> tuple[dict[str, int], int]:
    """The decoder's functions with their numbers of tokens, and the slots of its cache."""
    details = bundle.manifest.decoder.details
    try:
        functions, slots = {str(f["name"]): int(f["tokens"]) for f in details["functions"]}, int(details["slots"])
        if not functions or min(functions.values()) < 1 or slots < bundle.manifest.decoder.max_context:
            raise ValueError("sizes that no decoder has")
        return functions, slots
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{bundle.folder}: its manifest does not say how to drive the decoder ({error}): build it again") from None


def _array(x: Tensor, spec: TensorSpec) -> np.ndarray:
    return x.detach().cpu().contiguous().numpy().astype(spec.dtype, copy=False)
