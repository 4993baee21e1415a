"""Resizing and sampling of images, against PyTorch, against the grids of Core ML's documentation, and Core ML's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.errors import PackageError
from tests.runtime_py.mil.making import mb, run

RNG = np.random.default_rng(5)
IMAGE = RNG.standard_normal((2, 3, 5, 7)).astype(np.float32)
RAMP = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)  # 1 + 4 row + column
NEAR = {"rtol": 1e-5, "atol": 1e-5}
MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def grid(size: int, count: int, mode: str) -> np.ndarray:
    """Points as the documentation of resize_bilinear has them."""
    i = np.arange(count)
    if mode.endswith("ALIGN_CORNERS") and mode != "UNALIGN_CORNERS":
        found = i * ((size - 1) / (count - 1)) if count > 1 else np.array([(size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0])
    elif mode == "DEFAULT":
        found = i * ((size - size / count) / (count - 1)) if count > 1 else np.zeros(1)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / count
        found = 0.5 * delta + i * delta
    else:
        found = (i + 0.5) * size / count - 0.5
    return np.clip(found, 0, size - 1)


def interpolated(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """x at every crossing of rows and columns, one axis after the other."""

    def along(x: np.ndarray, places: np.ndarray) -> np.ndarray:
        return np.apply_along_axis(lambda line: np.interp(places, np.arange(len(line)), line), -1, x)

    return np.swapaxes(along(np.swapaxes(along(x, columns), -1, -2), rows), -1, -2)


@pytest.mark.parametrize(("height", "width"), [(8, 7), (2, 15), (1, 3)])
def test_bilinear(height, width):
    def build(x):
        found = [mb.resize_bilinear(x=x, target_size_height=height, target_size_width=width, sampling_mode=mode) for mode in MODES]
        found += [mb.resize(x=x, shape=[0, height, width], resized_dims=np.uint32(2), sampling_mode=mode) for mode in MODES]
        return tuple(found)

    expected = [interpolated(IMAGE, grid(5, height, mode), grid(7, width, mode)) for mode in MODES]
    for result, array in zip(run(build, {"x": IMAGE}, "iOS17"), expected * 2, strict=True):
        np.testing.assert_allclose(result, array, **NEAR)


@pytest.mark.parametrize("scales", [(3, 2), (2.5, 0.7), (0.4, 1.0)])
def test_upsampling(scales):
    options = {"scale_factor_height": scales[0], "scale_factor_width": scales[1]}

    def build(x):
        return (
            mb.upsample_nearest_neighbor(x=x, **options),
            mb.upsample_bilinear(x=x, **options),
            mb.upsample_bilinear(x=x, **options, align_corners=False),
            mb.upsample_bilinear(x=x, **options, align_corners=False, half_pixel_centers=False),
        )

    x, size = torch.tensor(IMAGE), [int(np.float32(scale) * np.float32(old)) for scale, old in zip(scales, (5, 7))]
    expected = [
        F.interpolate(x, size=size, mode="nearest").numpy(),
        F.interpolate(x, size=size, mode="bilinear", align_corners=True).numpy(),
        F.interpolate(x, size=size, mode="bilinear", align_corners=False).numpy(),
        interpolated(IMAGE, grid(5, size[0], "DEFAULT"), grid(7, size[1], "DEFAULT")),
    ]
    for result, array in zip(run(build, {"x": IMAGE}, "iOS16"), expected, strict=True):
        np.testing.assert_allclose(result, array, **NEAR)


def test_nearest_to_a_size():
    """As TensorFlow's with half-pixel centers, PyTorch's `nearest-exact`; `resize` also to a shape known at run time, 0 keeps a size."""

    def build(x, shape):
        return (
            mb.resize_nearest_neighbor(x=x, target_size_height=8, target_size_width=4),
            mb.resize(x=x, shape=shape, resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
            mb.resize(x=mb.cast(x=x, dtype="int32"), shape=[5, 3], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
        )

    x = torch.tensor(IMAGE)
    results = run(build, {"x": IMAGE, "shape": np.array([9, 8, 0], np.int32)}, "iOS17")
    np.testing.assert_array_equal(results[0], F.interpolate(x, size=(8, 4), mode="nearest-exact").numpy())
    np.testing.assert_array_equal(results[1], F.interpolate(x, size=(8, 7), mode="nearest-exact").numpy())
    np.testing.assert_array_equal(results[2], F.interpolate(x.trunc(), size=(5, 3), mode="nearest-exact").int().numpy())


def test_a_size_that_no_machine_holds_is_refused():
    def build(x, shape):
        return mb.resize(x=x, shape=shape, resized_dims=np.uint32(2))

    with pytest.raises(PackageError, match="more than 2147483648 elements"):
        run(build, {"x": IMAGE, "shape": np.array([1 << 20, 1 << 20], np.int32)}, "iOS17")


def test_crop():
    def build(x):
        return mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 3])

    np.testing.assert_array_equal(run(build, {"x": IMAGE})[0], IMAGE[:, :, 1:3, :4])


COORDINATES = RNG.uniform(-2.3, 2.3, (2, 6, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("align", [True, False])
def test_resample(sampling, align):
    """In three scales of coordinates, against PyTorch, whose reflection depends on `align_corners` as Core ML's two modes do."""
    modes = {"constant": "zeros", "border": "border", "reflection" if align else "symmetric": "reflection"}
    ends = np.float32([6, 4]) if align else np.float32([7, 5])
    unit = (COORDINATES + 1) / 2
    pixels = unit * ends - (0 if align else 0.5)

    def build(x, coordinates, unit, pixels):
        options = {"sampling_mode": sampling, "align_corners": align, "padding_value": 0.0}
        found = []
        for mode in modes:
            for points, scale in ((coordinates, "normalized_minus_one_to_one"), (unit, "normalized_zero_to_one"), (pixels, "unnormalized")):
                found.append(mb.resample(x=x, coordinates=points, padding_mode=mode, coordinates_mode=scale, **options))
        return tuple(found)

    results = run(build, {"x": IMAGE, "coordinates": COORDINATES, "unit": unit, "pixels": pixels.astype(np.float32)})
    for index, padding in enumerate(modes.values()):
        grids = torch.tensor(COORDINATES)
        expected = F.grid_sample(torch.tensor(IMAGE), grids, mode=sampling, padding_mode=padding, align_corners=align).numpy()
        for result in results[3 * index : 3 * index + 3]:
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_resample_as_core_ml_does():
    """Numbers from Core ML, in coremltools' tests: reflection without regard to `align_corners`, padding with another value than 0."""
    x = np.float32([11, 22, 33, 44]).reshape(1, 1, 2, 2)
    coordinates = np.float32([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2]).reshape(1, 2, 2, 2)
    cases = [
        ("bilinear", "constant", 6.17, "normalized_minus_one_to_one", True, [8.585, 6.17, 27.5, 6.17]),
        ("nearest", "border", -1.0, "unnormalized", False, [11, 11, 11, 44]),
        ("bilinear", "reflection", -1.0, "normalized_zero_to_one", True, [22, 36.3, 11, 34.1]),
        ("nearest", "symmetric", -1.0, "normalized_zero_to_one", False, [22, 33, 11, 33]),
    ]
    names = ("sampling_mode", "padding_mode", "padding_value", "coordinates_mode", "align_corners")

    def build(x, coordinates):
        return tuple(mb.resample(x=x, coordinates=coordinates, **dict(zip(names, case))) for case in cases)

    for result, case in zip(run(build, {"x": x, "coordinates": coordinates}, "iOS15"), cases, strict=True):
        np.testing.assert_allclose(result.reshape(-1), case[-1], **NEAR)


