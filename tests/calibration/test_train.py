"""What the stages of training are taught."""

import dataclasses

import numpy as np
import pytest
import torch

from calibration import train
from calibration.attention import MOVING, Shown, few_places, looks_at_shapes, looks_back, looks_of_answers, motions_of_names
from calibration.encoders import IGNORE, MOTIONS, clip_targets, frame_targets, patch_targets, place_targets
from calibration.make_demo import demo_config, initial_weights
from calibration.scenes import COLOURS, SHAPES, Scene, Shape, Track
from calibration.training import Plan, Schedule
from export.checkpoint import open_checkpoint
from export.errors import ExportError
from export.model.prompt import USER

SCENE = Scene("dark", (Shape("circle", "red", "big", "left", 0), Shape("ring", "cyan", "small", "still", 1)))
MIDDLE = np.tile([0.5, 0.25], (16, 1))
TRACKS = [Track(MIDDLE, 0.15, 0, 9, 1.0), Track(MIDDLE + [0, 0.5], 0.09, 4, 13, 1.0)]


def test_targets_say_what_is_there():
    frame = frame_targets(SCENE, TRACKS)
    red, cyan = list(COLOURS).index("red"), list(COLOURS).index("cyan")
    circle, ring = (len(COLOURS) + SHAPES.index(kind) for kind in ("circle", "ring"))
    assert frame[3, red] == 1 + SHAPES.index("circle") and frame[3, cyan] == 0 and frame[4, cyan] == 1 + SHAPES.index("ring")
    assert frame[0, circle] == 1 + red and frame[3, ring] == 0 and frame[:, -1].tolist() == [1] * 4 + [2] * 5 + [1] * 4 + [0] * 3
    patches = patch_targets(SCENE, TRACKS, 14).unflatten(1, (14, 14))
    assert patches[0, 3, 7].tolist() == [1 + SHAPES.index("circle"), 1 + red, 1, 1, 0] and patches[0, 10, 7].tolist()[:3] == [0, 0, IGNORE]
    assert patches[4, 10, 7].tolist() == [1 + SHAPES.index("ring"), 1 + cyan, 0, 0, 1]
    assert not (patches[9:, ..., 0] == 1 + SHAPES.index("circle")).any() and not patches[13:, ..., 0].any()
    place = place_targets(SCENE, TRACKS)
    assert (
        place[5, [red, len(COLOURS) + red]].tolist() == [2, 1]
        and place[3, cyan] == place[13, cyan] == IGNORE
        and place[4, len(COLOURS) + cyan] == 3
    )
    clip = clip_targets(SCENE)
    assert (clip[red], clip[cyan], clip[-1]) == (2, 1, 1) and clip[len(COLOURS) + cyan] == 1


@pytest.fixture(scope="module")
def encode():
    tokenizer = train.train_tokenizer()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def words(encode):
    words = {encode(f" {word}")[0]: word for word in (*COLOURS, *SHAPES, MOVING)}
    assert len(words) == len(COLOURS) + len(SHAPES) + 1
    return words


