"""What convolutions and pools share: where their windows lie. No operation is defined here."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from export.errors import PackageError

PAD_TYPES = ("valid", "same", "same_lower", "custom")
Pads = list[tuple[int, int]]  # elements before and after, one pair for each spatial dimension


def spatial(values: list[int] | None, rank: int, name: str) -> list[int]:
    """An option with one value for each spatial dimension; 1 by default."""
    if values is None:
        return [1] * rank
    if len(values) != rank or any(value < 1 for value in values):
        raise PackageError(f"its {name} are {values}, and it has {rank} spatial dimensions")
    return values


def pads(pad_type: str, pad: list[int] | None, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> Pads:
    """The padding of each spatial dimension. `kernel` counts the gaps of a dilated one.

    same: as much as gives ceil(size / stride) windows, an odd element after (same_lower: before) the input.
    """
    kind = pad_type.lower()
    if kind not in PAD_TYPES:
        raise PackageError(f"its pad_type is {pad_type!r}: MIL has {', '.join(PAD_TYPES)}")
    if kind == "custom":
        return pairs(pad, len(size))
    if pad is not None and any(pad):
        raise PackageError(f"it has the pad {pad} beside the pad_type {pad_type}, which leaves no choice")
    if kind == "valid":
        return [(0, 0)] * len(size)
    totals = [max(0, (-(-s // stride) - 1) * stride + k - s) for s, k, stride in zip(size, kernel, strides)]
    halves = [(total // 2, total - total // 2) for total in totals]
    return halves if kind == "same" else [(after, before) for before, after in halves]


def pairs(pad: list[int] | None, rank: int) -> Pads:
    """MIL's flat list of paddings; 0 by default."""
    pad = [0] * 2 * rank if pad is None else pad
    if len(pad) != 2 * rank:
        raise PackageError(f"its pad is {pad}, and it has {rank} spatial dimensions")
    return list(zip(pad[0::2], pad[1::2]))


def padded(x: Tensor, amounts: Pads, value: float = 0.0) -> Tensor:
    """x [n, c, *d] with its spatial dimensions extended, or cropped where an amount is negative."""
    if not any(before or after for before, after in amounts):
        return x
    return functional.pad(x, [amount for pair in reversed(amounts) for amount in pair], value=value)
