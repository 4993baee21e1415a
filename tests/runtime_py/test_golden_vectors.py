"""The golden vectors of a bundle: they are what the Python runtime computes, and all that the apps' tests ask of them is there."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from export.build import main as build
from export.bundle import open_bundle, pin
from export.errors import BundleError
from export.model.prompt import first_turn, tokenize
from runtime_py import golden as g
from runtime_py.load import load_tokenizer
from runtime_py.video import read_frames
from tests.runtime_py.test_video import corners, make_video


class Vectors:
    """A bundle's cases and arrays, read as an app reads them: from the bytes."""

    def __init__(self, bundle: Path):
        self.cases = json.loads((bundle / "golden.json").read_text(encoding="ascii"))
        self.data = (bundle / "golden.bin").read_bytes()

    def array(self, place: dict) -> np.ndarray:
        dtype = np.dtype(place["dtype"]).newbyteorder("<")
        count = int(np.prod(place["shape"]))
        return np.frombuffer(self.data, dtype, count, place["offset"]).reshape(place["shape"])


@pytest.fixture(scope="module")
def vectors(demo_bundle: Path) -> Vectors:
    return Vectors(demo_bundle)


def places(value: object) -> list[dict]:
    """Every array that the cases name."""
    if isinstance(value, dict):
        return [value] if "offset" in value else [place for below in value.values() for place in places(below)]
    return [place for below in value for place in places(below)] if isinstance(value, list) else []


def test_arrays_lie_apart_at_multiples_of_eight_and_fill_the_file(vectors: Vectors):
    spans = sorted({(p["offset"], int(np.prod(p["shape"])) * np.dtype(p["dtype"]).itemsize) for p in places(vectors.cases)})
    assert all(offset % 8 == 0 for offset, _ in spans)
    assert all(0 <= after - (offset + size) < 8 for (offset, size), (after, _) in zip(spans, spans[1:]))
    assert sum(spans[-1]) == len(vectors.data)


def test_resized_pictures_are_pillows_and_opencvs(vectors: Vectors):
    for case in vectors.cases["resize"]:
        source = vectors.array(case["source"])
        height, width = source.shape[:2]
        size = (224, int(224 * height / width)) if width <= height else (int(224 * width / height), 224)
        resized = np.asarray(Image.fromarray(source).resize(size, Image.Resampling.BICUBIC))
        top, left = (size[1] - 224) // 2, (size[0] - 224) // 2
        assert np.array_equal(vectors.array(case["clip"]), resized[top : top + 224, left : left + 224])
        assert np.array_equal(vectors.array(case["video"]), cv2.resize(source, (224, 224), interpolation=cv2.INTER_LINEAR))
    assert {vectors.array(case["source"]).shape for case in vectors.cases["resize"]} == {(*size, 3) for size in g.PICTURES.values()}


COEFFICIENTS = {"bt601": (104597, 132201, 25675, 53279), "bt709": (117489, 138438, 13975, 34925), "bt2020": (110013, 140363, 12277, 42626)}


