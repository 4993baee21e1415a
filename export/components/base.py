"""What a component is: one graph of the bundle, declared once.

A component's file holds its exportable twin (a module with the eager part's signature and result, written so that it lowers
well) and its `Component`: name, inputs, outputs, dynamic axes, and how the twin is made from the eager model. Tracing,
manifest, runtimes and tests all read that declaration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from export.config import ModelConfig
from export.manifest import DynamicAxis, TensorSpec
from export.model.mobile_videogpt import MobileVideoGPT

DTYPES = {"float32": torch.float32, "int64": torch.int64, "int32": torch.int32}


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one graph at the sizes of one checkpoint. A str in a shape is a dynamic axis's name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic_axes: tuple[DynamicAxis, ...] = ()

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs to trace with: zeros; a dynamic axis takes a length that is not a special case (3)."""
        return tuple(torch.zeros([3 if isinstance(d, str) else d for d in spec.shape], dtype=DTYPES[spec.dtype]) for spec in self.inputs)

    def dynamic_shapes(self) -> tuple[dict[int, object] | None, ...] | None:
        """The same axes as `torch.export` wants them, one entry per input; None where all are fixed."""
        if not self.dynamic_axes:
            return None
        dims = {axis.name: torch.export.Dim(axis.name, min=axis.minimum, max=axis.maximum) for axis in self.dynamic_axes}
        return tuple({i: dims[d] for i, d in enumerate(spec.shape) if isinstance(d, str)} or None for spec in self.inputs)


@dataclasses.dataclass(frozen=True)
class Form:
    """How a target wants its graphs made.

    `scan`: the selective scan as a loop in stock operators ("looped"), without control flow ("unrolled"), or as this project's
    own operator ("fused"); `attention`: of the decoder, "stock" operators or this project's ("fused"), which may keep its cache in
    float16 (`half_cache`). `decoder`: how a host drives it, as in the manifest. `half`: the graphs may be computed in float16, so
    no intermediate value may leave its range. `index_dtype`: of token ids and positions.
    """

    max_context: int  # tokens that the decoder's cache holds
    scan: str = "looped"
    attention: str = "stock"
    half_cache: bool = False
    decoder: str = "internal"
    half: bool = False
    index_dtype: str = "int64"
    least_tokens: int = 1  # that a graph with a dynamic axis takes
    most_tokens: int = 512  # that the decoder takes at once: what it computes with between two layers stays in the processor's cache
    chunks: tuple[int, ...] = ()  # tokens of the functions of a decoder with fixed sizes


@dataclasses.dataclass(frozen=True)
class Component:
    """One graph. `parts` are the eager submodules whose weights it needs.

    `twin` consumes the model that it is given: it may take over the model's own layers and tensors instead of copying them, and
    lowering then rounds them in place. Give each twin a model of its own, or a deep copy, and do not run that model afterwards.
    """

    name: str
    parts: tuple[str, ...]
    signature: Callable[[ModelConfig, Form], Signature]
    twin: Callable[[MobileVideoGPT, Form], nn.Module]
