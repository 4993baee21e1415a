"""Recipes that read calibration statistics, recipes from files, and what a build demands beyond parity."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from calibration.clips import ANNOTATIONS, write_clips
from calibration.collect import main as collect
from export import build as cli
from export.backends.mlpackage import weights_of
from export.build import DEMO_CHECKPOINT
from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.errors import RecipeError
from export.mlpackage import Package
from export.quant.gptq import gptq
from export.quant.presets import PRESETS, parse
from export.quant.recipe import SCHEMES, Recipe, Rule, read_recipe
from export.quant.rounding import Grid, dequantize
from export.quant.statistics import open_calibration


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, "validation", 2, 3)
    return folder


@pytest.fixture(scope="module")
def statistics(clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("statistics") / "demo"
    assert collect(["--checkpoint", str(DEMO_CHECKPOINT), "--clips", str(clips), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def grids(statistics) -> dict[str, Grid]:
    """What the decoder's weights should be in every bundle, computed here."""
    checkpoint = open_checkpoint(str(DEMO_CHECKPOINT))
    folder = open_calibration(statistics, checkpoint.fingerprint())
    decoder = checkpoint.load(parts={"decoder"}).decoder
    return {
        name: Grid(*gptq(module.weight, folder.statistics("decoder", name).gram, SCHEMES["int4"], torch.bfloat16))
        for name, module in decoder.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def build(*arguments: str) -> int:
    return cli.main(["--checkpoint", str(DEMO_CHECKPOINT), *arguments])


@pytest.fixture(scope="module")
def calibrated(statistics, clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "gptq"
    gates = ["--max-kl", "100", "--min-accuracy", "0", "--annotations", str(clips / ANNOTATIONS), "--videos", str(clips)]
    arguments = ["--target", "executorch", "--recipe", "int4-gptq", "--calibration", str(statistics), *gates]
    assert build(*arguments, "--out", str(out)) == 0
    return out


def test_the_built_decoder_computes_with_the_calibrated_weights(calibrated, grids):
    """Logits of the bundle against the eager decoder with those very weights: nearer than rounded to nearest can be."""
    from export.model.qwen2 import KeyValueCache
    from runtime_py.load import backend_of_bundle, backend_of_checkpoint

    eager = backend_of_checkpoint(open_checkpoint(str(DEMO_CHECKPOINT)))
    embeds = torch.randn(40, eager.config.decoder.width, generator=torch.Generator().manual_seed(0)) * 0.5

    def logits(rounded) -> torch.Tensor:
        for name, module in eager.model.decoder.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.weight = torch.nn.Parameter(rounded(name, originals[name]), requires_grad=False)
        with torch.inference_mode():
            return eager.model.decoder(embeds, 0, KeyValueCache(eager.config.decoder, 64, torch.float32))

    originals = {n: m.weight.detach() for n, m in eager.model.decoder.named_modules() if isinstance(m, torch.nn.Linear)}
    found = backend_of_bundle(open_bundle(calibrated)).decode(embeds, 0)
    from export.quant.rounding import quantize

    expected = logits(lambda name, weight: grids[name].weight())
    nearest = logits(lambda name, weight: dequantize(*quantize(weight, SCHEMES["int4"], torch.float32)))
    error, wrong = (float((found - other).norm() / other.norm()) for other in (expected, nearest))
    assert error < 0.05 and error < 0.5 * wrong


def test_its_manifest_says_how_it_was_rounded_and_what_the_gates_measured(calibrated):
    manifest = open_bundle(calibrated).manifest
    assert manifest.recipe == "int4-gptq"
    assert {r["rounding"] for r in manifest.recipe_rules["rules"] if r["component"] == "decoder"} == {"gptq", "nearest"}
    assert set(manifest.accuracy) == {"questions", "kl", "top1_agreement", "answer_tokens", "right", "reference_right"}
    assert manifest.accuracy["questions"] == 6 and manifest.accuracy["kl"] < 1
    nearest = Recipe("x", PRESETS["int4"].rules)
    assert [r.scheme for r in PRESETS["int4-gptq"].rules] == [r.scheme for r in nearest.rules]  # the same size


@pytest.mark.full
def test_a_core_ml_package_holds_the_same_integers_and_scales(statistics, grids, tmp_path):
    """As the other target's: each calibrated weight is a constant of the decoder, read back by another reader than the build's."""
    out = tmp_path / "b"
    assert build("--target", "coreml", "--recipe", "int4-gptq", "--calibration", str(statistics), "--out", str(out)) == 0
    package = Package.open(next(out.rglob("decoder.mlpackage")))
    constants = [constant for constant in weights_of(package) if constant.scheme == "int4"]
    stored = [[torch.tensor(package.values.tensor(part)[1].astype("float32")) for part in (c.data, c.scale)] for c in constants]
    assert len(stored) == len(grids)
    for name, grid in grids.items():
        wanted = grid.integers.float(), grid.scale.float()
        assert any(all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(found, wanted)) for found in stored), name


def test_a_demand_that_is_not_met_leaves_no_bundle(clips, tmp_path, capsys):
    questions = ["--annotations", str(clips / ANNOTATIONS), "--videos", str(clips)]
    arguments = ["--target", "executorch", "--recipe", "int4", "--out", str(tmp_path / "b"), *questions]
    assert build(*arguments, "--max-kl", "0") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "--max-kl 0" in error and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--recipe", "int4-gptq"], "calibration.collect"),
        (["--recipe", "int4", "--calibration", "x"], "leave --calibration out"),
        (["--recipe", "int4-gptq", "--calibration", "nowhere"], "no calibration folder"),
        (["--recipe", "nowhere.json"], "cannot be read"),
        (["--min-accuracy", "1.5"], "0 to 1"),
        (["--max-kl", "-1"], "from 0 on"),
        (["--max-kl", "1", "--no-verify"], "leave one of them out"),
        (["--max-kl", "1", "--annotations", "x"], "belong together"),
        (["--annotations", "x", "--videos", "y"], "give one of those too"),
        (["--max-kl", "1", "--annotations", "nowhere.json", "--videos", "y"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(arguments, says, tmp_path, capsys):
    assert build("--target", "executorch", "--out", str(tmp_path / "b"), *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_another_checkpoint_needs_questions_of_its_own(tiny_checkpoint, tmp_path, capsys):
    arguments = ["--target", "executorch", "--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "b"), "--max-kl", "1"]
    assert cli.main(arguments) == 2
    assert "--annotations" in capsys.readouterr().err


def test_a_recipe_comes_back_from_its_file(tmp_path):
    recipe = Recipe("mixed", (Rule("decoder", "linear", "int8", layers="head"), *PRESETS["int4-gptq"].rules))
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(recipe.to_json()))
    assert read_recipe(path) == recipe == parse(str(path), (), ())
    assert parse(str(path), ["decoder=int8"], ["decoder"]).rules[0].scheme == "int8"


BAD_RECIPES = {
    "no json": ("{", "is no recipe"),
    "no rules": ({"name": "x"}, "is no recipe"),
    "a list": ([], "is no recipe"),
    "another field": ({"name": "x", "rules": [{"component": "*", "kind": "linear", "scheme": "int8", "colour": 1}]}, "is no recipe"),
    "a number for a name": ({"name": 3, "rules": []}, "wrong type"),
    "an unknown scheme": ({"name": "x", "rules": [{"component": "*", "kind": "linear", "scheme": "int3"}]}, "unknown scheme 'int3'"),
    "an unknown kind": ({"name": "x", "rules": [{"component": "*", "kind": "conv", "scheme": "int8"}]}, "unknown kind 'conv'"),
    "an unknown rounding": (
        {"name": "x", "rules": [{"component": "*", "kind": "linear", "scheme": "int8", "rounding": "up"}]}, "unknown rounding 'up'",
    ),
    "int4 for linears of any width": ({"name": "x", "rules": [{"component": "*", "kind": "linear", "scheme": "int4"}]}, '"divides": 32'),
    "int4 for a table": ({"name": "x", "rules": [{"component": "*", "kind": "embedding", "scheme": "int4"}]}, "on an embedding"),
    "an unknown rest": ({"name": "x", "rules": [], "rest": "bf16"}, "unknown rest 'bf16'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_a_file_that_is_no_recipe_is_one_line(case, tmp_path):
    data, says = BAD_RECIPES[case]
    path = tmp_path / "r.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(RecipeError, match=says) as error:
        read_recipe(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_statistics_of_other_sizes_stop_the_build(statistics, tmp_path, capsys):
    import hashlib

    from safetensors.torch import load_file, save

    folder = shutil.copytree(statistics, tmp_path / "s")
    index = json.loads((folder / "calibration.json").read_text())
    file = index["layers"]["decoder/head"]
    tensors = load_file(folder / file)
    data = save({name: tensor[:64, :64].contiguous() if tensor.ndim == 2 else tensor[:64] for name, tensor in tensors.items()})
    (folder / file).write_bytes(data)
    index["sha256"][file] = hashlib.sha256(data).hexdigest()
    (folder / "calibration.json").write_text(json.dumps(index))
    arguments = ["--target", "executorch", "--recipe", "int4-gptq", "--calibration", str(folder), "--out", str(tmp_path / "b")]
    assert build(*arguments) == 2
    assert "other sizes" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_an_assignment_prefers_its_grid():
    from export.quant.apply import assign

    (assignment,) = assign(PRESETS["int4-gptq"], "decoder", [("head", "linear", (8, 64))])
    assert assignment.rounding == "gptq"
    grid = Grid(torch.ones(8, 64, dtype=torch.int8), torch.full((8, 2), 0.5, dtype=torch.bfloat16))
    integers, scale = dataclasses.replace(assignment, grid=grid).quantize(torch.randn(8, 64), torch.float16)
    assert torch.equal(integers, grid.integers) and scale.dtype == torch.float16 and torch.equal(scale.float(), grid.scale.float())
