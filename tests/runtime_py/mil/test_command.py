"""`python -m runtime_py.mil`: the listing, a run, and wrong command lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.errors import EXIT_BAD_INPUT
from export.quiet import quiet
from runtime_py.mil.__main__ import main
from tests.runtime_py.mil.making import ct, mb, save

X = np.arange(6, dtype=np.float16).reshape(2, 3)
ROWS = 64
PLAIN = np.arange(ROWS * 3, dtype=np.float16).reshape(ROWS, 3) / 8


def build(x, total):
    """x + the largest value of the columns of several weights: all are 1, or PLAIN."""
    blocks = mb.constexpr_blockwise_shift_scale(
        data=np.ones((ROWS, 128), dtype=ct.converters.mil.mil.types.np_int4_dtype), scale=np.ones((ROWS, 4), np.float16)
    )
    channels = mb.constexpr_blockwise_shift_scale(data=np.ones((ROWS, 3), np.int8), scale=np.ones((ROWS, 1), np.float16))
    palette = mb.constexpr_lut_to_dense(
        indices=np.zeros((ROWS, 3), dtype=ct.converters.mil.mil.types.np_uint4_dtype), lut=np.ones((1, 1, 16, 1), np.float16)
    )
    y = mb.reduce_max(x=mb.add(x=mb.expand_dims(x=x, axes=[2, 3]), y=blocks), axes=[2, 3])
    for table in (mb.const(val=PLAIN), channels, palette):
        y = mb.reduce_max(x=mb.add(x=mb.expand_dims(x=y, axes=[1]), y=table), axes=[1])
    return mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=y))


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return save(build, {"x": X}, tmp_path_factory.mktemp("command") / "model.mlpackage", states={"total": X})


@pytest.fixture(scope="module")
def two_functions(package) -> Path:
    with quiet():
        descriptor = ct.utils.MultiFunctionDescriptor()
        descriptor.add_function(str(package), "main", "first")
        descriptor.add_function(str(package), "main", "second")
        descriptor.default_function_name = "first"
        ct.utils.save_multifunction(descriptor, str(package.with_name("both.mlpackage")))
    return package.with_name("both.mlpackage")


SIZES = {
    "int4 per block of 32": ROWS * 128 // 2 + ROWS * 4 * 2,
    "fp16": ROWS * 3 * 2,
    "int8 per channel": ROWS * 3 + ROWS * 2,
    "4-bit LUT": ROWS * 3 // 2 + 16 * 2,
}


def test_listing(package, capsys):
    assert main([str(package)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "function main (iOS 18)"
    assert "  input    x: fp16[2, 3]" in lines and "  state    total: state fp16[2, 3]" in lines
    assert [line for line in lines if line.startswith("  output ")][0].endswith(": fp16[2, 3]")
    operations = next(line for line in lines if line.startswith("  operations"))
    for part in ("add 5", "expand_dims 4", "reduce_max 4", "constexpr_blockwise_shift_scale 2", "constexpr_lut_to_dense 1"):
        assert part in operations
    total = f"  weights  {sum(SIZES.values()):,} bytes: " + ", ".join(f"{name} {size:,} bytes" for name, size in SIZES.items())
    assert lines[-1] == total and total in lines[:-2]


def test_shared_weights_count_once(two_functions, capsys):
    assert main([str(two_functions)]) == 0
    lines = capsys.readouterr().out.splitlines()
    weights = [line for line in lines if line.startswith("  weights")]
    assert [line for line in lines if line.startswith("function")] == ["function first (iOS 18)", "function second (iOS 18)"]
    assert len(weights) == 3 and len(set(weights)) == 1 and weights[0].startswith(f"  weights  {sum(SIZES.values()):,} bytes")


def test_run_with_state(package, tmp_path, capsys):
    x, y, s = (tmp_path / name for name in ("x.npz", "y.npz", "s.npz"))
    np.savez(x, x=X)
    step = X + PLAIN[-1] + 3
    run = [str(package), "--inputs", str(x), "--out", str(y), "--state-out", str(s)]
    assert main(run) == 0
    assert capsys.readouterr().out.endswith(": float16[2, 3]\n")
    for times in (2, 3):
        assert main([*run, "--state", str(s)]) == 0
        with np.load(y) as outputs, np.load(s) as states:
            np.testing.assert_array_equal(outputs[outputs.files[0]], times * step)
            np.testing.assert_array_equal(states["total"], times * step)


def test_run_takes_the_default_function(two_functions, tmp_path):
    np.savez(tmp_path / "x.npz", x=X)
    for extra in ([], ["--function", "second"]):
        assert main([str(two_functions), "--inputs", str(tmp_path / "x.npz"), "--out", str(tmp_path / "y.npz"), *extra]) == 0
        with np.load(tmp_path / "y.npz") as outputs:
            np.testing.assert_array_equal(outputs[outputs.files[0]], X + PLAIN[-1] + 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{package}", "--inputs", "{x}"], "a run needs --inputs and --out"),
        (["{package}", "--state-out", "{x}"], "--state-out: a run needs --inputs and --out"),
        (["{package}", "--inputs", "{none}", "--out", "{out}"], "cannot be read as an .npz file"),
        (["{package}", "--inputs", "{array}", "--out", "{out}"], "is a single array"),
        (["{package}", "--inputs", "{objects}", "--out", "{out}"], "cannot be read as an .npz file"),
        (["{package}", "--inputs", "{wrong}", "--out", "{out}"], "has no input 'z'"),
        (["{package}", "--inputs", "{x}", "--out", "{out}", "--function", "f"], "has no function 'f'"),
        (["{package}", "--inputs", "{x}", "--out", "{out}", "--state", "{wrong}"], "there is no state 'z'"),
        (["{package}", "--inputs", "{x}", "--out", "{none}/y.npz"], "there is no folder"),
        (["{none}"], "does not exist"),
        (["{x}"], "is a file"),
        ([], "the following arguments are required"),
    ],
)
def test_wrong_command_lines(package, tmp_path, capsys, arguments, message):
    names = {name: tmp_path / f"{name}.npz" for name in ("x", "wrong", "objects", "none", "out")} | {"array": tmp_path / "array.npy"}
    np.savez(names["x"], x=X)
    np.savez(names["wrong"], z=X)
    np.savez(names["objects"], x=np.array([None]))
    np.save(names["array"], X)
    assert main([argument.format(package=package, **names) for argument in arguments]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not names["out"].exists() and not list(tmp_path.glob(".*"))
