"""From a checkpoint to a verified bundle: lower each component, read it back, prove the whole, put it in place."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from export.backends.base import Artifact, Backend
from export.bundle import Bundle, path_size
from export.bundle_writer import BundleWriter
from export.checkpoint import Checkpoint
from export.components import COMPONENTS, Form, Signature
from export.components.token_embedding import TokenEmbeddingGraph
from export.config import CHUNK_FRAMES, CHUNK_KEY_FRAMES, FRAMES, IMAGE_SIZE, IMAGE_TOKENS_PLACEHOLDER
from export.errors import CalibrationError
from export.manifest import SCHEMA_VERSION, DecoderInterface, GraphEntry, Manifest, Preprocessing, Prompt, SchemeShare
from export.model import preprocess, prompt
from export.model.frame_scorer import TIE
from export.model.mobile_videogpt import MobileVideoGPT
from export.ops.library import NAMESPACE
from export.plan import BuildPlan, GraphPlan
from export.progress import Progress
from export.quant import coverage
from export.quant.apply import Assignment, derived_constants
from export.quant.gptq import gptq
from export.quant.recipe import GPTQ, Recipe
from export.quant.rounding import Grid
from export.quant.statistics import CalibrationFolder

if TYPE_CHECKING:
    from runtime_py.gates import Gate

OWN = f"{NAMESPACE}::"  # how the names of this project's operators begin
RUNTIME_BYTES = 350_000_000  # Python, PyTorch and the runtime of a process that runs a bundle
LICENSES = {
    "CLIP (image_encoder)": "MIT, OpenAI",
    "VideoMamba (video_encoder)": "Apache-2.0, OpenGVLab",
    "Qwen2.5 (token_embedding, decoder)": "Apache-2.0, Qwen; see the checkpoint for the size at hand",
    "Mobile-VideoGPT (projectors, fine-tuning)": "CC-BY-NC-SA-4.0 or as the checkpoint's own card says: check it before you ship",
}


@dataclasses.dataclass(frozen=True)
class Request:
    """Everything a build needs, checked."""

    checkpoint: Checkpoint
    backend: Backend
    recipe: Recipe
    plan: BuildPlan
    form: Form
    writer: BundleWriter
    verify: bool
    calibration: CalibrationFolder | None = None  # where the recipe reads one
    gate: Gate | None = None  # what is demanded beyond parity


def build(request: Request, progress: Progress) -> Manifest:
    """Write the bundle and return its manifest.

    Raises:
        ParityError: the bundle computes something else than the model; nothing is left behind.
        ExportError: anything else that a user can mend; likewise.
    """
    with request.writer as writer:
        writer.need_space(int(1.1 * request.plan.bundle_bytes))
        request = dataclasses.replace(request, plan=_calibrated(request, progress))
        entries = {}
        for graph in request.plan.graphs:
            progress.begin(f"{graph.name}: lowering, {graph.schemes()}")
            entries[graph.name] = _build_graph(request, graph, writer)
            size = path_size(writer.path(entries[graph.name].file))
            progress.end(f"{graph.name}: {size / 1e6:.1f} MB")
        if request.checkpoint.tokenizer_file:
            writer.path("tokenizer.json").write_bytes(request.checkpoint.tokenizer_file.read_bytes())
        manifest = _manifest(request, entries)
        from runtime_py.parity import prove  # the one way from export into the runtime

        bundle = Bundle(writer.path("reference.npz").parent, manifest)
        proof = prove(request.checkpoint, bundle, _rounding(request), request.verify, progress, request.gate)
        np.savez_compressed(writer.path("reference.npz"), **proof.reference)
        for name, data in proof.golden.items():
            writer.path(name).write_bytes(data)
        return writer.commit(dataclasses.replace(manifest, parity=proof.ladder, verified=request.verify, accuracy=proof.accuracy))


def _calibrated(request: Request, progress: Progress) -> BuildPlan:
    """The plan with the integers and scales of every layer that a calibrated rule rounds."""
    graphs = []
    for graph in request.plan.graphs:
        chosen = {a.layer for a in graph.assignments if a.rounding == GPTQ}
        if chosen:
            progress.say(f"{graph.name}: {len(chosen)} layers by GPTQ, over {request.calibration.questions} questions")
            component = COMPONENTS[graph.name]
            twin = component.twin(request.checkpoint.load(parts=component.parts), request.form)
            rounded = tuple(_with_grid(request, graph.name, twin, a) if a.layer in chosen else a for a in graph.assignments)
            graph = dataclasses.replace(graph, assignments=rounded)
        graphs.append(graph)
    return dataclasses.replace(request.plan, graphs=tuple(graphs))


def _with_grid(request: Request, component: str, twin: nn.Module, assignment: Assignment) -> Assignment:
    statistics = request.calibration.statistics(component, assignment.layer)
    weight = twin.get_submodule(assignment.layer).weight
    if statistics.gram.shape[0] != weight.shape[1]:
        raise CalibrationError(f"{request.calibration.path}: {component}/{assignment.layer} has other sizes: run calibration.collect again")
    # bfloat16's scales are float16's too: the same numbers on every target.
    return dataclasses.replace(assignment, grid=Grid(*gptq(weight, statistics.gram, assignment.scheme, torch.bfloat16)))


def _rounding(request: Request) -> Callable[[MobileVideoGPT], None] | None:
    """What puts the stored weights of decoder and token embedding into an eager model, in place; None where the bundle stores them as
    they are."""
    assignments = {graph.name: list(graph.assignments) for graph in request.plan.graphs}

    def round_model(model: MobileVideoGPT) -> None:
        request.backend.round_weights(model.decoder, assignments["decoder"])
        request.backend.round_weights(TokenEmbeddingGraph(model.token_embedding), assignments["token_embedding"])

    rounded = any(a.scheme.quantized for name in ("decoder", "token_embedding") for a in assignments[name])
    return round_model if rounded else None


def _build_graph(request: Request, graph: GraphPlan, writer: BundleWriter) -> GraphEntry:
    """Lower one component to a file and describe what the file holds."""
    component = COMPONENTS[graph.name]
    signature = component.signature(request.checkpoint.config, request.form)

    def make_twin() -> nn.Module:
        return component.twin(request.checkpoint.load(parts=component.parts), request.form).eval()

    twin = make_twin()
    assignments, derived = list(graph.assignments), derived_constants(twin)
    path = writer.path(graph.name + request.backend.suffix)
    request.backend.lower(twin, signature, assignments, path)
    request.backend.describe(path, signature, _about(request, graph))
    del twin
    gc.collect()  # before the next component's weights come in
    artifact = request.backend.read(path)
    coverage.check(graph.name, assignments, artifact.stored)
    request.backend.check_weights(path, make_twin, assignments)
    schemes = coverage.shares(coverage.without_derived(artifact.stored, derived))
    return _entry(request, graph, signature, artifact, schemes, path)


def _entry(
    request: Request, graph: GraphPlan, signature: Signature, artifact: Artifact, schemes: tuple[SchemeShare, ...], path: Path
) -> GraphEntry:
    return GraphEntry(
        name=graph.name,
        file=path.name,
        sha256="",
        bytes=0,
        inputs=signature.inputs,
        outputs=signature.outputs,
        dynamic_axes=signature.dynamic_axes,
        schemes=schemes,
        excluded={a.layer: a.reason for a in graph.assignments if a.reason},
        activations=request.backend.activations(graph.assignments),
        delegated=round(artifact.delegated, 4),
        operators=artifact.operators,
        peak_memory_bytes=path_size(path) + artifact.arena_bytes + artifact.packed_bytes,
        delegate=artifact.delegate,
    )


def _about(request: Request, graph: GraphPlan) -> dict[str, str]:
    """What an artifact says of itself when it is found outside its bundle."""
    return {
        "description": f"{graph.name} of {request.checkpoint.name}, a Mobile-VideoGPT checkpoint",
        "version": f"bundle schema {SCHEMA_VERSION}",
        "license": "; ".join(f"{part}: {license}" for part, license in LICENSES.items()),
        "checkpoint_fingerprint": request.checkpoint.fingerprint(),
        "recipe": request.recipe.name,
        "graph": graph.name,
    }


def _decoder_interface(request: Request) -> DecoderInterface:
    backend, form = request.backend, request.form
    return DecoderInterface(backend.decoder_interface, form.max_context, backend.decoder_details(form))


def _manifest(request: Request, entries: dict[str, GraphEntry]) -> Manifest:
    """The manifest but for what only the finished folder knows."""
    config = request.checkpoint.config
    weights = sum(share.weights for entry in entries.values() for share in entry.schemes)
    weight_bytes = sum(share.bytes for entry in entries.values() for share in entry.schemes)
    memory = sum(entry.peak_memory_bytes for entry in entries.values())
    return Manifest(
        schema_version=SCHEMA_VERSION,
        target=request.backend.name,
        recipe=request.recipe.name,
        recipe_rules=request.recipe.to_json(),
        quant_overrides=dict(request.recipe.overrides),
        kernels=request.backend.kernels,
        custom_operators=tuple(sorted({name for entry in entries.values() for name in entry.operators if name.startswith(OWN)})),
        verified=False,
        checkpoint_name=request.checkpoint.name,
        checkpoint_fingerprint=request.checkpoint.fingerprint(),
        model=config.to_json(),
        graphs=entries,
        decoder=_decoder_interface(request),
        preprocessing=Preprocessing(
            frames=FRAMES,
            image_size=IMAGE_SIZE,
            image_mean=preprocess.CLIP_MEAN,
            image_std=preprocess.CLIP_STD,
            video_mean=preprocess.VIDEOMAMBA_MEAN,
            video_std=preprocess.VIDEOMAMBA_STD,
            chunk_frames=CHUNK_FRAMES,
            key_frames_per_chunk=CHUNK_KEY_FRAMES,
            topk=config.topk,
            tie_tolerance=TIE,
            image_resize="shortest side to 224 by antialiased bicubic (PIL), centre crop",
            video_resize="squashed to 224x224 by bilinear without antialiasing (OpenCV INTER_LINEAR)",
        ),
        prompt=Prompt(
            system=prompt.SYSTEM,
            user=prompt.USER,
            image=prompt.IMAGE_TEXT,
            end_of_turn=prompt.END_OF_TURN,
            assistant=prompt.ASSISTANT,
            placeholder_id=IMAGE_TOKENS_PLACEHOLDER,
            stop_ids=config.stop_ids,
        ),
        parity=(),
        accuracy={},
        files={},
        expected_memory_bytes=RUNTIME_BYTES + memory,
        bits_per_weight=round(8 * weight_bytes / weights, 3),
        bundle_bytes=0,
        tool_versions=request.backend.versions(),
        created="",
        licenses=LICENSES,
    )
