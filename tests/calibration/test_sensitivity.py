"""Mixed precision by measurement: what is measured, what is chosen for the bytes, and that the recipe builds."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from calibration.sensitivity import Sensitivity, choose, main, measure, parse_bytes, recipe, stored_bytes
from export import build
from export.build import DEMO_CHECKPOINT
from export.errors import CalibrationError
from export.progress import Progress
from export.quant.recipe import SCHEMES, read_recipe
from export.quant.rounding import dequantize, quantize
from tests.calibration.test_roundings import problem


def layer(name: str, *kl: float, unit: int = 100) -> Sensitivity:
    """A layer of 4, 8 and 32 units of bytes."""
    schemes = ("int4", "int8", "fp32")
    return Sensitivity(name, dict(zip(schemes, kl)), dict(zip(schemes, (4 * unit, 8 * unit, 32 * unit))))


# KL saved by the byte, int4 -> int8, int8 -> fp32: a 2e-2, 2.1e-3; b 5e-3, 4e-5; c 4e-4, 2e-5 (and five times the bytes).
LAYERS = [layer("c", 1.0, 0.2, 0.0, unit=500), layer("a", 13.0, 5.0, 0.0), layer("b", 2.1, 0.1, 0.0)]


@pytest.mark.parametrize(
    "budget, a, b, c",
    [
        (0, "int4", "int4", "int4"),
        (399, "int4", "int4", "int4"),
        (400, "int8", "int4", "int4"),  # the best step alone
        (799, "int8", "int4", "int4"),
        (800, "int8", "int8", "int4"),  # b's first step before a's second
        (3199, "int8", "int8", "int8"),  # a's second does not fit, c's first does
        (3200, "fp32", "int8", "int4"),  # it fits, and pays more than c's first
        (5200, "fp32", "int8", "int8"),
        (10**9, "fp32", "fp32", "fp32"),
    ],
)
def test_the_bytes_go_where_they_pay_most(budget, a, b, c):
    assert choose(LAYERS, budget) == {"a": a, "b": b, "c": c}


def test_a_step_s_gain_is_that_over_the_present_scheme():
    """From int4 float would pay more than the other layer's int8; from int8 it does not."""
    big, small = layer("big", 10.0, 0.5, 0.0), layer("small", 0.1, 0.0, 0.0)
    assert big.gain("int4", "fp32") > small.gain("int4", "int8") > big.gain("int8", "fp32")
    assert choose([big, small], 2800) == {"big": "int8", "small": "int8"}


def test_float_comes_at_once_where_int8_gains_nothing():
    assert choose([layer("a", 1.0, 1.5, 0.0)], 2800) == {"a": "fp32"}
    assert choose([layer("a", 1.0, 1.5, 0.0)], 2799) == {"a": "int4"}
    assert choose([layer("a", 0.0, 0.0, 0.0)], 10**9) == {"a": "int4"}  # nothing to gain


def test_bytes_are_those_that_a_bundle_stores():
    assert [stored_bytes((64, 128), name) for name in ("int4", "int8", "fp16", "fp32")] == [
        64 * 128 // 2 + 64 * 4 * 2, 64 * 128 + 64 * 2, 64 * 128 * 2, 64 * 128 * 4,
    ]  # fmt: skip


