"""`bench`: one JSON object that adds up, whatever the machine's speed."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.checkpoint import Checkpoint, open_checkpoint
from runtime_py import bench
from runtime_py.backends.eager import EagerBackend
from runtime_py.timing import TimedBackend, peak_rss_bytes

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "calibration" / "demo" / "checkpoint"
STAGES = ["loading", "image_encoder", "frame_scorer", "video_encoder", "image_projector", "video_projector", "token_embedding", "prefill"]
TYPES = {
    "backend": str,
    "device": str,
    "stages_s": dict,
    "ttft_s": float,
    "again_ttft_s": float,
    "answer_s": float,
    "cold_ttft_s": float,
    "context_tokens": int,
    "prefill_tok_s": float,
    "decode_tok_s": float,
    "peak_rss_bytes": int,
    "bundle_bytes": int,
    "versions": dict,
}


@pytest.fixture(scope="module")
def backend():
    return EagerBackend(open_checkpoint(DEMO))


def arguments(*options) -> list[str]:
    return ["--checkpoint", str(DEMO), *map(str, options)]


def check(report: dict) -> None:
    """Types, and numbers that are positive and agree with each other."""
    for key, kind in TYPES.items():
        assert type(report[key]) is kind, key
    numbers = [report[key] for key, kind in TYPES.items() if kind in (int, float)]
    assert all(math.isfinite(number) and number > 0 for number in [*numbers, *report["stages_s"].values()])
    assert report["ttft_s"] == pytest.approx(sum(report["stages_s"].values()) + report["sampling_s"])
    assert report["prefill_tok_s"] == pytest.approx(report["context_tokens"] / report["stages_s"]["prefill"])
    assert report["versions"]["torch"] == torch.__version__


def test_a_video_goes_through_every_stage():
    command = [sys.executable, "-m", "runtime_py.bench", *arguments("--runs", 1, "--new-tokens", 2, "--threads", 1)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    check(report)
    assert list(report["stages_s"]) == STAGES
    assert report["context_tokens"] == 2402 + 30
    assert (report["backend"], report["device"], report["dtype"]) == ("eager-sequential", "cpu", "fp32")
    assert (report["runs"], report["new_tokens"], report["threads"]) == (1, 2, 1)
    assert report["bundle_bytes"] == 4 * sum(p.numel() for p in open_checkpoint(DEMO).load().parameters())


def test_a_bundle_reports_its_own_bytes(demo_bundle, capsys):
    assert bench.main(["--bundle", str(demo_bundle), "--runs", "1", "--new-tokens", "2"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    check(report)
    assert report["backend"] == "executorch" and list(report["stages_s"]) == STAGES
    on_disk = sum(file.stat().st_size for file in demo_bundle.rglob("*") if file.is_file())
    assert report["bundle_bytes"] == pytest.approx(on_disk, rel=0.02)
    assert report["versions"]["executorch"]


def test_a_context_stands_for_a_video(tmp_path, capsys):
    file = tmp_path / "bench.json"
    file.write_text("an earlier result")
    assert bench.main(arguments("--context", 100, "--new-tokens", 3, "--runs", 2, "--json", file)) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    check(report)
    assert list(report["stages_s"]) == ["loading", "prefill"] and report["context_tokens"] == 100
    assert json.loads(file.read_text()) == report
    assert list(tmp_path.iterdir()) == [file]
    assert "prefill" in captured.err and "run 2 of 2" in captured.err


@pytest.mark.parametrize("context", [None, 50])
def test_a_run_decodes_as_many_tokens_as_asked_behind_the_context(backend, monkeypatch, context):
    calls = []
    decode = backend.decode
    monkeypatch.setattr(backend, "decode", lambda embeds, position: calls.append((embeds.shape[0], position)) or decode(embeds, position))
    prompt = bench.VideoPrompt.make(backend) if context is None else bench.Context.make(backend, context)
    run = bench.run_once(backend, prompt, new_tokens=3)
    tokens = context or 2432
    assert run.context_tokens == tokens and len(run.steps_s) == 3
    assert calls == [(tokens, 0), (1, tokens), (1, tokens + 1), (1, tokens + 2), (15, tokens - 15)]
    assert run.answer_s == pytest.approx(run.ttft_s + sum(run.steps_s))


def test_the_report_holds_medians():
    runs = [bench.Run(200, {"video_encoder": video, "prefill": prefill}, 0.5, steps, prefill / 100, 0.0) for video, prefill, steps in (
        (1.0, 9.0, [0.5, 0.5, 9.0]), (3.0, 4.0, [0.25, 0.25]), (7.0, 2.0, [0.25, 0.25, 9.0]),
    )]  # fmt: skip
    assert bench.summarize(runs) == {
        "stages_s": {"video_encoder": 3.0, "prefill": 4.0},
        "sampling_s": 0.5,
        "ttft_s": 7.5,
        "again_ttft_s": 0.04,
        "answer_s": 19.0,  # of 20.5, 8 and 19
        "context_tokens": 200,
        "prefill_tok_s": 50.0,
        "decode_tok_s": 3.0,  # of 1/9, 1/9, 2, 2, 4, 4, 4, 4 tokens per second
    }


def test_the_warm_up_does_not_count(backend, monkeypatch, capsys):
    times = iter([100.0, 2.0, 3.0])
    monkeypatch.setattr(
        bench, "run_once", lambda *_: bench.Run(10, {"prefill": (seconds := next(times))}, 0.0, [seconds], 0.1, 30.0 + seconds)
    )
    report = bench.bench(backend, context=10, new_tokens=1, runs=2)
    assert report["ttft_s"] == 2.5 and report["cold_ttft_s"] == 130.0  # of the run that does not count otherwise


def test_the_context_can_be_filled_to_its_end(backend, monkeypatch):
    monkeypatch.setattr(backend, "max_context", 60)
    bench.bench(backend, context=50, new_tokens=10, runs=1)
    with pytest.raises(bench.PromptError, match="context"):
        bench.bench(backend, context=51, new_tokens=10, runs=1)


BAD_INPUT = {
    "too large a context": (["--context", 4096], "--context 4096"),
    "too many tokens": (["--new-tokens", 5000], "--new-tokens 5000"),
    "no context": (["--context", 0], "--context"),
    "no tokens": (["--new-tokens", 0], "--new-tokens"),
    "no runs": (["--runs", 0], "--runs"),
    "no number": (["--runs", "many"], "--runs"),
    "no threads": (["--threads", -1], "--threads"),
    "an unknown device": (["--device", "tpu"], "--device"),
    "an unknown dtype": (["--dtype", "fp8"], "--dtype"),
    "no folder for the result": (["--json", "/no/such/folder/bench.json"], "/no/such/folder"),
    "a folder as the result": (["--json", "/"], "choose another"),
    "no such checkpoint": (["--checkpoint", "/no/such/checkpoint"], "/no/such/checkpoint"),
    "a bundle that is not there": (["--bundle", "/no/such/bundle"], "--bundle"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line(capsys, case):
    options, says = BAD_INPUT[case]
    assert says in one_error(arguments(*options), capsys)


def one_error(argv: list[str], capsys) -> str:
    """The one line on stderr of a command that fails with exit code 2."""
    assert bench.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_one_line_before_weights_are_read(monkeypatch, capsys):
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: pytest.fail("weights were read"))
    assert "cuda" in one_error(arguments("--device", "cuda"), capsys)


@pytest.mark.parametrize("option", [["--dtype", "fp16"], ["--clip", "clip/"], ["--videomamba", "v.pth"], ["--base", "qwen/"]])
def test_what_only_a_checkpoint_has_is_not_ignored_for_a_bundle(capsys, option):
    assert option[0] in one_error(["--bundle", "bundles/demo", *option], capsys)


def test_seconds_of_a_graph_add_up(backend):
    seconds = {}
    timed = TimedBackend(backend, seconds)
    ids = torch.arange(4)
    embeds = timed.run("token_embedding", ids)
    once = seconds["token_embedding"]
    assert torch.equal(timed.run("token_embedding", ids), embeds)
    assert seconds["token_embedding"] > once > 0
    timed.decode(embeds, 0)
    assert seconds.keys() == {"loading", "token_embedding", "decoder"}


def test_peak_memory_is_this_process_s_and_in_bytes():
    program = "from runtime_py.timing import peak_rss_bytes; print(peak_rss_bytes()); x = bytearray(10**8); print(peak_rss_bytes())"
    ballast = bytearray(8 * 10**8)  # a parent's memory is not its child's
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    before, after = map(int, done.stdout.split())
    assert 0.9e8 < after - before < 1.2e8
    assert after < len(ballast) < peak_rss_bytes()
