"""What the artifact's weights really are, held against what the recipe asked for.

Backends read their own files back into `StoredWeight`s; the comparison here knows no backend.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

from export.errors import RecipeError
from export.manifest import SchemeShare
from export.quant.apply import Assignment


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """One constant found in an artifact. `bytes` includes its scales."""

    scheme: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def weights(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


def check(component: str, assignments: Iterable[Assignment], stored: Iterable[StoredWeight]) -> None:
    """Every layer that the recipe quantizes is in the artifact under its scheme, none is left in float.

    Raises:
        RecipeError: names the layers whose weights the artifact does not hold under their scheme.
    """
    found = collections.Counter((weight.scheme, tuple(weight.shape)) for weight in stored)
    missing = []
    for assignment in assignments:
        key = (assignment.scheme.name, assignment.shape)
        if not assignment.scheme.quantized:
            continue
        if found[key] > 0:
            found[key] -= 1
        else:
            missing.append(f"{assignment.layer} ({assignment.scheme.name}, {assignment.shape[0]}x{assignment.shape[1]})")
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise RecipeError(
            f"{component}: the backend left layers unquantized that the recipe names: {', '.join(missing[:3])}{more}; "
            f"exclude them with --quant {component}=fp32 or choose another scheme"
        )


def without_derived(stored: Iterable[StoredWeight], derived: Iterable[tuple[int, ...]]) -> list[StoredWeight]:
    """The constants that are weights of the checkpoint: those of the `derived` shapes (rotary tables, pooling matrices) go.

    A backend may store a matrix transposed or with axes of 1 added, so shapes are compared without order and without ones.
    """
    left = collections.Counter(_signature(shape) for shape in derived)
    weights = []
    for weight in stored:
        key = _signature(weight.shape)
        if weight.scheme in ("fp32", "fp16") and left[key] > 0:
            left[key] -= 1
        else:
            weights.append(weight)
    return weights


def _signature(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(size for size in shape if size != 1))


def shares(stored: Iterable[StoredWeight]) -> tuple[SchemeShare, ...]:
    """Weights and bytes per scheme, the scheme with most weights first."""
    weights: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    for weight in stored:
        weights[weight.scheme] += weight.weights
        sizes[weight.scheme] += weight.bytes
    return tuple(SchemeShare(scheme, count, sizes[scheme]) for scheme, count in weights.most_common())
