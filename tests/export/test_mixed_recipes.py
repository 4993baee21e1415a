"""int4, int8 and float in one decoder: what each target makes of it, and what it says."""

import json
from pathlib import Path

import pytest

from export import build as cli
from export.backends.coreml import CoremlBackend
from export.backends.executorch import ExecutorchBackend
from export.build import DEMO_CHECKPOINT
from export.bundle import open_bundle
from export.quant.apply import assign
from export.quant.presets import PRESETS, parse
from export.quant.recipe import LINEAR, Recipe, Rule

SIZES = {"layers.0.attention.q_proj": (128, 128), "layers.1.ffn.up_proj": (384, 128), "head": (1024, 128)}


def mixed(finest: str) -> Recipe:
    """The demo's decoder with its head and one more linear in `finest`, one in int8, the others in int4."""
    schemes = zip(SIZES, (finest, "int8", finest))
    return Recipe("mixed", tuple(Rule("decoder", LINEAR, scheme, layers=name) for name, scheme in schemes) + PRESETS["int4"].rules)


def build(tmp_path: Path, recipe: Recipe, *arguments: str) -> int:
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(recipe.to_json()))
    return cli.main(["--checkpoint", str(DEMO_CHECKPOINT), "--recipe", str(path), "--out", str(tmp_path / "b"), *arguments])


@pytest.mark.full
@pytest.mark.parametrize(
    "finest, activations, arguments",
    [
        ("fp32", "float32, int8 per token, dynamic", ["--target", "executorch"]),
        ("fp32", "float32, int8 per token, dynamic", ["--target", "executorch", "--kernels", "fused"]),
        ("fp32", "float32", ["--target", "coreml"]),
        ("fp16", "float16", ["--target", "coreml"]),
    ],
)
def test_a_mixed_decoder_is_built_as_it_says_and_proved(finest, activations, arguments, tmp_path):
    if "fused" in arguments:
        from export.ops import native
        from tests.kernels.driver import no_tool

        if why := native.unavailable():
            no_tool(f"a fused bundle cannot be checked here: {why}")
    assert build(tmp_path, mixed(finest), "--max-context", "2700", *arguments) == 0
    manifest = open_bundle(tmp_path / "b").manifest
    stored = {share.scheme: share.weights for share in manifest.graphs["decoder"].schemes}
    q, up, head = (out * into for out, into in SIZES.values())
    assert stored["int8"] == up and stored["int4"] == 3 * 7 * 128 * 128 + 3 * 3 * (384 - 128) * 128 - 3 * 2 * 64 * 128 - q - up
    assert q + head < stored[finest] < q + head + 4000  # norms, biases
    assert set(stored) == {"int4", "int8", finest} and manifest.graphs["decoder"].activations == activations
    assert manifest.verified and manifest.recipe_rules == json.loads(json.dumps(mixed(finest).to_json()))


def test_executorch_says_what_it_has_in_place_of_fp16(tmp_path, capsys):
    assert build(tmp_path, mixed("fp16"), "--target", "executorch", "--dry-run") == 2
    assert "choose int8 or fp32" in capsys.readouterr().err


@pytest.mark.parametrize("finest, says", [("fp32", True), ("fp16", False)])
def test_a_core_ml_plan_says_what_one_fp32_layer_costs(finest, says, tmp_path, capsys):
    assert build(tmp_path, mixed(finest), "--target", "coreml", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert ("the whole graph computes in float32" in printed) == says


def test_a_core_ml_graph_computes_in_one_type():
    """The manifest says which: float32 where a layer is fp32, whatever the others are."""
    layers = [(name, LINEAR, shape) for name, shape in SIZES.items()]
    backend = CoremlBackend()
    found = [backend.activations(assign(mixed(finest), "decoder", layers)) for finest in ("fp32", "fp16", "int8")]
    assert found == ["float32", "float16", "float16"] and backend.activations([]) == "float32"


def test_a_layer_in_float_leaves_a_fused_decoder_its_half_cache():
    form = ExecutorchBackend("fused").form
    assert form(512, PRESETS["int4"]).half_cache and form(512, mixed("fp32")).half_cache
    assert not form(512, PRESETS["fp32"]).half_cache and not form(512, parse("int4", ["decoder=fp32"], ["decoder"])).half_cache
