"""coremltools on Linux with the interpreter in the place of Core ML: its own tests then run there, and believe that they are on a Mac.

Its proxy of Core ML is replaced by one that runs the package which the conversion has saved. `CASE` says what became of the model of
the running test.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from export.errors import PackageError, one_line
from export.mlpackage import DTYPES
from runtime_py.mil import Program, State

MACOS = (15, 5)  # the system that coremltools' tests are told they run on: the first with the operations of iOS 18
CORE_ML_ERROR = "Unable to compute the prediction using ML Program"  # what tests of wrong inputs expect to read
HALF = 0.02  # absolute and relative, of results computed in float16
ENVIRONMENT = {  # read by coremltools' tests when they are imported: every operator set, both precisions, no neural networks
    "PYMIL_TEST_TARGETS": "mlprogram",
    "RUN_BACKWARD_COMPATIBILITY": "1",
    "INCLUDE_MIL_FP32_UNIT_TESTS": "1",
    "TORCH_FRONTENDS": "TORCHSCRIPT",
}


@dataclasses.dataclass
class Case:
    """What has happened in the running test."""

    predictions: int = 0
    refusal: str = ""
    broken: str = ""
    foreign: bool = False  # its model is no ML program but a neural network


CASE = Case()


def begin() -> None:
    """Another test runs."""
    for field in dataclasses.fields(Case):
        setattr(CASE, field.name, field.default)


class Proxy:
    """Stands for Core ML's model: what `MLModel.predict` and `MLModel.make_state` call. The package is read at the first call."""

    def __init__(self, path: str, compute_units: str, function: str, hints: dict[str, str], asset: Any):
        self.path = path
        self.function = function
        self.loaded: Program | None = None

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return 9  # iOS 18

    def program(self) -> Program:
        if self.loaded is None:
            if not Path(self.path).is_dir():
                CASE.foreign = True
            self.loaded = Program.load(self.path)
            self.function = self.function or self.loaded.default
        return self.loaded

    def predict(self, data: dict[str, Any], state: StateProxy | None) -> dict[str, Any]:
        """Core ML takes numbers of any type, and gives a scalar as an array of one element."""

        def run() -> dict[str, Any]:
            program = self.program()
            declared = program.functions[self.function].inputs
            features = {feature.name: feature.type for feature in program.package.model.description.input}
            pixels = {n: _pixels(value, features[n].imageType) if isinstance(value, Image) else value for n, value in data.items()}
            inputs = {n: _as_declared(value, declared[n]) if n in declared else value for n, value in pixels.items()}
            outputs = program.run(inputs, self.function, state.state if state else None)
            return {n: np.atleast_1d(value) if isinstance(value, np.ndarray) else value for n, value in outputs.items()}

        return _counted(run)

    def batchPredict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:  # noqa: N802  (coremltools' name)
        return [self.predict(data, None) for data in batch]

    def newState(self) -> StateProxy:  # noqa: N802
        return StateProxy(_counted(lambda: self.program().make_state(self.function)))


class StateProxy:
    """What `MLState` calls."""

    def __init__(self, state: State):
        self.state = state

    def read_state(self, name: str) -> np.ndarray:
        return self.state.numpy(name)

    def write_state(self, name: str, value: np.ndarray) -> None:
        self.state.write(name, value)


def _pixels(image: Image, described: Any) -> np.ndarray:
    """[1, channels, height, width], in the order of channels that the package describes."""
    array = np.asarray(image)
    array = array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None]
    return array[:, ::-1] if described.colorSpace == described.BGR else array


def _as_declared(value: Any, type: Any) -> Any:
    array = np.asarray(value)
    return array.astype(DTYPES[type.dtype].numpy) if array.dtype.kind in "biuf" else value


def _counted(run: Any) -> Any:
    try:
        CASE.predictions += 1
        return run()
    except PackageError as error:
        CASE.refusal = one_line(error)
        raise RuntimeError(f"{CASE.refusal} ({CORE_ML_ERROR})") from error
    except Exception as error:
        CASE.broken = f"{type(error).__name__}: {one_line(error)}"
        raise


def patch() -> None:
    """Let coremltools run models with the interpreter, before its tests are imported."""
    os.environ.update(ENVIRONMENT)
    warnings.simplefilter("ignore")
    import coremltools
    import coremltools._deps
    import coremltools.converters.mil.frontend.torch.ops as torch_operations
    import coremltools.models.model

    platform.machine = lambda: "arm64"  # tests with states are skipped elsewhere
    coremltools.models.model._MLModelProxy = Proxy
    for module in list(sys.modules.values()):  # whoever has imported these by name
        if getattr(module, "__name__", "").startswith("coremltools"):
            for name, value in (("_IS_MACOS", True), ("_is_macos", lambda: True), ("_macos_version", lambda: MACOS)):
                if hasattr(module, name):
                    setattr(module, name, value)
    import coremltools.converters.mil.frontend.torch.test.testing_utils as torch_testing
    import coremltools.converters.mil.mil.ops.tests.testing_utils as testing
    import coremltools.converters.mil.testing_utils as comparing

    comparing._IS_MACOS = torch_testing._IS_MACOS = True
    torch_testing.max = _tolerance  # type: ignore[attr-defined]  (it writes `atol = max(atol * 100.0, 0.5)` for float16)
    testing.compare_backend = functools.partial(_compare, comparing.compare_backend)
    original = torch_operations._cast
    torch_operations._cast = lambda context, node, dtype, name: original(context, node, _OfOneElement(dtype), name)


def _compare(original: Any, mlmodel: Any, *args: Any, dtype: str = "fp32", atol: float = 1e-4, rtol: float = 1e-5, **kwargs: Any) -> Any:
    """coremltools' comparison, with the tolerance of what the program computes in rather than of what it was converted for."""
    if _computes_in_half(mlmodel):
        dtype, atol, rtol = "fp32", max(atol, HALF), max(rtol, HALF)
    return original(mlmodel, *args, dtype=dtype, atol=atol, rtol=rtol, **kwargs)


def _tolerance(hundredfold: float, least: float) -> float:
    return max(hundredfold / 100, HALF)


def _computes_in_half(model: Any) -> bool:
    functions = model.get_spec().mlProgram.functions.values()
    blocks = [block for function in functions for block in function.block_specializations.values()]
    half = DTYPES["fp16"].proto
    return any(out.type.tensorType.dataType == half for block in blocks for op in block.operations for out in op.outputs)


class _OfOneElement:
    """`int` or `bool` that takes an array of one element too, which NumPy 2.4 no longer does for any rank but 0."""

    def __init__(self, dtype: type):
        self.dtype = dtype

    def __call__(self, value: Any) -> Any:
        return self.dtype(np.asarray(value).item())

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, self.dtype)
