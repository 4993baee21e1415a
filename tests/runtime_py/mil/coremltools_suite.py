"""coremltools' own tests of MIL's operations, run against the interpreter: their expected values come from Core ML.

    python -m tests.runtime_py.mil.coremltools_suite --sample 400
    python -m tests.runtime_py.mil.coremltools_suite --select iOS15/test_pool --report report.jsonl
    python -m tests.runtime_py.mil.coremltools_suite --sample 4000 --torch 1000 --table table.md

`coremltools_patch` puts the interpreter in the place of Core ML. Only ML programs are run. Each case is one of: right; wrong (another
value or shape than expected, or the interpreter broke); disputed (fails as an entry of DISPUTES says, which is not about the
interpreter); refused (PackageError, with the reason); not run (it failed or was skipped before it ran an ML program, which is about
the conversion, or is marked by coremltools as failing).

Tolerances are those of coremltools' tests for float32 programs (mostly 1e-4 absolute, 1e-5 relative). For programs that compute in
float16, coremltools allows 0.5 and 5 %; here it is HALF.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import gc
import json
import random
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.errors import one_line
from tests.runtime_py.mil.coremltools_patch import CASE, begin, patch

SECONDS = 60  # for one case
SEED = 20
OPERATIONS = "converters/mil/mil/ops/tests"
TORCH = "converters/mil/frontend/torch/test"
TORCH_FILES = ("test_torch_ops.py", "test_torch_stateful_model.py")
RIGHT, WRONG, DISPUTED, REFUSED, NOT_RUN = "right", "wrong", "disputed", "refused", "not run"


@dataclasses.dataclass(frozen=True)
class Dispute:
    """Cases whose failure says nothing about the interpreter."""

    case: str  # regular expressions: of the case's whole name,
    failure: str  # and of the beginning of its failure
    why: str

    def about(self, case: str, failure: str) -> bool:
        return re.fullmatch(self.case, case) is not None and re.match(self.failure, failure) is not None


DISPUTES = (
    Dispute(
        r".*/test_torch_ops\.py::\w+::(test_batchnorm_fp16_weight_with_fp32_param|test_linear_fp16)\[.*\('mlprogram', 'fp32'\).*\]",
        r"AssertionError: Not equal to tolerance rtol=1e-05, atol=0\.0001",
        "expects what PyTorch computes in float16 from a program in float32, within the tolerance of float32",
    ),
    Dispute(
        r".*/iOS15/test_image_resizing\.py::TestResample::test_builder_to_backend_smoke\[.*precision='fp32'.*\]",
        r"AssertionError: assert 0 == 2$",
        "the values are right; then it expects the two casts of a conversion to float16 in one to float32",
    ),
    Dispute(
        r".*/test_torch_ops\.py::TestGather::test_gather_nd_int16_indices\[.*\('mlprogram', 'fp32'\).*dynamic=True\]",
        r"AssertionError: assert False$",
        "the values are right; then it expects the int16 indices of a conversion to float16 in one to float32",
    ),
    Dispute(
        r".*/iOS1[67]/test_image_resizing\.py::TestCropResize::test_builder_to_backend_ios1[67]\[.*precision='fp32'.*(-N=3|-pad_value=.*)\]",
        r"AssertionError: Not equal to tolerance .* Mismatched elements: 1 / 12 .*: 7\.(9|8999)\d* \(ACTUAL\), 7\.899\d* \(DESIRED\)",
        "expects 7.899, a cut off 7.9, within the tolerance of float32",
    ),
    Dispute(
        r".*/iOS1[67]/test_image_resizing\.py::TestResample::test_builder_to_backend_smoke\w*\[.*precision='fp32'.*numpy\.float16'>\]",
        r"AssertionError: Not equal to tolerance .*: 36\.308\d* \(ACTUAL\), 36\.29999\d* \(DESIRED\)",
        "gives the coordinate -3.7 in float16, which is -3.6992, and expects the value at -3.7 within the tolerance of float32",
    ),
)


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
        gc.freeze()  # every conversion collects garbage: half a second, unless what there is now is passed over

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        begin()

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
            disputes = [dispute for dispute in DISPUTES if dispute.about(item.nodeid, reason)]
            if kind == WRONG and disputes and not CASE.broken:
                kind, reason = DISPUTED, disputes[0].why
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
    """Counts by family, as Markdown, and below why cases were refused or are disputed."""
    lines = [
        "| Family | Cases that reach a prediction | Right | Wrong | Disputed | Refused | Share run | Not run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    families = sorted({result["family"] for result in results}, key=lambda name: (name.startswith("PyTorch"), name))
    for name in [*families, "all"]:
        counts = collections.Counter(result["kind"] for result in results if name in ("all", result["family"]))
        reached = counts[RIGHT] + counts[WRONG] + counts[DISPUTED] + counts[REFUSED]
        share = f"{1000 * (reached - counts[REFUSED]) // reached / 10}%" if reached else "-"  # 100 % only if all of them run
        kinds = " | ".join(str(counts[kind]) for kind in (RIGHT, WRONG, DISPUTED, REFUSED))
        lines.append(f"| {name} | {reached} | {kinds} | {share} | {counts[NOT_RUN]} |")
    return "\n".join([*lines, "", *reasons(results)])


def reasons(results: list[dict[str, Any]]) -> list[str]:
    """One line for each reason why cases are wrong, disputed or refused, with one of the cases."""
    found: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for result in results:
        if result["kind"] in (WRONG, DISPUTED, REFUSED):
            found[result["kind"], result["reason"]].append(result["case"])
    return [f"- {kind}, {len(cases)}: {reason[:300]} (`{cases[0]}`)" for (kind, reason), cases in sorted(found.items())]


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
    parser.add_argument("--table", type=Path, metavar="T.md", help="write the table by family: of the whole report, if there is one")
    args = parser.parse_args()
    results = run(args.sample, args.torch, args.select, args.keyword, args.report)
    if args.report:  # with what earlier calls have added to it; of a case that ran twice, the last time counts
        results = list({result["case"]: result for result in map(json.loads, args.report.read_text().splitlines())}.values())
    text = table(results)
    print(text)
    if args.table:
        args.table.write_text(text + "\n")
    return 1 if any(result["kind"] == WRONG for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
