"""Gathering and scattering, against loops over single places."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from export.errors import PackageError
from runtime_py.mil import Program
from tests.runtime_py.mil.making import mb, run, save

MODES = ("update", "add", "sub", "mul", "div", "max", "min")
RNG = np.random.default_rng(4)


def combined(mode: str, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """One update of one slice."""
    if mode == "div" and old.dtype.kind == "i":
        return np.trunc(old / new).astype(old.dtype)
    functions = {"update": lambda a, b: b, "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
    return {**functions, "max": np.maximum, "min": np.minimum}[mode](old, new)


def numbers(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Integers that are not 0, so that all modes are exact enough to compare."""
    values = RNG.integers(1, 9, shape) * RNG.choice([-1, 1], shape)
    return values.astype(dtype)


@pytest.mark.parametrize("opset", ["iOS15", "iOS16"])
def test_gather_with_negative_indices(opset):
    x, indices = RNG.standard_normal((3, 4, 5)).astype(np.float32), np.array([[0, -1, 2], [-4, 3, 3]], np.int32)
    along = np.array([[[2, -4, 0, 1, -1]] * 2] * 3, np.int32)
    places = np.array([[0, -1], [-3, 2]], np.int32)

    def build(x, indices, along, places):
        return (
            mb.gather(x=x, indices=indices, axis=1),
            mb.gather(x=x, indices=indices, axis=-2),
            mb.gather(x=x, indices=-2),
            mb.gather_along_axis(x=x, indices=along, axis=1),
            mb.gather_nd(x=x, indices=places),
        )

    results = run(build, {"x": x, "indices": indices, "along": along, "places": places}, opset)
    taken = np.take(x, indices, axis=1)
    expected = [taken, taken, x[-2], np.take_along_axis(x, along, axis=1), np.stack([x[0, -1], x[-3, 2]])]
    for result, array in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_gather_with_batch_dimensions(dtype):
    x = numbers((2, 3, 4, 5), dtype)
    indices = RNG.integers(0, 5, (2, 3, 6, 2)).astype(np.int32)
    middle = RNG.integers(0, 4, (2, 7)).astype(np.int32)
    places = RNG.integers(0, 3, (2, 6, 2)).astype(np.int32)

    def build(x, indices, middle, places):
        return (
            mb.gather(x=x, indices=indices, axis=3, batch_dims=2),
            mb.gather(x=x, indices=middle, axis=2, batch_dims=1),
            mb.gather_nd(x=x, indices=places, batch_dims=1),
        )

    results = run(build, {"x": x, "indices": indices, "middle": middle, "places": places}, "iOS17")
    last = np.empty((2, 3, 4, 6, 2), dtype)
    for i, j in itertools.product(range(2), range(3)):
        last[i, j] = x[i, j][:, indices[i, j]]
    expected = [
        last,
        np.stack([x[i][:, middle[i]] for i in range(2)]),
        np.stack([[x[i][tuple(place)] for place in places[i]] for i in range(2)]),
    ]
    for result, array in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_scatter_with_repeated_places(dtype):
    """Each mode, where two updates go to one place: both count, one after the other."""
    data, vector, updates = numbers((3, 4, 2), dtype), np.array([2, 0, 2, 2, 1], np.int32), numbers((3, 5, 2), dtype)
    along, values = np.array([[[0, 3]], [[3, 3]], [[1, 0]]], np.int32).repeat(2, axis=1), numbers((3, 2, 2), dtype)
    places, slices = np.array([[[0, 1], [2, 3]], [[0, 1], [1, 1]]], np.int32), numbers((2, 2, 2), dtype)

    def build(data, vector, updates, along, values, places, slices):
        results = []
        for mode in MODES:
            results.append(mb.scatter(data=data, indices=vector, updates=updates, axis=1, mode=mode))
            results.append(mb.scatter_along_axis(data=data, indices=along, updates=values, axis=1, mode=mode))
            results.append(mb.scatter_nd(data=data, indices=places, updates=slices, mode=mode))
        return tuple(results) + (data,)

    inputs = {"data": data, "vector": vector, "updates": updates, "along": along, "values": values, "places": places, "slices": slices}
    results = run(build, inputs, "iOS18")
    expected = []
    for mode in MODES:
        by_axis, beside, by_place = data.copy(), data.copy(), data.copy()
        for i, place in enumerate(vector):
            by_axis[:, place] = combined(mode, by_axis[:, place], updates[:, i])
        for a, b, c in np.ndindex(along.shape):
            beside[a, along[a, b, c], c] = combined(mode, beside[a, along[a, b, c], c], values[a, b, c])
        for i, j in np.ndindex(2, 2):
            place = tuple(places[i, j])
            by_place[place] = combined(mode, by_place[place], slices[i, j])
        expected += [by_axis, beside, by_place]
    np.testing.assert_array_equal(results[-1], data)  # not changed in place
    for mode, result, array in zip(np.repeat(MODES, 3), results[:-1], expected, strict=True):
        np.testing.assert_allclose(result, array, rtol=1e-6, err_msg=mode)


