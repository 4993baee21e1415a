"""`Program`: inputs are checked against the package, functions share weights and states."""

from __future__ import annotations

import numpy as np
import pytest

from export.errors import PackageError
from export.quiet import quiet
from runtime_py.mil import Program
from tests.runtime_py.mil.making import ct, get_new_symbol, mb, save, types

X = np.arange(6, dtype=np.float16).reshape(2, 3)
TABLE = np.arange(48, dtype=np.float16).reshape(16, 3) / 8  # large enough to stand in the weight file


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Program:
    path = tmp_path_factory.mktemp("plain") / "model.mlpackage"
    return Program.load(save(lambda x, n: (mb.add(x=x, y=x), mb.add(x=n, y=n)), {"x": X, "n": np.array([3], np.int32)}, path))


def test_inputs_of_another_width_are_rounded(plain):
    third = np.full((2, 3), 1 / 3)
    y, n = plain.run({"x": third, "n": np.array([7], np.int64)}).values()
    np.testing.assert_array_equal(y, 2 * third.astype(np.float16))
    assert y.dtype == np.float16 and n.dtype == np.int32 and n.tolist() == [14]


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"x": X}, "lacks its input 'n'"),
        ({"x": X, "n": np.array([1]), "z": X}, "has no input 'z'"),
        ({"x": X[0], "n": np.array([1])}, r"input 'x': has the shape \[3\]"),
        ({"x": X.T, "n": np.array([1])}, r"input 'x': has the shape \[3, 2\]"),
        ({"x": X.astype(np.int32), "n": np.array([1])}, "input 'x': holds int32"),
        ({"x": X, "n": np.array([1.0])}, "input 'n': holds float64"),
        ({"x": X, "n": np.array(["1"])}, "input 'n': holds <U1"),
        ({"x": X, "n": np.array([None])}, "input 'n': holds object"),
        ({"x": X.astype(np.complex64), "n": np.array([1])}, "input 'x': holds complex64"),
    ],
)
def test_wrong_inputs(plain, inputs, message):
    with pytest.raises(PackageError, match=message):
        plain.run(inputs)


def test_unknown_function(plain):
    with pytest.raises(PackageError, match="has no function 'other': it has main"):
        plain.run({"x": X}, "other")
    with pytest.raises(PackageError, match="has no function 'other'"):
        plain.make_state("other")


def test_states_are_checked(tmp_path):
    path = save(lambda x, s: mb.add(x=x, y=mb.read_state(input=s)), {"x": X}, tmp_path / "model.mlpackage", states={"s": X})
    state = Program.load(path).make_state()
    value = X.astype(np.float64)
    state.write("s", value)
    value[:] = -1
    (y,) = Program.load(path).run({"x": X}, state=state).values()
    np.testing.assert_array_equal(y, 2 * X)
    for name, wrong, message in (("t", X, "no state 't'"), ("s", X[0], "is given float16"), ("s", X.astype(np.int8), "is given int8")):
        with pytest.raises(PackageError, match=message):
            state.write(name, wrong)


def flexible(path, shape, **options) -> Program:
    """x + 1 for an input of flexible shape, through coremltools' whole conversion."""
    sizes = shape if isinstance(shape, tuple) else [None] * len(shape.shapes[0].shape)
    specs = [mb.TensorSpec([size if isinstance(size, int) else get_new_symbol() for size in sizes], dtype=types.fp16)]
    with quiet():
        program = mb.program(input_specs=specs, opset_version=ct.target.iOS18)(lambda x: mb.add(x=x, y=np.float16(1)))
        model = ct.convert(
            program,
            inputs=[ct.TensorType("x", shape=shape, dtype=np.float16, **options)],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
        model.save(str(path))
    return Program.load(path)


def test_ranges_of_sizes(tmp_path):
    program = flexible(tmp_path / "model.mlpackage", (2, ct.RangeDim(1, 4), ct.RangeDim(2, 500, default=3)))
    for shape in ((2, 1, 2), (2, 4, 500)):
        (y,) = program.run({"x": np.ones(shape, np.float16)}).values()
        np.testing.assert_array_equal(y, np.full(shape, 2, np.float16))
    for shape in ((2, 0, 3), (2, 5, 3), (2, 1, 1), (3, 1, 3), (2, 3)):
        with pytest.raises(PackageError, match=r"input 'x': has the shape"):
            program.run({"x": np.ones(shape, np.float16)})


def test_enumerated_shapes(tmp_path):
    program = flexible(tmp_path / "model.mlpackage", ct.EnumeratedShapes([[1, 4], [2, 8]], default=[1, 4]))
    for shape in ((1, 4), (2, 8)):
        (y,) = program.run({"x": np.ones(shape, np.float16)}).values()
        np.testing.assert_array_equal(y, np.full(shape, 2, np.float16))
    for shape in ((1, 8), (2, 4), (4,)):
        with pytest.raises(PackageError, match=r"input 'x': has the shape .*, and (may have \[1, 4\] or \[2, 8\]|is declared)"):
            program.run({"x": np.ones(shape, np.float16)})


def test_optional_input_takes_its_default(tmp_path):
    program = flexible(tmp_path / "model.mlpackage", (2, 3), default_value=np.full((2, 3), 4, np.float16))
    np.testing.assert_array_equal(next(iter(program.run({}).values())), np.full((2, 3), 5, np.float16))
    np.testing.assert_array_equal(next(iter(program.run({"x": X}).values())), X + 1)


def plus_largest(x):
    """x + the largest value of each column of TABLE."""
    return mb.reduce_max(x=mb.add(x=mb.expand_dims(x=x, axes=[1]), y=mb.const(val=TABLE)), axes=[1])


def accumulate(x, total):
    """The state plus x plus a table's last row, which becomes the state."""
    return mb.coreml_update_state(state=total, value=plus_largest(mb.add(x=mb.read_state(input=total), y=x)))


def halve(x, total):
    value = mb.mul(x=mb.read_state(input=total), y=np.float16(0.5))
    return mb.add(x=mb.coreml_update_state(state=total, value=value), y=plus_largest(x))


@pytest.fixture(scope="module")
def two_functions(tmp_path_factory):
    base = tmp_path_factory.mktemp("multifunction")
    with quiet():
        descriptor = ct.utils.MultiFunctionDescriptor()
        for name, build in (("grow", accumulate), ("shrink", halve)):
            save(build, {"x": X}, base / f"{name}.mlpackage", states={"total": X})
            descriptor.add_function(str(base / f"{name}.mlpackage"), "main", name)
        descriptor.default_function_name = "shrink"
        ct.utils.save_multifunction(descriptor, str(base / "both.mlpackage"))
    return base / "both.mlpackage"


def test_functions_share_a_state(two_functions):
    program = Program.load(two_functions)
    assert sorted(program.functions) == ["grow", "shrink"] and program.default == "shrink"
    state = program.make_state("grow")
    expected = np.zeros((2, 3), np.float16)
    for function in ("grow", "grow", "shrink", "grow"):
        expected = expected + X + TABLE[-1] if function == "grow" else expected / 2
        (y,) = program.run({"x": X}, function, state).values()
        np.testing.assert_array_equal(y, expected if function == "grow" else expected + X + TABLE[-1])
        np.testing.assert_array_equal(state.numpy("total"), expected)


def test_functions_share_constants(two_functions):
    program = Program.load(two_functions)
    tables = set()
    for function in program.functions.values():
        for step in function.block.steps:
            tables |= {id(operand) for _, operand in step.dynamic if getattr(operand, "type", None) and operand.type.shape == TABLE.shape}
    assert len(tables) == 1
