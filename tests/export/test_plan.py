"""The plan of a build: made without reading a weight, and true. Its file sizes meet real files in test_executorch_backend.py."""

import dataclasses
import re

import pytest
import torch

from export.backends.coreml import CoremlBackend
from export.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint_match import Source
from export.components import COMPONENTS, Form
from export.errors import RecipeError
from export.plan import plan_build, table
from export.quant.apply import left_in_float
from export.quant.presets import PRESETS, parse
from export.quant.recipe import LINEAR, Recipe, Rule
from tests.numerics import DEMO
from tests.released_layout import RELEASED


@pytest.fixture(scope="module")
def demo():
    return open_checkpoint(DEMO)


def graphs(checkpoint, name="int4", overrides=(), context=512):
    return {graph.name: graph for graph in plan_build(checkpoint, parse(name, overrides, COMPONENTS), Form(context)).graphs}


def test_no_weight_is_read(demo, monkeypatch):
    monkeypatch.setattr(Source, "read", lambda self: pytest.fail("a tensor was read"))
    monkeypatch.setattr(Checkpoint, "load", lambda self, *a, **k: pytest.fail("weights were loaded"))
    plan = plan_build(open_checkpoint(DEMO), PRESETS["int4"], Form(512))
    assert [graph.name for graph in plan.graphs] == list(COMPONENTS)
    assert "decoder" in table(plan)


def test_parameters_are_those_of_the_model(demo):
    model = demo.load()
    for name, graph in graphs(demo).items():
        assert graph.parameters == sum(p.numel() for p in getattr(model, name).parameters()), name
        assert sum(assignment.weights for assignment in graph.assignments) <= graph.parameters


def test_schemes_are_given_as_shares_of_the_parameters(demo):
    for name, graph in graphs(demo, overrides=["video_encoder=int4"]).items():
        shares = {scheme: float(share) for scheme, share in re.findall(r"(\w+) ([\d.]+) %", graph.schemes())}
        if name == "frame_scorer":
            assert graph.schemes() == "no weights"
            continue
        assert sum(shares.values()) == pytest.approx(100, abs=0.2)
        assert name != "video_encoder" or set(shares) == {"int4", "int8", "fp32"}
        for scheme in {"int8", "int4"} & set(shares):
            weights = sum(a.weights for a in graph.assignments if a.scheme.name == scheme)
            assert shares[scheme] == pytest.approx(100 * weights / graph.parameters, abs=0.051)


def test_coarser_recipes_make_smaller_files(demo):
    fp32, int8, int4 = (graphs(demo, name) for name in ("fp32", "int8", "int4"))
    for name in COMPONENTS:
        assert fp32[name].file_bytes >= int8[name].file_bytes >= int4[name].file_bytes, name
    assert fp32["decoder"].file_bytes > 2 * int8["decoder"].file_bytes > 2 * int4["decoder"].file_bytes


def test_a_longer_context_adds_its_rotary_tables_to_the_decoder_s_file_and_no_cache(demo):
    short, long = graphs(demo, context=512), graphs(demo, context=4096)
    tables = (4096 - 512) * 2 * 4 * demo.config.decoder.head_dim  # cosines and sines, float32
    assert long["decoder"].file_bytes - short["decoder"].file_bytes == tables
    assert all(long[name].file_bytes == short[name].file_bytes for name in COMPONENTS if name != "decoder")
    cache = (4096 - 512) * 2 * 4 * demo.config.decoder.layers * demo.config.decoder.kv_heads * demo.config.decoder.head_dim
    memory = [plan_build(demo, PRESETS["int4"], Form(context)).verify_peak_bytes for context in (512, 4096)]
    assert memory[1] - memory[0] == pytest.approx(cache, abs=1)


def test_the_released_sizes_come_out_as_measured():
    released = Checkpoint("released", RELEASED, {}, None, {})
    plan = plan_build(released, PRESETS["int4"], Form(4096))
    found = {graph.name: graph for graph in plan.graphs}
    assert found["decoder"].parameters == 494_032_768  # as Qwen2.5-0.5B states
    assert found["decoder"].file_bytes == pytest.approx(279e6, rel=0.03)  # measured, int4 in groups of 32
    assert 0.5e9 < plan.bundle_bytes < 0.7e9
    assert 60 < found["decoder"].seconds < 600 and plan.seconds > found["decoder"].seconds
    assert 2e9 < plan.peak_bytes < 16e9


