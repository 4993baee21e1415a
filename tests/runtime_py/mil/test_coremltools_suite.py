"""A fixed sample of coremltools' own tests of MIL's operations, run by the interpreter."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime_py.mil import coremltools_suite as suite

ROOT = Path(__file__).parents[3]
CASES = 400
SHARE = 0.95  # of the cases that run a model


@pytest.mark.full
def test_sample_of_the_operations_tests(tmp_path):
    """One or two cases of every test function: none gives another value than Core ML, nearly all run, and no family is left out."""
    report = tmp_path / "report.jsonl"
    command = [sys.executable, "-m", suite.__name__, "--sample", str(CASES), "--report", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    results = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    assert len(results) == CASES, done.stdout[-3000:] + done.stderr[-3000:]
    kinds = collections.Counter(result["kind"] for result in results)
    assert [result for result in results if result["kind"] == suite.WRONG] == []
    refused = [(result["case"], result["reason"]) for result in results if result["kind"] == suite.REFUSED]
    assert kinds[suite.RIGHT] >= CASES // 2
    assert kinds[suite.RIGHT] >= SHARE * (kinds[suite.RIGHT] + len(refused)), refused
    right = {result["family"] for result in results if result["kind"] == suite.RIGHT}
    assert right == {result["family"] for result in results}
    assert kinds[suite.DISPUTED] <= 2  # the casts of resample in float32, for two types of coordinates


@pytest.mark.full
def test_a_wrong_operation_is_noticed(tmp_path):
    """The harness itself: with an interpreter whose `square` is off by a thousandth, square's cases are wrong and others right."""
    script = tmp_path / "wrong.py"
    script.write_text(
        "import dataclasses, sys\n"
        "from runtime_py.mil.registry import OPERATIONS\n"
        "from tests.runtime_py.mil import coremltools_suite as suite\n"
        "good = OPERATIONS['square']\n"
        "OPERATIONS['square'] = dataclasses.replace(good, function=lambda x: good.function(x) * 1.001)\n"
        "selected = 'TestElementwiseUnary and test_builder_to_backend_smoke and fp32 and iOS15 and (square or sqrt)'\n"
        "for result in suite.run(0, 0, ['iOS14/test_elementwise_unary'], selected, None):\n"
        "    print('RESULT', result['kind'], result['case'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    results = [line.split(" ", 2)[1:] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    of_square = {kind for kind, case in results if "mode=square" in case}
    others = {kind for kind, case in results if "mode=square" not in case}
    assert of_square == {suite.WRONG} and others == {suite.RIGHT}, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_dispute_is_about_one_failure_of_one_case():
    """Another failure of the same case, or the same failure of another, is not excused."""
    case = "ops/tests/iOS15/test_image_resizing.py::TestResample::test_builder_to_backend_smoke[precision='{}'-int32]"
    failure = "AssertionError: assert 0 == 2"
    found = [dispute for dispute in suite.DISPUTES if dispute.about(case.format("fp32"), failure)]
    assert len(found) == 1 and found[0].why
    others = [
        (case.format("fp16"), failure),
        (case.format("fp32"), "AssertionError: Not equal to tolerance"),
        ("another::test[fp32]", failure),
    ]
    assert not any(dispute.about(*other) for dispute in suite.DISPUTES for other in others)


def test_the_table_hides_no_case():
    kinds = [suite.RIGHT] * 5 + [suite.WRONG, suite.DISPUTED, suite.REFUSED, suite.REFUSED, suite.NOT_RUN]
    results = [{"case": f"test[{i}]", "family": "pool", "kind": kind, "reason": f"since {kind}"} for i, kind in enumerate(kinds)]
    text = suite.table(results)
    assert "| pool | 9 | 5 | 1 | 1 | 2 | 77.7% | 1 |" in text and "| all | 9 | 5 | 1 | 1 | 2 | 77.7% | 1 |" in text
    assert "- disputed, 1: since disputed (`test[6]`)" in text and "- refused, 2: since refused (`test[7]`)" in text
