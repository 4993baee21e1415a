"""Clips as files: real H.264, the colours that were drawn, and annotations that other commands read."""

import json

import numpy as np
import pytest

from calibration.clips import ANNOTATIONS, main, plan_clip, write_h264
from calibration.scenes import COLOURS
from runtime_py.annotations import read_annotations
from runtime_py.video import read_frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("clips")
    assert main(["--out", str(out), "--count", "3", "--questions", "6"]) == 0
    return out


def test_every_frame_of_a_clip_is_sampled_and_shows_what_was_drawn(folder):
    clip = plan_clip("test", 0, 1)
    video = read_frames(folder / "test-0-0001.mp4")
    assert (video.codec, video.total, video.indices, video.width, video.height) == ("h264", 16, list(range(16)), 224, 224)
    drawn = clip.draw()
    assert np.abs(np.stack(video.frames).astype(int) - drawn).mean() < 6  # grey levels: what the encoder loses
    for shape, track in zip(clip.scene.shapes, clip.tracks):
        if shape.kind in ("circle", "square", "cross"):
            x, y = (track.centres[-1] * 224).astype(int)
            assert np.abs(video.frames[-1][y, x].astype(int) - COLOURS[shape.colour]).max() < 40


def test_annotations_are_read_and_every_video_is_there(folder):
    items = read_annotations(folder / ANNOTATIONS)
    assert len(items) == 18 and {item.video for item in items} == {f"test-0-000{i}.mp4" for i in range(3)}
    assert all((folder / item.video).is_file() for item in items)
    assert {item.form for item in items} == {"open", "yes/no", "choice"}


def test_the_same_command_writes_the_same_questions(folder, tmp_path):
    main(["--out", str(tmp_path), "--count", "2", "--questions", "6"])
    first, again = json.loads((folder / ANNOTATIONS).read_text()), json.loads((tmp_path / ANNOTATIONS).read_text())
    assert again == first[:12]


def test_shapes_stay_in_the_centre_square_of_other_pictures():
    clip = plan_clip("test", 0, 1)
    wide, square = clip.draw((320, 224)), clip.draw()
    assert wide.shape == (16, 224, 320, 3)
    shape, track = clip.scene.shapes[0], clip.tracks[0]
    x, y = (track.centres[-1] * 224).astype(int)
    if shape.kind in ("circle", "square", "cross"):
        assert np.abs(wide[-1][y, x + 48].astype(int) - square[-1][y, x]).max() < 40


@pytest.mark.parametrize("argument", [["--count", "0"], ["--questions", "0"], ["--seed", "-1"]])
def test_a_wrong_number_is_one_line(argument, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "x"), *argument]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "x").exists()


def test_a_file_that_stood_there_survives_a_failure(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")

    def frames():
        yield np.zeros((64, 64, 3), np.uint8)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_h264(frames(), path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
