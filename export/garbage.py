"""Python's cycle collector during long work on graphs of millions of small objects."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

YOUNG, MIDDLE, OLD = 100_000, 50, 1_000  # objects before the youngest are collected, and how seldom older ones join


@contextlib.contextmanager
def rare_collection() -> Iterator[None]:
    """Collect seldom, and never look at what was alive before.

    Tracing and lowering make and keep objects by the million; by default the collector walks through all of them again and
    again, which takes half of the time. Cycles that die meanwhile stay until the end: a few hundred megabytes at released size.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        gc.collect()
