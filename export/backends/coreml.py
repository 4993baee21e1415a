"""Core ML: `.mlpackage` folders, ML programs of iOS 18 or later.

A twin is made float16 (or stays float32, where the recipe says so), its linears' weights are replaced by integers and scales, and it
is converted as it stands: what coremltools gets is what the package holds. The decoder's functions are converted one by one and
merged into one package, which stores the weights that they share once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.backends.base import Artifact
from export.backends.coreml_frontend import blockwise_dequantize, install
from export.backends.mlpackage import check_weights, describe_package, read_package
from export.components import Form, Signature
from export.components.stateful_decoder import CHUNKS, StatefulDecoder, function_name, slots
from export.errors import BackendError
from export.graph_passes import cheap_graph_passes
from export.manifest import TensorSpec
from export.model.preprocess import Normalize
from export.quant.apply import Assignment, computes_half
from export.quant.recipe import LINEAR, Recipe
from export.quant.rounding import dequantize
from export.quiet import quiet

DTYPES = {"float32": np.float32, "int32": np.int32}


class CoremlBackend:
    """Target `coreml`."""

    name = "coreml"
    suffix = ".mlpackage"
    decoder_interface = "coreml_state"
    kernels = "stock"
    packages = ("coremltools", "torch")
    extra = "coreml"  # of pyproject.toml, which has the packages
    functions = {function_name(tokens): tokens for tokens in CHUNKS}

    def __init__(self, deployment: str = "iOS18"):
        self.deployment = deployment

    def form(self, max_context: int, recipe: Recipe | None = None) -> Form:
        chunks = tuple(self.functions.values())
        return Form(max_context, scan="unrolled", decoder=self.decoder_interface, half=True, index_dtype="int32", chunks=chunks)

    def check(self, recipe: Recipe, verify: bool) -> None:
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise BackendError(f"Core ML packages need the package {package}: pip install -e '.[{self.extra}]'")

    def activations(self, assignments: Sequence[Assignment]) -> str:
        return "float16" if computes_half(list(assignments)) else "float32"

    def lower(self, twin: nn.Module, signature: Signature, assignments: list[Assignment], out: Path) -> None:
        with quiet(), cheap_graph_passes(), torch.no_grad():
            half = prepare(twin, assignments)
            if isinstance(twin, StatefulDecoder):
                self._convert_functions(twin, signature, half, out)
            else:
                self._convert(twin, signature, half).save(str(out))

    def round_weights(self, module: nn.Module, assignments: list[Assignment]) -> None:
        dtype = torch.float16 if computes_half(assignments) else torch.float32
        with torch.no_grad():
            for assignment in assignments:
                if assignment.scheme.quantized:
                    layer = module.get_submodule(assignment.layer)
                    # A parameter of its own: a tied head and table are rounded by different schemes.
                    rounded = dequantize(*assignment.quantize(layer.weight, dtype))
                    layer.weight = nn.Parameter(rounded, requires_grad=False)

    def describe(self, path: Path, signature: Signature, about: Mapping[str, str]) -> None:
        describe_package(path, signature, about)

    def read(self, path: Path) -> Artifact:
        return read_package(path)

    def check_weights(self, path: Path, twin: Callable[[], nn.Module], assignments: list[Assignment]) -> None:
        check_weights(path, twin(), assignments)

    def decoder_details(self, form: Form) -> dict:
        return {
            "functions": [{"name": name, "tokens": tokens} for name, tokens in self.functions.items()],
            "slots": slots(form),
            "next": "the function with the fewest tokens that takes all that are left, or else the one with most; "
            "position + tokens must not pass slots",
            "padding": "rows of zeros behind the tokens; last is the row of the last token",
            "mask": "inside: a token sees the slots up to its own",
            "state": "float16, one for all functions; starting again at an earlier position needs no reset",
        }

    def versions(self) -> dict[str, str]:
        found = {package: importlib.metadata.version(package) for package in self.packages}
        return found | {"minimum deployment": self.deployment}

    def _convert_functions(self, twin: StatefulDecoder, signature: Signature, half: bool, out: Path) -> None:
        """Each function to a package of its own, one after the other for the memory's sake, then all into `out`."""
        import coremltools as ct

        embeds, position, last = signature.inputs
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".functions-") as folder:
            functions = ct.utils.MultiFunctionDescriptor()
            for name, tokens in self.functions.items():
                fixed = TensorSpec(embeds.name, (tokens, embeds.shape[1]), embeds.dtype, embeds.description)
                inputs = (fixed, position) if tokens == 1 else (fixed, position, last)
                part = Path(folder) / f"{name}.mlpackage"
                self._convert(twin, Signature(inputs, signature.outputs), half).save(str(part))
                functions.add_function(str(part), src_function_name="main", target_function_name=name)
            functions.default_function_name = function_name(1)
            ct.utils.save_multifunction(functions, str(out))

    def _convert(self, twin: nn.Module, signature: Signature, half: bool) -> Any:
        """The Core ML model of a twin with the inputs and outputs that `signature` declares."""
        import coremltools as ct

        entry = Entry(twin, signature, half)
        shapes = signature.dynamic_shapes()
        exported = torch.export.export(
            entry, signature.example_inputs(), dynamic_shapes=shapes and (shapes,), strict=False
        ).run_decompositions({})
        axes = {axis.name: axis for axis in signature.dynamic_axes}

        def size(value: int | str) -> Any:
            return value if isinstance(value, int) else ct.RangeDim(axes[value].minimum, axes[value].maximum)

        return ct.convert(
            exported,
            inputs=[ct.TensorType(s.name, shape=[size(d) for d in s.shape], dtype=DTYPES[s.dtype]) for s in signature.inputs],
            outputs=[ct.TensorType(s.name, dtype=DTYPES[s.dtype]) for s in signature.outputs],
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, self.deployment),
            compute_precision=ct.precision.FLOAT32,  # as the graph has it: no pass changes a type
            skip_model_load=True,
        )


