"""What a package's description says about inputs, beyond the types of its program: admissible sizes, and values to leave out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from export.errors import PackageError

DEFAULTS = ("intDefaultValue", "floatDefaultValue", "doubleDefaultValue")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One input. `shapes`: the only ones admitted, if any. `ranges`: (smallest, largest or None) for each size, if any; both from the
    last size on, since the description of an image names its height and width alone.
    """

    shape: tuple[int, ...]  # of the default value
    shapes: tuple[tuple[int, ...], ...]
    ranges: tuple[tuple[int, int | None], ...]
    default: int | float | None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises PackageError: the input may not have this shape."""
        admitted = {shape[len(shape) - len(s) :] for s in self.shapes}
        if self.shapes and not admitted & set(self.shapes):
            raise PackageError(f"has the shape {list(shape)}, and may have {' or '.join(str(list(s)) for s in self.shapes)}")
        if len(self.ranges) > len(shape):
            raise PackageError(f"has the shape {list(shape)}, and must have {len(self.ranges)} sizes")
        for size, (smallest, largest) in zip(reversed(shape), reversed(self.ranges)):
            if size < smallest or (largest is not None and size > largest):
                raise PackageError(f"has the shape {list(shape)}, and its sizes may be {', '.join(_text(r) for r in self.ranges)}")

    def fill(self) -> np.ndarray:
        """The value of an input that is left out."""
        assert self.default is not None
        return np.broadcast_to(np.asarray(self.default), self.shape)


def features(model: Any, function: str) -> dict[str, Feature]:
    """The inputs that the description of a `Model` message names for a function."""
    functions = [f for f in model.description.functions if f.name == function]
    inputs = functions[0].input if functions else model.description.input
    return {feature.name: _feature(feature.type) for feature in inputs}


def _feature(proto: Any) -> Feature:
    if proto.WhichOneof("Type") == "imageType":
        image = proto.imageType
        sizes = tuple((int(s.height), int(s.width)) for s in image.enumeratedSizes.sizes)
        bounds = (image.imageSizeRange.heightRange, image.imageSizeRange.widthRange) if image.HasField("imageSizeRange") else ()
        return Feature((), sizes, tuple(_range(bound) for bound in bounds), None)
    array = proto.multiArrayType
    default = array.WhichOneof("defaultOptionalValue") if proto.isOptional else None
    return Feature(
        shape=tuple(array.shape),
        shapes=tuple(tuple(s.shape) for s in array.enumeratedShapes.shapes),
        ranges=tuple(_range(bound) for bound in array.shapeRange.sizeRanges),
        default=getattr(array, default) if default in DEFAULTS else None,
    )


def _range(proto: Any) -> tuple[int, int | None]:
    return int(proto.lowerBound), None if proto.upperBound < 0 else int(proto.upperBound)


def _text(bounds: tuple[int, int | None]) -> str:
    smallest, largest = bounds
    return str(smallest) if smallest == largest else f"{smallest} or more" if largest is None else f"{smallest} to {largest}"
