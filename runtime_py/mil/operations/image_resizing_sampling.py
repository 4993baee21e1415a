"""Images at computed points: boxes cut out and resized, affine maps, points given one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from export.errors import PackageError
from runtime_py.mil.evaluate import Call
from runtime_py.mil.operations.image_resizing import ALIGN, DEFAULT, STRICT, UNALIGN, points
from runtime_py.mil.registry import operation
from runtime_py.mil.sizes import checked

ROUNDING = 1e-5  # pixels: a box that ends on the last one, but for its float32 numbers, does not end beyond it
BOXES = {  # the order of a box's numbers: start or center and end or size, of height and width
    "CORNERS_HEIGHT_FIRST": (0, 1, 2, 3),
    "CORNERS_WIDTH_FIRST": (1, 0, 3, 2),
    "CENTER_SIZE_HEIGHT_FIRST": (0, 1, 2, 3),
    "CENTER_SIZE_WIDTH_FIRST": (1, 0, 3, 2),
}


def _taken(x: Tensor, rows: Tensor, columns: Tensor, outside: float | None) -> Tensor:
    """x [n, c, h, w] at whole rows and columns [n, *p], [n, c, *p]. Beyond the image: `outside`, or the nearest pixel."""
    (n, c, h, w), places = x.shape, rows.shape[1:]
    inner = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    flat = rows.clamp(0, h - 1).long() * w + columns.clamp(0, w - 1).long()
    found = x.reshape(n, c, h * w).gather(2, flat.reshape(n, 1, -1).expand(n, c, -1)).reshape(n, c, *places)
    return found if outside is None else torch.where(inner.unsqueeze(1), found, torch.tensor(outside, dtype=x.dtype))


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor, outside: float | None) -> Tensor:
    """The same at any rows and columns, in float64: interpolated between the four pixels around."""
    result: Tensor | float = 0.0
    for row, down in ((rows.floor(), rows - rows.floor()), (rows.floor() + 1, 1 - rows + rows.floor())):
        for column, right in ((columns.floor(), columns - columns.floor()), (columns.floor() + 1, 1 - columns + columns.floor())):
            weight = ((1 - down) * (1 - right)).to(x.dtype).unsqueeze(1)
            result = result + weight * _taken(x, row, column, outside)
    assert isinstance(result, Tensor)
    return result


def _in_pixels(coordinates: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates in units of pixels. With `align_corners` the range ends in the middle of the outer pixels, else at their edges."""
    if mode == "unnormalized":
        return coordinates
    if mode == "normalized_minus_one_to_one":
        coordinates = (coordinates + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise PackageError(f"coordinates mode {mode!r}")
    return coordinates * (size - 1) if align_corners else coordinates * size - 0.5


def _inside(coordinates: Tensor, size: int, mode: str) -> Tensor:
    """Coordinates brought into the image: clamped, or reflected at the middle (reflection) or the edge (symmetric) of the last pixel."""
    if mode in ("reflection", "symmetric"):
        low, span = (0.0, size - 1.0) if mode == "reflection" else (-0.5, float(size))
        if span == 0:
            return torch.zeros_like(coordinates)
        distance = (coordinates - low).abs()
        turns, rest = (distance / span).floor(), distance % span
        coordinates = torch.where(turns % 2 == 0, rest, span - rest) + low
    elif mode != "border":
        raise PackageError(f"padding mode {mode!r}")
    return coordinates.clamp(0, size - 1)


@operation("resample", returns="x")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """x [b, c, h, w] at the points (x, y) of `coordinates` [b, h', w', 2]. A point halfway between two pixels is nearest to the even."""
    if x.ndim != 4 or coordinates.ndim != 4 or coordinates.shape[-1] != 2 or coordinates.shape[0] != x.shape[0]:
        raise PackageError(f"coordinates of the shape {list(coordinates.shape)} for images of the shape {list(x.shape)}")
    checked([*x.shape[:2], *coordinates.shape[1:3]])
    columns = _in_pixels(coordinates[..., 0].double(), x.shape[3], coordinates_mode, align_corners)
    rows = _in_pixels(coordinates[..., 1].double(), x.shape[2], coordinates_mode, align_corners)
    outside = padding_value if padding_mode == "constant" else None
    if outside is None:
        rows, columns = _inside(rows, x.shape[2], padding_mode), _inside(columns, x.shape[3], padding_mode)
    if sampling_mode == "nearest":
        return _taken(x, rows.round(), columns.round(), outside)
    if sampling_mode == "bilinear":
        return _bilinear(x, rows, columns, outside)
    raise PackageError(f"sampling mode {sampling_mode!r}")


@operation("affine", returns="x")
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """The result at (x, y), each from -1 to 1, is the image at (a0 x + a1 y + a2, b0 x + b1 y + b2), and 0 beyond it.

    `transform_matrix` is [b or 1, 6]. The modes are the only ones that Core ML has.
    """
    modes = (sampling_mode.lower(), padding_mode.lower(), coordinates_mode.lower())
    if modes != ("bilinear", "constant", "normalized_minus_one_to_one") or padding_value != 0 or not align_corners:
        raise PackageError(f"the modes {', '.join(modes)} with the padding {padding_value} and align_corners {align_corners}")
    if x.ndim != 4 or transform_matrix.ndim != 2 or transform_matrix.shape[1] != 6 or transform_matrix.shape[0] not in (1, x.shape[0]):
        raise PackageError(f"matrices of the shape {list(transform_matrix.shape)} for images of the shape {list(x.shape)}")
    checked([*x.shape[:2], output_height, output_width])
    across, down = _ends(output_width), _ends(output_height).unsqueeze(1)
    a0, a1, a2, b0, b1, b2 = transform_matrix.double().expand(x.shape[0], 6).T.reshape(6, -1, 1, 1)
    columns = _in_pixels(a0 * across + a1 * down + a2, x.shape[3], modes[2], align_corners)
    rows = _in_pixels(b0 * across + b1 * down + b2, x.shape[2], modes[2], align_corners)
    return _bilinear(x, rows, columns, 0.0)


def _ends(count: int) -> Tensor:
    """`count` numbers from -1 to 1; a single one lies in the middle."""
    return points(3, count, ALIGN) - 1


@operation("crop_resize", returns="x")
def crop_resize(
    x: Tensor,
    call: Call,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = DEFAULT,
    pad_value: float = 0.0,
) -> Tensor:
    """Parts of images x [b, c, h, w] in one size.

    Until iOS 16 `roi` is [n, 1, 4, 1, 1] for [n, b, c, height, width], each box from every image, or [n, 1, 5, 1, 1] with the image's
    index first, for [n, 1, c, height, width]. Since iOS 17 `boxes` is [n, 4] and `box_indices` [n], for [n, c, height, width]; box i
    is of image i by default. Points outside of the image have `pad_value`.
    """
    old = call.opset < 17
    if (roi is not None, boxes is not None, old and box_indices is not None) != (old, not old, False):
        raise PackageError(f"crop_resize of iOS {call.opset} takes {'roi' if old else 'boxes'}")
    table = roi if roi is not None else boxes
    assert table is not None
    count, (b, c) = table.shape[0], x.shape[:2]
    table = table.double().reshape(count, -1)
    every = old and table.shape[1] == 4
    if old and table.shape[1] == 5:
        box_indices, table = table[:, 0].long(), table[:, 1:]
    if box_indices is None:
        box_indices = torch.arange(b).repeat(count) if every else torch.arange(count)
    if every:
        table = table.repeat_interleave(b, dim=0)
    if table.shape[1] != 4 or box_indices.shape != table.shape[:1]:
        raise PackageError(f"boxes of {table.shape[1]} numbers with indices of the shape {list(box_indices.shape)}")
    checked([len(table), c, target_height, target_width])
    if len(table) and not 0 <= int(box_indices.min()) <= int(box_indices.max()) < b:
        raise PackageError(f"a box of image {int(box_indices.max())}, where there are {b}")
    targets = (target_height, target_width)
    rows, columns = _box_points(table * spatial_scale, x, targets, normalized_coordinates, box_coordinate_mode, sampling_mode)
    result = _at_crossings(x, box_indices.long(), rows, columns, pad_value)
    return result.reshape(count, -1, *result.shape[1:]) if old else result


def _at_crossings(x: Tensor, images: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    """Image images[i] where the rows [n, height] and columns [n, width] of box i cross. One image at a time: x is not copied."""
    height, width = x.shape[2:]
    result = torch.empty(len(images), x.shape[1], rows.shape[1], columns.shape[1], dtype=x.dtype)
    out_rows = ((rows < -ROUNDING) | (rows > height - 1 + ROUNDING)).unsqueeze(2)
    out_columns = ((columns < -ROUNDING) | (columns > width - 1 + ROUNDING)).unsqueeze(1)
    rows, columns = torch.broadcast_tensors(rows.clamp(0, height - 1).unsqueeze(2), columns.clamp(0, width - 1).unsqueeze(1))
    for i, image in enumerate(images.tolist()):
        result[i] = _bilinear(x[image : image + 1], rows[i : i + 1], columns[i : i + 1], None)[0]
    return torch.where((out_rows | out_columns).unsqueeze(1), torch.tensor(outside, dtype=x.dtype), result)


def _box_points(
    table: Tensor, x: Tensor, targets: tuple[int, int], normalized: bool, box_mode: str, sampling_mode: str
) -> tuple[Tensor, Tensor]:
    """The rows [n, height] and columns [n, width] of n boxes."""
    if box_mode not in BOXES:
        raise PackageError(f"box coordinate mode {box_mode!r}")
    numbers = [table[:, i : i + 1] for i in BOXES[box_mode]]
    found = []
    for start, end, size, target in zip(numbers[:2], numbers[2:], x.shape[2:], targets):
        if box_mode.startswith("CENTER"):
            start, end = start - end / 2, start + end / 2
        if normalized:
            start, end = start * (size - 1), end * (size - 1)
        if sampling_mode not in (STRICT, ALIGN) and bool((end < start).any()):
            if not normalized or sampling_mode != UNALIGN:
                raise PackageError(f"a box that ends before it begins, with the sampling mode {sampling_mode}")
            # The numbers that Core ML gives in coremltools' test are those of the whole image. No text says so.
            start, end = torch.where(end < start, 0, start), torch.where(end < start, size - 1, end)
        found.append(start + points(end - start + 1, target, sampling_mode))
    return found[0], found[1]