def integer_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, matrix: str, full: bool) -> np.ndarray:
    """What the apps compute: swscale's arithmetic for even heights, in whole numbers (the coefficients are those of ITU-T H.273)."""
    crv, cbu, cgu, cgv = COEFFICIENTS[matrix]
    scale = (lambda c: c * 224 // 255) if full else (lambda c: c)
    rounded = lambda c: (c * 8192 + 32768) >> 16  # noqa: E731
    y, u, v = (plane.astype(np.int64) << 3 for plane in (y, u, v))
    u, v = u - 1024, v - 1024
    wide = lambda plane: plane.repeat(2, 0).repeat(2, 1)[: y.shape[0], : y.shape[1]]  # noqa: E731
    luma = ((y - (0 if full else 128)) * rounded(65536 if full else 65536 * 255 // 219)) >> 16
    red = luma + wide((v * rounded(scale(crv))) >> 16)
    green = luma + wide(((u * rounded(-scale(cgu))) >> 16) + ((v * rounded(-scale(cgv))) >> 16))
    blue = luma + wide((u * rounded(scale(cbu))) >> 16)
    return np.clip(np.stack([red, green, blue], -1), 0, 255).astype(np.uint8)


def test_planes_become_what_whole_numbers_give_in_every_matrix_range_and_rotation(vectors: Vectors):
    seen = set()
    for case in vectors.cases["planes"]:
        planes = [vectors.array(case[name]) for name in "yuv"]
        assert planes[0].shape == (case["height"], case["width"])
        expected = integer_rgb(*planes, case["matrix"], case["range"] == "full")
        assert np.array_equal(vectors.array(case["rgb"]), np.rot90(expected, -case["rotation"] // 90)), case["name"]
        seen.add((case["matrix"], case["range"], case["rotation"]))
    assert {case[:2] for case in seen} == {(matrix, range_) for matrix in COEFFICIENTS for range_ in ("limited", "full")}
    assert {rotation for _, _, rotation in seen} == {0, 90, 180, 270}


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotation_turns_as_the_reader_of_videos_turns(rotation: int, tmp_path: Path):
    rotations = {"flat": None, "turned": {"degrees": rotation}}
    flat, turned = (make_video(tmp_path / f"{name}.mp4", count=1, draw=corners, rotate=rotate) for name, rotate in rotations.items())
    images = [read_frames(path).frames[0].astype(int) for path in (flat, turned)]
    degrees = display_degrees(turned)
    assert np.abs(np.rot90(images[0], -degrees // 90) - images[1]).max() <= 2


def display_degrees(path: Path) -> int:
    """Degrees clockwise by which a player turns the video, from the matrix in its track's header (ISO 14496-12, 8.3.2)."""
    data = path.read_bytes()
    header = data.index(b"tkhd") + 4
    a, b = np.frombuffer(data, ">i4", 2, header + 40)  # behind version and flags, times, track, duration, layer, group and volume
    return {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}[(int(np.sign(a)), int(np.sign(b)))]


def test_texts_stream_to_what_they_decode_to_and_prompts_are_the_whole_turn(vectors: Vectors, demo_bundle: Path):
    encode, tokenizer = load_tokenizer(demo_bundle / "tokenizer.json", demo_bundle)
    for case in vectors.cases["tokenizer"]:
        assert case["ids"] == encode(case["text"]) and len(case["pieces"]) == len(case["ids"])
        assert "".join(case["pieces"]) + case["flushed"] == tokenizer.decode(case["ids"])
    assert any("" in case["pieces"] for case in vectors.cases["tokenizer"])  # a character of several ids is among them
    for case in vectors.cases["prompt"]:
        whole = tokenize(first_turn(case["question"]), encode)
        assert [*case["opening"], *[-200] * 16, *case["first"]] == whole
        assert "<|im_end|>" not in tokenizer.decode(case["later"], skip_special_tokens=False).split("user\n")[1].split("<|im_end|>\n")[0]


def test_choices_hold_ties_and_tails(vectors: Vectors):
    for case in vectors.cases["key_frames"]:
        assert all(picked == sorted(set(picked)) and len(picked) == case["count"] for picked in case["selected"])
    assert {tuple(map(tuple, case["selected"])) for case in vectors.cases["key_frames"]} > {((0, 1, 2, 3), (0, 1, 2, 3))}
    kept = {}
    for case in vectors.cases["nucleus"]:
        assert sum(case["probabilities"]) == pytest.approx(1, abs=1e-6)
        order = np.argsort(case["logits"])[::-1]
        probabilities = np.array(case["probabilities"])[order]
        assert (np.diff(probabilities) <= 0).all()
        kept[case["temperature"], case["top_p"]] = int((probabilities > 0).sum())
    assert kept[1.0, 1.0] == 24 and 1 < kept[0.7, 0.9] < 24 and kept[0.8, 1e-9] == 1
    assert [case["token"] for case in vectors.cases["greedy"]] == [0, 1, 1]


def test_the_reference_is_the_stored_one(vectors: Vectors, demo_bundle: Path):
    stored, case = open_bundle(demo_bundle).reference(), vectors.cases["reference"]
    assert np.array_equal(vectors.array(case["frames"]), stored["frames"]) and case["ids"] == stored["ids"].tolist()
    for name in ("frame_scores", "last_logits"):
        assert np.array_equal(vectors.array(case[name]), stored[name])
    assert case["greedy_ids"] == stored["greedy_ids"].tolist() and case["selected_frames"] == stored["selected_frames"].tolist()
    rung = next(rung for rung in open_bundle(demo_bundle).manifest.parity if rung.stage == "last_logits")
    assert (case["threshold"], case["metric"]) == (rung.threshold_chained, rung.metric)
    greedy = next(rung for rung in open_bundle(demo_bundle).manifest.parity if rung.stage == "greedy_ids")
    assert greedy.note.startswith(f"{case['equal_ids']} of 24 equal") and case["equal_ids"] > 12


def test_a_checkpoint_without_a_tokenizer_has_no_cases_of_text(tiny_bundle: Path):
    cases = Vectors(tiny_bundle).cases
    assert "tokenizer" not in cases and "prompt" not in cases and len(cases["pick_frames"]) == len(g.CLIPS)


def test_every_file_is_in_the_list_of_hashes_whose_own_hash_is_the_pin(tiny_coreml_bundle: Path, demo_bundle: Path):
    for bundle in (tiny_coreml_bundle, demo_bundle):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=bundle, check=True)
        lines = (bundle / "SHA256SUMS").read_text().splitlines()
        files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
        assert [line.split("  ", 1)[1] for line in lines] == sorted(files - {"SHA256SUMS"})
        assert pin(bundle) == hashlib.sha256((bundle / "SHA256SUMS").read_bytes()).hexdigest()


def test_changed_vectors_are_refused(demo_bundle: Path, tmp_path: Path):
    copy = shutil.copytree(demo_bundle, tmp_path / "copy")
    data = bytearray((copy / "golden.bin").read_bytes())
    data[1000] ^= 1
    (copy / "golden.bin").write_bytes(data)
    with pytest.raises(BundleError, match="golden.bin: its contents are not those that were built"):
        open_bundle(copy)


def test_the_build_prints_the_pin(tmp_path: Path, capsys: pytest.CaptureFixture, tiny_checkpoint: Path):
    out = tmp_path / "bundle"
    assert build(["--target", "executorch", "--checkpoint", str(tiny_checkpoint), "--no-verify", "--out", str(out)]) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"pin {pin(out)}")
    assert Vectors(out).cases["reference"]["equal_ids"] is None  # it was not run
