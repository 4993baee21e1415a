"""ExecuTorch: `.pte` files whose heavy operators run in the XNNPACK delegate; the rest is stock operators, or also our own.

Quantized linears are torchao's: int8 or int4 weights with activations quantized per token at run time, which XNNPACK fuses into
one integer matrix product each.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.backends.base import Artifact
from export.backends.pte import read_pte
from export.components import Form, Signature
from export.components.decoder import DecoderGraph
from export.components.int4_decoder import Int4DecoderGraph, takes
from export.components.token_embedding import Int8Embedding
from export.errors import BackendError, RecipeError
from export.graph_passes import cheap_graph_passes
from export.ops import native
from export.quant.apply import Assignment
from export.quant.recipe import EMBEDDING, LINEAR, SCHEMES, Recipe
from export.quant.rounding import dequantize
from export.quiet import quiet

PACKAGES = ("executorch", "torch", "torchao")
OWN_SCALES = torch.float16  # of the linear of ours


class ExecutorchBackend:
    """Target `executorch`."""

    name = "executorch"
    suffix = ".pte"
    decoder_interface = "internal"

    def __init__(self, kernels: str = "stock"):
        self.kernels = kernels

    def form(self, max_context: int, recipe: Recipe | None = None) -> Form:
        if self.kernels == "stock":
            return Form(max_context)
        group = SCHEMES["int4"].group_size  # every decoder's width is a multiple of it
        # The scheme of a layer that no rule names: a mixed recipe may leave some in float.
        rounded = recipe is not None and recipe.scheme_for("decoder", LINEAR, "", group).quantized
        return Form(max_context, scan="fused", attention="fused", half_cache=rounded)

    def check(self, recipe: Recipe, verify: bool) -> None:
        for package in PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise BackendError(f"--target executorch needs the package {package}: pip install -e '.[executorch]'")
        if self.kernels == "fused" and verify:
            try:
                native.library()
            except BackendError as error:
                remedy = "or give --no-verify to build without running it, or leave --kernels out for stock operators, which are slower"
                raise BackendError(f"--kernels fused cannot be checked here: {error}; {remedy}") from None
        schemes = {rule.scheme for rule in recipe.rules} | {recipe.rest}
        if "fp16" in schemes:
            raise RecipeError("--target executorch has no fp16: XNNPACK computes float32 and int8 here; choose int8 or fp32")

    def activations(self, assignments: Sequence[Assignment]) -> str:
        if self._is_int4_decoder(assignments):
            return "int8 per 32 inputs, dynamic"
        integers = any(a.scheme.quantized for a in assignments if a.kind == LINEAR)
        floats = any(not a.scheme.quantized for a in assignments if a.kind == LINEAR) or not integers
        return ", ".join([*(["float32"] if floats else []), *(["int8 per token, dynamic"] if integers else [])])

    def lower(self, twin: nn.Module, signature: Signature, assignments: list[Assignment], out: Path) -> None:
        with quiet(), cheap_graph_passes(), torch.no_grad():
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  (defines torch.ops.llama)

            if isinstance(twin, DecoderGraph) and self._is_int4_decoder(assignments):
                stored = {a.layer: a for a in assignments}

                def rounded(layer: str) -> tuple[torch.Tensor, torch.Tensor]:
                    return stored[layer].quantize(twin.get_submodule(layer).weight, OWN_SCALES)

                twin = Int4DecoderGraph(twin, rounded)
            else:
                quantize(twin, assignments)
            program = torch.export.export(twin, signature.example_inputs(), dynamic_shapes=signature.dynamic_shapes(), strict=False)
            edge = _lower_to_edge(program)
            manager = edge.to_executorch(_memory())
            with open(out, "wb") as file:
                manager.write_to_file(file)

    def round_weights(self, module: nn.Module, assignments: list[Assignment]) -> None:
        with quiet(), torch.no_grad():
            if self._is_int4_decoder(assignments):
                for assignment in assignments:
                    layer = module.get_submodule(assignment.layer)
                    layer.weight = nn.Parameter(dequantize(*assignment.quantize(layer.weight, OWN_SCALES)), requires_grad=False)
                return
            quantize(module, [assignment for assignment in assignments if assignment.kind == LINEAR])
            for assignment in assignments:
                if assignment.kind == EMBEDDING and assignment.scheme.quantized:
                    table = module.get_submodule(assignment.layer)
                    rounded = Int8Embedding(table.weight)
                    table.weight = nn.Parameter(rounded.rows.float() * rounded.scale, requires_grad=False)  # the head may share the old one
                if assignment.kind == LINEAR and assignment.scheme.quantized:
                    layer = module.get_submodule(assignment.layer)
                    layer.weight = nn.Parameter(layer.weight.dequantize(), requires_grad=False)

    def describe(self, path: Path, signature: Signature, about: Mapping[str, str]) -> None:
        """A program has no place for descriptions: the manifest holds them."""

    def read(self, path: Path) -> Artifact:
        return read_pte(path)

    def check_weights(self, path: Path, twin: Callable[[], nn.Module], assignments: list[Assignment]) -> None:
        """XNNPACK packs weights in layouts of its own when it loads them: here parity speaks for their values."""

    def _is_int4_decoder(self, assignments: Sequence[Assignment]) -> bool:
        """Whether these are a decoder's layers that our own linear computes: all of them int4, of sizes that it takes."""
        linears = [a for a in assignments if a.kind == LINEAR]
        decoder = any(a.layer == "head" for a in linears)  # no other graph has one
        whole = decoder and len(linears) == len(assignments) and all(a.scheme.name == "int4" for a in linears)
        return self.kernels == "fused" and whole and takes([a.shape for a in linears])

    def decoder_details(self, form: Form) -> dict:
        return {}

    def versions(self) -> dict[str, str]:
        return {package: importlib.metadata.version(package) for package in PACKAGES}


