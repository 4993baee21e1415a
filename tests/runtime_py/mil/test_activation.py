"""Activations of saved programs, against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from export.errors import PackageError
from runtime_py.mil.registry import OPERATIONS
from tests.runtime_py.mil.making import mb, run

ERF = np.vectorize(math.erf)


def sigmoid(x):
    return 0.5 * (1 + np.tanh(x / 2))


def softplus(x):
    return np.logaddexp(x, 0)


ACTIVATIONS = {
    "clamped_relu": (dict(alpha=2.0, beta=1.5), lambda x: np.minimum(np.where(x >= 0, x, 2 * x), 1.5)),
    "elu": (dict(alpha=1.5), lambda x: np.where(x > 0, x, 1.5 * np.expm1(x))),
    "leaky_relu": (dict(alpha=0.25), lambda x: np.where(x >= 0, x, 0.25 * x)),
    "linear_activation": (dict(alpha=-2.0, beta=0.5), lambda x: -2 * x + 0.5),
    "relu": ({}, lambda x: np.maximum(x, 0)),
    "relu6": ({}, lambda x: np.clip(x, 0, 6)),
    "scaled_tanh": (dict(alpha=1.5, beta=0.5), lambda x: 1.5 * np.tanh(0.5 * x)),
    "sigmoid": ({}, sigmoid),
    "sigmoid_hard": (dict(alpha=0.25, beta=0.5), lambda x: np.clip(0.25 * x + 0.5, 0, 1)),
    "silu": ({}, lambda x: x * sigmoid(x)),
    "softplus": ({}, softplus),
    "softsign": ({}, lambda x: x / (1 + np.abs(x))),
    "thresholded_relu": (dict(alpha=0.5), lambda x: np.where(x >= 0.5, x, 0)),
}
GELU = {
    "EXACT": lambda x: 0.5 * x * (1 + ERF(x / 2**0.5)),
    "TANH_APPROXIMATION": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "SIGMOID_APPROXIMATION": lambda x: x * sigmoid(1.702 * x),
}


@pytest.mark.parametrize(
    "dtype, number, opset",
    [
        (np.float32, np.float32, "iOS15"),
        (np.float16, np.float16, "iOS16"),
        (np.float16, np.float32, "iOS17"),
        (np.float32, np.float16, "iOS18"),
    ],
)
def test_activations(dtype, number, opset):
    """From iOS 17 on, the numbers of an activation may have another type than x."""
    x = np.concatenate([[-50, -9, -0.5, 0, 0.5, 6, 6.5, 50], np.random.default_rng(2).normal(0, 3, 72)]).astype(dtype).reshape(2, 4, 10)

    def build(x):
        simple = [getattr(mb, name)(x=x, **{k: number(v) for k, v in numbers.items()}) for name, (numbers, _) in ACTIVATIONS.items()]
        return tuple(simple + [mb.gelu(x=x, mode=mode) for mode in GELU])

    functions = {**{name: f for name, (_, f) in ACTIVATIONS.items()}, **GELU}
    for got, (name, f) in zip(run(build, {"x": x}, opset), functions.items(), strict=True):
        assert got.dtype == dtype
        tolerance = {"rtol": 2e-6, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-3, "atol": 1e-6}
        np.testing.assert_allclose(got, f(x.astype(np.float64)).astype(dtype), err_msg=name, **tolerance)


def test_softplus_is_exact_far_from_zero():
    x = np.concatenate([np.linspace(-85, 85, 1701), np.linspace(15, 25, 1001), [-1e30, 1e30]]).astype(np.float32)
    (got,) = run(lambda x: mb.softplus(x=x), {"x": x})
    np.testing.assert_allclose(got, softplus(x.astype(np.float64)), rtol=5e-7, atol=0)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (1, 3, 2, 2, 2)])
def test_numbers_of_channels(shape):
    x = np.random.default_rng(3).normal(0, 3, shape).astype(np.float32)
    alpha, beta = np.array([0.25, -1, 2], np.float32), np.array([1, 0.5, -3], np.float32)
    slopes = alpha if len(shape) == 4 else np.full(3, 0.25, np.float32)  # other ranks take equal slopes only

    def build(x):
        return mb.prelu(x=x, alpha=slopes), mb.softplus_parametric(x=x, alpha=alpha, beta=beta)

    wide = x.astype(np.float64)
    slope, a, b = (v.reshape(-1, *[1] * (len(shape) - 2)).astype(np.float64) for v in (slopes, alpha, beta))
    prelu, parametric = run(build, {"x": x})
    np.testing.assert_allclose(prelu, np.where(wide > 0, wide, slope * wide), rtol=1e-6)
    np.testing.assert_allclose(parametric, a * softplus(b * wide), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_softmax_along_every_axis(dtype):
    x = np.random.default_rng(4).normal(0, 20, (3, 4, 5)).astype(dtype)
    x[1, 2] = -60000  # a masked row: all equal, and their exponentials are 0
    outputs = run(lambda x: tuple(mb.softmax(x=x, axis=axis) for axis in (-1, 0, 1, -2)), {"x": x})
    for got, axis in zip(outputs, (-1, 0, 1, -2), strict=True):
        powers = np.exp(x.astype(np.float64) - x.astype(np.float64).max(axis, keepdims=True))
        wanted = (powers / powers.sum(axis, keepdims=True)).astype(dtype)
        np.testing.assert_allclose(got, wanted, rtol=2e-6 if dtype == np.float32 else 1e-3, atol=1e-7)


def test_options_that_are_left_out():
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    wide = x.double().numpy()
    np.testing.assert_allclose(OPERATIONS["gelu"].function(x), GELU["EXACT"](wide), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(OPERATIONS["softmax"].function(x), np.exp(wide) / np.exp(wide).sum(-1, keepdims=True), rtol=1e-6)


def test_contradictions_are_refused():
    x = torch.zeros(2, 3, 4)
    with pytest.raises(PackageError, match="the mode 'FAST'"):
        OPERATIONS["gelu"].function(x, mode="FAST")
    with pytest.raises(PackageError, match=r"has \[4\] parameters for the channels of \[2, 3, 4\]"):
        OPERATIONS["prelu"].function(x, torch.zeros(4))
    with pytest.raises(PackageError, match=r"has \[1, 3\] parameters"):
        OPERATIONS["softplus_parametric"].function(x, torch.zeros(1, 3), torch.zeros(3))
