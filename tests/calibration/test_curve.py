"""The curve of a training run: every validation is a point, and what is no log is refused."""

import json
import re
import xml.etree.ElementTree

import pytest

from calibration.curve import main
from export.build import DEMO_CHECKPOINT


def log(folder, *entries):
    path = folder / "language.jsonl"
    path.write_text("".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in entries))
    return path


def validation(step: int, share: float) -> dict:
    return {"stage": "language", "step": step, "loss": 1.0, "validation": {"tokens": share, "motions": 0.5}}


def drawn(picture: str) -> tuple[list[tuple[float, float]], dict[str, float], dict[str, float]]:
    """The points, in pixels, and of each axis the pixel of each tick's text."""
    root = xml.etree.ElementTree.fromstring(picture)
    tag = lambda name: root.iter(f"{{http://www.w3.org/2000/svg}}{name}")  # noqa: E731
    points = [(float(c.get("cx")), float(c.get("cy"))) for c in tag("circle")]
    texts = [t for t in tag("text") if re.fullmatch(r"[\d.e+]+", t.text)]
    across = {t.text: float(t.get("x")) for t in texts if t.get("text-anchor") == "middle"}
    return points, across, {t.text: float(t.get("y")) - 4 for t in texts if t.get("text-anchor") == "end"}


def test_every_validation_is_a_point_where_the_axes_say(tmp_path):
    entries = [validation(0, 0.5), {"stage": "language", "step": 50, "loss": 2.0}, validation(200, 1.0), validation(100, 0.75)]
    assert main(["--log", str(log(tmp_path, *entries)), "--out", str(tmp_path / "c.svg")]) == 0
    points, across, down = drawn((tmp_path / "c.svg").read_text())
    expected = [(across["0"], down["0.5"]), ((across["0"] + across["200"]) / 2, (down["0.5"] + down["1"]) / 2), (across["200"], down["1"])]
    assert len(points) == 3
    assert [value for point in points for value in point] == pytest.approx([value for point in expected for value in point], abs=1.1)
    assert points[0][0] < points[1][0] < points[2][0] and points[0][1] > points[1][1] > points[2][1]


def test_the_demo_s_own_log(tmp_path):
    path = DEMO_CHECKPOINT / "language.jsonl"
    assert main(["--log", str(path), "--out", str(tmp_path / "c.svg")]) == 0
    assert len(drawn((tmp_path / "c.svg").read_text())[0]) == sum('"validation"' in line for line in path.read_text().splitlines())


def test_a_run_that_was_always_right_has_a_curve(tmp_path):
    assert main(["--log", str(log(tmp_path, validation(0, 1.0), validation(1, 1.0))), "--out", str(tmp_path / "c.svg")]) == 0
    assert len(drawn((tmp_path / "c.svg").read_text())[0]) == 2


BAD = {
    "no JSON": (["{"], "is no log"),
    "another log": ([{"stage": "clip", "loss": 1.0}], "0 validations"),
    "one validation": ([validation(0, 0.5)], "1 validations"),
    "no step": ([{"validation": {"tokens": 0.5}}, validation(1, 0.5)], "is no log"),
    "other validations": ([{"step": 0, "validation": 0.5}, validation(1, 0.5)], "is no log"),
    "a share that is text": ([validation(0, "half"), validation(1, 0.5)], "is no log"),
    "a share that is no number": ([validation(0, float("nan")), validation(1, 0.5)], "is no log"),
    "a share above 1": ([validation(0, 2.0), validation(1, 0.5)], "is no log"),
    "steps without end": ([validation(0, 0.5), validation(float("inf"), 0.5)], "is no log"),
    "a step below 0": ([validation(-1, 0.5), validation(0, 0.5)], "is no log"),
    "a number": (["3"], "is no log"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_log_is_one_line_and_writes_nothing(case, tmp_path, capsys):
    entries, says = BAD[case]
    path = log(tmp_path, *entries)
    assert main(["--log", str(path), "--out", str(tmp_path / "c.svg")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}") and says in error and error.count("\n") == 1 and not (tmp_path / "c.svg").exists()


def test_a_log_that_is_not_there_and_a_folder_that_is_not(tmp_path, capsys):
    assert main(["--log", str(tmp_path / "none"), "--out", str(tmp_path / "c.svg")]) == 2
    assert "is no log" in capsys.readouterr().err
    path = log(tmp_path, validation(0, 0.5), validation(1, 0.6))
    assert main(["--log", str(path), "--out", str(tmp_path / "nowhere" / "c.svg")]) == 2
    assert "there is no folder" in capsys.readouterr().err
