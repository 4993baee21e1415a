"""What runs the graphs: the session, parity and bench know these interfaces and no backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor

from export.bundle import Bundle
from export.config import ModelConfig
from export.errors import BackendError
from export.manifest import DIGEST


class Graphs(Protocol):
    """The seven graphs of one checkpoint or bundle: what the stages need to run.

    The decoder's cache is kept inside. Tokens beyond the position of a call are never attended to, so starting again at an
    earlier position needs no reset.
    """

    config: ModelConfig
    max_context: int  # tokens that the cache holds

    def run(self, graph: str, *inputs: Tensor) -> Tensor:
        """Run one graph but the decoder; shapes and dtypes as the graph's signature has them."""

    def decode(self, embeds: Tensor, position: int) -> Tensor:
        """Append embeddings [T, D] to the cache at `position`; the logits [V] of the last one."""

    def load(self, graphs: Iterable[str]) -> None:
        """Load those that are not loaded yet; without it each is loaded at its first use."""

    def release(self, graphs: Iterable[str]) -> None:
        """Free their memory; each is loaded again at its next use."""


class GraphBackend(Graphs, Protocol):
    """The graphs on one device, as a command opens them. Tensors may live on that device between graphs."""

    name: str  # as `bench` reports it
    device: str
    identity: str  # what computes the same from the same cache

    def read_cache(self, tokens: int) -> dict[str, Tensor]:
        """A copy of the decoder's cache, by name, as far as the first `tokens` positions reach.

        Raises:
            BackendError: it cannot be had.
        """

    def write_cache(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `read_cache` gave. Raises BackendError where it is of another decoder."""

    def synchronize(self) -> None:
        """Wait until everything asked for is computed (a GPU runs behind)."""

    def bundle_bytes(self) -> int:
        """Bytes on disk of what was loaded."""

    def versions(self) -> dict[str, str]:
        """Versions of the packages that run the graphs."""


def copy_into(cache: Tensor, kept: Tensor | None) -> None:
    """Put the beginning of a cache back, along every axis from 0.

    Raises:
        BackendError: it is none of this cache.
    """
    fits = (
        kept is not None and kept.dtype == cache.dtype and kept.ndim == cache.ndim and all(a <= b for a, b in zip(kept.shape, cache.shape))
    )
    if not fits:
        raise BackendError("the kept cache is of another decoder: watch the video again")
    cache[tuple(slice(size) for size in kept.shape)].copy_(kept)


def bundle_identity(bundle: Bundle, name: str) -> str:
    """What tells a bundle and how it is run from others."""
    return f"{bundle.manifest.to_json()[DIGEST]} {name}"