@pytest.mark.filterwarnings("ignore:Since version 1.3.0")  # one row lies in the middle, as it does for PyTorch since then
@pytest.mark.parametrize("count", [1, 2])
def test_affine(count):
    matrices = RNG.uniform(-1.2, 1.2, (count, 6)).astype(np.float32)
    options = {"sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": 0.0, "align_corners": True}

    def build(x, matrices):
        return tuple(
            mb.affine(
                x=x,
                transform_matrix=matrices,
                output_height=height,
                output_width=width,
                coordinates_mode="normalized_minus_one_to_one",
                **options,
            )
            for height, width in ((4, 6), (1, 3))
        )

    theta = torch.tensor(matrices).reshape(count, 2, 3).expand(2, 2, 3)
    for result, size in zip(run(build, {"x": IMAGE, "matrices": matrices}), ((4, 6), (1, 3)), strict=True):
        points = F.affine_grid(theta, [2, 3, *size], align_corners=True)
        expected = F.grid_sample(torch.tensor(IMAGE), points, padding_mode="zeros", align_corners=True).numpy()
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def corners(box: np.ndarray, mode: str) -> np.ndarray:
    """(top, left, bottom, right) written in another convention."""
    top, left, bottom, right = box.T
    found = [top, left, bottom, right]
    if mode.startswith("CENTER"):
        found = [(top + bottom) / 2, (left + right) / 2, bottom - top, right - left]
    if mode.endswith("WIDTH_FIRST"):
        found = [found[1], found[0], found[3], found[2]]
    return np.stack(found, axis=1).astype(np.float32)


