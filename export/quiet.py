"""Silence for libraries that talk to themselves while they load; errors come through all the same."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings, log records below ERROR, and what native code prints to stderr (processor probing, absent CUDA kernels)."""
    sys.stderr.flush()
    kept = os.dup(2)
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 2)
            with contextlib.redirect_stderr(nowhere):  # some bindings write to Python's stderr, wherever that leads
                yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        logging.disable(previous)