def quantize(twin: nn.Module, assignments: list[Assignment]) -> None:
    """Round the assigned weights in place: linears with torchao, the embedding table row by row.

    A calibrated layer's integers and scales then take the place of those that torchao rounded to nearest.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig

    for name in sorted({a.scheme.name for a in assignments if a.kind == LINEAR and a.scheme.quantized}):
        chosen = {a.layer: a.scheme for a in assignments if a.kind == LINEAR and a.scheme.name == name}
        scheme = next(iter(chosen.values()))
        config = Int8DynamicActivationIntxWeightConfig(
            weight_dtype={8: torch.int8, 4: torch.int4}[scheme.bits],
            weight_granularity=PerGroup(scheme.group_size) if scheme.group_size else PerAxis(0),
        )
        quantize_(twin, config, filter_fn=lambda module, layer, chosen=chosen: layer in chosen)
    for assignment in assignments:
        if assignment.grid is not None:
            weight = twin.get_submodule(assignment.layer).weight
            weight.qdata.copy_(assignment.grid.integers)
            weight.scale.copy_(assignment.grid.scale)
    for assignment in assignments:
        if assignment.kind == EMBEDDING and assignment.scheme.quantized:
            parent, _, leaf = assignment.layer.rpartition(".")
            setattr(twin.get_submodule(parent), leaf, Int8Embedding(twin.get_submodule(assignment.layer).weight))


def _lower_to_edge(program: torch.export.ExportedProgram) -> Any:
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    return to_edge_transform_and_lower(
        program,
        partitioner=[_loop_partitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),  # llama::custom_sdpa is no core ATen operator
    )


def _memory() -> Any:
    """Inputs stay where the host has them: otherwise each call would begin by copying them into the arena. The caches have names, so
    that a host can keep what is in them."""
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass

    return ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False), emit_mutable_buffer_names=True)


def _loop_partitioner() -> Any:
    """XNNPACK's partitioner, which looks at the main graph only, extended to the bodies of loops.

    Without it the scan's body runs operator by operator in portable kernels, ten times slower.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir.backend.partitioner import PartitionResult
    from executorch.exir.graph_module import get_control_flow_submodules

    class LoopPartitioner(XnnpackPartitioner):
        def partition(self, exported_program: torch.export.ExportedProgram) -> PartitionResult:
            result = super().partition(exported_program)
            tags = dict(result.partition_tags)
            for name, body, _ in get_control_flow_submodules(exported_program.graph_module):
                view = types.SimpleNamespace(
                    graph_module=body,
                    graph=body.graph,
                    graph_signature=exported_program.graph_signature,
                    state_dict=exported_program.state_dict,
                    constants=exported_program.constants,
                )
                for partition in self.generate_partitions(view):
                    tag = f"{name}_tag{partition.id}"
                    for node in partition.nodes:
                        node.meta["delegation_tag"] = tag
                    tags[tag] = self.delegation_spec
            return PartitionResult(tagged_exported_program=exported_program, partition_tags=tags)

    return LoopPartitioner()
