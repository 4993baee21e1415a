"""A bound on what one operation may allocate: sizes that a program computes at run time are held against it first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from export.errors import PackageError

MAX_RESULT = 1 << 31  # elements of one result; a size computed from wrong input may ask for any number


def checked(shape: Sequence[int]) -> list[int]:
    """`shape`, if a result of this shape may be allocated.

    Raises:
        PackageError: a size is negative, or there are too many elements.
    """
    sizes = [int(size) for size in shape]
    if any(size < 0 for size in sizes):
        raise PackageError(f"its result would have the shape {sizes}, with a negative size")
    if math.prod(sizes) > MAX_RESULT:
        raise PackageError(f"its result would have the shape {sizes}: more than {MAX_RESULT} elements")
    return sizes


def axis_of(axis: int, rank: int) -> int:
    """`axis`, counted from the front.

    Raises:
        PackageError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise PackageError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank
