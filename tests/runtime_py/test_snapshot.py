"""A session that goes on in another process, and what is refused."""

import dataclasses
import json
import os
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.errors import BackendError, ExportError, SnapshotError
from runtime_py.backends.base import copy_into
from runtime_py.load import backend_of_bundle, backend_of_checkpoint, load_tokenizer
from runtime_py.session import Session
from runtime_py.snapshot import SUFFIX, VideoCache, restore, snapshot, video_fingerprint
from runtime_py.stages import Pixels
from tests.numerics import DEMO

PIXELS = Pixels.of(list(np.random.default_rng(0).integers(0, 256, (16, 60, 80, 3), dtype=np.uint8)))
FIRST, SECOND = [10, 11, 12, *[-200] * 16, 13, 14], [20, 21, 22, 23]
VIDEO = "a video"


def eager():
    return backend_of_checkpoint(open_checkpoint(DEMO))


@pytest.fixture(params=["eager", "stock", "fused", "fused int4", pytest.param("coreml", marks=pytest.mark.full)])
def backend(request):
    """Makes the same backend again and again, as other processes would."""
    if request.param == "eager":
        return eager
    names = {"stock": "demo", "fused": "tiny_fused", "fused int4": "demo_fused", "coreml": "tiny_coreml_int4"}
    folder = request.getfixturevalue(f"{names[request.param]}_bundle")
    return lambda: backend_of_bundle(open_bundle(folder))


@pytest.fixture
def talked(tmp_path):
    """A session with a question behind it, and its file."""
    session = Session(eager())
    session.watch(PIXELS)
    list(session.answer(FIRST, max_new_tokens=3))
    snapshot(session, tmp_path / "kept", VIDEO)
    return session, tmp_path / "kept"


