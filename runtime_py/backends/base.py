"""What runs the graphs: the session, parity and bench know these interfaces and no backend."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from export.config import ModelConfig


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


class GraphBackend(Graphs, Protocol):
    """The graphs on one device, as a command opens them. Tensors may live on that device between graphs."""

    name: str  # as `bench` reports it
    device: str

    def load(self) -> None:
        """Load every graph that is not loaded yet; without it each is loaded at its first use."""

    def synchronize(self) -> None:
        """Wait until everything asked for is computed (a GPU runs behind)."""

    def bundle_bytes(self) -> int:
        """Bytes on disk of what was loaded."""

    def versions(self) -> dict[str, str]:
        """Versions of the packages that run the graphs."""