def test_the_whole_is_the_sum_of_its_graphs(demo):
    plan = plan_build(demo, PRESETS["int4"], Form(512))
    assert plan.bundle_bytes == sum(graph.file_bytes for graph in plan.graphs) + plan.extra_bytes
    assert plan.seconds == pytest.approx(sum(graph.seconds for graph in plan.graphs) + plan.verify_seconds)
    assert plan.peak_bytes == max(*(graph.peak_bytes for graph in plan.graphs), plan.verify_peak_bytes)
    without = plan_build(dataclasses.replace(demo, tokenizer_file=None), PRESETS["int4"], Form(512))
    assert plan.extra_bytes - without.extra_bytes == demo.tokenizer_file.stat().st_size


def test_the_table_says_what_was_excluded_and_why(demo):
    text = table(plan_build(demo, parse("int4", ["video_encoder=int4"], COMPONENTS), Form(512)))
    layers = 2 * demo.config.videomamba.depth  # dt_proj of both directions
    assert f"{layers} layers: input width is no multiple of the group size 32: int8 per channel instead" in text
    assert "layers:" not in table(plan_build(demo, PRESETS["int4"], Form(512)))
    assert text.splitlines()[-1].startswith("bundle about ")


def test_a_rule_that_matches_nothing_stops_the_plan(demo):
    with pytest.raises(RecipeError, match="matches no linear layer"):
        plan_build(demo, Recipe("mine", (Rule("decoder", LINEAR, "int8", layers="*.query"),)), Form(512))


@pytest.mark.parametrize(
    "form", [Form(512), CoremlBackend().form(512), Form(512, scan="fused", attention="fused")], ids=["stock", "coreml", "fused"]
)
def test_the_table_says_why_the_rest_stays_float(form, demo):
    plan = plan_build(demo, parse("int4", ["image_projector=fp32"], COMPONENTS), form)
    rows = table(plan).splitlines()
    for graph in plan.graphs:
        (place,) = (i for i, row in enumerate(rows) if row.startswith(graph.name + " "))
        said = rows[place + 1]
        left = graph.parameters - sum(a.weights for a in graph.assignments)
        if graph.name in ("frame_scorer", "token_embedding", "image_projector"):  # no weights, no others, and all of it as was asked
            assert "stays" not in said
            continue
        assert said.strip().startswith(f"stays {graph.rest}, no linear: ")
        parts = dict(re.findall(r"([\w ]+) ([\d,]+)(?:, |$)", said.partition(": ")[2]))
        assert sum(int(count.replace(",", "")) for count in parts.values()) == left and "others" not in parts, graph.name
    found = {graph.name: dict(graph.left) for graph in plan.graphs}
    clip, mamba, decoder = demo.config.clip, demo.config.videomamba, demo.config.decoder
    assert found["image_encoder"]["convolutions"] == 3 * 16**2 * clip.width
    assert found["image_encoder"]["class and position embeddings"] == (clip.patches + 2) * clip.width
    assert found["video_encoder"]["A and D of the scan"] == mamba.depth * 2 * mamba.d_inner * (mamba.d_state + 1)
    assert found["decoder"]["norms"] == (2 * decoder.layers + 1) * decoder.width
    assert found["decoder"]["biases"] == decoder.layers * (decoder.heads + 2 * decoder.kv_heads) * decoder.head_dim


def test_linears_that_the_recipe_leaves_in_float_are_no_exception_of_its(demo):
    mixed = Recipe("mixed", (Rule("decoder", LINEAR, "fp32", layers="head"), *PRESETS["int4"].rules))
    graph = {graph.name: graph for graph in plan_build(demo, mixed, Form(512)).graphs}["decoder"]
    assert set(dict(graph.left)) == {"norms", "biases"} and "fp32 18" in graph.schemes()


def test_a_parameter_of_another_kind_is_counted_too():
    twin = torch.nn.Module()
    twin.gate, twin.linear = torch.nn.Parameter(torch.zeros(7)), torch.nn.Linear(3, 5)
    assert left_in_float(twin) == {"others": 7, "biases": 5}