def test_a_word_looks_at_its_shape_early_and_late_and_an_answer_at_the_word(encode, words):
    covered = patch_targets(SCENE, TRACKS, 12)[..., 1].numpy()
    kept = few_places(14, 2402, covered, np.random.default_rng(0))
    assert len(kept) == 14 + 16 * 12 + 98 and (np.diff(kept) > 0).all() and kept[-1] == 14 + 2401
    ids = np.array(encode("\nWhat colour is the ring?"))
    ring = int(np.flatnonzero(ids == encode(" ring")[0])[0])
    shown = Shown(covered, kept, 14)
    looks = looks_at_shapes(SCENE, shown, ids, words)
    assert not looks[:, [i for i in range(len(ids)) if i != ring]].any()
    for head, frames in enumerate((range(4, 13), range(4, 8), range(9, 13))):
        seen = kept[np.flatnonzero(looks[head, ring])] - 14
        assert len(seen) and set(seen // 144) <= set(frames)
        assert (covered.reshape(-1)[seen] == 1 + list(COLOURS).index("cyan")).all()
    targets = np.full(len(ids) + 2, -100)
    targets[-2:] = 5
    names = looks_of_answers(SCENE, shown, np.append(ids, [0, 0]), targets, words, encode(USER)[1])
    assert names[0, -1].nonzero()[0].tolist() == [len(kept) + ring] and not names[0, :-2].any()


def test_an_answer_about_what_moves_looks_where_that_was_last_and_the_picture_where_it_was_first(encode, words):
    covered = patch_targets(SCENE, TRACKS, 12)[..., 1].numpy()
    kept = few_places(14, 2402, covered, np.random.default_rng(0))
    shown = Shown(covered, kept, 14)
    red = 1 + list(COLOURS).index("red")
    ids = np.array([*encode("\nWhat colour is the moving shape?"), 0])
    targets = np.full(len(ids), IGNORE)
    targets[-1] = 5
    answer = looks_of_answers(SCENE, shown, ids, targets, words, encode(USER)[1])[0, -1]
    seen = kept[np.flatnonzero(answer)] - 14
    assert set(seen // 144) <= {5, 6, 7, 8} and len(seen) and (covered.reshape(-1)[seen] == red).all()
    both = dataclasses.replace(SCENE, shapes=tuple(dataclasses.replace(shape, motion="up") for shape in SCENE.shapes))
    assert not looks_of_answers(both, shown, ids, targets, words, encode(USER)[1]).any()  # nothing says which

    back = looks_back(SCENE, shown)[1]
    late = np.flatnonzero((shown.frame == 8) & (shown.colour == red))
    assert len(late) and all(set(shown.frame[back[token]]) <= {0, 1, 2, 3} and back[token].any() for token in late)
    assert all((shown.colour[np.flatnonzero(row)] == colour).all() for row, colour in zip(back, shown.colour) if row.any())
    assert not np.triu(back, 1).any() and not back[shown.colour == 0].any()


def test_a_word_that_names_a_shape_tells_how_that_moves(encode, words):
    """Both its colour and its kind; names of what the scene does not have tell nothing."""
    ids = np.array(encode("\nIs the red circle moving? Is the cyan ring? Is there a blue square?"))
    motions = motions_of_names(SCENE, ids, words)
    told = {words[int(token)]: MOTIONS[motion] for token, motion in zip(ids, motions) if motion != IGNORE}
    assert told == {"red": "left", "circle": "left", "cyan": "still", "ring": "still"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device, so it is not refused")
def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path, capsys):
    assert train.main(["--device", "cuda", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]) == 2
    assert "PyTorch sees no CUDA device" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.full
def test_the_whole_training_writes_a_checkpoint_and_goes_on_where_it_stopped(tmp_path):
    """Every stage for a few steps; a stage that is lost is made again to the same weights, and what is finished is not run again."""
    short = Schedule(steps=3, rate=1e-3)
    plan = Plan(train_clips=5, validation_clips=2, image=short, video=short, language=short)
    work = tmp_path / "work"
    work.mkdir()
    train.train(plan, work, tmp_path / "first", seed=1)
    checkpoint = open_checkpoint(str(tmp_path / "first"))
    model, untrained = checkpoint.load(), initial_weights(demo_config(train.train_tokenizer()), 1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, untrained.state_dict()[name].half().float())}
    for part in ("image_encoder", "video_encoder", "image_projector", "video_projector", "decoder"):
        assert any(name.startswith(part) for name in changed), part
    assert {path.name for path in (tmp_path / "first").glob("*.jsonl")} == {"image.jsonl", "video.jsonl", "language.jsonl"}
    made = {path: path.stat().st_mtime_ns for path in work.rglob("*.npy")}
    (work / "language.pt").unlink()
    train.train(plan, work, tmp_path / "second", seed=1)
    again = open_checkpoint(str(tmp_path / "second")).load().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert made == {path: path.stat().st_mtime_ns for path in work.rglob("*.npy")}
    with pytest.raises(ExportError, match=r"another seed or number of steps: remove it"):
        train.train(dataclasses.replace(plan, language=Schedule(steps=4, rate=1e-3)), work, tmp_path / "third", seed=1)
    assert not (tmp_path / "third").exists()
