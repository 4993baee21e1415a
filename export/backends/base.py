"""What a target must be able to do: check a request in seconds, lower one component to a file, read its weights back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from export.components import Form, Signature
from export.quant.apply import Assignment
from export.quant.coverage import StoredWeight
from export.quant.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Artifact:
    """What an artifact holds, read back from the written file."""

    stored: tuple[StoredWeight, ...]
    delegate: str
    delegated: float  # share of compute operators that the delegate runs, 0 to 1
    operators: tuple[str, ...]  # operators outside the delegate, which a host must have
    arena_bytes: int  # activations and caches that the runtime allocates for the graph
    packed_bytes: int  # weights that the delegate copies into a layout of its own when it loads them


class Backend(Protocol):
    """One target of `export.build`."""

    name: str
    suffix: str  # of a graph's file
    decoder_interface: str
    kernels: str  # "stock", or "fused": graphs with operators of this project

    def form(self, max_context: int, recipe: Recipe | None = None) -> Form:
        """How this target wants its graphs made; with a recipe, where that decides."""

    def check(self, recipe: Recipe, verify: bool) -> None:
        """Refuse, with a line that says what the target can do, what it cannot honour.

        Raises:
            RecipeError: a recipe.
            BackendError: this machine lacks what building takes or, with `verify`, what running the result takes.
        """

    def activations(self, assignments: Sequence[Assignment]) -> str:
        """How this target computes with a graph's weights, for the manifest."""

    def lower(self, twin: nn.Module, signature: Signature, assignments: list[Assignment], out: Path) -> None:
        """Quantize `twin` as assigned, lower it, and write it to `out`."""

    def round_weights(self, module: nn.Module, assignments: list[Assignment]) -> None:
        """Replace the assigned weights in `module`, in place, by the float values of what `lower` would store."""

    def describe(self, path: Path, signature: Signature, about: Mapping[str, str]) -> None:
        """Put descriptions of inputs and outputs, and facts `about` the model, into a written artifact that has a place for them."""

    def read(self, path: Path) -> Artifact:
        """Read a written artifact back."""

    def check_weights(self, path: Path, twin: Callable[[], nn.Module], assignments: list[Assignment]) -> None:
        """Hold every weight that the artifact stores against the one that it was made from: `twin` makes the module once more.

        Raises:
            RecipeError: names a weight that is further off than its scheme allows.
        """

    def decoder_details(self, form: Form) -> dict:
        """What `DecoderInterface.details` says to a host."""

    def versions(self) -> dict[str, str]:
        """Versions of the packages that made the artifact."""
