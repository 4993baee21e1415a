"""The sweep: what it builds, what it measures again, and which bundles are worth having."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from calibration.clips import ANNOTATIONS, write_clips
from export.quant.presets import PRESETS
from runtime_py import sweep
from runtime_py.plots import scatter
from runtime_py.sweep import Row, main, pareto, table


def row(name: str, size: int, kl: float) -> Row:
    return Row(name, "executorch", name, size, 5.0, 0.9, 0.8, 0.95, kl, 0.99, 1.25, 1.0, 50.0, 10**9)


ROWS = [row("big", 400, 0.0), row("small", 100, 0.2), row("worse", 120, 0.3), row("middle", 200, 0.01), row("twin", 100, 0.2)]


def test_the_front_has_what_no_other_beats():
    assert pareto(ROWS) == {"big", "small", "middle", "twin"}
    text = table(ROWS, {"right": 0.96, "perplexity": 1.2, "kl_clips": 7})
    assert text.count("| yes |") == 4 and "96.0 % right" in text and "first 7 clips" in text
    assert [line.split(" | ")[1] for line in text.splitlines()[2:7]] == ["small", "twin", "worse", "middle", "big"]


def test_the_plot_has_every_point():
    picture = scatter([(r.bundle_bytes, r.kl, f"<{r.name}>", r.name in pareto(ROWS)) for r in ROWS], "bytes", "KL")
    assert picture.count("<circle") == 5 and picture.count('fill="white" stroke') == 1 and "&lt;big&gt;" in picture
    import xml.etree.ElementTree

    xml.etree.ElementTree.fromstring(picture)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, "test", 2, 2)
    return folder


@pytest.fixture
def swept(demo_bundle, clips, tmp_path, monkeypatch):
    """Runs a sweep whose builds are copies of the demo bundle, and whose speed is given; the builds that it asked for."""
    built = []

    def run(module, *arguments):
        options = dict(zip(arguments[::2], arguments[1::2]))
        if module == "runtime_py.bench":
            return json.dumps({"ttft_s": 1.0, "decode_tok_s": 50.0, "peak_rss_bytes": 10**9})
        built.append((options["--recipe"], "--dry-run" in arguments))
        if "--dry-run" not in arguments:
            shutil.copytree(demo_bundle, options["--out"])
        return ""

    monkeypatch.setattr(sweep, "_run", run)
    questions = ["--annotations", str(clips / ANNOTATIONS), "--videos", str(clips)]
    return lambda *recipes, more=(): (main(["--recipes", *recipes, "--out", str(tmp_path / "out"), *(more or questions)]), built)


def test_every_combination_is_checked_before_the_first_is_built_and_measured_once(swept, tmp_path, capsys):
    recipe = tmp_path / "mixed.json"
    recipe.write_text(json.dumps(PRESETS["int8"].to_json()))
    code, built = swept("int8", str(recipe))
    assert code == 0 and [dry for _, dry in built] == [True, True, False, False]
    first = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert len(first["rows"]) == 2 and (tmp_path / "out" / "sweep.svg").exists()
    row = Row(**next(iter(first["rows"].values())))
    assert 0 < row.kl < 0.1 and row.perplexity >= 1 and 0 <= row.accuracy <= 1
    assert first["reference"]["kl_clips"] == 2 and "perplexity" in (tmp_path / "out" / "sweep.md").read_text()
    built.clear()
    assert swept("int8", str(recipe)) == (0, []) and "| executorch |" in capsys.readouterr().out
    recipe.write_text(json.dumps(dataclasses.replace(PRESETS["int8"], name="other").to_json()))  # edited: another recipe
    assert swept(str(recipe)) == (0, [(str(recipe), True), (str(recipe), False)])
    assert len(json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]) == 3


def test_a_bundle_that_a_sweep_of_another_checkpoint_left_is_refused(swept, tiny_bundle, tmp_path, capsys):
    assert swept("int8")[0] == 0
    (tmp_path / "out" / "sweep.json").unlink()
    (left,) = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    shutil.rmtree(left)
    shutil.copytree(tiny_bundle, left)
    assert swept("int8")[0] == 2 and "is a bundle of another checkpoint" in capsys.readouterr().err


def test_the_tokenizer_is_read_once(swept, tmp_path, monkeypatch):
    read = []
    load = sweep.load_tokenizer
    monkeypatch.setattr(sweep, "load_tokenizer", lambda *source: read.append(source) or load(*source))
    assert swept("int8", "int4")[0] == 0 and len(read) == 1
    assert len(json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]) == 2


@pytest.mark.parametrize("recipes, says", [(["int8", "no-such"], "unknown recipe"), (["int8", "int4-gptq"], "give --calibration")])
def test_a_recipe_that_cannot_be_built_costs_nothing(recipes, says, swept, tmp_path, capsys):
    code, built = swept(*recipes)
    assert (code, built) == (2, []) and says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_another_checkpoint_needs_questions_of_its_own(swept, tiny_checkpoint, capsys):
    assert swept("int8", more=["--checkpoint", str(tiny_checkpoint)]) == (2, [])
    assert "give --annotations" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["{", "[]", '{"asked": {}}', '{"asked": {}, "rows": {"a": {"name": "a"}}}'])
def test_figures_that_cannot_be_read_are_refused(state, swept, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.json").write_text(state)
    assert swept("int8") == (2, []) and "holds no figures" in capsys.readouterr().err
