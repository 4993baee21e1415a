"""`python -m runtime_py.sweep`: build a checkpoint under several recipes, measure each bundle, and say which are worth having.

    python -m runtime_py.sweep --checkpoint calibration/demo/checkpoint --targets executorch coreml --recipes fp32 int8 int4 --out sweep/
    python -m runtime_py.sweep --checkpoint half/ --recipes int8 int4 int4-gptq mixed.json --calibration statistics/ \\
        --annotations my.json --videos my_videos/ --out sweep-half/

For each: size, the share of questions answered right, how far its answers' tokens are from the float model's (mean KL divergence, the
same best id, perplexity), speed and memory (`runtime_py.bench`, in a process of its own). Every combination is checked before the first
is built. --out gets the bundles, `sweep.json`, `sweep.md` and `sweep.svg`, renewed after each; what was measured there already is not
measured again. Without --annotations the questions are the demo's own, which only the demo can answer. A bundle is on the Pareto front
when no other is both smaller and closer to the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from export.arguments import ArgumentParser, add_weight_arguments
from export.build import DEMO_CHECKPOINT, is_demo
from export.bundle import open_bundle
from export.checkpoint import Checkpoint, open_checkpoint
from export.errors import AnnotationError, CalibrationError, ExportError, RecipeError, command
from export.model.prompt import Encode
from export.progress import Progress
from export.quant import presets
from export.quant.statistics import INDEX
from runtime_py.agreement import compare
from runtime_py.annotations import check_videos, read_annotations
from runtime_py.evaluate import questions_fingerprint
from runtime_py.files import write_text
from runtime_py.gates import Decode, Questions
from runtime_py.load import backend_of_bundle, backend_of_checkpoint, load_tokenizer
from runtime_py.plots import scatter
from runtime_py.scoring import wilson

DEFAULT_CLIPS, DEFAULT_QUESTIONS = 40, 8


@dataclasses.dataclass(frozen=True)
class Row:
    """One bundle's figures. `accuracy` 0 to 1 with its 95 % interval, `kl` nats per answer token, `perplexity` of the answers, bytes,
    seconds."""

    name: str
    target: str
    recipe: str
    bundle_bytes: int
    bits_per_weight: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    kl: float
    top1: float
    perplexity: float
    ttft_s: float
    decode_tok_s: float
    peak_rss_bytes: int


def pareto(rows: Sequence[Row]) -> set[str]:
    """Names of the bundles that no other beats: none is at most as large and at most as far from the model, and better in one."""

    def beats(one: Row, other: Row) -> bool:
        no_worse = one.bundle_bytes <= other.bundle_bytes and one.kl <= other.kl
        return no_worse and (one.bundle_bytes < other.bundle_bytes or one.kl < other.kl)

    return {row.name for row in rows if not any(beats(other, row) for other in rows)}


def table(rows: Sequence[Row], reference: Mapping[str, float]) -> str:
    """Markdown, the smallest bundle first; `reference`: what the eager model makes of the questions, see `_reference`."""
    front = pareto(rows)
    lines = [
        "| target | recipe | MB | bits | right, 95 % | mean KL | same best id | perplexity | first token | tokens/s | memory | front |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row.bundle_bytes):
        right = f"{100 * row.accuracy:.1f} % ({100 * row.accuracy_low:.1f} to {100 * row.accuracy_high:.1f})"
        cells = [
            row.target, row.recipe, f"{row.bundle_bytes / 1e6:.1f}", f"{row.bits_per_weight:.2f}", right, f"{row.kl:.5f}",
            f"{100 * row.top1:.2f} %", f"{row.perplexity:.4f}", f"{row.ttft_s:.2f} s", f"{row.decode_tok_s:.1f}",
            f"{row.peak_rss_bytes / 1e6:.0f} MB", "yes" if row.name in front else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    model = f"The eager model answers {100 * reference['right']:.1f} % right, perplexity {reference['perplexity']:.4f}."
    clips = f"KL, best ids and perplexity are over the answers about the first {reference['kl_clips']:.0f} clips."
    return "\n".join([*lines, "", f"{model} {clips}"])


@dataclasses.dataclass(frozen=True)
class Combination:
    """A bundle to build. `name` tells it from others: a recipe's file and its calibration by what is in them."""

    name: str
    target: str
    recipe: str
    calibrated: bool


