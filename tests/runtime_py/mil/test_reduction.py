"""Reductions of saved programs, against NumPy in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from export.errors import PackageError
from export.mlpackage import TensorType
from runtime_py.mil.registry import OPERATIONS
from tests.runtime_py.mil.making import mb, run

REDUCTIONS = {
    "reduce_l1_norm": lambda x, **how: np.abs(x).sum(**how),
    "reduce_l2_norm": lambda x, **how: np.sqrt(np.square(x).sum(**how)),
    "reduce_log_sum": lambda x, **how: np.log(x.sum(**how)),
    "reduce_log_sum_exp": lambda x, **how: np.log(np.exp(x).sum(**how)),
    "reduce_max": lambda x, **how: x.max(**how),
    "reduce_mean": lambda x, **how: x.mean(**how),
    "reduce_min": lambda x, **how: x.min(**how),
    "reduce_prod": lambda x, **how: x.prod(**how),
    "reduce_sum": lambda x, **how: x.sum(**how),
    "reduce_sum_square": lambda x, **how: np.square(x).sum(**how),
}
SIGNED = [name for name in REDUCTIONS if name != "reduce_log_sum"]  # the logarithm wants a sum above 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("axes, keep_dims", [(None, False), (None, True), ([1], False), ([0, -1], True), ([-1, 1], False)])
def test_reductions(dtype, axes, keep_dims):
    random = np.random.default_rng(5)
    x = random.uniform(-2, 2, (2, 3, 4)).astype(dtype)
    p = random.uniform(0.5, 2, (2, 3, 4)).astype(dtype)

    def build(x, p):
        how = {"keep_dims": keep_dims} if axes is None else {"axes": axes, "keep_dims": keep_dims}
        return (*[getattr(mb, name)(x=x, **how) for name in SIGNED], mb.reduce_log_sum(x=p, **how))

    how = {"axis": None if axes is None else tuple(axes), "keepdims": keep_dims}
    expected = [REDUCTIONS[name](x.astype(np.float64), **how) for name in SIGNED]
    expected.append(REDUCTIONS["reduce_log_sum"](p.astype(np.float64), **how))
    for got, wanted, name in zip(run(build, {"x": x, "p": p}), expected, [*SIGNED, "reduce_log_sum"], strict=True):
        assert got.dtype == dtype and got.shape == np.shape(wanted)
        np.testing.assert_allclose(got, wanted, err_msg=name, rtol=1e-3 if dtype == np.float16 else 5e-6, atol=1e-6)


def test_integers():
    """What is no integer is truncated; sums and products wrap."""
    x = np.array([[1, -4, 0], [3, 5, 8], [-9, -2, -6], [1 << 30, 1 << 30, 7]], np.int32)
    names = [name for name in REDUCTIONS if not name.startswith("reduce_log")]
    outputs = run(lambda x: tuple(getattr(mb, name)(x=x, axes=[1]) for name in names), {"x": x}, "iOS15")
    expected = {
        "reduce_l1_norm": [5, 16, 17, -(1 << 31) + 7],
        "reduce_l2_norm": [4, 9, 11, 1518500249],
        "reduce_max": [1, 8, -2, 1 << 30],
        "reduce_mean": [-1, 5, -5, 715827885],
        "reduce_min": [-4, 3, -9, 7],
        "reduce_prod": [0, 120, -108, 0],
        "reduce_sum": [-3, 16, -17, -(1 << 31) + 7],
        "reduce_sum_square": [17, 98, 121, 49],
    }
    for got, name in zip(outputs, names, strict=True):
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, expected[name], err_msg=name)
    small = np.array([[1, 2, 5]], np.int32)
    outputs = run(lambda x: (mb.reduce_log_sum(x=x, axes=[1]), mb.reduce_log_sum_exp(x=x, axes=[1])), {"x": small}, "iOS15")
    np.testing.assert_array_equal(outputs, [[2], [5]])  # of 2.08 and 5.07


def test_log_sum_exp_of_large_numbers():
    x = np.array([[-1000, -1001], [1000, 1000]], np.float32)
    (got,) = run(lambda x: mb.reduce_log_sum_exp(x=x, axes=[1]), {"x": x})
    np.testing.assert_allclose(got, [-1000 + np.log1p(np.exp(-1)), 1000 + np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("opset", ["iOS15", "iOS18"])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_indices_of_extremes(dtype, opset):
    x = np.random.default_rng(6).integers(-3, 4, (3, 40, 5)).astype(dtype)  # full of ties: the first counts
    cases = [(0, False), (1, True), (-1, False)]

    def build(x):
        return tuple(f(x=x, axis=axis, keep_dims=keep) for axis, keep in cases for f in (mb.reduce_argmax, mb.reduce_argmin))

    expected = [f(x, axis=axis, keepdims=keep) for axis, keep in cases for f in (np.argmax, np.argmin)]
    for got, wanted in zip(run(build, {"x": x}, opset), expected, strict=True):
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, wanted)


def test_indices_as_uint16():
    x = np.zeros((2, 40000), np.float32)
    x[0, 39999], x[1, 5] = 1, -1

    def build(x):
        indices = [f(x=x, axis=1, output_dtype="uint16") for f in (mb.reduce_argmax, mb.reduce_argmin)]
        return tuple(mb.cast(x=i, dtype="int32") for i in indices)

    np.testing.assert_array_equal(run(build, {"x": x}, "iOS17"), [[39999, 0], [0, 5]])
    call = SimpleNamespace(outputs=[TensorType("int32", (2,))])
    with pytest.raises(PackageError, match="output_dtype 'uint16', and its output is declared as int32"):
        OPERATIONS["reduce_argmax"].function(torch.zeros(2, 3), call, output_dtype="uint16")


def test_what_is_left_out_and_what_is_empty():
    """No axes: all, and none stays. An empty list of axes: every element by itself."""
    x = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])
    torch.testing.assert_close(OPERATIONS["reduce_sum"].function(x), torch.tensor(5.0))
    call = SimpleNamespace(outputs=[TensorType("int32", (2,))])
    assert OPERATIONS["reduce_argmax"].function(x, call).tolist() == [2, 1]
    same = {"reduce_l1_norm": x.abs(), "reduce_l2_norm": x.abs(), "reduce_sum_square": x.square(), "reduce_log_sum": x.log()}
    for name in REDUCTIONS:
        for keep_dims in (False, True):
            got = OPERATIONS[name].function(x, axes=[], keep_dims=keep_dims)
            torch.testing.assert_close(got, same.get(name, x), equal_nan=True)


def test_classify():
    classify, probabilities = OPERATIONS["classify"].function, torch.tensor([[0.25, 0.375, 0.375]])
    assert classify(probabilities, ("cat", "dog", "eel")) == ("dog", {"cat": 0.25, "dog": 0.375, "eel": 0.375})
    label, table = classify(probabilities, tuple(torch.tensor([7, 8, 9])))
    assert label.dtype == torch.int64 and label.item() == 8 and table == {7: 0.25, 8: 0.375, 9: 0.375}
    with pytest.raises(PackageError, match="has 2 classes and 3 probabilities"):
        classify(probabilities, ("cat", "dog"))
