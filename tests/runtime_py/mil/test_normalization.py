"""Normalizations of saved programs against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
from torch import from_numpy, ones

from export.errors import PackageError
from runtime_py.mil.operations.normalization import layer_norm
from tests.runtime_py.mil.making import mb, run

RNG = np.random.default_rng(4)
SINGLE = {"rtol": 1e-4, "atol": 1e-5}


def normal(*shape):
    return (RNG.standard_normal(shape) * 3 + 1).astype(np.float32)


def normalized(x, axes, epsilon):
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 4, 5)])
def test_batch_and_instance_norm(shape):
    x, mean, gamma, beta = normal(*shape), normal(3), normal(3), normal(3)
    variance = np.abs(normal(3))
    axes = tuple(range(2, len(shape)))

    def build(x):
        return [
            mb.batch_norm(x=x, mean=mean, variance=variance),
            mb.batch_norm(x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=0.5),
            mb.instance_norm(x=x),
            mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=0.5),
        ]

    plain, scaled, instance, instance_scaled = run(build, {"x": x}, "iOS15")
    mean, variance, gamma, beta = (a.astype(np.float64).reshape(3, *[1] * len(axes)) for a in (mean, variance, gamma, beta))
    np.testing.assert_allclose(plain, (x - mean) / np.sqrt(variance + 1e-5), **SINGLE)
    np.testing.assert_allclose(scaled, (x - mean) / np.sqrt(variance + 0.5) * gamma + beta, **SINGLE)
    np.testing.assert_allclose(instance, normalized(x, axes, 1e-5), **SINGLE)
    np.testing.assert_allclose(instance_scaled, normalized(x, axes, 0.5) * gamma + beta, **SINGLE)


@pytest.mark.parametrize("axes", [[0, 1, 2, 3], [-1], [2, 3], [1], [0, 2], [-1, 1], [1, 2, 3]])
def test_layer_norm_of_any_axes(axes):
    x = normal(2, 3, 4, 5)
    chosen = tuple(sorted(axis % 4 for axis in axes))
    sizes = [x.shape[axis] for axis in chosen]
    gamma, beta = normal(*sizes), normal(*sizes)

    def build(x):
        return mb.layer_norm(x=x, axes=axes), mb.layer_norm(x=x, gamma=gamma, beta=beta, axes=axes, epsilon=0.1)

    plain, scaled = run(build, {"x": x}, "iOS15")
    shape = [x.shape[axis] if axis in chosen else 1 for axis in range(4)]
    np.testing.assert_allclose(plain, normalized(x, chosen, 1e-5), **SINGLE)
    np.testing.assert_allclose(scaled, normalized(x, chosen, 0.1) * gamma.reshape(shape) + beta.reshape(shape), **SINGLE)


def test_layer_norm_in_float16_does_not_overflow():
    x = np.float16([[300, -300, 400, 100], [60000, 60000, -60000, 1]])  # squares beyond float16
    (result,) = run(lambda x: mb.layer_norm(x=x, axes=[-1], epsilon=np.float16(1e-5)), {"x": x}, "iOS17")
    np.testing.assert_allclose(result, normalized(x, (1,), 1e-5), rtol=2**-10)


def test_l2_and_local_response_norm():
    x, batches = normal(4, 3, 2), normal(2, 3, 4, 3, 2)
    channels, planes = normal(2, 7, 3, 2), normal(7, 3, 2)

    def build(x, batches, channels, planes):
        return [
            mb.l2_norm(x=x, epsilon=1e-3),
            mb.l2_norm(x=batches),
            mb.local_response_norm(x=channels, size=3),
            mb.local_response_norm(x=channels, size=5, alpha=0.2, beta=0.5, k=2.0),
            mb.local_response_norm(x=planes, size=3, alpha=0.2),
        ]

    one, many, default, chosen, of_planes = run(build, {"x": x, "batches": batches, "channels": channels, "planes": planes}, "iOS15")
    np.testing.assert_allclose(one, x / np.sqrt((np.float64(x) ** 2).sum() + 1e-3), **SINGLE)
    np.testing.assert_allclose(many, batches / np.sqrt((np.float64(batches) ** 2).sum((2, 3, 4), keepdims=True) + 1e-6), **SINGLE)
    planes = planes[None]  # the first of three dimensions is that of the channels
    cases = ((default, channels, (3, 1e-4, 0.75, 1)), (chosen, channels, (5, 0.2, 0.5, 2)), (of_planes[None], planes, (3, 0.2, 0.75, 1)))
    for result, x, (size, alpha, beta, k) in cases:
        sums = np.stack([(np.float64(x[:, max(0, c - size // 2) : c + size // 2 + 1]) ** 2).sum(1) for c in range(7)], 1)
        np.testing.assert_allclose(result, x / (k + alpha / size * sums) ** beta, **SINGLE)


def test_layer_norm_of_all_axes_by_default():
    x = normal(2, 3)  # the builder of coremltools cannot leave the axes out
    np.testing.assert_allclose(layer_norm(from_numpy(x)), normalized(x, (0, 1), 1e-5), **SINGLE)


def test_gamma_of_other_sizes_is_refused():
    with pytest.raises(PackageError, match=r"its gamma is \[2\]"):
        layer_norm(ones(2, 3), [-1], ones(2))
