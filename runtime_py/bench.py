"""`python -m runtime_py.bench`: how fast each stage runs, how soon an answer begins, how fast it goes on, and in how much memory.

    python -m runtime_py.bench --bundle bundles/demo
    python -m runtime_py.bench --bundle bundles/demo --context 256 --new-tokens 64 --threads 2 --json bench.json
    python -m runtime_py.bench --bundle bundles/half --peers Mobile-VideoGPT-0.5B   # the vision graphs beside their peers
    python -m runtime_py.bench --checkpoint Mobile-VideoGPT-0.5B --device cuda --dtype fp16

Synthetic input: speed does not depend on what a video shows. Times are medians over --runs, after a run that does not count.
The last line on stdout is one JSON object; progress and a table go to stderr.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from export.arguments import ArgumentParser
from export.checkpoint import open_checkpoint
from export.config import FRAMES, IMAGE_SIZE, IMAGE_TOKENS_PLACEHOLDER
from export.errors import ExportError, PromptError, command
from export.executorch_runtime import threads_in_use
from runtime_py import peers
from runtime_py.backends.base import GraphBackend, Graphs
from runtime_py.files import check_writable, write_text
from runtime_py.load import add_source_arguments, open_source
from runtime_py.sampling import Sampler
from runtime_py.stages import VISION, Pixels, embed, prompt_embeds, visual_tokens
from runtime_py.timing import TimedBackend, peak_rss_bytes, process_age_s

SEED = 0
TEXT_TOKENS = 30  # around the visual tokens, half before and half behind: a question of one sentence in its template
NEW_TOKENS = 32
RUNS = 3
EMBEDDING_SCALE = 0.02  # standard deviation of synthetic embeddings, as Qwen2's own have


@dataclasses.dataclass(frozen=True)
class VideoPrompt:
    """A synthetic clip, [16, 3, 224, 224] pixels for each encoder, and a prompt around it."""

    pixels: Pixels
    ids: list[int]

    @classmethod
    def make(cls, backend: GraphBackend) -> VideoPrompt:
        generator = torch.Generator().manual_seed(SEED)
        shape = (FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE)
        pixels = Pixels(*(torch.rand(shape, generator=generator) * 255 for _ in range(2)))
        text = torch.randint(backend.config.decoder.vocab, (TEXT_TOKENS,), generator=generator).tolist()
        return cls(pixels, [*text[: TEXT_TOKENS // 2], IMAGE_TOKENS_PLACEHOLDER, *text[TEXT_TOKENS // 2 :]])

    def embeds(self, backend: Graphs) -> Tensor:
        """All stages before the decoder: [N, D]."""
        visual = visual_tokens(backend, self.pixels)
        backend.release(VISION)
        return prompt_embeds(backend, self.ids, visual)


@dataclasses.dataclass(frozen=True)
class Context:
    """Synthetic embeddings in place of a video and a prompt."""

    filling: Tensor  # [N, D] on the backend's device

    @classmethod
    def make(cls, backend: GraphBackend, tokens: int) -> Context:
        noise = torch.randn(tokens, backend.config.decoder.width, generator=torch.Generator().manual_seed(SEED))
        return cls((noise * EMBEDDING_SCALE).to(backend.device))

    def embeds(self, backend: Graphs) -> Tensor:
        """Nothing to compute: [N, D]."""
        return self.filling


@dataclasses.dataclass(frozen=True)
class Run:
    """One timed pass: seconds of each stage up to the prefill, of choosing the first token, of each step after it, and to the first token
    of another question about the same video; and how old the process was when the first token was there."""

    context_tokens: int
    stages_s: dict[str, float]
    sampling_s: float
    steps_s: list[float]
    again_s: float
    first_token_at_s: float

    @property
    def ttft_s(self) -> float:
        return sum(self.stages_s.values()) + self.sampling_s

    @property
    def answer_s(self) -> float:
        return self.ttft_s + sum(self.steps_s)


def run_once(backend: GraphBackend, prompt: VideoPrompt | Context, new_tokens: int) -> Run:
    """Prefill the prompt and take `new_tokens` greedy steps behind it; stop ids are ignored. As in a session the graphs that watch are
    freed when they have; they are loaded again for the next video, and that belongs to its first token.

    Another question then stands in the first one's place, behind the video, as `Session.start_over` has it. A step is what a token
    costs: its embedding, the decoder, and the choice of the next.
    """
    stages_s: dict[str, float] = {}
    timed, sampler = TimedBackend(backend, stages_s), Sampler()
    embeds = prompt.embeds(timed)
    context_tokens = embeds.shape[0]
    logits = timed.decode(embeds, 0)
    stages_s["prefill"] = stages_s.pop("decoder")
    started = time.perf_counter()
    token = sampler(logits)
    sampling_s, first_token_at_s = time.perf_counter() - started, process_age_s()
    steps_s = []
    for position in range(context_tokens, context_tokens + new_tokens):
        started = time.perf_counter()
        token = sampler(backend.decode(embed(backend, [token]), position))  # its id is there only when all is computed
        steps_s.append(time.perf_counter() - started)
    question = [token] * min(TEXT_TOKENS // 2, context_tokens)
    started = time.perf_counter()
    sampler(backend.decode(embed(backend, question), context_tokens - len(question)))
    return Run(context_tokens, stages_s, sampling_s, steps_s, time.perf_counter() - started, first_token_at_s)


def summarize(runs: list[Run]) -> dict[str, object]:
    """Medians: over runs for what happens once, over all steps of all runs for decoding."""
    stages_s = {stage: statistics.median(run.stages_s[stage] for run in runs) for stage in runs[0].stages_s}
    sampling_s = statistics.median(run.sampling_s for run in runs)
    context_tokens = runs[0].context_tokens
    return {
        "stages_s": stages_s,
        "sampling_s": sampling_s,
        "ttft_s": sum(stages_s.values()) + sampling_s,
        "again_ttft_s": statistics.median(run.again_s for run in runs),
        "answer_s": statistics.median(run.answer_s for run in runs),
        "context_tokens": context_tokens,
        "prefill_tok_s": context_tokens / stages_s["prefill"],
        "decode_tok_s": statistics.median(1 / step for run in runs for step in run.steps_s),
    }


def table(report: Mapping) -> str:
    """The report for a reader."""
    rows = [(stage, seconds) for stage, seconds in report["stages_s"].items()]
    rows += [("sampling", report["sampling_s"]), ("first token", report["ttft_s"])]
    lines = [f"{name:<16}{seconds:>9.4f} s {seconds / report['ttft_s']:>6.1%}" for name, seconds in rows]
    lines.append(f"{'prefill':<16}{report['prefill_tok_s']:>9.1f} tokens/s, {report['context_tokens']} tokens")
    lines.append(f"{'decode':<16}{report['decode_tok_s']:>9.1f} tokens/s behind them")
    lines.append(f"{'whole answer':<16}{report['answer_s']:>9.2f} s to its last token")
    lines.append(f"{'next question':<16}{report['again_ttft_s']:>9.4f} s to its first token, about the same video")
    lines.append(f"{'cold process':<16}{report['cold_ttft_s']:>9.2f} s from its start to its first token")
    lines.append(f"{'peak memory':<16}{report['peak_rss_bytes'] / 1e6:>9.1f} MB")
    return "\n".join([f"{report['backend']} on {report['device']}", *lines])


def bench(backend: GraphBackend, context: int | None, new_tokens: int, runs: int) -> dict[str, object]:
    """Warm up, time `runs` passes, and summarize them.

    Raises:
        PromptError: the prompt and the new tokens do not fit the context.
    """
    tokens = TEXT_TOKENS + backend.config.visual_tokens if context is None else context
    if tokens + new_tokens > backend.max_context:
        what = f"a video's {tokens} tokens" if context is None else f"--context {context}"
        remedy = "build with a larger --max-context" if context is None else "give fewer"
        raise PromptError(f"{what} and --new-tokens {new_tokens} do not fit the context of {backend.max_context} tokens: {remedy}")
    prompt = VideoPrompt.make(backend) if context is None else Context.make(backend, context)
    if backend.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    timed = []
    for number in range(runs + 1):
        run = run_once(backend, prompt, new_tokens)
        name = f"run {number} of {runs}" if number else "warm-up"
        rate = 1 / statistics.median(run.steps_s)
        print(f"{name}: first token after {run.ttft_s:.3f} s, then {rate:.1f} tokens/s", file=sys.stderr, flush=True)
        timed.append(run)
    return summarize(timed[1:]) | {"cold_ttft_s": timed[0].first_token_at_s}


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m runtime_py.bench", description=__doc__)
    add_source_arguments(parser)
    parser.add_argument("--context", type=int, metavar="N", help="prefill N synthetic embeddings, no video (default: a video and a prompt)")
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS, metavar="N", help="timed greedy steps (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help="timed runs after the warm-up (default: %(default)s)")
    peers_help = "time the vision graphs beside this checkpoint's eager model, their matrix products alone, and ONNX Runtime"
    parser.add_argument("--peers", metavar="DIR_OR_HUB_ID", help=peers_help)
    parser.add_argument("--json", type=Path, metavar="F", help="write the JSON object to this file too")
    args = parser.parse_args(argv)
    for name in ("context", "new_tokens", "runs"):
        count = getattr(args, name)
        if count is not None and count < 1:
            raise ExportError(f"--{name.replace('_', '-')} {count}: give at least 1")
    if args.json is not None:
        check_writable(args.json)
    if args.peers is not None and args.bundle is None:
        raise ExportError("--peers compares a bundle: give --bundle")
    backend, _ = open_source(args)
    if args.peers is not None:
        peers.check(open_checkpoint(args.peers), backend)
    report = {
        "backend": backend.name,
        "device": backend.device,
        "dtype": args.dtype if args.bundle is None else None,  # a bundle's is its recipe's
        "source": str(args.bundle or args.checkpoint),
        **bench(backend, args.context, args.new_tokens, args.runs),
        "new_tokens": args.new_tokens,
        "runs": args.runs,
        "threads": args.threads or (threads_in_use() if backend.name == "executorch" else torch.get_num_threads()),
        "peak_rss_bytes": peak_rss_bytes(),
        "bundle_bytes": backend.bundle_bytes(),
        "versions": backend.versions() | {"python": platform.python_version()},
    }
    if backend.device == "cuda":
        report["peak_cuda_bytes"] = torch.cuda.max_memory_allocated()
        report["gpu"] = torch.cuda.get_device_name()
    print(table(report), file=sys.stderr)
    if args.peers is not None:
        report["peers_s"] = peers.compare(backend, backend.bundle, args.peers, args.threads, args.runs)
        print(peers.table(report["peers_s"]), file=sys.stderr)
    line = json.dumps(report, allow_nan=False)
    if args.json is not None:
        write_text(args.json, line + "\n")
    print(line)


if __name__ == "__main__":
    sys.exit(main())
