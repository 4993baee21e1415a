"""`python -m runtime_py.bench_decoder`: a bundle's decoder beside llama.cpp, taking turns, each in a process of its own.

    python -m runtime_py.bench_decoder --bundle bundles/half
    python -m runtime_py.bench_decoder --bundle bundles/half --other bundles/half-stock --plot docs/decode_context.svg --json decoder.json
    python -m runtime_py.bench_decoder --bundle bundles/half --checkpoint Mobile-VideoGPT-0.5B    # whole answers beside the model's

llama.cpp comes from the package registry (llama-cpp-python, compiled for this machine, about ten minutes the first time) into an
environment of its own under --work, and runs a Q4_0 file of the bundle's sizes with random weights that this program writes.
Prefill of a video and a question, decoding behind contexts of growing length, as far as the bundles' contexts reach (8,192 needs
`export.build --max-context 8320`); medians of turns, and the ratios. --plot draws the milliseconds of a token against the context. The
last line on stdout is one JSON object.

--checkpoint: instead, from the frames of a video to the 128th token of an answer, and to the first token of another question about it,
beside the eager model on this processor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.arguments import ArgumentParser
from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.errors import BackendError, ExportError, command, one_line
from runtime_py.files import check_writable, write_text
from runtime_py.load import available_cores, check_threads
from runtime_py.plots import lines
from runtime_py.timing import take_turns

WORKER = Path(__file__).with_name("llama_worker.py")
PACKAGES = ("llama-cpp-python==0.3.36", "gguf==0.19.0")
INSTALL_LIMIT_S = 3600
EAGER = "eager-sequential"
PREFILL = 2432  # tokens: a video and a question
CONTEXTS = (256, 512, 1024, 2432, 4096, 6144, 8192)
STEPS = 16  # tokens behind each context, in one turn
ANSWER_TOKENS = 128
TURNS = 5
ENDING_S = 5


class Worker:
    """A process that answers requests; see `runtime_py.decoder_worker`."""

    def __init__(self, name: str, arguments: Sequence[str]):
        self.name, self.peak_rss_bytes = name, 0
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request: int) -> list[float]:
        """Seconds of each call. Raises BackendError where the process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise BackendError(f"{self.name} has ended: what it said stands above") from error
        self.peak_rss_bytes = answer["peak_rss_bytes"]
        return answer["seconds"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


def install_llama(work: Path) -> Path:
    """The interpreter of an environment that has llama.cpp.

    Raises:
        BackendError: it cannot be installed.
    """
    python = work / "llama" / "bin" / "python"
    stamp = work / "llama" / ".installed"
    if not stamp.exists() or stamp.read_text() != " ".join(PACKAGES):
        print(f"installing {PACKAGES[0]} into {work / 'llama'}: it is compiled, which takes minutes", file=sys.stderr, flush=True)
        try:
            venv.create(work / "llama", with_pip=True, clear=True)
            install = [str(python), "-m", "pip", "install", "-q", *PACKAGES]
            environment = os.environ | {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
            ran = subprocess.run(install, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, env=environment)
            said = (ran.stderr.strip() or "no message").splitlines()[-1] if ran.returncode else ""
        except (OSError, subprocess.SubprocessError) as error:
            said = one_line(error)
        if said:
            raise BackendError(f"{PACKAGES[0]} cannot be installed ({said}): it needs CMake, a C++ compiler, venv, and the network")
        stamp.write_text(" ".join(PACKAGES))
    return python


def write_model(python: Path, work: Path, sizes: dict) -> Path:
    """The Q4_0 file of these sizes, written where it is not there yet."""
    which = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()[:12]
    model = work / f"random-{sizes['width']}x{sizes['layers']}-{which}-q4_0.gguf"
    if not model.exists():
        asked, partial = work / "sizes.json", model.with_suffix(".partial")
        asked.write_text(json.dumps(sizes))
        ran = subprocess.run([str(python), str(WORKER), "write", str(asked), str(partial)], capture_output=True, text=True)
        if ran.returncode:
            raise BackendError(f"llama.cpp's model cannot be written: {(ran.stderr.strip() or 'no message').splitlines()[-1]}")
        partial.replace(model)
    return model


def measure(workers: Sequence[Worker], contexts: Sequence[int], turns: int) -> dict[str, dict[str, float]]:
    """Median seconds by what was asked and who did it."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    found = {f"prefill {PREFILL}": take_turns({w.name: lambda w=w: w.ask(prefill=PREFILL)[0] for w in workers}, turns, say)}
    for context in contexts:
        steps = {w.name: lambda w=w, at=context: statistics.median(w.ask(decode=at, steps=STEPS)) for w in workers}
        found[f"decode {context}"] = take_turns(steps, turns, say)
    return found


def measure_answers(workers: Sequence[Worker], turns: int) -> dict[str, dict[str, float]]:
    """Median seconds of whole answers, of their first tokens, and of another question's first token, by who gave them."""
    asked: dict[str, list[list[float]]] = {worker.name: [] for worker in workers}

    def ask(worker: Worker) -> float:
        asked[worker.name].append(worker.ask(answer=ANSWER_TOKENS))
        return asked[worker.name][-1][0]

    take_turns({w.name: lambda w=w: ask(w) for w in workers}, turns, lambda line: print(line, file=sys.stderr, flush=True))
    names = (f"answer of {ANSWER_TOKENS}", "first token", "next question")
    return {
        name: {who: statistics.median(seconds[i] for seconds in all_turns[1:]) for who, all_turns in asked.items()}
        for i, name in enumerate(names)
    }


def answers_table(seconds: dict[str, dict[str, float]], workers: Sequence[Worker]) -> str:
    """Seconds, each contender's share of the last one's, the model's, and of its own first question's that the next one takes."""
    names = [worker.name for worker in workers]
    rows = []
    for asked, took in seconds.items():
        shares = "".join(f"{took[name] / took[names[-1]]:>14.3f}" for name in names[:-1])
        rows.append(f"{asked:<16}" + "".join(f"{took[name]:>18.3f}" for name in names) + shares)
    again = [seconds["next question"][name] / seconds["first token"][name] for name in names]
    rows.append(f"{'next / first':<16}" + "".join(f"{share:>18.3f}" for share in again))
    return _framed("seconds", rows, workers)


def _framed(unit: str, rows: Sequence[str], workers: Sequence[Worker]) -> str:
    """Rows of a column a contender, and of its ratio to the last one, below their names and above what memory each took."""
    names = [worker.name for worker in workers]
    head = f"{unit:<16}" + "".join(f"{name[-16:]:>18}" for name in names) + "".join(f"{name[-12:]:>14}" for name in names[:-1])
    peaks = f"{'peak memory, MB':<16}" + "".join(f"{worker.peak_rss_bytes / 1e6:>18.0f}" for worker in workers)
    return "\n".join([head, *rows, peaks])


def growth_ms(seconds: dict[str, dict[str, float]], name: str) -> float:
    """Milliseconds that a token takes longer for every 1,000 tokens of context: the straight line that fits best."""
    points = [(int(asked.split()[1]), took[name]) for asked, took in seconds.items() if asked.startswith("decode")]
    return 1e6 * float(np.polyfit(*zip(*points), 1)[0])


def table(seconds: dict[str, dict[str, float]], workers: Sequence[Worker]) -> str:
    """Tokens per second, and each contender's ratio to the last, llama.cpp."""
    names = [worker.name for worker in workers]
    rows = []
    for asked, took in seconds.items():
        tokens = PREFILL if asked.startswith("prefill") else 1
        rates = "".join(f"{tokens / took[name]:>18.1f}" for name in names)
        rows.append(f"{asked:<16}{rates}" + "".join(f"{took[names[-1]] / took[name]:>13.2f}x" for name in names[:-1]))
    rows.append(f"{'ms per 1,000':<16}" + "".join(f"{growth_ms(seconds, name):>18.2f}" for name in names))
    return _framed("tokens/s", rows, workers)


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m runtime_py.bench_decoder", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    parser.add_argument("--other", type=Path, action="append", default=[], metavar="DIR", help="another bundle beside it; may be repeated")
    parser.add_argument("--checkpoint", metavar="DIR_OR_HUB_ID", help="whole answers beside this checkpoint's eager model, no llama.cpp")
    parser.add_argument("--work", type=Path, default=Path("build/peers"), metavar="DIR", help="for llama.cpp (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--turns", type=int, default=TURNS, metavar="N", help="after one that does not count (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="F", help="write the time of a token against the context to this SVG file")
    parser.add_argument("--json", type=Path, metavar="F", help="write the JSON object to this file too")
    args = parser.parse_args(argv)
    if args.turns < 1:
        raise ExportError(f"--turns {args.turns}: give at least 1")
    for path in (args.plot, args.json):
        if path is not None:
            check_writable(path)
    check_threads(args.threads)
    threads = args.threads or available_cores()
    bundles = [open_bundle(folder) for folder in (args.bundle, *args.other)]
    names = [bundle.folder.resolve().name for bundle in bundles]
    if len({*names, "llama.cpp", EAGER}) <= len(names) + 1:
        raise ExportError(f"the contenders are called {', '.join(names)}: rename a folder, figures go by its name")
    ours = [[sys.executable, "-m", "runtime_py.decoder_worker", str(bundle.folder), str(threads)] for bundle in bundles]
    if args.checkpoint is not None:
        if args.plot is not None:
            raise ExportError("--plot draws the time of a token beside llama.cpp: leave it or --checkpoint out")
        open_checkpoint(args.checkpoint)  # refuses before a minute has passed
        with contextlib.ExitStack() as stack:
            eager = [sys.executable, "-m", "runtime_py.decoder_worker", args.checkpoint, str(threads)]
            workers = [stack.enter_context(Worker(*pair)) for pair in zip([*names, EAGER], [*ours, eager])]
            seconds = measure_answers(workers, args.turns)
            print(answers_table(seconds, workers), file=sys.stderr)
        peaks = {worker.name: worker.peak_rss_bytes for worker in workers}
        _finish({"seconds": seconds, "peak_rss_bytes": peaks, "threads": threads, "turns": args.turns}, args.json)
        return
    room = min(bundle.manifest.decoder.max_context for bundle in bundles)
    if room < PREFILL + STEPS:
        raise ExportError(f"a bundle's context of {room} tokens is below {PREFILL + STEPS}: build with a larger --max-context")
    contexts = [context for context in CONTEXTS if context + STEPS <= room]
    if len(contexts) < len(CONTEXTS):
        print(f"the bundles' contexts of {room} tokens reach to {contexts[-1]}, not to {CONTEXTS[-1]}", file=sys.stderr, flush=True)
    args.work.mkdir(parents=True, exist_ok=True)
    python = install_llama(args.work)
    model = write_model(python, args.work, dataclasses.asdict(bundles[0].manifest.config().decoder))
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, command)) for name, command in zip(names, ours)]
        llama = [str(python), str(WORKER), "serve", str(model), str(max(contexts) + 2 * STEPS), str(threads)]
        workers.append(stack.enter_context(Worker("llama.cpp", llama)))
        seconds = measure(workers, contexts, args.turns)
        print(table(seconds, workers), file=sys.stderr)
    names = [worker.name for worker in workers]
    ratios = {asked: {name: took["llama.cpp"] / took[name] for name in names if name != "llama.cpp"} for asked, took in seconds.items()}
    report = {
        "seconds": seconds,
        "times_llama_cpp": ratios,
        "growth_ms_per_1000": {name: growth_ms(seconds, name) for name in names},
        "peak_rss_bytes": {worker.name: worker.peak_rss_bytes for worker in workers},
        "threads": threads,
        "turns": args.turns,
        "packages": PACKAGES,
    }
    if args.plot is not None:
        series = {name: [(context, 1e3 * seconds[f"decode {context}"][name]) for context in contexts] for name in names}
        write_text(args.plot, lines(series, "tokens of context", "milliseconds of a token"))
    _finish(report, args.json)


def _finish(report: dict, file: Path | None) -> None:
    line = json.dumps(report)
    if file is not None:
        write_text(file, line + "\n")
    print(line)


if __name__ == "__main__":
    sys.exit(main())
