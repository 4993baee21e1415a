"""Reshaping, slicing and blocks, against NumPy and against loops that say where each element goes."""

from __future__ import annotations

import numpy as np
import pytest

from export.errors import PackageError
from tests.runtime_py.mil.making import get_new_symbol, mb, run

X = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
TYPES = {"iOS15": np.int32, "iOS16": np.float16, "iOS17": np.float32, "iOS18": np.float16}


def equal(results: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(results) == len(expected)
    for result, array in zip(results, expected):
        assert result.shape == array.shape
        np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("opset", list(TYPES))
def test_shapes(opset):
    x = (X % 3).astype(TYPES[opset])

    def build(x):
        return (
            mb.reshape(x=x, shape=[0, -1]) if opset > "iOS16" else mb.reshape(x=x, shape=[0, -1, 2]),
            mb.reshape(x=x, shape=[4, 6]),
            mb.transpose(x=x, perm=[2, 0, 1]),
            mb.transpose(x=x, perm=[-2, -1, 0]),
            mb.expand_dims(x=x, axes=[-1, 1]),
            mb.squeeze(x=mb.expand_dims(x=x, axes=[0, 3])),
            mb.squeeze(x=mb.expand_dims(x=x, axes=[0, 3]), axes=[3]),
            mb.reverse(x=x, axes=[-1, 0]),
            mb.reverse(x=x),
            mb.cast(x=mb.transpose(x=mb.reverse(x=mb.cast(x=x, dtype="bool")), perm=[2, 1, 0]), dtype="int32"),
        )

    zero = x.reshape(3, 8) if opset > "iOS16" else x.reshape(2, 6, 2)  # since iOS 17 a 0 is counted from the last size
    expected = [
        zero,
        x.reshape(4, 6),
        x.transpose(2, 0, 1),
        x.transpose(1, 2, 0),
        x[:, None, :, :, None],
        x,
        x[None],
        x[::-1, :, ::-1],
        x[::-1, ::-1, ::-1],
        (x[::-1, ::-1, ::-1].T != 0).astype(np.int32),
    ]
    equal(run(build, {"x": x}, opset), expected)


def test_reshape_to_a_shape_known_at_run_time():
    x = X.reshape(6, 4)

    def build(x, shape):
        return mb.reshape(x=x, shape=shape)

    for opset, shape, result in (
        ("iOS16", [0, 2, -1], None),
        ("iOS16", [0, -1], (6, 4)),
        ("iOS17", [1, 0, -1, 0], (1, 1, 6, 4)),
        ("iOS18", [0, 2, 2], (6, 2, 2)),
    ):
        inputs = {"x": x, "shape": np.array(shape, np.int32)}
        if result is None:
            with pytest.raises(PackageError, match="ranks must be equal before iOS 17"):
                run(build, inputs, opset)
        elif shape == [0, 2, 2]:  # the 0 lies before the first dimension of x: it is 1
            with pytest.raises(PackageError, match="reshape"):
                run(build, inputs, opset)
        else:
            equal(run(build, inputs, opset), [x.reshape(result)])


def test_reshape_like():
    other, third = np.zeros((6, 5), np.float32), np.zeros((7, 2, 2), np.float32)

    def build(x, other, third):
        return mb.reshape_like(x=x, ref_tensors=(other, third), begins=(0, 1), ends=(1, 0), end_masks=(False, True))

    equal(run(build, {"x": X, "other": other, "third": third}, "iOS16"), [X.reshape(6, 2, 2)])


NO = [False, False, False]
SLICES = [  # begin, end, stride, begin_mask, end_mask, squeeze_mask, and what NumPy calls it
    ([0, 1, -3], [2, 3, -1], [1, 1, 1], NO, NO, NO, np.s_[0:2, 1:3, -3:-1]),
    ([9, 1, 1], [9, 9, 9], [1, 2, 2], [True, False, False], [True, True, False], NO, np.s_[:, 1::2, 1:9:2]),
    ([1, -1, 3], [0, 0, 0], [-1, -1, -2], NO, [True, False, True], NO, np.s_[1::-1, -1:0:-1, 3::-2]),
    ([0, 0, 0], [0, 0, 0], [-1, 1, -3], [True] * 3, [True] * 3, NO, np.s_[::-1, :, ::-3]),
    ([-1, 0, 2], [0, 2, 0], [1, 1, 1], NO, NO, [True, False, True], np.s_[-1, 0:2, 2]),
]


def arguments(case: tuple) -> dict:
    names = ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    return dict(zip(names, case))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_slices(dtype):
    x = X.astype(dtype)

    def build(x):
        part = mb.slice_by_index(x=x, begin=[1, -2, 0], end=[2, 3, 4])
        return (
            part,
            mb.slice_by_size(x=x, begin=[1, -2, 0], size=[1, 2, -1]),
            *(mb.slice_by_index(x=x, **arguments(s)) for s in SLICES),
        )

    equal(run(build, {"x": x}, "iOS15"), [x[1:2, -2:3], x[1:2, -2:3], *(x[s[-1]] for s in SLICES)])


def test_a_slice_known_at_run_time_may_be_empty():
    def build(x, begin, end):
        return mb.slice_by_index(x=x, begin=begin, end=end), mb.slice_by_size(x=x, begin=begin, size=end)

    begin, end = np.array([1, 2, -4], np.int32), np.array([1, 0, -1], np.int32)
    equal(run(build, {"x": X, "begin": begin, "end": end}, "iOS17"), [X[1:1, 2:0, -4:-1], X[1:2, 2:2]])


def test_slice_update():
    update = -1 - X

    def build(x, update):
        return tuple(mb.slice_update(x=x, update=mb.slice_by_index(x=update, **arguments(s)), **arguments(s)) for s in SLICES) + (x,)

    expected = []
    for case in SLICES:
        array = X.copy()
        array[case[-1]] = update[case[-1]]
        expected.append(array)
    equal(run(build, {"x": X, "update": update}), [*expected, X])  # x itself is unchanged


@pytest.mark.parametrize(
    ("begin", "message"), [([0, 3, 0], "index 3 of dimension 1, which has the size 3"), ([0, -4, 0], "index -4 of dimension 1")]
)
def test_an_index_beyond_the_tensor_is_refused(begin, message):
    def build(x, begin):
        return mb.slice_by_index(x=x, begin=begin, end=begin, squeeze_mask=[True, True, True])

    with pytest.raises(PackageError, match=message):
        run(build, {"x": X, "begin": np.array(begin, np.int32)})


def test_an_update_of_another_shape_is_refused():
    def build(x, update, end):
        return mb.slice_update(x=x, update=update, begin=[0, 0, 0], end=end)

    inputs = {"x": X, "update": np.zeros((2, 3, 1), np.float32), "end": np.array([2, 3, 2], np.int32)}
    with pytest.raises(PackageError, match=r"an update of the shape \[2, 3, 1\] for a slice of the shape \[2, 3, 2\]"):
        run(build, inputs, shapes={"update": (2, 3, get_new_symbol())})


def test_blocks():
    b, c, h, w = 2, 3, 2, 5
    x = np.random.default_rng(0).standard_normal((2, b * b * c, h, w)).astype(np.float32)
    depth, shuffled = np.empty((2, c, h * b, w * b), np.float32), np.empty((2, c, h * b, w * b), np.float32)
    for row in range(b):
        for column in range(b):
            for channel in range(c):
                depth[:, channel, row::b, column::b] = x[:, (row * b + column) * c + channel]
                shuffled[:, channel, row::b, column::b] = x[:, channel * b * b + row * b + column]

    def build(x, depth, shuffled):
        return (
            mb.depth_to_space(x=x, block_size=b),
            mb.space_to_depth(x=depth, block_size=b),
            mb.pixel_shuffle(x=x, upscale_factor=b),
            mb.pixel_unshuffle(x=shuffled, downscale_factor=np.uint32(b)),
        )

    equal(run(build, {"x": x, "depth": depth, "shuffled": shuffled}, "iOS16"), [depth, x, shuffled, x])


def test_blocks_of_a_batch():
    x = np.random.default_rng(1).standard_normal((2, 3, 3, 4)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (0, 1), (2, 0)))  # 4 x 6, in blocks of 2 x 3
    batch = np.concatenate([padded[:, :, row::2, column::3] for row in range(2) for column in range(3)])

    def build(x, batch):
        return (
            mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[0, 1], [2, 0]]),
            mb.batch_to_space(x=batch, block_shape=[2, 3], crops=[[0, 1], [2, 0]]),
        )

    equal(run(build, {"x": x, "batch": batch}), [batch, x])


def test_reverse_sequence():
    x = np.random.default_rng(2).standard_normal((3, 2, 5)).astype(np.float32)
    lengths = np.array([5, 0, 3], np.int32)
    expected, other = x.copy(), np.swapaxes(x, 0, 2).copy()
    for i, length in enumerate(lengths):
        expected[i, :, :length] = x[i, :, :length][:, ::-1]
    expected_other = np.swapaxes(expected, 0, 2)

    def build(x, other, lengths):
        return (
            mb.reverse_sequence(x=x, lengths=lengths, seq_axis=2, batch_axis=0),
            mb.reverse_sequence(x=other, lengths=lengths, seq_axis=0, batch_axis=-1),
        )

    equal(run(build, {"x": x, "other": other, "lengths": lengths}), [expected, expected_other])
    with pytest.raises(PackageError, match="lengths"):
        run(build, {"x": x, "other": other, "lengths": lengths + 1})


def test_sliding_windows():
    def build(x):
        return (
            mb.sliding_windows(x=x, axis=-1, size=2),
            mb.sliding_windows(x=x, axis=1, size=2, stride=1),
            mb.sliding_windows(x=x, axis=2, size=1, stride=3),
        )

    pairs = np.stack([X[:, :, i : i + 2] for i in range(3)], axis=2)
    rows = np.stack([X[:, i : i + 2] for i in range(2)], axis=1)
    equal(run(build, {"x": X}), [pairs, rows, X[:, :, ::3, None]])


def test_flatten2d():
    def build(x):
        return mb.flatten2d(x=x), mb.flatten2d(x=x, axis=-1), mb.flatten2d(x=x, axis=0)

    equal(run(build, {"x": X}), [X.reshape(2, 12), X.reshape(6, 4), X.reshape(1, 24)])
