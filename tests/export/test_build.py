"""The build command: what it refuses, what it leaves behind, and what its bundle holds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export import build as cli
from export.bundle import open_bundle
from export.checkpoint import Checkpoint
from export.manifest import GRAPHS

ROOT = Path(__file__).parents[2]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["--target", "executorch", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *arguments: str) -> str:
    code, _, error = run(capsys, *arguments)
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_a_dry_run_reads_no_weights_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "load", lambda *a, **k: pytest.fail("weights were loaded"))
    monkeypatch.setattr(Checkpoint, "fingerprint", lambda self: pytest.fail("weights were read"))
    out = tmp_path / "bundle"
    code, text, _ = run(capsys, "--out", str(out), "--dry-run")
    assert code == 0 and not out.exists() and list(tmp_path.iterdir()) == []
    for graph in GRAPHS:
        assert graph in text
    for word in ("MB", "int4", "int8", "GB of memory", " s "):
        assert word in text


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--recipe", "int3"], "choose one of fp32, fp16, int8, int4"),
        (["--recipe", "fp16"], "choose int8 or fp32"),
        (["--quant", "decoder"], "COMPONENT=SCHEME"),
        (["--quant", "encoder=int8"], "image_encoder, frame_scorer, video_encoder"),
        (["--quant", "decoder=int2"], "choose one of fp32"),
        (["--quant", "decoder=fp16"], "int8 or fp32"),
        (["--quant", "frame_scorer=int8"], "frame_scorer"),
        (["--max-context", "100"], "--max-context 100"),
        (["--max-context", "99999999"], "goes up to"),
        (["--delegate", "coreml", "--kernels", "fused"], "leave one of them out"),
        (["--checkpoint", "no/such/folder/at all"], "no/such/folder"),
    ],
)
def test_bad_arguments_meet_one_line_in_seconds(capsys, arguments, says):
    assert says in refused(capsys, *arguments, "--dry-run")


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler", "g++ 'unfinished"])
def test_fused_kernels_without_a_compiler_are_refused_before_any_work(compiler, capsys, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr("export.checkpoint.open_checkpoint", lambda *_: pytest.fail("the checkpoint was opened"))
    line = refused(capsys, "--kernels", "fused")
    assert "--kernels fused" in line and "CXX" in line and "--no-verify" in line and "stock" in line


def test_fused_graphs_that_are_not_run_need_no_compiler(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    assert cli.main(["--target", "executorch", "--kernels", "fused", "--no-verify", "--dry-run"]) == 0
    assert "fused kernels" in capsys.readouterr().out


def test_a_target_that_is_not_built_yet_says_so(capsys):
    assert cli.main(["--target", "onnx"]) == 2
    assert "executorch or coreml" in capsys.readouterr().err


def test_a_folder_that_is_no_bundle_is_not_replaced(capsys, tmp_path):
    (tmp_path / "holiday.txt").write_text("photos")
    assert "another folder" in refused(capsys, "--out", str(tmp_path))
    assert "another folder" in refused(capsys, "--out", str(tmp_path), "--dry-run")
    assert (tmp_path / "holiday.txt").read_text() == "photos"


def test_a_disk_that_is_too_small_is_refused_before_the_work(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"total": 10**9, "used": 0, "free": 1000})())
    assert "free" in refused(capsys, "--out", str(tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(capsys, tmp_path, monkeypatch):
    from export.backends.executorch import ExecutorchBackend

    def full(self, twin, signature, assignments, out):
        out.write_bytes(b"the first half")
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr(ExecutorchBackend, "lower", full)
    assert "free some" in refused(capsys, "--out", str(tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_leaves_no_bundle_and_the_next_one_cleans_up(tmp_path):
    """SIGTERM cleans up after itself; SIGKILL cannot, so the next build does."""
    out = tmp_path / "bundle"
    command = [sys.executable, "-m", "export.build", "--target", "executorch", "--out", str(out)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".bundle.partial-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None
        process.send_signal(number)
        process.wait(30)
        assert process.returncode != 0 and not out.exists()
        assert bool(list(tmp_path.iterdir())) == (number == signal.SIGKILL)
    left = {path.name for path in tmp_path.iterdir()}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while left & {path.name for path in tmp_path.iterdir()} and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_fails_parity_is_not_left_behind(capsys, tmp_path, monkeypatch):
    """The decoder is lowered with one layer of the wrong scale: the build says which stage, and by how much."""
    from export.backends.executorch import ExecutorchBackend

    lower = ExecutorchBackend.lower

    def sabotage(self, twin, signature, assignments, out):
        if out.stem == "decoder":
            twin.layers[1].ffn.down_proj.weight *= 1.5
        lower(self, twin, signature, assignments, out)

    monkeypatch.setattr(ExecutorchBackend, "lower", sabotage)
    code, _, error = run(capsys, "--recipe", "fp32", "--out", str(tmp_path / "bundle"))
    assert code == 1
    assert error.startswith("error: stage last_logits fails parity: its own error is") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_the_bundle_says_of_itself(demo_bundle):
    bundle = open_bundle(demo_bundle, verify=True)
    manifest = bundle.manifest
    assert manifest.verified and manifest.recipe == "int4" and manifest.target == "executorch"
    assert manifest.kernels == "stock" and manifest.custom_operators == ()
    assert manifest.decoder.interface == "internal" and manifest.decoder.max_context == 4096
    assert all(rung.passed for rung in manifest.parity) and len(manifest.parity) == 12
    not_counted = ("README.md", "SHA256SUMS", "manifest.json")
    assert manifest.bundle_bytes == sum(f.stat().st_size for f in demo_bundle.iterdir() if f.name not in not_counted)
    shares = {share.scheme: share.weights for share in manifest.graphs["decoder"].schemes}
    assert shares["int4"] > 0.99 * sum(shares.values())
    weights = sum(share.bytes for graph in manifest.graphs.values() for share in graph.schemes)
    assert manifest.expected_memory_bytes > 2 * weights  # the file's pages, and the delegate's packed copy
    config = manifest.config()
    assert manifest.graphs["image_projector"].outputs[0].shape == (2304, config.decoder.width)
    assert manifest.graphs["video_projector"].outputs[0].shape == (98, config.decoder.width)
    assert (demo_bundle / "README.md").read_text().startswith("# ")
    assert json.loads((demo_bundle / "manifest.json").read_text())["graphs"]["decoder"]["file"] == "decoder.pte"


def test_no_verify_is_said_everywhere(capsys, tmp_path, monkeypatch):
    """Built from graphs that are there already: what counts here is the flag's way into the bundle and out of it again."""
    from export.backends.base import Artifact
    from export.backends.executorch import ExecutorchBackend
    from export.quant.coverage import StoredWeight

    def lower(self, twin, signature, assignments, out):
        out.write_bytes(out.stem.encode())
        self.assigned = [StoredWeight(a.scheme.name, a.shape, a.weights) for a in assignments]

    monkeypatch.setattr(ExecutorchBackend, "lower", lower)
    monkeypatch.setattr(ExecutorchBackend, "read", lambda self, path: Artifact(tuple(self.assigned), "xnnpack", 1.0, (), 0, 0))
    out = tmp_path / "bundle"
    code, text, _ = run(capsys, "--out", str(out), "--no-verify")
    assert code == 0 and "NOT verified" in text
    assert "not verified" in (out / "README.md").read_text()
    bundle = open_bundle(out)
    assert not bundle.manifest.verified and bundle.manifest.parity == ()
    assert "warning: " in (warned := capsys.readouterr().err) and "--no-verify" in warned


def test_importing_the_packages_pulls_in_no_backend():
    heavy = ("executorch", "transformers", "peft", "coremltools", "onnxruntime", "torchao", "cv2", "av")
    code = f"import export.build, export.manifest, runtime_py, runtime_py.session, sys; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert found.stdout.strip() == "[]"
