"""`python -m runtime_py.evaluate`: how many questions about videos does a bundle answer right, and how much worse is it than the model?

    python -m runtime_py.evaluate --bundle bundles/demo --checkpoint calibration/demo/checkpoint --annotations q.json --videos clips/
    python -m runtime_py.evaluate --bundle int8/ --bundle int4/ --annotations mvbench/action_count.json --videos videos/ --out results/

Annotations in the JSON of MVBench, NExT-QA, EgoSchema and PerceptionTest are read, and a plain list of questions
(runtime_py/annotations.py). Each model's answers go to a file in --out as they come; what stands there is not asked again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from export.arguments import ArgumentParser, add_weight_arguments
from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.errors import AnnotationError, ExportError, command
from export.progress import Progress
from runtime_py.annotations import Item, by_clip, check_videos, find_video, read_annotations
from runtime_py.backends.base import GraphBackend
from runtime_py.files import check_writable, write_text
from runtime_py.load import add_compute_units_argument, backend_of_bundle, backend_of_checkpoint, check_threads, load_tokenizer
from runtime_py.scoring import is_right, paired_difference, wilson, word_f1
from runtime_py.session import Session
from runtime_py.stages import Pixels
from runtime_py.video import read_frames

MAX_NEW_TOKENS = 64  # an answer that is longer answers no question of a benchmark
# What --ablate takes away: the frames' content, their order, or the tokens of one projector.
FRAMES, TOKENS = ("blank", "shuffled"), {"no-image": "image_projector", "no-video": "video_projector"}


@dataclasses.dataclass(frozen=True)
class Contender:
    """A model to ask: its name in the table, what it is (for the results' file), and how it is loaded."""

    name: str
    identity: str
    load: Callable[[], GraphBackend]
    tokenizer_file: Path | None


@dataclasses.dataclass(frozen=True)
class Result:
    """One question and what a model said to it."""

    number: int
    answer: str
    right: bool
    f1: float


class Without:
    """A backend whose tokens of one projector are zeros."""

    def __init__(self, backend: GraphBackend, projector: str):
        self._backend, self._projector = backend, projector

    def run(self, graph: str, *inputs: Tensor) -> Tensor:
        y = self._backend.run(graph, *inputs)
        return torch.zeros_like(y) if graph == self._projector else y

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def answer_clip(session: Session, decode: Callable[[list[int]], str], pixels: Pixels, items: Sequence[Item]) -> Iterator[Result]:
    """Ask every question about one clip, each in a conversation of its own, behind one visual prefix."""
    session.watch(pixels)
    for item in items:
        session.start_over()
        answer = decode(list(session.ask(item.prompt, max_new_tokens=MAX_NEW_TOKENS))).strip()
        yield Result(item.number, answer, is_right(answer, item.answer, item.options), round(word_f1(answer, item.answer), 4))


def read_pixels(path: Path, item: Item, edit: str | None = None) -> Pixels:
    """A clip's pixels. `edit`: "blank" makes every frame grey, "shuffled" puts them in another order, the same for every model."""
    frames = read_frames(path, item.start_s, item.end_s).frames
    if edit == "blank":
        frames = [np.full_like(frame, 127) for frame in frames]
    if edit == "shuffled":
        seed = int.from_bytes(hashlib.sha256(repr(item.clip).encode()).digest()[:4], "big")
        frames = [frames[i] for i in np.random.default_rng(seed).permutation(len(frames))]
    return Pixels.of(frames)


class ResultFile:
    """One model's answers, a line each behind a line that says whose they are; what is there already is read, not asked again."""

    def __init__(self, path: Path, identity: str, questions: str):
        self.path = path
        self.header = {"model": identity, "questions": questions}
        self.results: dict[int, Result] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            header = json.loads(lines[0]) if lines else self.header
            for line in lines[1:]:
                if line.endswith("\n"):  # the last one may have been cut short
                    result = Result(**json.loads(line))
                    self.results[result.number] = result
        except (OSError, ValueError, TypeError) as error:
            raise AnnotationError(f"{self.path} is no file of results ({error}): move it away, or choose another --out") from error
        if header != self.header:
            raise AnnotationError(f"{self.path} holds answers of another model or to other questions: choose another --out")
        self._rewrite()

    def _rewrite(self) -> None:
        """Without a line that was cut short, so that what follows begins a line of its own."""
        lines = [json.dumps(self.header), *(json.dumps(dataclasses.asdict(result)) for result in self.results.values())]
        write_text(self.path, "\n".join(lines) + "\n")

    def open(self) -> TextIO:
        if not self.path.exists():
            self._rewrite()
        return self.path.open("a", encoding="utf-8")


def evaluate(contender: Contender, items: Sequence[Item], videos: Path, file: ResultFile, edit: str | None = None) -> dict[int, Result]:
    """Ask a model what its file of results does not hold yet."""
    wanted = {item.number for item in items}
    left = [item for item in items if item.number not in file.results]
    if left:
        encode, tokenizer = load_tokenizer(contender.tokenizer_file, contender.name)
        backend = contender.load()
        session = Session(Without(backend, TOKENS[edit]) if edit in TOKENS else backend, encode, keep_encoders=True)
        progress = Progress(len(by_clip(left)))
        with file.open() as lines:
            for clip in by_clip(left):
                pixels = read_pixels(find_video(videos, clip[0].video), clip[0], edit)
                for result in answer_clip(session, tokenizer.decode, pixels, clip):
                    file.results[result.number] = result
                    lines.write(json.dumps(dataclasses.asdict(result)) + "\n")
                lines.flush()
                progress.step(contender.name)
        progress.close()
    return {number: result for number, result in file.results.items() if number in wanted}


def by_task(items: Sequence[Item]) -> dict[str, list[int]]:
    """The questions' numbers by task, "-" where a file names none."""
    tasks: dict[str, list[int]] = {}
    for item in items:
        tasks.setdefault(item.task or "-", []).append(item.number)
    return dict(sorted(tasks.items()))


def table(items: Sequence[Item], results: dict[str, dict[int, Result]]) -> str:
    """Per cent right by task and in all, a column a model, and each model's difference from the first with its 95 % interval."""
    names = list(results)
    tasks = by_task(items)
    width = max(len("all, of 00000"), *(len(task) + 8 for task in tasks))
    lines = [f"{'task':<{width}}" + "".join(f"{name[-18:]:>20}" for name in names)]
    for task, numbers in tasks.items():
        cells = [100 * sum(results[name][i].right for i in numbers) / len(numbers) for name in names]
        lines.append(f"{f'{task} ({len(numbers)})':<{width}}" + "".join(f"{cell:>18.1f} %" for cell in cells))
    shares = [wilson(sum(r.right for r in results[name].values()), len(items)) for name in names]
    lines.append(f"{f'all, of {len(items)}':<{width}}" + "".join(f"{100 * share.share:>18.2f} %" for share in shares))
    intervals = [f"{100 * share.low:.1f} to {100 * share.high:.1f} %" for share in shares]
    lines.append(f"{'95 %':<{width}}" + "".join(f"{interval:>20}" for interval in intervals))
    right = {name: {number: r.right for number, r in results[name].items()} for name in names}
    clusters = {item.number: item.clip for item in items}
    for name in names[1:]:
        d = paired_difference(right[name], right[names[0]], clusters)
        interval = f"95 % {100 * d.low:+.2f} to {100 * d.high:+.2f}"
        lines.append(f"{name} - {names[0]}: {100 * d.share:+.2f} points, {interval}, paired by question")
    return "\n".join(lines)


def summary(items: Sequence[Item], results: dict[str, dict[int, Result]]) -> dict:
    """The same as JSON."""
    report: dict = {"questions": len(items), "models": {}}
    clusters = {item.number: item.clip for item in items}
    first: dict[int, bool] | None = None
    for name, answered in results.items():
        right = {number: result.right for number, result in answered.items()}
        tasks = {task: sum(right[number] for number in numbers) / len(numbers) for task, numbers in by_task(items).items()}
        entry = {"accuracy": dataclasses.asdict(wilson(sum(right.values()), len(right))), "tasks": tasks}
        entry["word_f1"] = float(np.mean([result.f1 for result in answered.values()]))
        if first is None:
            first = right
        else:
            entry["difference"] = dataclasses.asdict(paired_difference(right, first, clusters))
        report["models"][name] = entry
    return report


def questions_fingerprint(items: Sequence[Item], edit: str | None) -> str:
    """What a file of annotations asks; the same with another limit shares its answers question by question."""
    text = json.dumps([dataclasses.astuple(item) for item in items] + [edit])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _contenders(args) -> list[Contender]:
    check_threads(args.threads)
    contenders = []
    if args.checkpoint:
        checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
        load = lambda: backend_of_checkpoint(checkpoint, threads=args.threads)  # noqa: E731
        contenders.append(Contender("eager", checkpoint.fingerprint(), load, checkpoint.tokenizer_file))
    for folder in args.bundle:
        bundle = open_bundle(folder)
        file = bundle.folder / "tokenizer.json" if "tokenizer.json" in bundle.manifest.files else None
        load = lambda bundle=bundle: backend_of_bundle(bundle, args.threads, units=args.compute_units)  # noqa: E731
        identity = hashlib.sha256((bundle.folder / "manifest.json").read_bytes()).hexdigest()[:16]
        contenders.append(Contender(folder.resolve().name, identity, load, file))
    if not contenders:
        raise ExportError("nothing to evaluate: give --bundle, --checkpoint, or both")
    repeated = [name for name, group in itertools.groupby(sorted(c.name for c in contenders)) if len(list(group)) > 1]
    if repeated:
        raise ExportError(f"two bundles are called {repeated[0]}: rename one folder, their results go by its name")
    return contenders


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m runtime_py.evaluate", description=__doc__)
    parser.add_argument("--bundle", type=Path, action="append", default=[], metavar="DIR", help="may be repeated")
    parser.add_argument("--checkpoint", metavar="DIR_OR_HUB_ID", help="the eager model too; it is the first column, and the reference")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE")
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="folder of the videos that the annotations name")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the answers (default: evaluation/ANNOTATIONS)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    ablate_help = "does the model need it? Grey frames, frames in another order, or one branch's tokens as zeros"
    parser.add_argument("--ablate", choices=(*FRAMES, *TOKENS), help=ablate_help)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the table as JSON too")
    add_compute_units_argument(parser)
    add_weight_arguments(parser)
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        raise AnnotationError(f"--limit {args.limit}: give at least 1")
    if args.json:
        check_writable(args.json)
    annotations = read_annotations(args.annotations)
    items = annotations[: args.limit]
    check_videos(items, args.videos)  # before any model is loaded
    contenders = _contenders(args)
    out = args.out or Path("evaluation") / args.annotations.stem
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    suffix = f"-{args.ablate}" if args.ablate else ""
    asked = questions_fingerprint(annotations, args.ablate)
    for contender in contenders:
        file = ResultFile(out / f"{contender.name}{suffix}.jsonl", contender.identity, asked)
        results[contender.name] = evaluate(contender, items, args.videos, file, args.ablate)
    if args.json:
        write_text(args.json, json.dumps(summary(items, results), indent=2) + "\n")
    print(table(items, results))


if __name__ == "__main__":
    sys.exit(main())
