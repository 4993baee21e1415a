"""The vision graphs at released size: what they compute, and how many operations they have."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from export.backends.executorch import ExecutorchBackend
from export.checkpoint import open_checkpoint
from export.components import COMPONENTS, Form
from export.config import ModelConfig
from export.model.mobile_videogpt import MobileVideoGPT
from export.ops import native
from export.plan import plan_build
from export.quant.presets import PRESETS
from tests.numerics import load_pte, max_error
from tests.released_layout import RELEASED

CONTEXT = 4096
FP32 = 1e-4  # of the largest magnitude: the release's own tolerance
COSINE = 0.998  # of int8 video tokens: what rounding to nearest costs on random weights, with room for another machine's sums
PHONE = 10_000  # operations that a phone's compiler takes in reasonable time


@pytest.fixture(scope="module")
def half(tmp_path_factory, shared_dir) -> Path:
    """The 0.5B size with random weights: 2.5 GB on disk."""
    folder = tmp_path_factory.mktemp("released") / "half"
    subprocess.run([sys.executable, str(shared_dir / "release" / "make_checkpoint.py"), "0.5b", str(folder)], check=True)
    return folder


def lower(checkpoint, name: str, kernels: str, recipe: str, path: Path) -> Path:
    backend, component = ExecutorchBackend(kernels), COMPONENTS[name]
    form = backend.form(CONTEXT)
    plan = next(graph for graph in plan_build(checkpoint, PRESETS[recipe], form).graphs if graph.name == name)
    twin = component.twin(checkpoint.load(parts=component.parts), form).eval()
    backend.lower(twin, component.signature(checkpoint.config, Form(CONTEXT)), list(plan.assignments), path)
    linears = sum(a.scheme.name == "int8" for a in plan.assignments)
    assert linears == (len(plan.assignments) if recipe == "int8" else 0)  # in_proj, x_proj, dt_proj and out_proj of each layer
    assert sum(weight.scheme == "int8" for weight in backend.read(path).stored) == linears
    return path


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("kernels", ["stock", "fused"])
@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_the_released_video_encoder_is_the_eager_one(kernels, recipe, half, tmp_path):
    if kernels == "fused":
        native.load()
    checkpoint = open_checkpoint(half)
    model = checkpoint.load(parts=("video_encoder", "video_projector"))
    pixels = torch.rand(1, 8, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    tokens, wanted = load_pte(lower(checkpoint, "video_encoder", kernels, recipe, tmp_path / "v.pte"))(pixels), model.video_encoder(pixels)
    got, truth = model.video_projector(tokens), model.video_projector(wanted)
    if recipe == "fp32":
        assert max_error(tokens, wanted) <= FP32 and max_error(got, truth) <= FP32
        return
    cosine = float(F.cosine_similarity(got.flatten(), truth.flatten(), dim=0))
    worst = float(F.cosine_similarity(got, truth, dim=-1).min())
    print(f"{kernels} video_tokens: cosine {cosine:.5f}, worst token {worst:.5f}")
    assert cosine >= COSINE


@pytest.mark.slow
@torch.inference_mode()
def test_the_released_image_encoder_is_the_eager_one(half, tmp_path):
    checkpoint = open_checkpoint(half)
    encoder = checkpoint.load(parts=("image_encoder",)).image_encoder
    pixels = torch.rand(16, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    path = lower(checkpoint, "image_encoder", "stock", "fp32", tmp_path / "i.pte")
    assert max_error(load_pte(path)(pixels), encoder(pixels)) <= FP32


def operations(config: ModelConfig, scan: str) -> int:
    """Operations of the traced video encoder, those of loop bodies included; shapes only, no weights."""
    with torch.device("meta"):
        twin = COMPONENTS["video_encoder"].twin(MobileVideoGPT(config), Form(CONTEXT, scan=scan)).eval()
        program = torch.export.export(twin, (torch.empty(1, 8, 3, 224, 224),), strict=False).run_decompositions({})
    graphs = [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    return sum(node.op == "call_function" for graph in graphs for node in graph.graph.nodes)


@pytest.mark.parametrize("scan", ["looped", "unrolled", "fused"])
def test_the_released_video_encoder_is_small_enough_for_a_phone_s_compiler(scan):
    def of_depth(depth: int) -> int:
        return operations(dataclasses.replace(RELEASED, videomamba=dataclasses.replace(RELEASED.videomamba, depth=depth)), scan)

    one, two = of_depth(1), of_depth(2)
    whole = one + (RELEASED.videomamba.depth - 1) * (two - one)
    print(f"{scan}: {two - one} operations a layer, {whole} in all")
    assert whole < PHONE
