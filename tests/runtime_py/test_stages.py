"""The feeding of stages, prompts that make no sense, and `dump`, which writes the stages (test_golden.py: their values)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoint import open_checkpoint
from export.errors import PromptError
from runtime_py import dump
from runtime_py.backends.eager import EagerBackend
from runtime_py.stages import STAGES, Pixels, compute_stages, embed

DEMO = Path(__file__).parents[2] / "calibration" / "demo" / "checkpoint"
IDS = [5, 6, -200, 7]


@pytest.fixture(scope="module")
def backend():
    return EagerBackend(open_checkpoint(DEMO))


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(1).integers(0, 256, (5, 60, 80, 3), dtype=np.uint8)  # the other eleven are padding


@pytest.fixture(scope="module")
def pixels(frames):
    return Pixels.of(list(frames))


@pytest.fixture(scope="module")
def demo_stages(backend, pixels):
    return compute_stages(backend, pixels, IDS, steps=4)


def test_what_is_fed_replaces_the_stage_for_what_follows_only(backend, pixels, demo_stages):
    selection = torch.tensor([[0, 1, 2, 4], [3, 5, 6, 7]])
    assert not torch.equal(selection, demo_stages.values["selected_frames"])
    fed = compute_stages(backend, pixels, IDS, steps=1, feed={"selected_frames": selection})
    assert torch.equal(fed.values["selected_frames"], demo_stages.values["selected_frames"])  # what was computed is kept
    assert torch.equal(fed.values["image_tokens"], demo_stages.values["image_tokens"])
    assert not torch.allclose(fed.values["videomamba_tokens"], demo_stages.values["videomamba_tokens"], atol=1e-3)


def test_every_stage_can_be_fed_in_its_golden_shape(backend, pixels, demo_stages):
    fed = compute_stages(backend, pixels, IDS, steps=4, feed=demo_stages.values)
    for name in STAGES:
        torch.testing.assert_close(fed.values[name], demo_stages.values[name], msg=name)


def test_teacher_forcing_feeds_the_given_ids_and_keeps_the_models_own(backend, pixels, demo_stages):
    free = demo_stages.values["greedy_ids"]
    forced = (free + 1) % backend.config.decoder.vocab
    stages = compute_stages(backend, pixels, IDS, steps=4, feed={"greedy_ids": forced})
    assert stages.values["greedy_ids"][0] == free[0]
    torch.testing.assert_close(stages.step_logits[0], demo_stages.step_logits[0])
    # Teacher-forced steps are those of a prompt that holds the forced ids.
    longer = compute_stages(backend, pixels, [*IDS, *forced[:3].tolist()], steps=1)
    torch.testing.assert_close(stages.step_logits[3], longer.step_logits[0], atol=1e-4, rtol=1e-4)


def test_the_run_of_placeholders_may_have_any_length(backend, pixels, demo_stages):
    long_run = compute_stages(backend, pixels, [5, 6, *[-200] * 16, 7], steps=1)
    assert torch.equal(long_run.values["inputs_embeds"], demo_stages.values["inputs_embeds"])


@pytest.mark.parametrize(
    ("ids", "says"),
    [([5, 6], "no visual placeholder"), ([-200, 5, -200], "one run"), ([-200, 5, 1024], "id 1024"), ([-200, -7], "id -7")],
)
def test_a_prompt_that_makes_no_sense_is_refused(backend, pixels, ids, says):
    with pytest.raises(PromptError, match=says):
        compute_stages(backend, pixels, ids, steps=1)


def test_the_whole_vocabulary_can_be_embedded(backend):
    assert embed(backend, [0, 1023]).shape == (2, 128)


def test_dump_writes_every_stage(tmp_path, frames, demo_stages, capsys):
    assert dump.main(dump_arguments(tmp_path, frames)) == 0
    with np.load(tmp_path / "stages.npz") as arrays:
        assert set(arrays) == set(STAGES)
        for name in STAGES:
            expected = demo_stages.values[name].numpy()
            assert arrays[name].dtype == expected.dtype
            np.testing.assert_allclose(arrays[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames.npy", "ids.npy", "stages.npz"]
    assert "12 stages from eager-sequential" in capsys.readouterr().out


def dump_arguments(folder: Path, frames, ids=IDS, out="stages.npz") -> list[str]:
    np.save(folder / "frames.npy", frames)
    np.save(folder / "ids.npy", np.array(ids))
    files = {"--checkpoint": DEMO, "--frames": folder / "frames.npy", "--ids": folder / "ids.npy", "--out": folder / out}
    return [str(part) for option in files.items() for part in option] + ["--new-tokens", "4"]


def an_archive(folder: Path) -> None:
    np.savez(folder / "archive", frames=np.zeros((1, 4, 4, 3), np.uint8))
    (folder / "archive.npz").replace(folder / "frames.npy")


def a_torn_archive(folder: Path) -> None:
    (folder / "frames.npy").write_bytes(b"PK\x03\x04" + bytes(40))


DUMP_ERRORS = {
    "frames are missing": (lambda f: (f / "frames.npy").unlink(), [], "frames.npy"),
    "frames are an archive": (an_archive, [], "numpy.save"),
    "frames are a torn archive": (a_torn_archive, [], "frames.npy"),
    "frames are text": (lambda f: (f / "frames.npy").write_text("frames"), [], "frames.npy"),
    "too many frames": (lambda f: np.save(f / "frames.npy", np.zeros((17, 4, 4, 3), np.uint8)), [], "1 to 16"),
    "float frames": (lambda f: np.save(f / "frames.npy", np.zeros((2, 4, 4, 3), np.float32)), [], "uint8"),
    "float ids": (lambda f: np.save(f / "ids.npy", np.zeros(3)), [], "int64"),
    "no ids": (lambda f: np.save(f / "ids.npy", np.zeros(0, np.int64)), [], "int64"),
    "no steps": (lambda f: None, ["--new-tokens", "0"], "--new-tokens"),
    "steps that are no number": (lambda f: None, ["--new-tokens", "few"], "--new-tokens"),
    "too many steps": (lambda f: None, ["--new-tokens", "4000"], "context"),
    "no folder for the result": (lambda f: None, ["--out", "/nowhere/at/all/stages.npz"], "/nowhere/at/all"),
    "a folder as the result": (lambda f: None, ["--out", "/"], "choose another"),
    "an unknown device": (lambda f: None, ["--device", "tpu"], "cpu or cuda"),
    "no threads": (lambda f: None, ["--threads", "0"], "--threads"),
    "too many threads": (lambda f: None, ["--threads", "1000000"], "--threads"),
    "a bundle too": (lambda f: None, ["--bundle", "bundles/demo"], "--bundle"),
}


@pytest.mark.parametrize("case", DUMP_ERRORS)
def test_dump_explains_bad_input_in_one_line(tmp_path, frames, capsys, case):
    spoil, options, says = DUMP_ERRORS[case]
    arguments = dump_arguments(tmp_path, frames)
    spoil(tmp_path)
    (tmp_path / "stages.npz").write_text("an earlier result")
    assert dump.main(arguments + options) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and says in captured.err
    assert captured.out == ""
    assert (tmp_path / "stages.npz").read_text() == "an earlier result"
    assert len(list(tmp_path.iterdir())) <= 3
