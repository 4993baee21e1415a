"""Real `.pte` files: what they compute, what runs where, which weights they hold and how large they are.

Each graph is lowered once, of the demo checkpoint with two layers to a part, which is enough to have one after another. Noise on
the weights leaves none of them zero or equal to another (a file stores equal constants once).
"""

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from calibration.make_demo import initial_weights
from export.backends.base import Artifact
from export.backends.executorch import ExecutorchBackend, quantize
from export.backends.pte import read_pte
from export.checkpoint import open_checkpoint, save_checkpoint
from export.components import COMPONENTS, Form
from export.errors import BundleError
from export.executorch_runtime import operator_names
from export.model.mobile_videogpt import MobileVideoGPT
from export.model.qwen2 import KeyValueCache
from export.plan import GraphPlan, plan_build
from export.quant import coverage
from export.quant.apply import derived_constants
from export.quant.presets import PRESETS
from tests.numerics import DEMO, distinct_weights, load_pte, max_error, rms_error

CONTEXT = 512  # tokens of the decoder's cache
CASES = [("int4", name) for name in COMPONENTS] + [("fp32", "video_encoder"), ("fp32", "decoder")]
each_graph = pytest.mark.parametrize("recipe, name", CASES)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """One graph's file, what was planned and what was read back; `model` is the eager truth with the same weights."""

    path: Path
    plan: GraphPlan
    artifact: Artifact
    derived: list[tuple[int, ...]]
    model: MobileVideoGPT

    @functools.cached_property
    def run(self) -> Callable[..., Tensor]:
        return load_pte(self.path)


@pytest.fixture(scope="module")
def lowered(tmp_path_factory):
    """(recipe, graph) -> Lowered, made at the first use."""
    folder, backend = tmp_path_factory.mktemp("pte"), ExecutorchBackend()
    config = open_checkpoint(DEMO).config
    shallow = {"clip": {"depth": 2}, "videomamba": {"depth": 2}, "decoder": {"layers": 2}}
    config = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **sizes) for part, sizes in shallow.items()})
    save_checkpoint(distinct_weights(initial_weights(config, seed=0)), folder / "checkpoint")
    checkpoint = open_checkpoint(folder / "checkpoint")

    @functools.cache
    def lower(recipe: str, name: str) -> Lowered:
        component = COMPONENTS[name]
        plan = next(graph for graph in plan_build(checkpoint, PRESETS[recipe], Form(CONTEXT)).graphs if graph.name == name)
        twin = component.twin(checkpoint.load(parts=component.parts), Form(CONTEXT)).eval()
        derived = derived_constants(twin)
        path = folder / f"{recipe}_{name}.pte"
        backend.lower(twin, component.signature(checkpoint.config, Form(CONTEXT)), list(plan.assignments), path)
        return Lowered(path, plan, backend.read(path), derived, checkpoint.load(parts=component.parts))

    return lower


def values_of(name: str, model: MobileVideoGPT, seed: int = 0) -> Tensor:
    """A random input of the declared shape: pixels in 0 to 255, features around 1."""
    (spec,) = COMPONENTS[name].signature(model.config, Form(CONTEXT)).inputs
    values = torch.rand(spec.shape, generator=torch.Generator().manual_seed(seed))
    return values * 255 if spec.name == "pixels" else values * 3 - 1.5


def with_rounded_weights(graph: Lowered) -> Lowered:
    """The same graph against an eager decoder whose weights are those that the recipe stores, in float."""
    model = copy.deepcopy(graph.model)
    quantize(model.decoder, list(graph.plan.assignments))
    for layer in model.decoder.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.dequantize(), requires_grad=False)
    return dataclasses.replace(graph, model=model)


