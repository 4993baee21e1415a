"""ExecuTorch programs that hand the whole graph to Core ML: `--target executorch --delegate coreml`.

The delegate's blob is a Core ML package, made from the same twins as the packages of the coreml target and checked in the same way.
State belongs to one method of one program, so the decoder is a single function: CHUNK tokens, of which decoding pads all but one.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.backends.base import Artifact
from export.backends.coreml import CoremlBackend, Entry, prepare
from export.backends.mlpackage import check_weights, read_package
from export.backends.pte import coreml_part, unpack_coreml
from export.components import Form, Signature
from export.graph_passes import cheap_graph_passes
from export.quant.apply import Assignment
from export.quant.recipe import Recipe
from export.quiet import quiet

CHUNK = 64  # tokens of the decoder's one function: a question at once, and decoding stays bound by the reading of weights
FUNCTION = "forward"
LEAST_TOKENS = 2  # of a dynamic axis: torch.export takes 1 for a size of its own


class CoremlDelegateBackend(CoremlBackend):
    """Target `executorch` with the delegate `coreml`."""

    name = "executorch"
    suffix = ".pte"
    packages = ("executorch", "coremltools", "torch")
    extra = "executorch,coreml"
    functions = {FUNCTION: CHUNK}

    def form(self, max_context: int, recipe: Recipe | None = None) -> Form:
        return dataclasses.replace(super().form(max_context, recipe), least_tokens=LEAST_TOKENS)

    def check(self, recipe: Recipe, verify: bool) -> None:
        super().check(recipe, verify)
        coreml_part()

    def lower(self, twin: nn.Module, signature: Signature, assignments: list[Assignment], out: Path) -> None:
        with quiet(), cheap_graph_passes(), torch.no_grad():
            half = prepare(twin, assignments)
            shapes = signature.dynamic_shapes()
            entry, inputs = Entry(twin, signature, half), signature.example_inputs()
            program = torch.export.export(entry, inputs, dynamic_shapes=shapes and (shapes,), strict=False)
            with open(out, "wb") as file:
                self._delegate(program).to_executorch().write_to_file(file)

    def _delegate(self, program: torch.export.ExportedProgram) -> Any:
        import coremltools as ct
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=getattr(ct.target, self.deployment),
            compute_precision=ct.precision.FLOAT32,  # as the graph has it
            model_type=CoreMLBackend.MODEL_TYPE.MODEL,
        )
        return to_edge_transform_and_lower(
            program,
            partitioner=[CoreMLPartitioner(compile_specs=specs, take_over_mutable_buffer=True)],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),  # our operators are no core ATen ones
        )

    def describe(self, path: Path, signature: Signature, about: Mapping[str, str]) -> None:
        """ExecuTorch names inputs by number, and a program has no place for descriptions: the manifest holds them."""

    def read(self, path: Path) -> Artifact:
        with tempfile.TemporaryDirectory() as folder:
            return read_package(unpack_coreml(path, Path(folder)).package)

    def check_weights(self, path: Path, twin: Callable[[], nn.Module], assignments: list[Assignment]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            check_weights(unpack_coreml(path, Path(folder)).package, twin(), assignments)