class Recorded:
    """An experiment whose divergence is the squared error of the one layer that it is given."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        self.weights, self.asked = weights, []
        self._statistics = problem(columns=96)[1]

    def statistics(self, name):
        return self._statistics

    def agreement(self, rounded):
        ((name, weight),) = rounded.items()
        self.asked.append(name)
        return SimpleNamespace(kl=float((weight - self.weights[name]).square().sum()))


@pytest.mark.parametrize("finest", ["fp32", "fp16"])
def test_each_layer_is_measured_alone_in_each_scheme(finest):
    weight, odd = problem()[0], torch.randn(8, 36, generator=torch.Generator().manual_seed(1))
    run = Recorded({"a": weight, "odd": odd})
    nearest = measure(run, "nearest", finest, Progress(2))
    assert [(one.layer, list(one.kl)) for one in nearest] == [("a", ["int4", "int8", finest]), ("odd", ["int8", finest])]
    for one in nearest:
        for name in set(one.kl) - {finest}:
            scale_dtype = torch.bfloat16 if name == "int4" else torch.float32
            error = dequantize(*quantize(run.weights[one.layer], SCHEMES[name], scale_dtype)) - run.weights[one.layer]
            assert one.kl[name] == pytest.approx(float(error.square().sum()), rel=1e-6), (one.layer, name)
            assert one.bytes[name] == stored_bytes(run.weights[one.layer].shape, name)
    assert nearest[0].kl["int4"] > 100 * nearest[0].kl["int8"] > 0
    assert (nearest[0].kl[finest] == 0) == (finest == "fp32") and nearest[0].kl[finest] < 0.01 * nearest[0].kl["int8"]
    assert run.asked.count("a") == (2 if finest == "fp32" else 3)
    calibrated = measure(Recorded({"a": weight}), "gptq", finest, Progress(1))
    assert calibrated[0].kl["int4"] != nearest[0].kl["int4"] and calibrated[0].kl["int8"] == nearest[0].kl["int8"]


@pytest.mark.parametrize("text, expected", [("5%", (5, True)), ("12.5 %", (12.5, True)), ("0", (0, False)), ("1e6", (1e6, False))])
def test_extra_bytes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "%", "five", "-1", "-5%", "nan", "inf", "1e999", "5%%"])
def test_what_is_no_number_of_bytes_is_refused(text):
    with pytest.raises(CalibrationError, match="give bytes, or per cent"):
        parse_bytes(text)


def decoder_layers() -> list[str]:
    return [f"layers.{i}.{name}" for i in range(3) for name in NAMES] + ["head"]


NAMES = [f"attention.{x}_proj" for x in "qkvo"] + [f"ffn.{x}_proj" for x in ("gate", "up", "down")]


@pytest.mark.parametrize("target", ["executorch", "coreml"])
@pytest.mark.parametrize("budget, expected", [(0, {"int4"}), (3200, {"int4", "int8", "fp32"}), (10**9, {"fp32"})])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_the_recipe_builds_and_puts_each_layer_where_it_was_chosen(budget, expected, rounding, target, demo_statistics, tmp_path, capsys):
    found = [layer(name, *((1.0, 0.2, 0.0) if name != "head" else (50.0, 5.0, 0.0))) for name in decoder_layers()]
    chosen = choose(found, budget)
    assert set(chosen.values()) == expected
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(recipe("mixed", found, chosen, rounding).to_json()))
    mixed = read_recipe(path)
    assert {name: mixed.scheme_for("decoder", "linear", name, 128).name for name in chosen} == chosen
    roundings = {mixed.rule_for("decoder", "linear", name, 128).rounding for name, scheme in chosen.items() if scheme == "int4"}
    assert roundings == ({rounding} if "int4" in expected else set())
    assert (
        mixed.scheme_for("image_encoder", "linear", "x", 128).name
        == mixed.scheme_for("token_embedding", "embedding", "t", 8).name
        == "int8"
    )
    arguments = ["--target", target, "--recipe", str(path), "--out", str(tmp_path / "b"), "--dry-run"]
    assert build.main([*arguments, *(["--calibration", str(demo_statistics)] if mixed.calibrated else [])]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("decoder"))
    assert all(scheme in line for scheme in expected)


def run(statistics: Path, clips: Path, out: Path, *more: str) -> int:
    arguments = ["--checkpoint", str(DEMO_CHECKPOINT), "--calibration", str(statistics), "--clips", str(clips), "--out", str(out)]
    return main([*arguments, *more])


@pytest.mark.full  # 22 layers in two schemes
def test_the_command_writes_a_recipe_of_what_it_measured(demo_statistics, asked_clips, tmp_path, capsys):
    assert run(demo_statistics, asked_clips, tmp_path / "mixed.json", "--extra-bytes", "20%") == 0
    *_, last = printed = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in printed if line.startswith(("layers.", "head"))}
    mixed = read_recipe(tmp_path / "mixed.json")
    assert mixed.name == "mixed" and mixed.calibrated and set(rows) == set(decoder_layers())
    assert all(float(row[1]) > float(row[2]) for row in rows.values() if row[5] != "int4") and all(float(r[3]) == 0 for r in rows.values())
    assert {name: mixed.scheme_for("decoder", "linear", name, 128).name for name in rows} == {name: row[5] for name, row in rows.items()}
    more = sum(int(row[4].replace(",", "")) for row in rows.values())
    base = int(last.split(" than ")[1].replace(",", ""))
    assert 0 < more <= 0.2 * base and f"{more:,} bytes more than {base:,}" in last
    first = [rule.layers for rule in mixed.rules if rule.scheme == "int8"][:1]
    assert first and rows[first[0]][5] == "int8"


@pytest.mark.parametrize(
    "change, says",
    [
        (["--extra-bytes", "much"], "give bytes"), (["--extra-bytes", "nan"], "give bytes"), (["--limit", "0"], "at least 1"),
        (["--out", "recipe.txt"], "ends in .json"), (["--out", "nowhere/r.json"], "there is no folder"),
        (["--float", "bf16"], "invalid choice"), (["--calibration", "nowhere"], "no calibration folder"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line_before_any_measurement(change, says, demo_statistics, asked_clips, tmp_path, capsys, monkeypatch):
    from calibration import experiment

    monkeypatch.setattr(experiment, "visual_tokens", lambda *_: pytest.fail("a model ran"))
    assert run(demo_statistics, asked_clips, tmp_path / "r.json", *change) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []
