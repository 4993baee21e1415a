"""Joining, filling, padding, ordering and suppression of boxes, against NumPy and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from export.errors import PackageError
from tests.runtime_py.mil.making import get_new_symbol, mb, run

X = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


def equal(results: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(results) == len(expected)
    for result, array in zip(results, expected):
        assert (result.shape, result.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(result, array)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_joining_and_parting(dtype):
    x = (X % 5).astype(dtype)
    y = x[:, ::-1].copy()

    def build(x, y):
        return (
            mb.concat(values=(x, y, x), axis=-2),
            mb.concat(values=(x, y), axis=1, interleave=True),
            mb.concat(values=(mb.slice_by_index(x=x, begin=[0] * 3, end=[0] * 3, squeeze_mask=[True] * 3),) * 2, axis=0),
            mb.stack(values=(x, y), axis=0),
            mb.stack(values=(x, y), axis=-1),
            *mb.split(x=x, num_splits=2, axis=-1),
            *mb.split(x=x, split_sizes=[1, 2], axis=1),
            *mb.split(x=x, num_splits=3, split_sizes=[1, 0, 2], axis=1)[::2],
            mb.tile(x=x, reps=[2, 1, 3]),
            mb.tile(x=mb.expand_dims(x=x, axes=[1]), reps=[1, 4, 1, 1]),
            mb.identity(x=x),
            mb.shape(x=x),
            mb.select(cond=mb.cast(x=y, dtype="bool"), a=x, b=mb.slice_by_size(x=y, begin=[0, 0, 0], size=[-1, 1, 1])),
        )

    equal(
        run(build, {"x": x, "y": y}),
        [
            np.concatenate([x, y, x], axis=1),
            np.stack([x, y], axis=2).reshape(2, 6, 4),
            np.array([x[0, 0, 0]] * 2),
            np.stack([x, y]),
            np.stack([x, y], axis=-1),
            x[:, :, :2],
            x[:, :, 2:],
            x[:, :1],
            x[:, 1:],
            x[:, :1],
            x[:, 1:],
            np.tile(x, (2, 1, 3)),
            np.tile(x[:, None], (1, 4, 1, 1)),
            x,
            integers(2, 3, 4),
            np.where(y, x, y[:, :1, :1]),
        ],
    )


def test_filling():
    def build(x, shape, indices, depth, start, end, step):
        return (
            mb.fill(shape=shape, value=np.float16(0.1)),
            mb.cast(x=mb.fill(shape=[2, 2], value=True), dtype="int32"),
            mb.fill(shape=shape),
            mb.fill_like(ref_tensor=x, value=7),
            mb.one_hot(indices=indices, one_hot_vector_size=mb.squeeze(x=depth), axis=1),
            mb.one_hot(indices=indices, one_hot_vector_size=3, on_value=0.5, off_value=-0.5),
            mb.range_1d(start=mb.squeeze(x=start), end=mb.squeeze(x=end), step=mb.squeeze(x=step)),
            mb.range_1d(start=5, end=-2, step=-3),
            mb.range_1d(start=0.0, end=7.0, step=0.7),  # 10 numbers: the quotient is 10 in float32, and a little more in truth
        )

    indices = np.array([[2, 0, -1], [1, 5, 3]], np.int32)  # -1 and 5 are no places
    inputs = {"x": X, "shape": integers(2, 3), "indices": indices, "depth": integers(4)}
    inputs |= {"start": np.float32([1]), "end": np.float32([2]), "step": np.float32([0.25])}
    places = np.arange(4).reshape(1, 4, 1)
    equal(
        run(build, inputs, "iOS16"),
        [
            np.full((2, 3), 0.1, np.float16),
            np.ones((2, 2), np.int32),
            np.zeros((2, 3), np.float32),
            np.full((2, 3, 4), 7, np.int32),
            (indices[:, None] == places).astype(np.int32),
            np.where(indices[..., None] == np.arange(3), 0.5, -0.5).astype(np.float32),
            np.float32([1, 1.25, 1.5, 1.75]),
            integers(5, 2, -1),
            (np.float64(np.float32(0.7)) * np.arange(10)).astype(np.float32),
        ],
    )


HUGE = {
    "fill": lambda x, sizes: mb.fill(shape=sizes),
    "tile": lambda x, sizes: mb.tile(x=x, reps=sizes),
    "pad": lambda x, sizes: mb.pad(x=x, pad=mb.concat(values=(sizes, sizes), axis=0)),
    "one_hot": lambda x, sizes: mb.one_hot(indices=[[0] * 50] * 1000, one_hot_vector_size=mb.gather(x=sizes, indices=0)),
    "range_1d": lambda x, sizes: mb.range_1d(
        start=np.float32(0), end=mb.reduce_max(x=mb.cast(x=sizes, dtype="fp32")), step=np.float32(1e-9)
    ),
}


@pytest.mark.parametrize("operation", list(HUGE))
def test_a_result_that_no_machine_holds_is_refused(operation):
    with pytest.raises(PackageError, match=rf"\({operation}\): its result would have the shape .* more than 2147483648 elements"):
        run(HUGE[operation], {"x": np.ones((2, 3), np.float32), "sizes": integers(70000, 70000)})


def test_negative_sizes_are_refused():
    with pytest.raises(PackageError, match="negative size"):
        run(HUGE["fill"], {"x": np.ones((2, 3), np.float32), "sizes": integers(-1, 4)})
    with pytest.raises(PackageError, match="pad"):
        run(HUGE["pad"], {"x": np.ones((2, 3), np.float32), "sizes": integers(-1, 4)})


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_padding(dtype):
    x = np.random.default_rng(0).standard_normal((2, 1, 3, 4, 2)).astype(dtype)
    widths = [(0, 0), (0, 0), (2, 0), (3, 1), (0, 1)]
    flat = [count for pair in widths for count in pair]

    def build(x, pad):
        return (
            mb.pad(x=x, pad=pad),
            mb.pad(x=x, pad=flat[4:], constant_val=dtype(-0.3)),
            mb.pad(x=x, pad=flat[4:], mode="reflect"),
            mb.pad(x=x, pad=flat[4:], mode="replicate"),
        )

    expected = [
        np.pad(x, widths),
        np.pad(x, widths, constant_values=dtype(-0.3)),
        np.pad(x, widths, mode="reflect"),
        np.pad(x, widths, mode="edge"),
    ]
    equal(run(build, {"x": x, "pad": integers(*flat)}, "iOS16"), expected)


def test_a_reflection_beyond_the_tensor_is_refused():
    with pytest.raises(PackageError, match=r"mode reflect with the pad \[0, 0, 3, 0\] in dimension 1, which has the size 3"):
        run(lambda x, pad: mb.pad(x=x, pad=pad, mode="reflect"), {"x": np.ones((2, 3), np.float32), "pad": integers(0, 0, 3, 0)})


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_sums_and_bands(dtype):
    x = np.random.default_rng(1).integers(-9, 9, (2, 4, 5)).astype(dtype)

    def build(x):
        return (
            mb.cumsum(x=x),
            mb.cumsum(x=x, axis=1, exclusive=True),
            mb.cumsum(x=x, axis=2, reverse=True),
            mb.cumsum(x=x, axis=-1, exclusive=True, reverse=True),
            mb.band_part(x=x, lower=1, upper=2),
            mb.band_part(x=x, lower=0),
            mb.band_part(x=x, upper=1),
            mb.non_zero(x=x),
        )

    backwards = np.cumsum(x[..., ::-1], axis=2)[..., ::-1].astype(dtype)
    equal(
        run(build, {"x": x}),
        [
            np.cumsum(x, axis=0).astype(dtype),
            (np.cumsum(x, axis=1) - x).astype(dtype),
            backwards,
            backwards - x,
            np.triu(np.tril(x, 2), -1),
            np.triu(x),
            np.tril(x, 1),
            np.argwhere(x).astype(np.int32),
        ],
    )


def test_a_sum_in_float16_is_rounded():
    (result,) = run(lambda x: mb.cumsum(x=x, axis=0), {"x": np.array([2048, 1, 2], np.float16)})
    np.testing.assert_array_equal(result, np.array([2048, 2048, 2051], np.float16))


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_order_with_ties(dtype):
    """Many equal values: the lower index comes first, in either direction."""
    x = np.random.default_rng(2).integers(-3, 3, (3, 40, 2)).astype(dtype)
    down, up = np.argsort(-x.astype(np.int64), axis=1, kind="stable"), np.argsort(x, axis=1, kind="stable")

    def build(x):
        return (
            mb.argsort(x=x, axis=1),
            mb.argsort(x=x, axis=-2, ascending=True),
            *mb.topk(x=x, k=7, axis=1),
            *mb.topk(x=x, k=7, axis=1, ascending=True),
        )

    expected = [down, up, np.take_along_axis(x, down, 1)[:, :7], down[:, :7], np.take_along_axis(x, up, 1)[:, :7], up[:, :7]]
    expected = [array if array.dtype == dtype else array.astype(np.int32) for array in expected]
    equal(run(build, {"x": x}, "iOS16"), expected)


def test_topk_since_ios_17():
    """Indices in uint16, or none; and more elements asked for than an axis of a size known at run time has."""
    x = np.random.default_rng(3).integers(-3, 3, (3, 40)).astype(np.float32)

    def build(x):
        values, indices = mb.topk(x=x, k=2, output_indices_dtype="uint16")
        values, indices = mb.identity(x=values), mb.cast(x=indices, dtype="int32")
        return values, indices, mb.topk(x=x, k=3, sort=False, return_indices=False)

    order = np.argsort(-x, axis=1, kind="stable")
    taken = np.take_along_axis(x, order, 1)
    equal(run(build, {"x": x}, "iOS17"), [taken[:, :2], order[:, :2].astype(np.int32), taken[:, :3]])
    with pytest.raises(PackageError, match="the first 3 of 2 elements"):
        run(build, {"x": x[:, :2].copy()}, "iOS17", shapes={"x": (3, get_new_symbol())})


BOXES = np.float32([[10, 10, 10, 10], [11, 10, 10, 10], [30, 30, 4, 8], [30, 31, 4, 8], [50, 50, 0, 5], [12, 10, 10, 10]])
SCORES = np.float32([[0.9, 0.1], [0.2, 0.8], [0.3, 0.5], [0.6, 0.1], [0.1, 0.05], [0.7, 0.6]])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of (x, y, width, height)."""
    sides = [min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)]
    shared = max(0.0, sides[0]) * max(0.0, sides[1])
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union else 0.0