def measure(one: Combination, folder: Path, questions: Questions, expected: list, encode: Encode, decode: Decode) -> Row:
    """All figures of one bundle."""
    bundle = open_bundle(folder)
    backend = backend_of_bundle(bundle)
    share = wilson(questions.right(backend, encode, decode), len(questions.items))
    agreement = compare(expected, questions.distributions(backend, encode))
    del backend
    bench = json.loads(_run("runtime_py.bench", "--bundle", str(folder)).splitlines()[-1])
    manifest = bundle.manifest
    return Row(
        one.name, one.target, Path(one.recipe).stem, manifest.bundle_bytes, manifest.bits_per_weight, share.share, share.low, share.high,
        agreement.kl, agreement.top1, agreement.perplexity, bench["ttft_s"], bench["decode_tok_s"], bench["peak_rss_bytes"],
    )  # fmt: skip


def _run(module: str, *arguments: str) -> str:
    """Another command of this project, in a process of its own; its error line becomes ours."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise ExportError(f"{module} {' '.join(arguments)} failed: {(said or done.stderr.splitlines() or ['no message'])[-1]}")
    return done.stdout


def combinations(args: argparse.Namespace) -> list[Combination]:
    """Every target with every recipe.

    Raises:
        RecipeError: a recipe is not known, or reads statistics and there is no --calibration.
    """
    found = []
    for target, recipe in itertools.product(args.targets, args.recipes):
        calibrated = presets.parse(recipe, (), ()).calibrated
        if calibrated and args.calibration is None:
            raise RecipeError(f"recipe {recipe} reads calibration statistics: make them with calibration.collect, and give --calibration")
        contents = [Path(recipe)] if recipe.endswith(".json") else []
        contents += [args.calibration / INDEX] if calibrated else []
        try:
            digest = hashlib.sha256(b"".join(path.read_bytes() for path in contents)).hexdigest()[:8]
        except OSError as error:
            raise CalibrationError(
                f"{args.calibration} holds no statistics ({error.strerror}): make them with calibration.collect"
            ) from error
        fused = "-fused" if target == "executorch" and args.kernels == "fused" else ""
        name = f"{target}-{Path(recipe).stem}{fused}" + (f"-{digest}" if contents else "")
        found.append(Combination(name, target, recipe, calibrated))
    return found


def _build(args: argparse.Namespace, one: Combination, folder: Path, *more: str) -> None:
    target, recipe = one.target, one.recipe
    arguments = ["--target", target, "--recipe", recipe, "--checkpoint", args.checkpoint, "--out", str(folder)]
    if target == "executorch":
        arguments += ["--kernels", args.kernels]
    if one.calibrated:
        arguments += ["--calibration", str(args.calibration)]
    for option in ("clip", "videomamba", "base"):
        if getattr(args, option):
            arguments += [f"--{option}", getattr(args, option)]
    _run("export.build", *arguments, *more)


def _reference(checkpoint: Checkpoint, questions: Questions, encode: Encode, decode: Decode) -> tuple[dict[str, float], list]:
    """What the eager model makes of the questions: its figures, and its distributions for the bundles to be held against."""
    eager = backend_of_checkpoint(checkpoint)
    expected = questions.reference(eager, encode)
    own = compare(expected, expected)
    right = questions.right(eager, encode, decode) / len(questions.items)
    return {"right": right, "perplexity": own.perplexity, "kl_clips": len(expected)}, expected


def _state(file: Path, asked: Mapping[str, str]) -> dict:
    """What an earlier run measured.

    Raises:
        ExportError: it is of another checkpoint, of other questions, or damaged.
    """
    if not file.exists():
        return {"asked": dict(asked), "rows": {}}
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        same = state["asked"] == asked
        for row in state["rows"].values():
            Row(**row)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExportError(f"{file} holds no figures of this program ({error}): remove it, or choose another --out") from error
    if not same:
        raise ExportError(f"{file} is of another checkpoint or other questions: choose another --out")
    return state


def _check_is_ours(folder: Path, checkpoint: Checkpoint) -> None:
    """Refuse a bundle that an interrupted sweep of another checkpoint left, whose figures were not written yet."""
    if folder.exists() and open_bundle(folder).manifest.checkpoint_fingerprint != checkpoint.fingerprint():
        raise ExportError(f"{folder} is a bundle of another checkpoint: remove it, or choose another --out")


def _questions(args: argparse.Namespace) -> Questions:
    if args.annotations:
        return Questions(read_annotations(args.annotations)[: args.limit], args.videos)
    from calibration.clips import ANNOTATIONS, write_clips

    videos = args.out / "clips"
    if not (videos / ANNOTATIONS).exists():
        write_clips(videos, "test", DEFAULT_CLIPS, DEFAULT_QUESTIONS)
    return Questions(read_annotations(videos / ANNOTATIONS)[: args.limit], videos)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m runtime_py.sweep", description=__doc__)
    parser.add_argument("--checkpoint", default=str(DEMO_CHECKPOINT), metavar="DIR_OR_HUB_ID", help="(default: the demo)")
    parser.add_argument("--targets", nargs="+", default=["executorch"], choices=("executorch", "coreml"), help="(default: executorch)")
    parser.add_argument("--recipes", nargs="+", default=["fp32", "int8", "int4"], metavar="R", help="names, or .json files")
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="for the recipes that read one")
    parser.add_argument("--kernels", choices=("stock", "fused"), default="stock", help="of executorch (default: stock)")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="questions with answers (default: the demo's own)")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="the videos that --annotations names")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for bundles and results")
    add_weight_arguments(parser)
    args = parser.parse_args(argv)
    if (args.annotations is None) != (args.videos is None):
        raise AnnotationError("--annotations and --videos belong together: give both")
    if args.limit is not None and args.limit < 1:
        raise AnnotationError(f"--limit {args.limit}: give at least 1")
    if args.annotations is None and not is_demo(args.checkpoint):
        raise AnnotationError("a sweep asks questions about videos: give --annotations and --videos (only the demo has its own)")
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    chosen = combinations(args)
    checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
    encode, tokenizer = load_tokenizer(checkpoint.tokenizer_file, checkpoint.name)
    args.out.mkdir(parents=True, exist_ok=True)
    questions = _questions(args)
    check_videos(questions.items, questions.videos)
    file = args.out / "sweep.json"
    state = _state(file, {"checkpoint": checkpoint.fingerprint(), "questions": questions_fingerprint(questions.items, None)})
    for one in chosen:
        _check_is_ours(args.out / one.name, checkpoint)
    left = [one for one in chosen if one.name not in state["rows"]]
    progress = Progress(len(left) + 1 + 2 * len(left))
    for one in left:
        progress.begin(f"{one.name}: checking")
        if not (args.out / one.name).exists():
            _build(args, one, args.out / one.name, "--dry-run")
        progress.end(f"{one.name}: checked")
    expected: list = []
    if left:
        progress.begin("the eager model")
        state["reference"], expected = _reference(checkpoint, questions, encode, tokenizer.decode)
        progress.end("the eager model")
    for one in left:
        folder = args.out / one.name
        progress.begin(f"{one.name}: building")
        if not folder.exists():
            _build(args, one, folder)
        progress.end(f"{one.name}: built")
        progress.begin(f"{one.name}: measuring")
        row = measure(one, folder, questions, expected, encode, tokenizer.decode)
        state["rows"][one.name] = dataclasses.asdict(row)
        _write(args.out, state)
        progress.end(f"{one.name}: measured")
    progress.close()
    print(_write(args.out, state))


def _write(out: Path, state: Mapping) -> str:
    """All files of the folder; the table."""
    rows = [Row(**row) for row in state["rows"].values()]
    text, front = table(rows, state["reference"]), pareto(rows)
    points = [(row.bundle_bytes / 1e6, row.kl, f"{row.target} {row.recipe}", row.name in front) for row in rows]
    write_text(out / "sweep.json", json.dumps(state, indent=2))
    write_text(out / "sweep.md", text + "\n")
    write_text(out / "sweep.svg", scatter(points, "bundle, MB", "mean KL from the model, nats"))
    return text


if __name__ == "__main__":
    sys.exit(main())
