"""Elementwise operations and `cast` of saved programs, against NumPy in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from export.errors import PackageError
from export.mlpackage import TensorType
from runtime_py.mil.registry import OPERATIONS
from tests.runtime_py.mil.making import mb, run

TOLERANCE = {np.float32: {"rtol": 2e-6, "atol": 1e-6}, np.float16: {"rtol": 1e-3, "atol": 1e-7}}  # float16: its last digit
LOWEST = -(1 << 31)
ERF = np.vectorize(math.erf)
REAL = {  # of any number
    "atan": np.arctan, "cos": np.cos, "cosh": np.cosh, "erf": ERF, "exp": np.exp, "exp2": np.exp2, "sin": np.sin, "sinh": np.sinh,
    "square": np.square, "tan": np.tan, "tanh": np.tanh,
}  # fmt: skip
UNIT = {"acos": np.arccos, "asin": np.arcsin, "atanh": np.arctanh}  # of numbers between -1 and 1
EXACT = {"abs": np.abs, "ceil": np.ceil, "floor": np.floor, "round": np.round, "sign": np.sign}
BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.divide, "floor_div": np.floor_divide, "mod": np.mod,
    "pow": np.power, "maximum": np.maximum, "minimum": np.minimum,
}  # fmt: skip
COMPARISONS = {
    "equal": np.equal, "not_equal": np.not_equal, "greater": np.greater, "greater_equal": np.greater_equal, "less": np.less,
    "less_equal": np.less_equal,
}  # fmt: skip


def all_of(names, **options):
    return [getattr(mb, name)(**options) for name in names]


@pytest.mark.parametrize("dtype, opset", [(np.float32, "iOS15"), (np.float32, "iOS18"), (np.float16, "iOS17")])
def test_functions_of_one_tensor(dtype, opset):
    random = np.random.default_rng(0)
    x = random.uniform(-6, 6, (3, 5, 7)).astype(dtype)
    u = random.uniform(-0.99, 0.99, (3, 5, 7)).astype(dtype)
    h = (random.integers(-9, 10, (3, 5, 7)) / 2).astype(dtype)  # halves, and zeros

    def build(x, u, h):
        positive = mb.abs(x=x)
        return tuple(
            all_of(REAL, x=x) + all_of(UNIT, x=u) + all_of(EXACT, x=h) + [mb.sqrt(x=positive), mb.clip(x=h, alpha=dtype(-2), beta=dtype(3))]
        )

    outputs = run(build, {"x": x, "u": u, "h": h}, opset)
    wide = {name: a.astype(np.float64) for name, a in (("x", x), ("u", u), ("h", h))}
    with np.errstate(over="ignore"):
        expected = [f(wide["x"]) for f in REAL.values()] + [f(wide["u"]) for f in UNIT.values()]
        expected += [f(wide["h"]) for f in EXACT.values()] + [np.sqrt(np.abs(wide["x"])), np.clip(wide["h"], -2, 3)]
        for got, wanted, name in zip(outputs, expected, [*REAL, *UNIT, *EXACT, "sqrt", "clip"], strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, wanted.astype(dtype), err_msg=name, **TOLERANCE[dtype])


def test_epsilons_are_added_before_the_function():
    x = np.array([0.0, 0.25, 3.0], np.float32)

    def build(x):
        return tuple(getattr(mb, name)(x=x, epsilon=epsilon) for name in ("log", "rsqrt", "inverse") for epsilon in (0.5, np.float16(2)))

    outputs = run(build, {"x": x}, "iOS17")  # from then on epsilon may have another type than x
    expected = [f(x.astype(np.float64) + e) for f in (np.log, lambda v: v**-0.5, lambda v: 1 / v) for e in (0.5, 2)]
    for got, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("name, expected", [("log", math.log(2**-149)), ("rsqrt", 1e6), ("inverse", 1e4)])
def test_an_epsilon_that_is_left_out(name, expected):
    got = OPERATIONS[name].function(torch.zeros(20))  # 1e-45 is the smallest float32
    torch.testing.assert_close(got, torch.full((20,), expected), rtol=1e-6, atol=0)


def test_integers_of_one_tensor():
    x = np.array([[-5, 0, 3], [10, -1, 7]], np.int32)
    outputs = run(
        lambda x: (mb.abs(x=x), mb.sign(x=x), mb.square(x=x), mb.exp2(x=x), mb.threshold(x=x, alpha=np.int32(2))), {"x": x}, "iOS15"
    )
    expected = [np.abs(x), np.sign(x), x * x, [[0, 1, 8], [1024, 0, 128]], np.maximum(x, 2)]
    for got, wanted in zip(outputs, expected, strict=True):
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, wanted)


def test_clip_refuses_an_empty_range_from_ios_17_on():
    clip, x = OPERATIONS["clip"].function, torch.tensor([-3.0, 0.0, 3.0])
    torch.testing.assert_close(clip(x, 1.0, -1.0, SimpleNamespace(opset=16)), torch.full((3,), -1.0))
    with pytest.raises(PackageError, match="alpha must be smaller than beta"):
        clip(x, 1.0, 1.0, SimpleNamespace(opset=17))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_functions_of_two_tensors_broadcast(dtype):
    random = np.random.default_rng(1)
    x = random.uniform(0.5, 6, (2, 3, 1)).astype(dtype)
    y = np.array([-3.5, -1, 0.75, 2], dtype)
    x[0, 0, 0] = 2  # equal to the last y

    def build(x, y):
        opposite = mb.mul(x=x, y=dtype(-1))
        signs = [getattr(mb, name)(x=opposite, y=y) for name in ("floor_div", "mod")]
        return tuple(all_of(BINARY, x=x, y=y) + signs + all_of(COMPARISONS, x=x, y=y))

    outputs = run(build, {"x": x, "y": y})
    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    expected = [f(wide_x, wide_y) for f in BINARY.values()] + [np.floor_divide(-wide_x, wide_y), np.mod(-wide_x, wide_y)]
    names = [*BINARY, "-x floor_div y", "-x mod y"]
    for got, wanted, name in zip(outputs, expected, names):
        assert got.dtype == dtype and got.shape == (2, 3, 4)
        np.testing.assert_allclose(got, wanted.astype(dtype), err_msg=name, rtol=1e-3 if dtype == np.float16 else 2e-6, atol=1e-6)
    for got, (name, f) in zip(outputs[len(names) :], COMPARISONS.items(), strict=True):
        np.testing.assert_array_equal(got, f(x, y), err_msg=name)


def test_integers_of_two_tensors():
    x = np.array([[7, -7, 7, -7, 0, LOWEST, 2, 3]], np.int32)
    y = np.array([[2, 2, -2, -2, 5, -1, -1, 3]], np.int32)
    outputs = run(lambda x, y: tuple(all_of(BINARY, x=x, y=y) + all_of(COMPARISONS, x=x, y=y)), {"x": x, "y": y}, "iOS15")
    expected = [
        [9, -5, 5, -9, 5, -LOWEST - 1, 1, 6],  # the sum of the lowest and -1 wraps
        [5, -9, 9, -5, -5, LOWEST + 1, 3, 0],
        [14, -14, -14, 14, 0, LOWEST, -2, 9],
        [3, -3, -3, 3, 0, LOWEST, -2, 1],  # truncated
        [3, -4, -4, 3, 0, LOWEST, -2, 1],  # floored
        [1, 1, -1, -1, 0, 0, 0, 0],  # the sign of y
        [49, 49, 0, 0, 0, 0, 0, 27],
        np.maximum(x, y)[0],
        np.minimum(x, y)[0],
        *[f(x, y)[0] for f in COMPARISONS.values()],
    ]
    for got, wanted, name in zip(outputs, expected, [*BINARY, *COMPARISONS], strict=True):
        np.testing.assert_array_equal(got, [wanted], err_msg=name)


@pytest.mark.parametrize("name", ["real_div", "floor_div", "mod"])
def test_integers_are_not_divided_by_zero(name):
    x = np.array([3, 0], np.int32)
    with pytest.raises(PackageError, match=f"{name}.*cannot be computed"):
        run(lambda x: getattr(mb, name)(x=x, y=x), {"x": x})


def test_truth():
    x, y = np.array([[0, 0, 1, 1]], np.int32), np.array([[0, 1, 0, 1]], np.int32)

    def build(x, y):
        p, q = mb.cast(x=x, dtype="bool"), mb.cast(x=y, dtype="bool")
        both = [getattr(mb, name)(x=p, y=q) for name in ("logical_and", "logical_or", "logical_xor")]
        return tuple(mb.cast(x=v, dtype="int32") for v in [*both, mb.logical_not(x=p)])

    for got, wanted in zip(run(build, {"x": x, "y": y}), ([0, 0, 0, 1], [0, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]), strict=True):
        np.testing.assert_array_equal(got, [wanted])


INTEGERS = ("int32", "int16", "uint16", "int8", "uint8")


def test_cast_from_floats():
    x = np.array([-40000.5, -1.9, -0.5, 0, 0.9, 1.5, 200.7, 65504.5, np.inf, -np.inf, np.nan, 1e10], np.float32)

    def build(x):
        narrow = [mb.cast(x=mb.cast(x=x, dtype=dtype), dtype="int32") for dtype in (*INTEGERS, "bool")]
        return (*narrow, mb.cast(x=x, dtype="fp16"))

    *integers, truth, half = run(build, {"x": x}, "iOS17")
    whole = np.array([-40000, -1, 0, 0, 0, 1, 200, 65504, -LOWEST - 1, LOWEST, 0, -LOWEST - 1])
    for got, dtype in zip(integers, INTEGERS, strict=True):
        np.testing.assert_array_equal(got, whole.astype(dtype), err_msg=dtype)
    np.testing.assert_array_equal(truth, [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half, x.astype(np.float16))


@pytest.mark.parametrize("source", ["int32", "uint16", "int8", "fp16"])
def test_cast_between_all_types(source):
    """Values that all types hold stay; integers that a type does not hold wrap."""
    x = np.array([[0, 1, 100, 127]] if source in ("int8", "fp16") else [[0, 1, 127, 300]], np.int32)

    def build(x):
        value = mb.cast(x=x, dtype=source)
        narrow = [mb.cast(x=mb.cast(x=value, dtype=dtype), dtype="int32") for dtype in INTEGERS]
        return (*narrow, mb.cast(x=value, dtype="fp32"), mb.cast(x=value, dtype="fp16"))

    outputs = run(build, {"x": x}, "iOS17")
    for got, dtype in zip(outputs, (*INTEGERS, "float32", "float16"), strict=True):
        np.testing.assert_array_equal(got, x.astype(dtype), err_msg=dtype)


def test_cast_checks_its_type():
    cast, x = OPERATIONS["cast"].function, torch.ones(2)
    with pytest.raises(PackageError, match="casts to 'int8': int32, fp16, fp32, bool are known"):
        cast(x, "int8", SimpleNamespace(opset=16, outputs=[TensorType("int8", (2,))]))
    with pytest.raises(PackageError, match="casts to 'fp16', and its output is declared as fp32"):
        cast(x, "fp16", SimpleNamespace(opset=18, outputs=[TensorType("fp32", (2,))]))
