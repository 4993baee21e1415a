"""A stage of training that is interrupted goes on as if it had not been."""

import json

import pytest
import torch
from torch import nn

from calibration import training
from calibration.training import Schedule, Stage
from export.errors import ExportError

SCHEDULE = Schedule(steps=12, rate=1e-2, warm_up=2)


def modules() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def run(stage: Stage, steps: int = 10_000) -> None:
    for rng in stage.steps():
        x = torch.from_numpy(rng.standard_normal((16, 4))).float()
        loss = (stage.modules(x) - x[:, :2] + x[:, 2:]).square().mean()
        loss.backward()
        stage.report(loss.item())
        steps -= 1
        if not steps:
            return


def weights(stage: Stage) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in stage.modules.parameters()])


def test_a_run_in_two_parts_ends_where_one_run_does(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY_S", 0.0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = Stage("x", tmp_path / "a", modules(), SCHEDULE, seed=1)
    run(whole)
    part = Stage("x", tmp_path / "b", modules(), SCHEDULE, seed=1)
    run(part, 6)  # stops inside its sixth step, which is lost
    rest = Stage("x", tmp_path / "b", modules(), SCHEDULE, seed=1)
    assert rest.step == 5
    run(rest)
    assert rest.finished and torch.equal(weights(rest), weights(whole))
    assert rest.loss == pytest.approx(whole.loss, rel=1e-6)


def test_it_trains(tmp_path):
    stage = Stage("x", tmp_path, modules(), Schedule(steps=300, rate=1e-2), seed=1)
    run(stage)
    assert stage.loss < 0.5  # of targets whose variance is 2


def test_another_seed_is_no_continuation(tmp_path):
    run(Stage("x", tmp_path, modules(), SCHEDULE, seed=1))
    with pytest.raises(ExportError, match="another seed"):
        Stage("x", tmp_path, modules(), SCHEDULE, seed=2)


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04broken"])
def test_a_damaged_state_is_one_line(content, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ExportError, match="remove it"):
        Stage("x", tmp_path, modules(), SCHEDULE, seed=1)


def test_the_rate_warms_up_stays_and_falls():
    schedule = Schedule(steps=100, rate=1.0, warm_up=10, plateau=0.5)
    rates = [schedule.at(step) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:50] == [1.0] * 40 and rates[-1] == pytest.approx(0.02)
    assert all(a > b for a, b in zip(rates[50:98], rates[51:99]))


def test_the_log_has_no_line_twice_and_none_of_another_run(tmp_path, monkeypatch):
    """What an interrupted run logged after its state was saved comes again; a stage that begins anew begins its log anew."""
    monkeypatch.setattr(training, "SAVE_EVERY_S", 0.0)
    stage = Stage("x", tmp_path, modules(), SCHEDULE, seed=1)
    for step, _ in enumerate(stage.steps()):
        stage.modules(torch.zeros(1, 4)).sum().backward()
        stage.report(1.0)
        stage.log()
        if step == 5:
            break  # inside its sixth step, which is logged and lost
    with stage.log_file.open("a") as file:
        file.write('{"stage": "x", "st')  # cut short
    steps = lambda: [json.loads(line)["step"] for line in stage.log_file.read_text().splitlines()]  # noqa: E731
    Stage("x", tmp_path, modules(), SCHEDULE, seed=1)
    assert steps() == [0, 1, 2, 3, 4]
    stage.state_file.unlink()
    Stage("x", tmp_path, modules(), SCHEDULE, seed=1)
    assert steps() == []


def test_the_log_has_a_line_for_each_entry(tmp_path):
    stage = Stage("x", tmp_path, modules(), SCHEDULE, seed=1)
    stage.report(2.0)
    stage.log(right=[0.5])
    line = json.loads(stage.log_file.read_text())
    assert (line["stage"], line["loss"], line["right"]) == ("x", 2.0, [0.5])
