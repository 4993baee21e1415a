"""Rows of a tensor at a position that is known at run time: how a static graph reads its tables and writes its cache.

PyTorch spells these with integers taken out of tensors, and what a converter makes of that is its own business: coremltools drops
the write of `cache[:, :, position] = k` without a word. An operator each leaves it no choice.
"""

from __future__ import annotations

from torch import Tensor

from export.ops.library import define


def _read(table: Tensor, position: Tensor, count: int) -> Tensor:
    start = int(position)
    return table[start : start + count].clone()


def _write(cache: Tensor, rows: Tensor, position: Tensor) -> Tensor:
    start = int(position)
    written = cache.clone()
    written[:, :, start : start + rows.shape[2]] = rows
    return written


read_rows = define(
    "read_rows",
    "Tensor table, Tensor position, int count",
    eager=_read,
    shape=lambda table, position, count: table.new_empty(count, *table.shape[1:]),
)
"""table [R, ..] -> [count, ..], from row `position` (int32 [1]) on."""

write_rows = define(
    "write_rows",
    "Tensor cache, Tensor rows, Tensor position",
    eager=_write,
    shape=lambda cache, rows, position: cache.new_empty(cache.shape),
)
"""cache [1, K, S, E] with rows [1, K, N, E] in place of those from `position` (int32 [1]) on -> [1, K, S, E]."""
