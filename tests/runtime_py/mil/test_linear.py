"""Matrix products of saved programs against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from export.errors import PackageError
from tests.runtime_py.mil.making import mb, run

RNG = np.random.default_rng(1)
HALF = {"rtol": 2**-10, "atol": 2**-12}  # one rounding to float16
SINGLE = {"rtol": 1e-5, "atol": 1e-5}


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def whole(*shape, dtype=np.int32):
    return RNG.integers(-9, 9, shape).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "opset"), [(np.float32, SINGLE, "iOS15"), (np.float16, HALF, "iOS16"), (np.float16, HALF, "iOS18")]
)
def test_linear_with_and_without_bias(dtype, tolerance, opset):
    x, vector, weight, bias = normal(2, 3, 5, dtype=dtype), normal(5, dtype=dtype), normal(4, 5, dtype=dtype), normal(4, dtype=dtype)

    def build(x, v):
        return mb.linear(x=x, weight=weight), mb.linear(x=x, weight=weight, bias=bias), mb.linear(x=v, weight=weight, bias=bias)

    plain, biased, of_vector = run(build, {"x": x, "v": vector}, opset)
    x, vector, weight, bias = (a.astype(np.float64) for a in (x, vector, weight, bias))
    np.testing.assert_allclose(plain, x @ weight.T, **tolerance)
    np.testing.assert_allclose(biased, x @ weight.T + bias, **tolerance)
    np.testing.assert_allclose(of_vector, vector @ weight.T + bias, **tolerance)
    assert plain.dtype == biased.dtype == of_vector.dtype == dtype


def test_linear_and_matmul_of_integers():
    x, weight, bias = whole(2, 5), whole(4, 5), whole(4)
    big = np.full((1, 2), 2**30, np.int32)

    def build(x, big):
        return (
            mb.linear(x=x, weight=weight, bias=bias),
            mb.matmul(x=x, y=weight, transpose_y=True),
            mb.matmul(x=big, y=np.int32([[1], [1]])),
        )

    layer, product, wrapped = run(build, {"x": x, "big": big}, "iOS15")
    np.testing.assert_array_equal(layer, x @ weight.T + bias)
    np.testing.assert_array_equal(product, x @ weight.T)
    np.testing.assert_array_equal(wrapped, np.int32([[-(2**31)]]))
    assert layer.dtype == product.dtype == np.int32


def test_constants_of_another_type():
    x, y = whole(2, 5, dtype=np.float32), whole(5, 3)
    halves = normal(3, 5, dtype=np.float16)

    def build(x, y):
        return (
            mb.linear(x=x, weight=halves, bias=halves[:, 0]),
            mb.matmul(x=x, y=np.ascontiguousarray(halves.T)),
            mb.matmul(x=np.float16([[1, -2, 3, 4, 5]]), y=y),
            mb.linear(x=x, weight=np.int32([[1, 2, 3, 4, 5]])),
        )

    layer, product, integers, of_integers = run(build, {"x": x, "y": y}, "iOS17")
    np.testing.assert_allclose(layer, x @ halves.T.astype(np.float64) + halves[:, 0], **SINGLE)
    np.testing.assert_allclose(product, x @ halves.T.astype(np.float64), **SINGLE)
    np.testing.assert_array_equal(integers, np.int32([[1, -2, 3, 4, 5]]) @ y)
    np.testing.assert_array_equal(of_integers, x @ np.float32([[1], [2], [3], [4], [5]]))
    assert (layer.dtype, product.dtype, integers.dtype) == (np.float32, np.float32, np.int32)


def test_integers_are_not_multiplied_with_fractions():
    with pytest.raises(PackageError, match="numbers that are none"):
        run(lambda x: mb.matmul(x=x, y=np.float32([[0.5], [1]])), {"x": whole(1, 2)}, "iOS17")


@pytest.mark.parametrize(
    ("x", "y", "transpose_x", "transpose_y"),
    [
        ((2, 3), (3, 4), False, False),
        ((3, 2), (3, 4), True, False),
        ((2, 3), (4, 3), False, True),
        ((10, 4, 3), (5, 10, 3, 2), False, False),
        ((5, 1, 3, 4), (2, 3, 2), True, False),
        ((1, 2, 4, 3), (6, 1, 5, 3), False, True),
        ((4,), (4, 3), False, False),
    ],
)
def test_matmul_transposes_and_broadcasts(x, y, transpose_x, transpose_y):
    x, y = normal(*x), normal(*y)
    (result,) = run(lambda x, y: mb.matmul(x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y), {"x": x, "y": y}, "iOS15")
    left, right = (np.swapaxes(a, -1, -2) if flag else a for a, flag in ((x, transpose_x), (y, transpose_y)))
    np.testing.assert_allclose(result, left.astype(np.float64) @ right, **SINGLE)


def test_einsum_of_three_and_four_dimensions():
    x, y, a, b = normal(2, 3, 1, 4), normal(1, 4, 5, 6), normal(3, 5, 4), normal(4, 5, 6)

    def build(x, y, a, b):
        return mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"), mb.einsum(values=(a, b), equation="abc,cbd->abd")

    four, three = run(build, {"x": x, "y": y, "a": a, "b": b}, "iOS16")
    expected = np.einsum("nchw,nwhu->nchu", np.broadcast_to(np.float64(x), (2, 3, 5, 4)), np.broadcast_to(y, (2, 4, 5, 6)))
    np.testing.assert_allclose(four, expected, **SINGLE)
    np.testing.assert_allclose(three, np.einsum("abc,cbd->abd", np.float64(a), b), **SINGLE)
