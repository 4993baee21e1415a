"""Convolutions of saved programs against PyTorch's, and against sums written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.runtime_py.mil.making import mb, run

CONVOLUTIONS = [functional.conv1d, functional.conv2d, functional.conv3d]
TRANSPOSED = [functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d]
RNG = np.random.default_rng(2)
SINGLE = {"rtol": 1e-4, "atol": 1e-5}


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def torches(*arrays):
    return [torch.from_numpy(a).double() for a in arrays]


def same_pads(sizes, kernel, strides, dilations, lower=False):
    """As TensorFlow counts them, written out: for PyTorch's `pad`, the last dimension first."""
    pads = []
    for size, k, stride, dilation in reversed(list(zip(sizes, kernel, strides, dilations))):
        total = max(0, (int(np.ceil(size / stride)) - 1) * stride + (k - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        pads += [large, small] if lower else [small, large]
    return pads


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_of_all_paddings(rank):
    sizes, kernel = (9, 7, 8)[:rank], (3, 2, 4)[:rank]
    strides, dilations, pad = [2, 1, 3][:rank], [2, 1, 1][:rank], [1, 2, 0, 1, 3, 0][: 2 * rank]
    x, weight, bias = normal(2, 4, *sizes), normal(6, 2, *kernel), normal(6)
    options = {"strides": strides, "dilations": dilations, "groups": 2}

    def build(x):
        return [
            mb.conv(x=x, weight=weight, bias=bias, pad_type="valid", **options),
            mb.conv(x=x, weight=weight, pad_type="same", **options),
            mb.conv(x=x, weight=weight, pad_type="same_lower", **options),
            mb.conv(x=x, weight=weight, bias=bias, pad_type="custom", pad=pad, **options),
            mb.conv(x=x, weight=weight, bias=bias, pad_type="custom", pad=[1, 1] * rank, **options),
            mb.conv(x=x, weight=normal(5, 4, *kernel) * 0 + 1),
        ]

    results = run(build, {"x": x}, "iOS16")
    tx, tw, tb = torches(x, weight, bias)
    ways = [
        ([0, 0] * rank, tb),
        (same_pads(sizes, kernel, strides, dilations), None),
        (same_pads(sizes, kernel, strides, dilations, lower=True), None),
        ([v for i in reversed(range(rank)) for v in pad[2 * i : 2 * i + 2]], tb),
        ([1, 1] * rank, tb),
    ]
    for result, (pads, b) in zip(results, ways):
        expected = CONVOLUTIONS[rank - 1](functional.pad(tx, pads), tw, b, strides, 0, dilations, 2)
        np.testing.assert_allclose(result, expected.numpy(), **SINGLE)
    expected = CONVOLUTIONS[rank - 1](tx, torch.ones(5, 4, *kernel, dtype=torch.float64))
    np.testing.assert_allclose(results[-1], expected.numpy(), **SINGLE)


def test_conv_with_weights_of_the_run():
    x, weight, bias = normal(1, 3, 6, 6), normal(4, 3, 3, 3), normal(4)
    (result,) = run(lambda x, w, b: mb.conv(x=x, weight=w, bias=b, pad_type="same"), {"x": x, "w": weight, "b": bias}, "iOS17")
    tx, tw, tb = torches(x, weight, bias)
    np.testing.assert_allclose(result, functional.conv2d(tx, tw, tb, padding=1).numpy(), **SINGLE)


def test_conv_in_float16_rounds_once():
    x, weight = normal(1, 8, 5, 5, dtype=np.float16), normal(4, 8, 3, 3, dtype=np.float16)
    (result,) = run(lambda x: mb.conv(x=x, weight=weight), {"x": x}, "iOS16")
    expected = functional.conv2d(*torches(x, weight)).numpy()
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, expected, rtol=2**-11 * 1.01, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose_of_all_paddings(rank):
    sizes, kernel = (5, 4, 3)[:rank], (4, 3, 2)[:rank]
    strides, dilations, pad = [2, 1, 3][:rank], [1, 2, 1][:rank], [1, 2, 0, 1, 1, 0][: 2 * rank]
    x, weight, bias = normal(2, 4, *sizes), normal(4, 3, *kernel), normal(6)
    options = {"strides": strides, "dilations": dilations, "groups": 2}

    def build(x):
        return [
            mb.conv_transpose(x=x, weight=weight, bias=bias, **options),
            mb.conv_transpose(x=x, weight=weight, pad_type="custom", pad=pad, **options),
            mb.conv_transpose(x=x, weight=weight, bias=bias, pad_type="same", **options),
        ]

    valid, custom, same = run(build, {"x": x}, "iOS15")
    tx, tw, tb = torches(x, weight, bias)
    full = TRANSPOSED[rank - 1](tx, tw, None, strides, 0, 0, 2, dilations).numpy()
    shaped = bias.reshape(-1, *[1] * rank)
    np.testing.assert_allclose(valid, full + shaped, **SINGLE)
    crop = tuple(slice(pad[2 * i], full.shape[2 + i] - pad[2 * i + 1]) for i in range(rank))
    np.testing.assert_allclose(custom, full[(..., *crop)], **SINGLE)
    expected = np.zeros((*full.shape[:2], *(d * s for d, s in zip(sizes, strides))))
    source, target = [], []
    for size, wanted in zip(full.shape[2:], expected.shape[2:]):  # cropped evenly, or zeros at the end
        before = max(0, size - wanted) // 2
        source.append(slice(before, before + wanted))
        target.append(slice(0, min(size, wanted)))
    expected[(..., *target)] = full[(..., *source)]
    np.testing.assert_allclose(same, expected + shaped, **SINGLE)


def test_output_shape_of_conv_transpose_is_what_conv_came_from():
    """`conv` makes 4 of 7 and of 8 elements; the transpose of each is its gradient, whatever the padding."""
    y, weight = normal(1, 3, 4, 4), normal(3, 2, 3, 3)
    cases = list(itertools.product(((7, 8), (8, 7)), ("same", "custom")))

    def build(y):
        return [
            mb.conv_transpose(
                x=y,
                weight=weight,
                strides=[2, 2],
                pad_type=kind,
                output_shape=[1, 2, *shape],
                **({"pad": [1, 1, 1, 1]} if kind == "custom" else {}),
            )
            for shape, kind in cases
        ]

    for result, (shape, kind) in zip(run(build, {"y": y}, "iOS15"), cases):
        x = torch.zeros(1, 2, *shape, dtype=torch.float64, requires_grad=True)
        pads = same_pads(shape, (3, 3), (2, 2), (1, 1)) if kind == "same" else [1, 1, 1, 1]
        ty, tw = torches(y, weight)
        made = functional.conv2d(functional.pad(x, pads), tw, stride=2)
        (expected,) = torch.autograd.grad(made, x, ty)
        np.testing.assert_allclose(result, expected.numpy(), **SINGLE)


def test_conv_transpose_with_weights_of_the_run():
    x, weight, bias = normal(1, 3, 6), normal(3, 2, 4), normal(2)
    (result,) = run(lambda x, w: mb.conv_transpose(x=x, weight=w, bias=bias), {"x": x, "w": weight}, "iOS17")
    np.testing.assert_allclose(result, functional.conv_transpose1d(*torches(x, weight, bias)).numpy(), **SINGLE)