def test_another_process_goes_on_with_the_conversation_and_with_the_video(backend, tmp_path):
    session = Session(backend())
    session.watch(PIXELS)
    list(session.answer(FIRST, max_new_tokens=4))
    snapshot(session, tmp_path / "kept", VIDEO)
    expected = list(session.answer(SECOND, max_new_tokens=4))

    other = Session(backend())
    restore(other, tmp_path / "kept", VIDEO)
    assert list(other.answer(SECOND, max_new_tokens=4)) == expected
    again = Session(backend())
    restore(again, tmp_path / "kept", VIDEO)
    again.start_over()
    session.start_over()
    logits = []
    for one in (session, again):
        decoded = one.backend.decode
        one.backend.decode = lambda embeds, position, decoded=decoded: logits.append(decoded(embeds, position).clone()) or logits[-1]
        list(one.answer([10, 11, 12, -200, 15], max_new_tokens=2))
    assert all(torch.equal(a, b) for a, b in zip(logits[: len(logits) // 2], logits[len(logits) // 2 :]))


def test_a_video_without_a_question_is_kept_too(tmp_path):
    encode, _ = load_tokenizer(open_checkpoint(DEMO).tokenizer_file, DEMO)
    session = Session(eager(), encode)
    session.watch(PIXELS)
    snapshot(session, tmp_path / "tokens", VIDEO)  # nothing is in the cache yet
    session.prefill_video()
    snapshot(session, tmp_path / "prefix", VIDEO)
    said = list(session.ask("What moves?", max_new_tokens=3))
    for name in ("tokens", "prefix"):
        other = Session(eager(), encode)
        restore(other, tmp_path / name, VIDEO)
        assert list(other.ask("What moves?", max_new_tokens=3)) == said
    assert (tmp_path / "tokens").stat().st_size < (tmp_path / "prefix").stat().st_size


def rewrite(path, change_about=None, change_tensors=None):
    """The file with another header or other tensors."""
    with safe_open(str(path), "pt") as file:
        about, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    (change_about or (lambda about: None))(about)
    (change_tensors or (lambda tensors: None))(tensors)
    save_file(tensors, str(path), metadata=about)


def _move(about):
    conversation = json.loads(about["conversation"])
    conversation["held"]["position"] += 1
    about["conversation"] = json.dumps(conversation)


DAMAGE = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be read as a session"),
    "no session": (lambda path: path.write_text("{}"), "cannot be read as a session"),
    "gone": (lambda path: path.unlink(), "cannot be read as a session"),
    "another file": (lambda path: rewrite(path, lambda about: about.pop("format")), "no session of this project"),
    "another version": (lambda path: rewrite(path, lambda about: about.update(version="0")), "version 0, and this program reads 2"),
    "another model": (lambda path: rewrite(path, lambda about: about.update(model="x")), "of another model"),
    "a flipped value": (lambda path: rewrite(path, None, lambda t: t["keys"][0, 0, 0].add_(1)), "is damaged"),
    "a missing tensor": (lambda path: rewrite(path, None, lambda t: t.pop("values")), "is damaged"),
    "no conversation": (lambda path: rewrite(path, lambda about: about.update(conversation="{}")), "is damaged"),
    "another position": (lambda path: rewrite(path, _move), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_or_of_another_model_is_refused(damage, talked):
    session, path = talked
    change, says = DAMAGE[damage]
    change(path)
    held = session.position
    with pytest.raises(SnapshotError, match=says) as error:
        restore(session, path, VIDEO)
    assert "\n" not in str(error.value) and session.position == held
    assert list(session.answer(SECOND, max_new_tokens=1))  # it goes on


def test_another_video_is_refused(talked, tmp_path):
    session, path = talked
    with pytest.raises(SnapshotError, match="of another video"):
        restore(session, path, "another")
    clip = tmp_path / "clip"
    clip.write_bytes(b"pictures")
    prints = {video_fingerprint(clip, start, end) for start, end in ((None, None), (0.0, None), (None, 1.0), (1.0, None))}
    (tmp_path / "other").write_bytes(b"Pictures")
    assert len({*prints, video_fingerprint(tmp_path / "other", None, None)}) == 5
    with pytest.raises(SnapshotError, match="cannot be read"):
        video_fingerprint(tmp_path / "nothing", None, None)


def test_nothing_is_kept_of_nothing_and_a_full_disk_keeps_what_was_there(talked, tmp_path, monkeypatch):
    with pytest.raises(SnapshotError, match="watched no video"):
        snapshot(Session(eager()), tmp_path / "none", VIDEO)
    session, path = talked
    before = path.read_bytes()
    with pytest.raises(ExportError, match="cannot be written"):
        snapshot(session, tmp_path / "no folder" / "kept", VIDEO)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_a_cache_of_another_decoder_is_not_written(talked):
    session, _ = talked
    cache = torch.zeros(2, 8, 4)
    for kept in (None, torch.zeros(2, 8), torch.zeros(2, 9, 4), torch.zeros(2, 3, 4, dtype=torch.float16)):
        with pytest.raises(BackendError, match="another decoder"):
            copy_into(cache, kept)
    copy_into(cache, torch.ones(2, 3, 4))
    assert torch.equal(cache[:, :3], torch.ones(2, 3, 4)) and not cache[:, 3:].any()


class TestVideoCache:
    @pytest.fixture
    def session(self):
        session = Session(eager())
        session.watch(PIXELS)
        return session

    def test_a_video_is_found_again_for_the_same_model_alone(self, session, tmp_path):
        cache = VideoCache(tmp_path / "videos", 10**9)
        assert not cache.restore(session, "a")
        cache.prepare()
        cache.keep(session, "a")
        assert cache.restore(session, "a") and not cache.restore(session, "b")
        session.backend.identity = "another model"
        assert not cache.restore(session, "a")

    def test_it_stays_below_its_limit_and_what_was_used_last_stays(self, session, tmp_path):
        VideoCache(tmp_path, 10**9).keep(session, "probe")
        (one,) = tmp_path.iterdir()
        size = one.stat().st_size
        one.unlink()
        cache = VideoCache(tmp_path, 2 * size + size // 2)
        for i, video in enumerate(("a", "b")):
            cache.keep(session, video)
            for file in tmp_path.glob(f"*{SUFFIX}"):
                os.utime(file, (i, i)) if file.stat().st_mtime > 1000 else None
        assert cache.restore(session, "a")  # used now, so that b is the oldest
        cache.keep(session, "c")
        assert [cache.restore(session, video) for video in "abc"] == [True, False, True]
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= cache.limit_bytes

    def test_a_damaged_file_is_written_anew_and_no_other_is_touched(self, session, tmp_path):
        (tmp_path / "holiday.mp4").write_bytes(b"mine")
        cache = VideoCache(tmp_path, 1)
        cache.keep(session, "a")  # larger than the limit: it does not stay
        assert [file.name for file in tmp_path.iterdir()] == ["holiday.mp4"]
        cache = dataclasses.replace(cache, limit_bytes=10**9)
        cache.keep(session, "a")
        next(tmp_path.glob(f"*{SUFFIX}")).write_bytes(b"damaged")
        assert not cache.restore(session, "a")
        cache.keep(session, "a")
        assert cache.restore(session, "a") and (tmp_path / "holiday.mp4").read_bytes() == b"mine"

    def test_what_a_killed_process_left_goes_after_an_hour(self, session, tmp_path):
        cache = VideoCache(tmp_path, 10**9)
        old, new = (tmp_path / f".{name}{SUFFIX}.partial-1" for name in ("old", "new"))
        for file, age in ((old, 7200), (new, 60)):
            file.write_bytes(b"half")
            os.utime(file, (time.time() - age,) * 2)
        cache.keep(session, "a")
        assert not old.exists() and new.exists()

    def test_a_folder_that_cannot_be_is_refused_before_the_work(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ExportError, match="cannot be made"):
            VideoCache(tmp_path / "file", 1).prepare()

    def test_a_folder_that_went_away_is_one_line(self, session, tmp_path):
        """Which costs a chat a warning, not the answer."""
        with pytest.raises(ExportError, match="there is no folder"):
            VideoCache(tmp_path / "gone", 10**9).keep(session, "a")

    def test_the_header_is_small(self, talked):
        _, path = talked
        with safe_open(str(path), "pt") as file:
            assert len(json.dumps(file.metadata())) < 2000
