"""The decoder's benchmark: its workers do what they are asked, and its ratios are those of their times."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from export.errors import BackendError
from runtime_py import bench_decoder, llama_worker
from runtime_py.bench_decoder import Worker, growth_ms, install_llama, main, measure, table, write_model

ECHO = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    steps = request.get("steps", 1)
    print(json.dumps({"seconds": [request.get("decode", request.get("prefill", 0)) * FACTOR] * steps, "peak_rss_bytes": 7}), flush=True)
"""


def worker(name, factor):
    return Worker(name, [sys.executable, "-c", ECHO.replace("FACTOR", str(factor))])


def test_ratios_are_those_of_the_times(monkeypatch):
    monkeypatch.setattr("runtime_py.timing.SETTLE_S", 0)
    with worker("bundles/half", 1e-6) as ours, worker("llama.cpp", 2e-6) as llama:
        seconds = measure([ours, llama], [1000, 2000, 4000], turns=1)
    assert seconds["prefill 2432"]["bundles/half"] == pytest.approx(2432e-6)
    assert growth_ms(seconds, "bundles/half") == pytest.approx(1.0) and growth_ms(seconds, "llama.cpp") == pytest.approx(2.0)
    rows = table(seconds, [ours, llama]).splitlines()
    assert all(row.endswith("2.00x") for row in rows[1:5]) and "1000000.0" in rows[1]
    assert ours.peak_rss_bytes == 7


def test_a_worker_that_ends_is_one_line():
    with (
        Worker("llama.cpp", [sys.executable, "-c", "raise SystemExit(1)"]) as dead,
        pytest.raises(BackendError, match="llama.cpp has ended"),
    ):
        dead.ask(prefill=1)


def test_a_bundles_worker_takes_tokens_where_it_is_told(tiny_fused_bundle):
    command = [sys.executable, "-m", "runtime_py.decoder_worker", str(tiny_fused_bundle), "1"]
    with Worker("bundle", command) as one:
        assert len(one.ask(prefill=600)) == 1  # more than one call takes
        assert len(one.ask(decode=700, steps=3)) == 3 and len(one.ask(decode=5, steps=2)) == 2
        assert one.peak_rss_bytes > 10**7


class FakeLlama:
    def __init__(self):
        self.held, self.calls = 0, []

    def clear(self):
        self.held = 0

    def cut(self, position):
        self.held = position

    def decode(self, tokens):
        self.calls.append((self.held, len(tokens)))
        self.held += len(tokens)
        return 0.5


def test_llama_is_asked_the_same(monkeypatch, capsys):
    requests = [{"prefill": 10}, {"decode": 20, "steps": 2}, {"decode": 5, "steps": 1}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(request) + "\n" for request in requests)))
    llama = FakeLlama()
    llama_worker.serve(llama)
    assert llama.calls == [(0, 10), (10, 10), (20, 1), (21, 1), (5, 1)]
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["seconds"] for answer in answers] == [[0.5], [0.5, 0.5], [0.5]] and answers[0]["peak_rss_bytes"] > 0


def test_what_cannot_be_installed_or_written_is_one_line(tmp_path, monkeypatch):
    def fails(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "Collecting\nERROR: no network\n")

    monkeypatch.setattr(bench_decoder.venv, "create", lambda *_, **__: (tmp_path / "llama").mkdir(exist_ok=True))
    monkeypatch.setattr(bench_decoder.subprocess, "run", fails)
    with pytest.raises(BackendError, match="cannot be installed .ERROR: no network."):
        install_llama(tmp_path)
    with pytest.raises(BackendError, match="cannot be written: ERROR: no network"):
        write_model(tmp_path / "python", tmp_path, {"width": 64, "layers": 2})
    assert not list(tmp_path.glob("*.gguf"))


def test_contenders_of_one_name_are_refused(tiny_fused_bundle, tmp_path, capsys):
    assert main(["--bundle", str(tiny_fused_bundle), "--other", str(tiny_fused_bundle), "--work", str(tmp_path / "w")]) == 2
    assert "rename a folder" in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_a_model_of_other_sizes_is_another_file(tmp_path, monkeypatch):
    """Also where width and layers are the same."""
    written = lambda command, **_: Path(command[-1]).write_bytes(b"") and None or subprocess.CompletedProcess(command, 0)  # noqa: E731
    monkeypatch.setattr(bench_decoder.subprocess, "run", written)
    sizes = {"width": 64, "layers": 2, "vocab": 100}
    models = {write_model(tmp_path / "python", tmp_path, sizes | change) for change in ({}, {"vocab": 200}, {})}
    assert len(models) == 2


@pytest.mark.parametrize("arguments, says", [(["--turns", "0"], "at least 1"), (["--json", "no/where"], "cannot be written")])
def test_bad_arguments_are_refused_before_anything_is_installed(arguments, says, tiny_fused_bundle, tmp_path, capsys):
    assert main(["--bundle", str(tiny_fused_bundle), "--work", str(tmp_path / "w"), *arguments]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_whole_answers_beside_the_models(tiny_fused_bundle, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """Each in a process of its own; the next question about a video costs little of the first one's time."""
    monkeypatch.setattr(bench_decoder, "ANSWER_TOKENS", 3)
    report = tmp_path / "r.json"
    arguments = ["--bundle", str(tiny_fused_bundle), "--checkpoint", str(tiny_checkpoint), "--turns", "1", "--json", str(report)]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    found = json.loads(report.read_text())
    assert json.loads(captured.out) == found and not (tmp_path / "llama").exists()
    names = [tiny_fused_bundle.name, "eager-sequential"]
    for seconds in found["seconds"].values():
        assert list(seconds) == names and min(seconds.values()) > 0
    answer, first, again = found["seconds"].values()
    assert all(again[name] < first[name] < answer[name] for name in names)
    share = f"{answer[names[0]] / answer[names[1]]:.3f}"
    assert next(line for line in captured.err.splitlines() if line.startswith("answer of 3")).endswith(share)


def test_a_checkpoint_that_is_none_is_refused_before_the_work(tiny_fused_bundle, tmp_path, capsys):
    assert main(["--bundle", str(tiny_fused_bundle), "--checkpoint", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