class Entry(nn.Module):
    """A twin behind the float32 inputs and outputs that all targets share. Pixels are normalised before a twin rounds them itself."""

    def __init__(self, twin: nn.Module, signature: Signature, half: bool):
        super().__init__()
        self.twin = twin
        self.rounded = [half and spec.dtype == "float32" and spec.name != "pixels" for spec in signature.inputs]

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.twin(*(x.half() if rounded else x for x, rounded in zip(inputs, self.rounded))).float()


class Compressed(nn.Module):
    """A layer whose weight is integers times scales."""

    def __init__(self, layer: nn.Linear | nn.Embedding, assignment: Assignment, dtype: torch.dtype):
        super().__init__()
        integers, scale = assignment.quantize(layer.weight, dtype)
        self.bits = assignment.scheme.bits
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale)

    def weight(self) -> Tensor:
        return blockwise_dequantize(self.integers, self.scale, self.bits)


class CompressedLinear(Compressed):
    def __init__(self, layer: nn.Linear, assignment: Assignment, dtype: torch.dtype):
        super().__init__(layer, assignment, dtype)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias)


class CompressedEmbedding(Compressed):
    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight())


def prepare(twin: nn.Module, assignments: list[Assignment]) -> bool:
    """Round a twin's weights as assigned and put it in its arithmetic, in place; whether that is float16."""
    install()
    half = computes_half(assignments)
    compress(twin, assignments, torch.float16 if half else torch.float32)
    if half:
        kept = [(module, module.mean, module.std) for module in twin.modules() if isinstance(module, Normalize)]
        twin.half()
        for module, mean, std in kept:  # pixels are normalised in float32, by constants that were never anything else
            module.mean, module.std = mean, std
    return half


def compress(twin: nn.Module, assignments: list[Assignment], dtype: torch.dtype) -> None:
    """Replace the assigned layers of `twin` by compressed ones, in place, with scales of `dtype`."""
    for assignment in assignments:
        if assignment.scheme.quantized:
            parent, _, leaf = assignment.layer.rpartition(".")
            layer = twin.get_submodule(assignment.layer)
            compressed = CompressedLinear if assignment.kind == LINEAR else CompressedEmbedding
            setattr(twin.get_submodule(parent), leaf, compressed(layer, assignment, dtype))