class TestNumbers:
    FP32 = 1e-5  # of the largest magnitude: sums in another order and XNNPACK's own exp (7e-7 measured)
    # rms of the error over that of the truth: weights and activations rounded to 8 bits, twice what was measured
    INT8 = {"image_encoder": 0.02, "video_encoder": 0.02, "image_projector": 0.02, "video_projector": 0.02, "token_embedding": 0.015}
    INT4 = 0.4  # four bits a weight: 0.13 to 0.24 measured, on random weights, whose logits are sums without a trend
    INT4_ACTIVATIONS = 0.04  # what is left when the weights are rounded in the truth as well

    @torch.inference_mode()
    @pytest.mark.parametrize("name", ["image_encoder", "video_encoder", "image_projector", "video_projector"])
    def test_an_int8_graph_is_the_eager_part_but_for_rounding(self, name, lowered):
        graph = lowered("int4", name)
        values = values_of(name, graph.model)
        error = rms_error(graph.run(values), getattr(graph.model, name)(values))
        assert 1e-5 < error <= self.INT8[name], f"{name}: {error}"  # no error at all would mean that nothing was quantized

    @torch.inference_mode()
    def test_the_float_video_encoder_is_the_eager_one(self, lowered):
        graph = lowered("fp32", "video_encoder")
        for seed in (0, 1):  # the second call finds every state as the first did
            values = values_of("video_encoder", graph.model, seed)
            error = max_error(graph.run(values), graph.model.video_encoder(values))
            assert error <= self.FP32, error

    @torch.inference_mode()
    def test_the_frame_scorer_stays_float32(self, lowered):
        graph = lowered("int4", "frame_scorer")
        values = values_of("frame_scorer", graph.model)
        assert max_error(graph.run(values), graph.model.frame_scorer(values)) <= 1e-5  # what a tie is; see export/tolerances.py

    @torch.inference_mode()
    @pytest.mark.parametrize("tokens", [1, 2, 17, CONTEXT])
    def test_the_int8_table_serves_any_number_of_ids(self, tokens, lowered):
        graph = lowered("int4", "token_embedding")
        ids = torch.arange(tokens) * 7 % graph.model.config.decoder.vocab
        error = rms_error(graph.run(ids), graph.model.token_embedding(ids))
        assert 1e-5 < error <= self.INT8["token_embedding"], error

    def test_the_float_decoder_is_the_eager_one(self, lowered):
        self.converse(lowered("fp32", "decoder"), max_error, self.FP32)

    def test_the_int4_decoder_is_the_eager_one_but_for_rounding(self, lowered):
        graph = lowered("int4", "decoder")
        self.converse(graph, rms_error, self.INT4)
        self.converse(with_rounded_weights(graph), rms_error, self.INT4_ACTIVATIONS)

    @torch.inference_mode()
    def converse(self, graph, metric, bound):
        """The same tokens at the same places to both, in an order in which a host may send them."""
        config, generator = graph.model.config.decoder, torch.Generator().manual_seed(0)
        cache = KeyValueCache(config, CONTEXT, torch.float32)
        # prefill in two calls, steps, a new start over a cache that was used, and the last places that there are
        for position, tokens in ((0, 17), (17, 40), (57, 1), (58, 1), (0, 2), (2, 1), (3, CONTEXT - 4), (CONTEXT - 1, 1)):
            embeds = torch.randn(tokens, config.width, generator=generator)
            wanted = graph.model.decoder(embeds, position, cache)
            error = metric(graph.run(embeds, torch.tensor([position])), wanted)
            assert error <= bound, f"{tokens} tokens at {position}: {error}"

    @torch.inference_mode()
    def test_tokens_beyond_the_context_are_refused(self, lowered):
        graph = lowered("fp32", "decoder")
        embeds = torch.zeros(2, graph.model.config.decoder.width)
        with pytest.raises(RuntimeError):
            load_pte(graph.path)(embeds, torch.tensor([CONTEXT - 1]))


