"""Pools of saved programs against means, maxima and lengths over windows written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from export.errors import PackageError
from tests.runtime_py.mil.making import mb, run

RNG = np.random.default_rng(3)


def windows(x, kernel, strides, pads, counts):
    """For each output place: (place, elements inside the input, elements inside the padded input as their number)."""
    sizes = x.shape[2:]
    for place in itertools.product(*map(range, counts)):
        starts = [p * s - before for p, s, (before, _) in zip(place, strides, pads)]
        inside = tuple(slice(max(0, a), min(a + k, size)) for a, k, size in zip(starts, kernel, sizes))
        padded = np.prod([min(a + k, size + after) - a for a, k, size, (_, after) in zip(starts, kernel, sizes, pads)])
        yield (..., *place), x[(..., *inside)].reshape(*x.shape[:2], -1).astype(np.float64), padded


def pooled(x, kind, kernel, strides, pads, counts, exclude=False):
    result = np.empty((*x.shape[:2], *counts))
    for place, values, padded in windows(x, kernel, strides, pads, counts):
        if kind == "max":
            result[place] = values.max(-1)
        elif kind == "l2":
            result[place] = np.sqrt((values**2).sum(-1))
        else:
            result[place] = values.sum(-1) / (values.shape[-1] if exclude else padded)
    return result


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pools_of_all_paddings(rank):
    sizes, kernel, strides = (9, 6, 7)[:rank], [3, 2, 4][:rank], [2, 1, 3][:rank]
    custom = [(1, 2), (0, 1), (2, 1)][:rank]
    x = RNG.standard_normal((2, 3, *sizes)).astype(np.float32) - 2  # padding of 0 would show in the maxima
    totals = [max(0, (-(-size // s) - 1) * s + k - size) for size, k, s in zip(sizes, kernel, strides)]
    ways = {
        "valid": [(0, 0)] * rank,
        "same": [(t // 2, t - t // 2) for t in totals],
        "same_lower": [(t - t // 2, t // 2) for t in totals],
        "custom": custom,
    }
    kinds = ["avg", "exclude", "max", *(["l2"] if rank < 3 else [])]
    pools = {"avg": mb.avg_pool, "exclude": mb.avg_pool, "max": mb.max_pool, "l2": mb.l2_pool}

    def build(x):
        results = []
        for way, kind in itertools.product(ways, kinds):
            options = {"pad": [v for pair in custom for v in pair]} if way == "custom" else {}
            options |= {"exclude_padding_from_average": True} if kind == "exclude" else {}
            results.append(pools[kind](x=x, kernel_sizes=kernel, strides=strides, pad_type=way, **options))
        return results

    for result, (way, kind) in zip(run(build, {"x": x}, "iOS16"), itertools.product(ways, kinds), strict=True):
        pads = ways[way]
        counts = [(size + sum(p) - k) // s + 1 for size, k, s, p in zip(sizes, kernel, strides, pads)]
        expected = pooled(x, kind, kernel, strides, pads, counts, exclude=kind == "exclude")
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6, err_msg=f"{way} {kind}")


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [(7, 3, 2, 0), (8, 3, 2, 1), (5, 2, 4, 1), (9, 4, 3, 2)])
def test_ceil_mode_as_pytorch(size, kernel, stride, pad):
    x = RNG.standard_normal((1, 2, size, size + 1)).astype(np.float32) - 2
    options = {"kernel_sizes": [kernel] * 2, "strides": [stride] * 2, "ceil_mode": True}
    options |= {"pad_type": "custom", "pad": [pad] * 4} if pad else {"pad_type": "valid"}

    def build(x):
        return [
            mb.avg_pool(x=x, **options),
            mb.avg_pool(x=x, exclude_padding_from_average=True, **options),
            mb.max_pool(x=x, **options),
            mb.l2_pool(x=x, **options),
        ]

    counted, excluded, greatest, length = run(build, {"x": x}, "iOS15")
    tx = torch.from_numpy(x)
    avg = functional.avg_pool2d(tx, kernel, stride, pad, True)
    sums = functional.avg_pool2d(tx * tx, kernel, stride, pad, True, divisor_override=1)
    np.testing.assert_allclose(counted, avg, rtol=1e-5)
    np.testing.assert_allclose(excluded, functional.avg_pool2d(tx, kernel, stride, pad, True, False), rtol=1e-5)
    np.testing.assert_array_equal(greatest, functional.max_pool2d(tx, kernel, stride, pad, 1, True))
    np.testing.assert_allclose(length, sums.sqrt(), rtol=1e-5)


def test_window_of_ceil_mode_beyond_everything_is_refused():
    """PyTorch drops it, MIL's rule for sizes keeps it where there is no padding: nobody says what is in it."""
    with pytest.raises(PackageError, match="wholly outside"):
        run(
            lambda x: mb.avg_pool(x=x, kernel_sizes=[2], strides=[3], pad_type="valid", ceil_mode=True),
            {"x": np.ones((1, 1, 6), np.float32)},
        )


def test_values_of_float16_and_strides_by_default():
    x = np.float16([[[1, 2, 4, 8, 2048, 1]]])

    def build(x):
        return mb.avg_pool(x=x, kernel_sizes=[2], pad_type="valid"), mb.max_pool(x=x, kernel_sizes=[2], pad_type="valid")

    mean, greatest = run(build, {"x": x}, "iOS15")
    np.testing.assert_array_equal(mean, np.float16([[[1.5, 3, 6, 1028, 1024.5]]]))
    np.testing.assert_array_equal(greatest, np.float16([[[2, 4, 8, 2048, 2048]]]))


def test_pad_beside_another_pad_type_is_refused():
    with pytest.raises(PackageError, match="leaves no choice"):
        run(lambda x: mb.max_pool(x=x, kernel_sizes=[2], pad_type="valid", pad=[1, 1]), {"x": np.float32([[[1, 2, 3]]])})
