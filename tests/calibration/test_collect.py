"""Calibration statistics: what the linears were really fed with, in bounded memory, in a folder that is whole or not there."""

import json
import shutil
import weakref

import pytest
import torch

from calibration.clips import write_clips
from calibration.collect import WATCHED, Accumulator, Watch, clips_of, collect, linears, main, passes
from export.build import DEMO_CHECKPOINT
from export.checkpoint import open_checkpoint
from export.components import Form
from export.config import MAX_CONTEXT
from export.errors import CalibrationError
from export.plan import plan_build
from export.quant.presets import PRESETS
from export.quant.recipe import LINEAR
from export.quant.statistics import INDEX, open_calibration
from runtime_py.load import backend_of_checkpoint


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, "validation", 2, 2)
    return folder


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(str(DEMO_CHECKPOINT))


@pytest.fixture(scope="module")
def statistics(clips, checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("statistics") / "demo"
    assert main(["--checkpoint", str(DEMO_CHECKPOINT), "--clips", str(clips), "--out", str(out)]) == 0
    return out


def test_sums_are_those_of_the_rows():
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    sums = Accumulator(6)
    sums.add(rows[:20], 0.5)
    sums.add(rows[20:].reshape(3, 10, 6), 2.0)
    weights = torch.tensor([0.5] * 20 + [2.0] * 30)
    found = sums.tensors()
    gram = (rows * weights[:, None]).T @ rows / weights.sum()
    assert torch.allclose(found["gram"], gram, atol=1e-5)
    assert torch.allclose(found["mean_abs"], (rows.abs() * weights[:, None]).sum(0) / weights.sum(), atol=1e-5)
    assert torch.equal(found["max_abs"], rows.abs().amax(0))


def test_every_linear_of_the_decoder_has_statistics_and_those_that_share_an_input_a_file(statistics, checkpoint):
    folder = open_calibration(statistics, checkpoint.fingerprint())
    decoder = checkpoint.load(parts={"decoder"}).decoder
    linears = {name: m for name, m in decoder.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(folder.files) == {f"decoder/{name}" for name in linears} and (folder.clips, folder.questions) == (2, 4)
    attention = [folder.files[f"decoder/layers.0.attention.{name}"] for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    assert attention[0] == attention[1] == attention[2] != attention[3]
    assert folder.files["decoder/layers.0.ffn.gate_proj"] == folder.files["decoder/layers.0.ffn.up_proj"]
    for name, linear in linears.items():
        found = folder.statistics("decoder", name)
        assert found.gram.shape == (linear.in_features,) * 2 and torch.equal(found.gram, found.gram.T)
        assert (found.gram.diagonal() <= found.max_abs.square() * 1.001).all() and (found.mean_abs <= found.max_abs).all()
        assert torch.linalg.eigvalsh(found.gram.double()).min() > -1e-3 * found.gram.diagonal().max()


def test_several_passes_give_the_same_files(statistics, clips, checkpoint, tmp_path):
    collect(checkpoint, clips_of(clips), tmp_path / "again", ["decoder"], memory_bytes=300_000)
    for path in statistics.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_passes_hold_what_fits():
    layers = {f"l{i}": torch.nn.Linear(width, 1) for i, width in enumerate((10, 10, 10, 100))}
    batches = passes([["l0"], ["l1"], ["l2"], ["l3"]], layers, 2 * Accumulator.bytes(10))
    assert batches == [[["l0"], ["l1"]], [["l2"]], [["l3"]]]


def test_a_clip_with_more_questions_counts_no_more(checkpoint, tmp_path):
    """Weights: half for the visual prefix, half for the text, each clip alike."""
    found = []
    for questions in (1, 4):
        write_clips(tmp_path / f"clips{questions}", "validation", 1, questions)
        collect(checkpoint, clips_of(tmp_path / f"clips{questions}"), tmp_path / f"s{questions}", ["decoder"], 10**9)
        folder = open_calibration(tmp_path / f"s{questions}", checkpoint.fingerprint())
        found.append(folder.statistics("decoder", "layers.0.attention.q_proj"))
    one, four = (s.gram.diagonal() for s in found)
    assert 0.5 < float((one / four).median()) < 2


def test_layers_are_named_as_the_graphs_name_them(checkpoint):
    """Else a recipe would ask for statistics that no run can collect."""
    backend = backend_of_checkpoint(checkpoint)
    for form in (Form(MAX_CONTEXT), Form(MAX_CONTEXT, scan="fused", attention="fused")):
        for graph in plan_build(checkpoint, PRESETS["int8"], form).graphs:
            named = {f"{graph.name}/{a.layer}" for a in graph.assignments if a.kind == LINEAR}
            assert set(linears(backend, [graph.name])) == named
            assert bool(named) == (graph.name in WATCHED)


def test_other_components_and_videos_without_annotations(clips, checkpoint, tmp_path):
    (tmp_path / "videos").mkdir()
    video = next(clips.glob("*.mp4"))
    (tmp_path / "videos" / "mine.mp4").write_bytes(video.read_bytes())
    arguments = ["--checkpoint", str(DEMO_CHECKPOINT), "--clips", str(tmp_path / "videos"), "--out", str(tmp_path / "s")]
    assert main([*arguments, "--components", "image_encoder", "video_encoder", "image_projector"]) == 0
    folder = open_calibration(tmp_path / "s", checkpoint.fingerprint())
    assert {name.split("/")[0] for name in folder.files} == {"image_encoder", "video_encoder", "image_projector"}
    assert json.loads((tmp_path / "s" / INDEX).read_text())["prompts"] == ["What happens in this video?"]


@pytest.mark.parametrize(
    "change, says",
    [
        (["--clips", "nowhere"], "is no folder"), (["--components", "cellar"], "choose from"),
        (["--components", "token_embedding"], "which have linears"), (["--limit", "0"], "above 0"),
        (["--checkpoint", "nowhere/at/all"], "nowhere"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line_and_write_nothing(change, says, clips, tmp_path, capsys):
    given = {"--checkpoint": str(DEMO_CHECKPOINT), "--clips": str(clips), "--out": str(tmp_path / "s")}
    given |= dict(zip(change[::2], change[1::2]))
    assert main([part for pair in given.items() for part in pair]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and says in error and list(tmp_path.iterdir()) == []


def test_a_folder_without_videos_and_one_that_stands_there(clips, statistics, tmp_path, capsys):
    assert main(["--checkpoint", str(DEMO_CHECKPOINT), "--clips", str(tmp_path), "--out", str(tmp_path / "s")]) == 2
    assert "has no videos" in capsys.readouterr().err
    assert main(["--checkpoint", str(DEMO_CHECKPOINT), "--clips", str(clips), "--out", str(statistics)]) == 2
    assert "stands there already" in capsys.readouterr().err


def test_a_clip_that_cannot_be_read_is_left_out_and_one_beyond_the_limit_is_not_looked_for(clips, tmp_path, capsys):
    videos = shutil.copytree(clips, tmp_path / "videos")
    first, *rest = clips_of(videos)
    rest[0][0].write_bytes(b"no video")
    assert [path for path, _ in clips_of(videos)] == [first[0], *(path for path, _ in rest[1:])]
    assert "warning: a clip is left out: " in capsys.readouterr().err
    rest[0][0].unlink()
    assert [path for path, _ in clips_of(videos, limit=1)] == [first[0]]
    first[0].write_bytes(b"no video")
    with pytest.raises(CalibrationError, match="none of its videos can be read"):
        clips_of(videos, limit=1)


def damage(folder, how):
    index = folder / INDEX
    data = json.loads(index.read_text())
    if how == "index":
        index.write_text("{")
    elif how == "version":
        index.write_text(json.dumps({**data, "version": 99}))
    elif how == "a name":
        index.write_text(json.dumps({**data, "layers": {**data["layers"], "decoder/head": "../x"}}))
    else:
        file = folder / data["layers"]["decoder/head"]
        file.write_bytes(file.read_bytes()[:-1] + b"\0")


@pytest.mark.parametrize("how, says", [("index", "damaged"), ("version", "version 99"), ("a name", "damaged"), ("a file", "damaged")])
def test_a_damaged_folder_is_one_line(how, says, statistics, checkpoint, tmp_path):
    import shutil

    folder = shutil.copytree(statistics, tmp_path / "copy")
    damage(folder, how)
    with pytest.raises(CalibrationError, match=says):
        open_calibration(folder, checkpoint.fingerprint()).statistics("decoder", "head")


def test_statistics_of_another_checkpoint_are_refused(statistics):
    with pytest.raises(CalibrationError, match="another checkpoint"):
        open_calibration(statistics, "something else")
    with pytest.raises(CalibrationError, match="no calibration folder"):
        open_calibration(statistics.parent, "x")


class Attention(torch.nn.Module):
    """Linears as a layer of the decoder has them: three that share an input, one behind them, and one that reads a copy."""

    def __init__(self, behind=lambda: None):
        super().__init__()
        self.q, self.k, self.v, self.o, self.copy = (torch.nn.Linear(64, 64) for _ in range(5))
        self.inputs, self.behind = [], behind

    def forward(self, x):
        y = self.q(x) + self.k(x) + self.v(x)
        self.inputs.append(weakref.ref(x))
        copy = x.clone()
        del x
        y = self.o(y) + self.copy(copy)
        self.inputs.append(weakref.ref(copy))
        del copy
        self.behind()
        return y


def watched(*modules):
    return Watch({f"{i}.{name}": m for i, module in enumerate(modules) for name, m in module.named_children()})


EACH = [["q", "k", "v"], ["o"], ["copy"]]


def test_linears_that_share_an_input_are_a_group_and_equal_tensors_are_none():
    first, second = Attention(), Attention()

    def run():
        with torch.inference_mode():
            for module in (first, second, first):  # a layer's first input counts
                module(torch.ones(10, 64))

    found = watched(first, second).groups(run)
    assert found == [[f"{i}.{name}" for name in names] for i in range(2) for names in EACH]


def test_finding_the_groups_keeps_no_input_alive():
    """Each is gone as soon as the model itself lets it go; the next may then lie at its address."""
    modules = [Attention(lambda: alive.append(sum(ref() is not None for m in modules for ref in m.inputs))) for _ in range(20)]
    alive: list[int] = []
    addresses = []

    def run():
        with torch.inference_mode():
            for module in modules:
                x = torch.full((10, 64), 1.0)
                addresses.append(x.data_ptr())
                y = module.forward(x)
                del x, y

    found = watched(*modules).groups(run)
    assert len(found) == 3 * len(modules) and max(alive) <= 1  # the caller's x
    assert len(set(addresses)) < len(addresses)  # or the case of an address used again was not met
