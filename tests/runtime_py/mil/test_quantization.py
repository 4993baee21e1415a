"""Run-time quantization of saved programs against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime_py.mil.making import mb, run

RNG = np.random.default_rng(6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_there_and_back(dtype, kind):
    limits = np.iinfo(kind)
    x = (RNG.standard_normal((2, 3, 4)) * 40).astype(dtype)
    x[0, 0] = [0.5, 1.5, -2.5, 6000]  # halves, and beyond the range
    scale, zero = dtype(0.5), kind(20)
    scales, zeros = np.array([0.25, 1, 4], dtype), np.array([5, 20, 100], kind)
    name = np.dtype(kind).name

    def build(x):
        whole = mb.quantize(input=x, scale=scale, zero_point=zero, output_dtype=name)
        channels = mb.quantize(input=x, scale=scales, zero_point=zeros, axis=-2, output_dtype=name)
        plain = mb.quantize(input=x, scale=dtype(1), output_dtype=name)
        return [
            whole,
            channels,
            plain,
            mb.dequantize(input=whole, scale=scale, zero_point=zero),
            mb.dequantize(input=channels, scale=scales, zero_point=zeros, axis=1),
            mb.dequantize(input=plain, scale=dtype(0.1)),
        ]

    # Core ML has no outputs of 8 bits before iOS 26: the integers are returned as int32.
    whole, channels, plain, *back = run(build, {"x": x}, "iOS17")
    column, zeros = scales.astype(np.float64)[:, None], zeros.astype(np.float64)[:, None]
    for result, (s, z) in ((whole, (0.5, 20)), (channels, (column, zeros)), (plain, (1, 0))):
        np.testing.assert_array_equal(result, np.clip(np.rint(x / s) + z, limits.min, limits.max))
    np.testing.assert_array_equal(back[0], (whole - 20.0) * 0.5)
    np.testing.assert_array_equal(back[1], (channels - zeros) * column)
    np.testing.assert_array_equal(back[2], (plain.astype(np.float32) * np.float32(dtype(0.1))).astype(dtype))
    assert all(result.dtype == dtype for result in back)
