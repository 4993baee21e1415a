"""coremltools' own tests of MIL's operations, run against the interpreter: their expected values come from Core ML.

    python -m tests.runtime_py.mil.coremltools_suite --sample 400
    python -m tests.runtime_py.mil.coremltools_suite --select iOS15/test_pool --report report.jsonl
    python -m tests.runtime_py.mil.coremltools_suite --sample 4000 --torch 1000 --table table.md

On Linux coremltools can convert a model and cannot run it. Here its proxy of Core ML is replaced by the interpreter, which runs the
package that the conversion has saved, and its tests are told that this is a Mac. Only their ML programs are run. Each case is
one of: right; wrong (another value or shape than expected, or the interpreter broke); refused (PackageError, with the reason); not
run (it failed or was skipped before it ran an ML program, which is about the conversion, or is marked by coremltools as failing).

Tolerances are those of coremltools' tests for float32 programs (mostly 1e-4 absolute, 1e-5 relative). For programs that compute in
float16, coremltools allows 0.5 and 5 %; here it is HALF.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import os
import platform
import random
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.Image import Image

from export.errors import PackageError, one_line
from export.mlpackage import DTYPES
from runtime_py.mil import Program, State

MACOS = (15, 5)  # the system that coremltools' tests are told they run on: the first with the operations of iOS 18
SECONDS = 60  # for one case
CORE_ML_ERROR = "Unable to compute the prediction using ML Program"  # what tests of wrong inputs expect to read
SEED = 20
HALF = 0.02  # absolute and relative, of results computed in float16
OPERATIONS = "converters/mil/mil/ops/tests"
TORCH = "converters/mil/frontend/torch/test"
TORCH_FILES = ("test_torch_ops.py", "test_torch_stateful_model.py")
RIGHT, WRONG, REFUSED, NOT_RUN = "right", "wrong", "refused", "not run"
DISPUTED = {  # cases whose failure says nothing about the interpreter
    "LocalResponseNorm::test_builder_to_backend_smoke": "expects sums over no neighbor, against the documented formula",
    "test_batchnorm_fp16_weight_with_fp32_param": "expects PyTorch's rounding to float16 from a program in float32",
    "iOS15/test_image_resizing.py::TestResample": "counts the casts of a float16 conversion in a float32 one",
}
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


class Plugin:
    """Chooses the cases, and says what became of each."""

    def __init__(self, sample: int, torch_sample: int, report: Path | None):
        self.sample = sample
        self.torch_sample = torch_sample
        self.results: list[dict[str, Any]] = []
        self.report = report

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        ours = [item for item in items if _runs_program(item)]
        torch_items = [item for item in ours if TORCH in item.path.as_posix()]
        chosen = _sampled([item for item in ours if TORCH not in item.path.as_posix()], self.sample)
        items[:] = chosen + _sampled(torch_items, self.torch_sample)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        global CASE
        CASE = Case()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item):
        np.random.seed(SEED)
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(SECONDS)
        yield
        signal.alarm(0)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        outcome = yield
        report = outcome.get_result()
        if call.when == "call" or (call.when == "setup" and not report.passed):
            kind, reason = _classify(call, hasattr(report, "wasxfail"))
            disputes = [why for name, why in DISPUTED.items() if name in item.nodeid]
            if kind == WRONG and disputes and not CASE.broken:
                kind, reason = NOT_RUN, disputes[0]
            result = {"case": item.nodeid, "family": family(item.path.as_posix()), "kind": kind, "reason": reason, "seconds": call.duration}
            self.results.append(result)
            if self.report:
                with self.report.open("a") as file:
                    file.write(json.dumps(result) + "\n")


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


def _classify(call: pytest.CallInfo, expected_to_fail: bool) -> tuple[str, str]:
    error = call.excinfo.value if call.excinfo else None
    reason = f"{type(error).__name__}: {one_line(error)}"[:600] if error else ""
    if CASE.foreign:
        return NOT_RUN, "no ML program"
    if CASE.refusal and error is not None:
        return REFUSED, CASE.refusal[:600]
    if CASE.broken:
        return WRONG, CASE.broken[:600]
    if CASE.predictions == 0 or expected_to_fail or isinstance(error, pytest.skip.Exception):
        return NOT_RUN, reason or "runs no model"
    if error is None:
        return RIGHT, ""
    converting = any("/converters/" in str(entry.path) and "/test" not in str(entry.path) for entry in call.excinfo.traceback)
    return (NOT_RUN if converting else WRONG), reason


def _runs_program(item: pytest.Item) -> bool:
    """Whether a case is for the ML program backend; cases for none look at what coremltools computes by itself, except with states."""
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    if backend is None:
        return "stateful" in item.path.name
    return (backend[0] if isinstance(backend, tuple) else getattr(backend, "backend", "")) == "mlprogram"


def _sampled(items: list[pytest.Item], count: int) -> list[pytest.Item]:
    """`count` of the cases (0: all), the same ones each time: one of every test function, then a second of every one, and so on."""
    if not count or count >= len(items):
        return items
    groups: dict[str, list[pytest.Item]] = collections.defaultdict(list)
    for item in items:
        groups[item.nodeid.split("[")[0]].append(item)
    generator = random.Random(SEED)
    ranked = []
    for name in sorted(groups):
        group = sorted(groups[name], key=lambda item: item.nodeid)
        generator.shuffle(group)
        ranked += [(rank, generator.random(), item) for rank, item in enumerate(group)]
    chosen = {id(item) for _, _, item in sorted(ranked, key=lambda entry: entry[:2])[:count]}
    return [item for item in items if id(item) in chosen]


def family(path: str) -> str:
    """The row of the table that a test file belongs to."""
    name = Path(path).stem.removeprefix("test_").replace("_", " ")
    return f"PyTorch frontend: {name.removeprefix('torch ')}" if TORCH in path else name


def table(results: list[dict[str, Any]]) -> str:
    """Counts by family, as Markdown."""
    lines = ["| Family | Cases run | Right | Wrong | Refused | Not run |", "|---|---|---|---|---|---|"]
    families = sorted({result["family"] for result in results}, key=lambda name: (name.startswith("PyTorch"), name))
    for name in [*families, "all"]:
        counts = collections.Counter(result["kind"] for result in results if name in ("all", result["family"]))
        run = counts[RIGHT] + counts[WRONG] + counts[REFUSED]
        lines.append(f"| {name} | {run} | {counts[RIGHT]} | {counts[WRONG]} | {counts[REFUSED]} | {counts[NOT_RUN]} |")
    return "\n".join(lines)


def run(sample: int, torch_sample: int, select: list[str], keyword: str, report: Path | None) -> list[dict[str, Any]]:
    """Run the tests whose files' paths contain one of `select` (none: all); `torch_sample` 0 leaves the PyTorch frontend out."""
    patch()
    import coremltools

    root = Path(coremltools.__file__).parent
    files = [file for file in sorted((root / OPERATIONS).rglob("test_*.py")) if file.parent.name.startswith("iOS")]
    files += [root / TORCH / name for name in TORCH_FILES] if torch_sample else []
    files = [file for file in files if not select or any(part in file.as_posix() for part in select)]
    plugin = Plugin(sample, torch_sample, report)
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "pytest.ini"
        configuration.write_text("[pytest]\n")
        options = ["-c", str(configuration), "--rootdir", str(root), "-p", "no:cacheprovider", "-q", "--tb=no", "-rN", "-W", "ignore"]
        pytest.main([*options, *(["-k", keyword] if keyword else []), *map(str, files)], plugins=[plugin])
    return plugin.results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="so many cases of the operations' tests (default: all)")
    parser.add_argument("--torch", type=int, default=0, metavar="N", help="so many cases of the PyTorch frontend's tests (default: none)")
    parser.add_argument("--select", action="append", default=[], metavar="PATH", help="only files whose path contains this; repeatable")
    parser.add_argument("--keyword", default="", metavar="K", help="pytest's -k")
    parser.add_argument("--report", type=Path, metavar="R.jsonl", help="add a line of JSON for each case")
    parser.add_argument("--table", type=Path, metavar="T.md", help="write the table by family")
    args = parser.parse_args()
    results = run(args.sample, args.torch, args.select, args.keyword, args.report)
    text = table(results)
    reasons = collections.Counter((r["kind"], r["reason"]) for r in results if r["kind"] in (WRONG, REFUSED))
    print(text)
    for (kind, reason), count in sorted(reasons.items()):
        print(f"{kind} ({count}): {reason[:300]}")
    if args.table:
        args.table.write_text(text + "\n")
    return 1 if any(kind == WRONG for kind, _ in reasons) else 0


if __name__ == "__main__":
    sys.exit(main())
