"""The comparison of roundings: every contender pays for int4 in groups of 32, and the table says what was measured."""

import json
import shutil
from argparse import Namespace

import pytest
import torch

from calibration.experiment import experiment
from calibration.roundings import AWQ_GRID, INT4, ROUNDINGS, main, output_loss, table
from export.build import DEMO_CHECKPOINT
from export.checkpoint import open_checkpoint
from export.quant.rounding import dequantize, quantize
from export.quant.statistics import INDEX, InputStatistics, open_calibration
from runtime_py.agreement import Agreement


def problem(rows: int = 24, columns: int = 96, seed: int = 0) -> tuple[torch.Tensor, InputStatistics]:
    """A weight, and the statistics of inputs that are correlated and of very different sizes, as those of a decoder are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = (torch.randn(1000, columns, generator=generator) @ mix) * torch.exp(torch.randn(columns, generator=generator))
    statistics = InputStatistics(inputs.T @ inputs / 1000, inputs.abs().mean(0), inputs.abs().amax(0))
    return torch.randn(rows, columns, generator=generator), statistics


def on_grid(rounded: torch.Tensor) -> torch.Tensor:
    """For each group of 32 of [O, I]: whether one scale puts all of its values on the integers from -8 to 7; [O, I / 32]."""
    groups = rounded.double().reshape(rounded.shape[0], -1, INT4.group_size)
    found = torch.zeros(groups.shape[:2], dtype=torch.bool)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))  # some integer from -8 to 7 times the scale
    for integer in (*range(-8, 0), *range(1, 8)):
        steps = groups * integer / largest
        whole = ((steps - steps.round()).abs() < 1e-3).all(-1)
        found |= whole & (steps.round().amin(-1) >= -8) & (steps.round().amax(-1) <= 7) & (largest[..., 0] / integer > 0)
    return found


@pytest.mark.parametrize("name", [name for name in ROUNDINGS if name != "awq"])
def test_what_a_rounding_gives_lies_on_int4_s_grid(name):
    """Else the comparison at equal size would be none."""
    weight, statistics = problem()
    rounded = ROUNDINGS[name](weight, statistics)
    assert rounded.shape == weight.shape and on_grid(rounded).all()
    assert not on_grid(weight).any()  # or the check would say nothing


def test_awq_s_lies_on_the_grid_of_the_scaled_weights():
    weight, statistics = problem()
    rounded = ROUNDINGS["awq"](weight, statistics)
    found = []
    for step in range(AWQ_GRID + 1):
        scale = statistics.mean_abs ** (step / AWQ_GRID)
        found.append(bool(on_grid(rounded * scale).all()))
    assert any(found) and not found[0]  # these inputs are worth scaling


@pytest.mark.parametrize("seed", range(3))
def test_what_reads_the_inputs_loses_less_of_the_outputs_than_nearest(seed):
    weight, statistics = problem(seed=seed)
    loss = {name: output_loss(rounding(weight, statistics) - weight, statistics.gram) for name, rounding in ROUNDINGS.items()}
    assert loss["gptq"] < loss["scales"] < loss["nearest"] and loss["awq"] <= loss["nearest"] and loss["gptq"] < 0.5 * loss["nearest"]


def test_the_output_error_is_that_of_the_outputs():
    weight, _ = problem()
    inputs = torch.randn(500, 96, generator=torch.Generator().manual_seed(1))
    error = ROUNDINGS["nearest"](weight, None) - weight
    squares = (inputs @ error.T).square().sum(-1).mean()
    assert output_loss(error, inputs.T @ inputs / 500) == pytest.approx(float(squares), rel=1e-4)


def run(statistics, clips, *more: str) -> int:
    return main(["--checkpoint", str(DEMO_CHECKPOINT), "--calibration", str(statistics), "--clips", str(clips), *more])


def test_the_command_writes_what_it_measured(demo_statistics, asked_clips, tmp_path, capsys):
    assert run(demo_statistics, asked_clips, "--roundings", "gptq", "--json", str(tmp_path / "r.json")) == 0
    rows = json.loads((tmp_path / "r.json").read_text())
    assert list(rows) == ["nearest", "gptq"] and 0 < rows["gptq"]["kl"] < rows["nearest"]["kl"] and rows["nearest"]["top1"] > 0.9
    printed = capsys.readouterr().out.splitlines()
    for name, figures in rows.items():
        cells = next(line for line in printed if line.startswith(name)).split()
        assert cells[1] == f"{figures['kl']:.5f}" and cells[3] == f"{figures['kl'] / rows['nearest']['kl']:.2f}"
        assert cells[4] == f"{100 * figures['top1']:.2f}%" and float(cells[6]) == pytest.approx(figures["output_error"], rel=1e-3)
    assert printed[-1].startswith(f"{rows['nearest']['tokens']} answer tokens")
    # The sum over the decoder's linears, nothing else among them.
    checkpoint = open_checkpoint(str(DEMO_CHECKPOINT))
    folder = open_calibration(demo_statistics, checkpoint.fingerprint())
    decoder = checkpoint.load(parts={"decoder"}).decoder
    layers = {name: module.weight.detach() for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear)}
    errors = {name: dequantize(*quantize(weight, INT4, torch.bfloat16)) - weight for name, weight in layers.items()}
    total = sum(output_loss(error, folder.statistics("decoder", name).gram) for name, error in errors.items())
    assert rows["nearest"]["output_error"] == pytest.approx(total, rel=1e-4)


def test_a_weight_that_nearest_leaves_alone_has_no_ratio():
    agreement = Agreement(10, 0.0, 0.0, 1.0, 1.5, 1.5)
    row = table({"nearest": (agreement, 0.0), "gptq": (agreement, 0.0)}).splitlines()[2].split()
    assert row[0] == "gptq" and row[3] == "-"


def test_the_float_weights_are_back_after_each_rounding(demo_statistics, asked_clips):
    given = {"checkpoint": str(DEMO_CHECKPOINT), "calibration": demo_statistics, "clips": str(asked_clips), "limit": 1}
    with experiment(Namespace(**given, clip=None, videomamba=None, base=None)) as run:
        changed = run.agreement({layer: weight * 0.5 for layer, weight in run.weights.items()})
        same = run.agreement({})
        one = run.agreement({"head": run.weights["head"] * 0.5})
    assert (same.kl, same.top1) == (0, 1) and same.perplexity == same.reference_perplexity
    assert changed.kl > one.kl > 0.01 and changed.tokens == same.tokens > 4


def test_wrong_statistics_are_refused_before_a_model_runs(demo_statistics, vision_statistics, asked_clips, tmp_path, capsys, monkeypatch):
    from calibration import experiment

    monkeypatch.setattr(experiment, "visual_tokens", lambda *_: pytest.fail("a model ran"))
    other = shutil.copytree(demo_statistics, tmp_path / "other")
    index = json.loads((other / INDEX).read_text())
    (other / INDEX).write_text(json.dumps(index | {"checkpoint_fingerprint": "x"}))
    for folder, says in ((tmp_path, "no calibration folder"), (other, "another checkpoint"), (vision_statistics, "--components decoder")):
        assert run(folder, asked_clips) == 2
        error = capsys.readouterr().err.splitlines()
        assert error[-1].startswith("error: ") and says in error[-1], error


@pytest.mark.parametrize(
    "change, says",
    [(["--limit", "0"], "at least 1"), (["--roundings", "up"], "invalid choice"), (["--json", "nowhere/r.json"], "there is no folder")],
)
def test_wrong_arguments_are_one_line(change, says, demo_statistics, asked_clips, capsys):
    assert run(demo_statistics, asked_clips, *change) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_questions_without_answers_are_refused(demo_statistics, asked_clips, tmp_path, capsys):
    video = next(asked_clips.glob("*.mp4"))
    shutil.copy(video, tmp_path / "mine.mp4")
    assert run(demo_statistics, tmp_path) == 2
    assert "answers are needed" in capsys.readouterr().err