def suppressed(threshold: float | None, per_class: bool) -> list[int]:
    chosen: list[int] = []
    for i in np.argsort(-SCORES.max(axis=1), kind="stable"):
        if threshold is not None and SCORES[i].max() < threshold:
            continue
        rivals = [j for j in chosen if not per_class or SCORES[i].argmax() == SCORES[j].argmax()]
        if all(overlap(BOXES[i], BOXES[j]) <= 0.5 for j in rivals):
            chosen.append(int(i))
    return chosen


@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
@pytest.mark.parametrize("per_class", [False, True])
def test_suppression_of_boxes(opset, per_class):
    count, new = 5, opset == "iOS17"
    boxes, scores = np.stack([BOXES, BOXES[::-1]]), np.stack([SCORES, SCORES[::-1]])
    if new:
        boxes, scores = boxes.transpose(0, 2, 1).copy(), scores.transpose(0, 2, 1).copy()
    extra = {} if new else {"score_threshold": 0.3}

    def build(boxes, scores):
        options = {"iou_threshold": 0.5, "max_boxes": count, "per_class_suppression": per_class, **extra}
        return mb.non_maximum_suppression(boxes=boxes, scores=scores, **options)

    results = run(build, {"boxes": boxes, "scores": scores}, opset)
    chosen = suppressed(extra.get("score_threshold"), per_class)[:count]
    kept_boxes, kept_scores = np.zeros((count, 4), np.float32), np.zeros((count, 2), np.float32)
    kept_boxes[: len(chosen)], kept_scores[: len(chosen)] = BOXES[chosen], SCORES[chosen]
    padding = [-1] * (count - len(chosen))
    indices = np.array([chosen + padding, [len(BOXES) - 1 - i for i in chosen] + padding], np.int32)
    pair_boxes, pair_scores = np.stack([kept_boxes] * 2), np.stack([kept_scores] * 2)
    if new:
        equal(results, [pair_boxes.transpose(0, 2, 1), pair_scores.transpose(0, 2, 1), indices])
    else:
        equal(results, [pair_boxes, pair_scores, indices, integers(len(chosen), len(chosen))])


def test_the_best_box_is_left_where_no_score_suffices():
    def build(boxes, scores):
        return mb.non_maximum_suppression(boxes=boxes, scores=scores, iou_threshold=0.5, score_threshold=2.0, max_boxes=2)

    boxes, scores, indices, numbers = run(build, {"boxes": BOXES[None], "scores": SCORES[None]}, "iOS15")
    np.testing.assert_array_equal(indices, [[0, -1]])
    np.testing.assert_array_equal(numbers, [1])
    np.testing.assert_array_equal(boxes[0], [BOXES[0], [0, 0, 0, 0]])
