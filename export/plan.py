"""What a build will make, known from the checkpoint's headers alone: layers, schemes, file sizes, peak memory and time.

Nothing is loaded: twins are made on PyTorch's meta device. The estimates' constants were measured on two x86 cores.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from export.checkpoint import Checkpoint
from export.components import COMPONENTS, Form
from export.config import CHUNKS, FRAMES, IMAGE_SIZE, KEY_FRAMES, ModelConfig
from export.model.mobile_videogpt import MobileVideoGPT
from export.quant.apply import Assignment, assign, check_rules, computes_half, derived_constants, left_in_float, quantizable_layers
from export.quant.recipe import Recipe

SCALE_BYTES = {"int8": 4, "int4": 2}  # float32 per channel, bfloat16 per group
GRAPH_BYTES = 4_000  # a graph's description without its layers
GRAPH_BYTES_PER_LAYER = {"image_encoder": 8_000, "video_encoder": 26_000, "decoder": 16_000}  # and what the description of each adds
TRACE_SECONDS = 4  # fixed cost of lowering a graph
LAYER_SECONDS = {"image_encoder": 3.0, "video_encoder": 5.0, "decoder": 5.0}  # lowering, per layer
FUSED_LAYER_SECONDS = 3.0  # of a video encoder around our own operators
COREML_LAYER_SECONDS = {"image_encoder": 1.0, "video_encoder": 3.0, "decoder": 2.0}  # converting, per layer; a decoder's three functions
SECONDS_PER_GB = 14  # quantizing, packing and writing, per GB of float32 weights
REFERENCE_SECONDS_PER_GB = 28  # the eager model on the probe, and the bundle against it
PROBE_BYTES = 5_000_000  # its frames, and the sampled logits of the greedy steps
GOLDEN_BYTES = 5_600_000
BASE_BYTES = 900_000_000  # Python, PyTorch and the exporter
LOWERING_COPIES = 2.4  # of a graph's float32 weights alive at once while it is lowered


@dataclasses.dataclass(frozen=True)
class GraphPlan:
    """One graph to be."""

    name: str
    assignments: tuple[Assignment, ...]
    parameters: int
    layers: int
    file_bytes: int
    seconds: float
    peak_bytes: int
    rest: str = "fp32"  # of the weights that no rule names
    left: tuple[tuple[str, int], ...] = ()  # these, by what they are
    note: str = ""

    def schemes(self) -> str:
        """The schemes in use with their share of the graph's parameters, as text."""
        counts: dict[str, int] = {}
        for assignment in self.assignments:
            counts[assignment.scheme.name] = counts.get(assignment.scheme.name, 0) + assignment.weights
        counts[self.rest] = counts.get(self.rest, 0) + self.parameters - sum(a.weights for a in self.assignments)
        parts = sorted(((n, s) for s, n in counts.items() if n), reverse=True)
        return ", ".join(f"{scheme} {100 * n / self.parameters:.1f} %" for n, scheme in parts) or "no weights"


@dataclasses.dataclass(frozen=True)
class BuildPlan:
    """The whole bundle to be."""

    graphs: tuple[GraphPlan, ...]
    extra_bytes: int  # reference, golden vectors, tokenizer
    verify_seconds: float
    verify_peak_bytes: int

    @property
    def bundle_bytes(self) -> int:
        return sum(graph.file_bytes for graph in self.graphs) + self.extra_bytes

    @property
    def seconds(self) -> float:
        return sum(graph.seconds for graph in self.graphs) + self.verify_seconds

    @property
    def peak_bytes(self) -> int:
        return max(*(graph.peak_bytes for graph in self.graphs), self.verify_peak_bytes)


def plan_build(checkpoint: Checkpoint, recipe: Recipe, form: Form) -> BuildPlan:
    """Assign every layer its scheme and estimate what the build takes.

    Raises:
        RecipeError: a rule of the recipe matches no layer of this checkpoint.
    """
    twins = meta_twins(checkpoint, form)
    layers = {name: quantizable_layers(twin) for name, twin in twins.items()}
    check_rules(recipe, layers)
    config = checkpoint.config
    depths = {"image_encoder": config.clip.depth, "video_encoder": config.videomamba.depth, "decoder": config.decoder.layers}
    seconds = LAYER_SECONDS | ({"video_encoder": FUSED_LAYER_SECONDS} if form.scan == "fused" else {})
    seconds = COREML_LAYER_SECONDS if form.half else seconds
    graphs = tuple(
        _plan_graph(name, twin, assign(recipe, name, layers[name]), depths.get(name, 1), seconds.get(name, 0), form)
        for name, twin in twins.items()
    )
    weights = 4 * sum(graph.parameters for graph in graphs)
    cache = 2 * 4 * config.decoder.layers * form.max_context * config.decoder.kv_heads * config.decoder.head_dim
    tokenizer = checkpoint.tokenizer_file.stat().st_size if checkpoint.tokenizer_file else 0
    return BuildPlan(
        graphs=graphs,
        extra_bytes=_reference_bytes(config) + tokenizer,
        verify_seconds=10 + REFERENCE_SECONDS_PER_GB * weights / 1e9,
        verify_peak_bytes=int(BASE_BYTES + 1.3 * weights + cache),
    )


