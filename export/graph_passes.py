"""Makes passes over graphs take less time: tracing and lowering are Python, and most of it is bookkeeping."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from torch.fx.traceback import NodeSource

YOUNG, MIDDLE, OLD = 100_000, 50, 1_000  # objects before the youngest are collected, and how seldom older ones join


@contextlib.contextmanager
def cheap_graph_passes() -> Iterator[None]:
    """Within, no time goes into walking and copying what does not change.

    The cycle collector: graphs are made and kept by the million objects, and by default all of them are walked through again
    and again, up to half of the time. Within, it runs seldom and never looks at what was alive before; cycles that die meanwhile
    stay until the end, a few hundred megabytes at released size.

    Provenance: each pass notes for each node where it came from, as a deep copy of the notes of all passes before it. The notes
    are never changed, so within they are shared: a tenth of the time.
    """
    thresholds, copied = gc.get_threshold(), getattr(NodeSource, "__deepcopy__", None)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    NodeSource.__deepcopy__ = lambda source, memo: source
    try:
        yield
    finally:
        if copied is None:
            del NodeSource.__deepcopy__
        else:
            NodeSource.__deepcopy__ = copied
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        gc.collect()