def test_scatter_in_float16_rounds_its_sum():
    data, updates = np.full((2, 1), 2048, np.float16), np.ones((3, 1), np.float16)

    def build(data, updates):
        return mb.scatter(data=data, indices=[-1, -1, 0], updates=updates)  # the mode is add

    (result,) = run(build, {"data": data, "updates": updates}, "iOS16")
    np.testing.assert_array_equal(result, np.array([[2048], [2050]], np.float16))  # 2049 rounds to even


OPERATIONS = ("gather", "gather_along_axis", "gather_nd", "scatter", "scatter_along_axis", "scatter_nd")


@pytest.mark.parametrize(
    ("opset", "validated", "refused", "cases"),
    [
        ("iOS16", {}, OPERATIONS, {4: "index 4", -5: "index -5"}),
        ("iOS18", {"validate_indices": True}, OPERATIONS, {4: "index 4", -1: "since iOS 17"}),
        ("iOS17", {"validate_indices": False}, OPERATIONS[:3], {4: "index 4", -5: "index -5"}),
    ],
)
def test_a_place_outside_of_the_tensor_is_refused(tmp_path, opset, validated, refused, cases):
    def build(data, gather, gather_along_axis, gather_nd, scatter, scatter_along_axis, scatter_nd):
        return (
            mb.gather(x=data, indices=gather, **validated),
            mb.gather_along_axis(x=data, indices=gather_along_axis, **validated),
            mb.gather_nd(x=data, indices=gather_nd, **validated),
            mb.scatter(data=data, indices=scatter, updates=data, **validated),
            mb.scatter_along_axis(data=data, indices=scatter_along_axis, updates=data, **validated),
            mb.scatter_nd(data=data, indices=scatter_nd, updates=data, **validated),
        )

    shapes = dict(zip(OPERATIONS, ((4,), (4, 4), (4, 1)) * 2))
    good = {"data": np.zeros((4, 4), np.float32), **{name: np.zeros(shape, np.int32) for name, shape in shapes.items()}}
    program = Program.load(save(build, good, tmp_path / "model.mlpackage", opset))
    assert len(program.run(good)) == 6
    for operation, (bad, message) in itertools.product(refused, cases.items()):
        indices = np.zeros(shapes[operation], np.int32)
        indices[-1] = bad
        with pytest.raises(PackageError, match=rf"\({operation}\): .*{message}"):
            program.run({**good, operation: indices})


@pytest.mark.parametrize("opset", ["iOS17", "iOS18"])
def test_indices_that_nothing_validates(opset):
    """Gathering counts from the end, as coremltools folds constants; scattering drops what has no place (by coremltools' tests)."""
    data, updates = np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([[5, 6, 7], [8, 9, 10]])
    rows, along, places = np.int32([-1, 0]), np.int32([[-1, 0, 1], [2, 1, -2]]), np.int32([[0, -1], [1, 3], [0, 1]])
    back, inner = np.int32([[-1, 0, 1], [-2, 1, -2]]), np.int32([[0, -1], [-1, 1]])

    def build(data, updates, rows, along, places, back, inner):
        return (
            mb.gather(x=data, indices=rows, axis=1),
            mb.gather_along_axis(x=data, indices=back),
            mb.gather_nd(x=data, indices=inner),
            mb.scatter(data=data, indices=rows, updates=updates),
            mb.scatter(data=data, indices=np.int32([10, 0]), updates=updates),
            mb.scatter_along_axis(data=data, indices=along, updates=updates, mode="update"),
            mb.scatter_nd(data=data, indices=places, updates=np.float32([7, 8, 9])),
        )

    inputs = {"data": data, "updates": updates, "rows": rows, "along": along, "places": places, "back": back, "inner": inner}
    results = run(build, inputs, opset)
    first_row = [[9, 11, 13], [4, 5, 6]]
    expected = [
        data[:, [-1, 0]],
        np.take_along_axis(data, back, axis=0),
        [3, 5],
        first_row,
        first_row,
        [[1, 6, 3], [4, 9, 7]],
        [[1, 11, 3], [4, 5, 6]],
    ]
    for result, array in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, np.float32(array))
