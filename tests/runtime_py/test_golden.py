"""`runtime_py.dump` reproduces what the release's own code computes, from the checkpoint and from the lowered graphs."""

from pathlib import Path

import numpy as np
import pytest

from runtime_py.dump import main

FIXTURES = Path(__file__).parents[1] / "fixtures"
SAMPLES = 4096  # a longer array is stored as this many evenly spaced values
RELATIVE = 1e-4  # of the largest magnitude: float32 sums in another order; the release's own bound
EXACT = ("selected_frames", "greedy_ids")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "golden_tiny_0.npz") as arrays:
        return dict(arrays)


def dump(tmp_path: Path, golden: dict[str, np.ndarray], source: list[str]) -> dict[str, np.ndarray]:
    ids, out = tmp_path / "ids.npy", tmp_path / "stages.npz"
    np.save(ids, golden["input_ids"])
    assert main([*source, "--frames", str(FIXTURES / "golden_tiny_0_frames.npy"), "--ids", str(ids), "--out", str(out)]) == 0
    with np.load(out) as arrays:
        return dict(arrays)


def assert_golden(stages: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> None:
    names = [name for name in golden if not name.endswith("_shape") and name != "input_ids"]
    assert set(names) == set(stages)
    for name in names:
        if name in EXACT:
            np.testing.assert_array_equal(stages[name], golden[name], err_msg=name)
            continue
        if f"{name}_shape" in golden:
            assert stages[name].shape == tuple(golden[f"{name}_shape"])
        values = stages[name].astype(np.float32).ravel()
        if values.size > SAMPLES:
            values = values[np.linspace(0, values.size - 1, SAMPLES).astype(np.int64)]
        expected = golden[name].ravel()
        error = np.abs(values - expected).max() / np.abs(expected).max()
        assert error <= RELATIVE, f"{name}: the loosest tolerance that would pass is {error:.2e}"


def test_the_eager_model_reproduces_the_golden_arrays(tmp_path, golden, tiny_checkpoint):
    assert_golden(dump(tmp_path, golden, ["--checkpoint", str(tiny_checkpoint)]), golden)


def test_the_fp32_bundle_reproduces_the_golden_arrays(tmp_path, golden, tiny_bundle):
    assert_golden(dump(tmp_path, golden, ["--bundle", str(tiny_bundle)]), golden)


def test_the_fused_bundle_reproduces_the_golden_arrays(tmp_path, golden, tiny_fused_bundle):
    assert_golden(dump(tmp_path, golden, ["--bundle", str(tiny_fused_bundle)]), golden)


def test_shapes_are_those_of_the_release(tmp_path, golden, tiny_checkpoint):
    stages = dump(tmp_path, golden, ["--checkpoint", str(tiny_checkpoint), "--new-tokens", "1"])
    assert {name: value.shape for name, value in stages.items()} == {
        "pixel_clip": (16, 3, 224, 224),
        "pixel_video": (16, 3, 224, 224),
        "clip_patch_features": (16, 196, 768),
        "frame_scores": (2, 8),
        "selected_frames": (2, 4),
        "videomamba_tokens": (1, 1568, 576),
        "pooled_video_features": (2, 196, 576),
        "image_tokens": (16, 144, 64),
        "video_tokens": (2, 49, 64),
        "inputs_embeds": (1, 2415, 64),
        "last_logits": (512,),
        "greedy_ids": (1,),
    }


def bad_input(tmp_path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(frames, ids), one of them wrong."""
    frames, ids = np.zeros((2, 8, 8, 3), np.uint8), np.array([1, -200, 2])
    return {
        "float frames": (frames.astype(np.float32), ids),
        "too many frames": (np.zeros((17, 8, 8, 3), np.uint8), ids),
        "no frames": (frames[:0], ids),
        "no placeholder": (frames, np.array([1, 2])),
        "two runs of placeholders": (frames, np.array([-200, 1, -200])),
        "an id outside the vocabulary": (frames, np.array([1, -200, 512])),
        "a negative id": (frames, np.array([-7, -200])),
        "float ids": (frames, ids.astype(np.float32)),
        "a prompt longer than the context": (frames, np.array([-200, *[1] * 4000])),
        "an object array": (frames, np.array([{}], dtype=object)),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["float frames", "too many frames", "no frames", "no placeholder", "two runs of placeholders", "an id outside the vocabulary"]
    + ["a negative id", "float ids", "a prompt longer than the context", "an object array"],
)
def test_bad_input_meets_one_line(tmp_path, tiny_checkpoint, capsys, name):
    frames, ids = bad_input(tmp_path, name)
    np.save(tmp_path / "f.npy", frames)
    np.save(tmp_path / "i.npy", ids, allow_pickle=True)
    out = tmp_path / "s.npz"
    files = ["--frames", str(tmp_path / "f.npy"), "--ids", str(tmp_path / "i.npy"), "--out", str(out)]
    assert main(["--checkpoint", str(tiny_checkpoint), *files]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not out.exists()


def test_fewer_frames_are_padded_with_zeros_after_normalisation(tmp_path, golden, tiny_checkpoint):
    frames = np.load(FIXTURES / "golden_tiny_0_frames.npy")[:5]
    np.save(tmp_path / "five.npy", frames)
    np.save(tmp_path / "ids.npy", golden["input_ids"])
    out = tmp_path / "s.npz"
    source = ["--checkpoint", str(tiny_checkpoint), "--frames", str(tmp_path / "five.npy"), "--ids", str(tmp_path / "ids.npy")]
    assert main([*source, "--out", str(out), "--new-tokens", "1"]) == 0
    with np.load(out) as stages:
        for name in ("pixel_clip", "pixel_video"):
            assert np.abs(stages[name][5:]).max() < 1e-6 and np.abs(stages[name][:5]).max() > 0.5
        assert stages["image_tokens"].shape == (16, 144, 64)  # always 2402 visual tokens


@pytest.mark.slow
def test_the_released_size_int4_bundle_answers_within_its_memory(tmp_path, shared_dir):
    """0.5B: built within 12 GB into at most 650 MB, and a process that prefills 2,432 tokens stays within 2.5 GB."""
    import json
    import subprocess
    import sys

    checkpoint, bundle = tmp_path / "half", tmp_path / "bundle"
    run = [sys.executable, "-m"]
    subprocess.run([sys.executable, str(shared_dir / "release" / "make_checkpoint.py"), "0.5b", str(checkpoint)], check=True)
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    )
    build = [*run, "export.build", "--target", "executorch", "--checkpoint", str(checkpoint), "--recipe", "int4", "--out", str(bundle)]
    peak = int(subprocess.run([sys.executable, "-c", code, *build], check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert peak <= 12e9
    assert sum(file.stat().st_size for file in bundle.iterdir()) <= 650e6
    bench = [*run, "runtime_py.bench", "--bundle", str(bundle), "--runs", "1", "--new-tokens", "4"]
    result = json.loads(subprocess.run(bench, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert result["context_tokens"] >= 2432 and result["peak_rss_bytes"] <= 2.5e9