def _reference_bytes(config: ModelConfig) -> int:
    """The stored reference: five stages and the logits in float32, the probe's frames and pixels in 8 bits; and the golden vectors, most
    of which are those frames again."""
    clip, mamba = config.clip, config.videomamba
    values = FRAMES * clip.patches * clip.width + (KEY_FRAMES * mamba.patches + CHUNKS * mamba.patches) * mamba.width
    values += config.visual_tokens * config.decoder.width + 2 * config.decoder.vocab
    return 4 * values + 2 * FRAMES * 3 * IMAGE_SIZE**2 + PROBE_BYTES + GOLDEN_BYTES


def meta_twins(checkpoint: Checkpoint, form: Form) -> dict[str, nn.Module]:
    """Every component's twin without weights, in the order of the graphs."""
    with torch.device("meta"):
        model = MobileVideoGPT(checkpoint.config)
        return {name: component.twin(model, form) for name, component in COMPONENTS.items()}


def _plan_graph(name: str, twin: nn.Module, assignments: list[Assignment], layers: int, layer_seconds: float, form: Form) -> GraphPlan:
    parameters = sum(p.numel() for p in twin.parameters())
    float_bytes = 2 if form.half and computes_half(assignments) else 4
    size = float_bytes * (parameters - sum(a.weights for a in assignments))
    for a in assignments:
        groups = a.shape[0] * (a.shape[1] // a.scheme.group_size if a.scheme.group_size else 1)
        scale_bytes = float_bytes if form.half else SCALE_BYTES.get(a.scheme.name, 0)
        size += a.weights * a.scheme.bits // 8 + (groups * scale_bytes if a.scheme.quantized else 0)
    caches = sum(b.numel() for n, b in twin.named_buffers() if n.rpartition(".")[2] in ("keys", "values"))
    tables = sum(math.prod(shape) for shape in derived_constants(twin)) - caches  # tables are in the file, empty caches are not
    size += float_bytes * tables
    size += GRAPH_BYTES + GRAPH_BYTES_PER_LAYER.get(name, 0) * layers
    seconds = TRACE_SECONDS + layer_seconds * layers + SECONDS_PER_GB * 4 * parameters / 1e9
    peak = int(BASE_BYTES + LOWERING_COPIES * 4 * parameters)
    rest = {2: "fp16", 4: "fp32"}[float_bytes]
    left = tuple(left_in_float(twin).items())
    whole = form.half and rest == "fp32" and any(a.scheme.quantized for a in assignments)
    note = "a layer is fp32, so the whole graph computes in float32: with fp16 in its place in float16" if whole else ""
    return GraphPlan(name, tuple(assignments), parameters, layers, size, seconds, peak, rest, left, note)


def table(plan: BuildPlan) -> str:
    """The plan as text: a line per graph, under it why what it quantizes is not all of it."""
    lines = [f"{'graph':<16} {'parameters':>12} {'file':>10} {'time':>7}  weights"]
    for graph in plan.graphs:
        lines.append(
            f"{graph.name:<16} {graph.parameters:>12,} {graph.file_bytes / 1e6:>7.1f} MB {graph.seconds:>5.0f} s  {graph.schemes()}"
        )
        if graph.left and any(a.scheme.quantized for a in graph.assignments):
            left = ", ".join(f"{kind} {weights:,}" for kind, weights in graph.left)
            lines.append(f"{'':<16} stays {graph.rest}, no linear: {left}")
        if graph.note:
            lines.append(f"{'':<16} {graph.note}")
        reasons = sorted({a.reason for a in graph.assignments if a.reason})
        for reason in reasons:
            lines.append(f"{'':<16} {sum(a.reason == reason for a in graph.assignments)} layers: {reason}")
    lines.append(
        f"bundle about {plan.bundle_bytes / 1e6:,.0f} MB; "
        f"the build takes about {plan.seconds:,.0f} s and {plan.peak_bytes / 1e9:.1f} GB of memory"
    )
    return "\n".join(lines)