BOXES = np.float32([[0.5, 1, 3, 5.25], [1, 2, 4, 2.5], [0, 0, 4, 6]])  # top, left, bottom, right


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("box_mode", ["CORNERS_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"])
def test_crop_resize(mode, box_mode):
    """Every sampling mode on a line from a box's start to its end, before and since iOS 17."""
    height, width, images = 3, 4, [1, 0, 1]
    boxes = corners(BOXES / np.float32([4, 6, 4, 6]), box_mode)
    options = {"target_height": height, "target_width": width, "sampling_mode": mode, "box_coordinate_mode": box_mode}

    def old(x, boxes):
        roi = mb.reshape(x=boxes, shape=[3, 1, 4, 1, 1])
        return mb.crop_resize(x=x, roi=roi, normalized_coordinates=True, **options)

    def new(x, boxes):
        double = mb.mul(x=boxes, y=np.float32([12, 8, 12, 8] if "WIDTH" in box_mode else [8, 12, 8, 12]))
        return mb.crop_resize(x=x, boxes=double, box_indices=np.int32(images), spatial_scale=0.5, **options)

    every = np.empty((3, 2, 3, height, width), np.float32)
    for i, (top, left, bottom, right) in enumerate(BOXES.tolist()):
        rows, columns = top + grid(bottom - top + 1, height, mode), left + grid(right - left + 1, width, mode)
        every[i] = interpolated(IMAGE, rows, columns)
    (result,) = run(old, {"x": IMAGE, "boxes": boxes}, "iOS16")
    np.testing.assert_allclose(result, every, rtol=1e-4, atol=1e-4)
    (result,) = run(new, {"x": IMAGE, "boxes": boxes}, "iOS17")
    np.testing.assert_allclose(result, every[np.arange(3), images], rtol=1e-4, atol=1e-4)


def test_crop_resize_beyond_the_image():
    """Numbers from Core ML, in coremltools' tests; the image's index is in the box. A box may run backwards where corners are aligned.

    With UNALIGN_CORNERS and normalized coordinates such a box stands for the whole image.
    """
    roi = np.float32([[0, 0.1, 0.3, 1.3, 1], [0, 0.5, 1.8, 1.0, 0.3], [0, 0.0, 0.4, 0.6, 0.7]]).reshape(3, 1, 5, 1, 1)
    back = np.float32([2, 2, 1, 1]).reshape(1, 1, 4, 1, 1)

    def build(x):
        options = {"target_height": 2, "target_width": 2, "sampling_mode": "ALIGN_CORNERS"}
        return (
            mb.crop_resize(x=x, roi=roi, normalized_coordinates=True, pad_value=10.0, **options),
            mb.crop_resize(x=x, roi=back, **options),
            mb.crop_resize(x=x, roi=back, normalized_coordinates=True, **{**options, "sampling_mode": "UNALIGN_CORNERS"}),
        )

    beyond, backwards, whole = run(build, {"x": RAMP}, "iOS16")
    np.testing.assert_allclose(beyond.reshape(-1), [3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9, 2.2, 3.1, 9.4, 10.3], **NEAR)
    np.testing.assert_allclose(backwards.reshape(-1), [11, 10, 7, 6], **NEAR)
    np.testing.assert_allclose(whole.reshape(-1), [3.5, 5.5, 11.5, 13.5], **NEAR)
    for mode in ("DEFAULT", "UNALIGN_CORNERS"):
        with pytest.raises(PackageError, match=f"a box that ends before it begins, with the sampling mode {mode}"):
            run(lambda x, mode=mode: mb.crop_resize(x=x, roi=back, sampling_mode=mode), {"x": RAMP}, "iOS16")