class TestOperators:
    # Share of compute operators in the delegate. What is left outside: norms, gathers, the cache and attention operators.
    FLOOR = {
        "image_encoder": 0.9, "frame_scorer": 0.7, "video_encoder": 0.85, "image_projector": 0.95, "video_projector": 0.9,
        "token_embedding": 0.0, "decoder": 0.7,
    }  # fmt: skip
    HEAVY = ("linear", "mm", "bmm", "addmm", "matmul", "baddbmm", "convolution", "exp", "_softmax", "gelu", "sigmoid")

    @each_graph
    def test_every_operator_is_a_stock_one(self, recipe, name, lowered):
        present = operator_names()
        stock = ("aten", "dim_order_ops", "executorch_prim", "llama", "quantized_decomposed")
        for operator in lowered(recipe, name).artifact.operators:
            assert operator.split("::")[0] in stock
            assert operator in present or operator.startswith("executorch_prim::"), operator

    @each_graph
    def test_the_heavy_operators_run_in_the_delegate(self, recipe, name, lowered):
        artifact = lowered(recipe, name).artifact
        outside = {operator.split("::")[1].split(".")[0] for operator in artifact.operators}
        assert not outside & set(self.HEAVY), outside
        assert artifact.delegate == "xnnpack"
        assert artifact.delegated >= self.FLOOR[name], artifact.delegated

    @pytest.mark.parametrize("recipe", ["int4", "fp32"])
    def test_the_scan_is_a_loop_whose_body_runs_in_the_delegate(self, recipe, lowered):
        operators = lowered(recipe, "video_encoder").artifact.operators
        assert "executorch_prim::et_copy_index.tensor" in operators  # the loop's instruction that collects its outputs
        assert not {"mul", "exp", "add", "bmm"} & {operator.split("::")[1].split(".")[0] for operator in operators if "aten" in operator}

    @pytest.mark.parametrize("recipe", ["int4", "fp32"])
    def test_the_decoder_keeps_the_llm_operators_and_its_cache(self, recipe, lowered):
        graph = lowered(recipe, "decoder")
        config = graph.model.config.decoder
        assert {"llama::custom_sdpa.out", "llama::update_cache.out"} <= set(graph.artifact.operators)
        assert graph.artifact.arena_bytes >= 2 * 4 * config.layers * CONTEXT * config.kv_heads * config.head_dim


class TestWeights:
    @each_graph
    def test_what_is_stored_is_what_the_part_has(self, recipe, name, lowered):
        """Not one parameter more or less: derived tables and the doubled convolution of both directions count for nothing."""
        graph = lowered(recipe, name)
        coverage.check(name, graph.plan.assignments, graph.artifact.stored)
        found = {share.scheme: share for share in coverage.shares(coverage.without_derived(graph.artifact.stored, graph.derived))}
        parameters = sum(parameter.numel() for parameter in getattr(graph.model, name).parameters())
        assert sum(share.weights for share in found.values()) == parameters == graph.plan.parameters
        wanted: dict[str, list[int]] = {}
        for assignment in graph.plan.assignments:
            out, into = assignment.shape
            scheme_bytes = {"fp32": 4 * out * into, "int8": out * into + 4 * out, "int4": out * into // 2 + 2 * out * into // 32}
            weights, size = wanted.get(assignment.scheme.name, (0, 0))
            wanted[assignment.scheme.name] = [weights + out * into, size + scheme_bytes[assignment.scheme.name]]
        assigned = sum(weights for weights, _ in wanted.values())
        weights, size = wanted.get("fp32", (0, 0))
        wanted["fp32"] = [weights + parameters - assigned, size + 4 * (parameters - assigned)]
        assert {scheme: [share.weights, share.bytes] for scheme, share in found.items()} == {s: w for s, w in wanted.items() if w[0]}

    @each_graph
    def test_the_plan_foretells_the_file_s_size(self, recipe, name, lowered):
        graph = lowered(recipe, name)
        size = graph.path.stat().st_size
        assert size >= sum(weight.bytes for weight in graph.artifact.stored)
        if size > 100_000:  # below, the description of the graph is most of the file
            assert graph.plan.file_bytes == pytest.approx(size, rel=0.15)
        else:
            assert graph.plan.file_bytes == pytest.approx(size, abs=15_000)


class TestReadingAFile:
    def refused(self, content: bytes, folder: Path) -> None:
        path = folder / "graph.pte"
        path.write_bytes(content)
        with pytest.raises(BundleError, match="graph.pte is no ExecuTorch program .* build the bundle again"):
            read_pte(path)

    @pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04" * 500, bytes(5000)])
    def test_garbage_is_refused(self, content, tmp_path):
        self.refused(content, tmp_path)

    @pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.9, 0.9999])
    def test_a_truncated_file_is_refused(self, kept, lowered, tmp_path):
        content = lowered("int4", "video_projector").path.read_bytes()
        self.refused(content[: int(len(content) * kept)], tmp_path)

    def test_a_damaged_delegate_is_refused(self, lowered, tmp_path):
        content = lowered("int4", "video_projector").path.read_bytes()
        assert b"XH00" in content  # how an XNNPACK payload's header begins
        self.refused(content.replace(b"XH00", b"XH??"), tmp_path)

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(BundleError, match="decoder.pte"):
            read_pte(tmp_path / "decoder.pte")


def test_versions_name_what_made_the_file():
    versions = ExecutorchBackend().versions()
    assert set(versions) == {"executorch", "torch", "torchao"} and all(versions.values())
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
