"""`python -m runtime_py.evaluate`: how many questions about videos does a bundle answer right, and how much worse is it than the model?

    python -m runtime_py.evaluate --bundle bundles/demo --checkpoint calibration/demo/checkpoint --annotations q.json --videos clips/
    python -m runtime_py.evaluate --bundle int8/ --bundle int4/ --annotations MVBench/json --videos MVBench/video --out results/

Annotations as MVBench, NExT-QA, EgoSchema and PerceptionTest publish them are read, and a plain list of questions
(runtime_py/annotations.py): one file, several, or a folder of them. A file's videos may lie in a subfolder of --videos that is called
as the file is, MVBench's where its archives have them. Each model's answers go to a file in --out as they come; what stands there is
not asked again. Questions about a video that is missing or cannot be read are left out, of all models, and counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.arguments import ArgumentParser, add_weight_arguments
from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.errors import AnnotationError, ExportError, VideoError, command, one_line
from export.progress import Progress
from runtime_py.annotation_files import placed, read_files
from runtime_py.annotations import Item, by_clip, find_video
from runtime_py.backends.base import GraphBackend
from runtime_py.files import check_writable, write_text
from runtime_py.frame_folder import read_folder
from runtime_py.load import (
    add_compute_units_argument,
    backend_of_bundle,
    backend_of_checkpoint,
    check_compute_units,
    check_threads,
    load_tokenizer,
    refuse_compute_units,
    refuse_weight_arguments,
)
from runtime_py.results import Result, ResultFile, summary, table
from runtime_py.scoring import is_right, word_f1
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
    span = item.start_s, item.end_s
    frames = read_folder(path, *span) if path.is_dir() else read_frames(path, *span).frames
    if edit == "blank":
        frames = [np.full_like(frame, 127) for frame in frames]
    if edit == "shuffled":
        seed = int.from_bytes(hashlib.sha256(repr(item.clip).encode()).digest()[:4], "big")
        frames = [frames[i] for i in np.random.default_rng(seed).permutation(len(frames))]
    return Pixels.of(frames)


def evaluate(contender: Contender, items: Sequence[Item], videos: Path, file: ResultFile, edit: str | None = None) -> dict[int, Result]:
    """Ask a model what its file of results does not hold yet; all that it then holds, by number. What is about a video that cannot be
    read is missing."""
    left = [item for item in items if item.number not in file.results]
    if left:
        encode, tokenizer = load_tokenizer(contender.tokenizer_file, contender.name)
        backend = contender.load()
        session = Session(Without(backend, TOKENS[edit]) if edit in TOKENS else backend, encode, keep_encoders=True)
        progress = Progress(len(by_clip(left)))
        with file.open() as lines:
            for clip in by_clip(left):
                try:
                    pixels = read_pixels(find_video(videos, clip[0].video), clip[0], edit)
                except VideoError as error:
                    print(f"warning: {len(clip)} questions are left out: {one_line(error)}", file=sys.stderr, flush=True)
                    progress.step(contender.name)
                    continue
                for result in answer_clip(session, tokenizer.decode, pixels, clip):
                    file.results[result.number] = result
                    lines.write(json.dumps(dataclasses.asdict(result)) + "\n")
                lines.flush()
                progress.step(contender.name)
        progress.close()
    return file.results


def questions_fingerprint(items: Sequence[Item], edit: str | None) -> str:
    """What a file of annotations asks; the same with another limit shares its answers question by question."""
    text = json.dumps([dataclasses.astuple(item) for item in items] + [edit])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _contenders(args) -> list[Contender]:
    check_threads(args.threads)
    contenders = []
    if not args.checkpoint:
        refuse_weight_arguments(args)
    if not args.bundle:
        refuse_compute_units(args)
    if args.checkpoint:
        checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
        load = lambda: backend_of_checkpoint(checkpoint, threads=args.threads)  # noqa: E731
        tokenizer = checkpoint.tokenizer_file.read_bytes() if checkpoint.tokenizer_file else b""
        identity = hashlib.sha256(checkpoint.fingerprint().encode() + tokenizer).hexdigest()[:16]
        contenders.append(Contender("eager", identity, load, checkpoint.tokenizer_file))
    for folder in args.bundle:
        bundle = open_bundle(folder)
        check_compute_units(bundle, args.compute_units)
        file = bundle.folder / "tokenizer.json" if "tokenizer.json" in bundle.manifest.files else None
        load = lambda bundle=bundle: backend_of_bundle(bundle, args.threads, units=args.compute_units)  # noqa: E731
        identity = hashlib.sha256((bundle.folder / "manifest.json").read_bytes() + str(args.compute_units).encode()).hexdigest()[:16]
        contenders.append(Contender(folder.resolve().name, identity, load, file))
    if not contenders:
        raise ExportError("nothing to evaluate: give --bundle, --checkpoint, or both")
    repeated = [name for name, group in itertools.groupby(sorted(c.name for c in contenders)) if len(list(group)) > 1]
    if repeated:
        raise ExportError(f"two bundles are called {repeated[0]}: rename one folder, their results go by its name")
    return contenders


def _placed(files: Sequence[tuple[Path, Sequence[Item]]], limit: int | None, videos: Path) -> list[Item]:
    """The first questions of each file whose videos are there; how many are not is said.

    Raises:
        AnnotationError: none is there, or a name leads out of the folder.
    """
    asked = [(path, found[:limit], placed(path, found[:limit], videos)) for path, found in files]
    items = [item for *_, there in asked for item in there]
    if not items:
        name = files[0][1][0].video
        raise AnnotationError(f"{videos} has no video that the annotations name, such as {name}: give their folder with --videos")
    for path, all_of_it, there in asked:
        if missing := len(all_of_it) - len(there):
            say = f"{missing} of {len(all_of_it)} questions are left out, their videos are not in {videos}"
            print(f"warning: {path}: {say}", file=sys.stderr, flush=True)
    return items


def _name(annotations: Sequence[Path]) -> str:
    """What results of these are called: by the file, or by the folder that is given or that the first of several files is in."""
    first = annotations[0]
    if len(annotations) == 1 and not first.is_dir():
        return first.stem
    return (first if first.is_dir() else first.parent).resolve().name


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m runtime_py.evaluate", description=__doc__)
    parser.add_argument("--bundle", type=Path, action="append", default=[], metavar="DIR", help="may be repeated")
    parser.add_argument("--checkpoint", metavar="DIR_OR_HUB_ID", help="the eager model too; it is the first column, and the reference")
    annotations_help = "files of questions, or a folder of them"
    parser.add_argument("--annotations", type=Path, nargs="+", required=True, metavar="FILE|DIR", help=annotations_help)
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="folder of the videos that the annotations name")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the answers (default: evaluation/ANNOTATIONS)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions, of each file")
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
    files = read_files(args.annotations)
    items = _placed(files, args.limit, args.videos)  # before any model is loaded
    contenders = _contenders(args)
    out = args.out or Path("evaluation") / _name(args.annotations)
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    suffix = f"-{args.ablate}" if args.ablate else ""
    asked = questions_fingerprint([item for _, found in files for item in found], args.ablate)
    for contender in contenders:
        file = ResultFile(out / f"{contender.name}{suffix}.jsonl", contender.identity, asked)
        results[contender.name] = evaluate(contender, items, args.videos, file, args.ablate)
    answered = [item for item in items if all(item.number in found for found in results.values())]
    if not answered:
        raise AnnotationError(f"none of the videos in {args.videos} can be read: copy or download them again")
    if len(answered) < len(items):
        print(f"left out: {len(items) - len(answered)} of {len(items)} questions, whose videos cannot be read", file=sys.stderr)
    items = answered
    results = {name: {item.number: found[item.number] for item in items} for name, found in results.items()}
    if args.json:
        write_text(args.json, json.dumps(summary(items, results), indent=2) + "\n")
    print(table(items, results))


if __name__ == "__main__":
    sys.exit(main())
