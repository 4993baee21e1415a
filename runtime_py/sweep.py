"""`python -m runtime_py.sweep`: build a checkpoint under several recipes, measure each bundle, and say which are worth having.

    python -m runtime_py.sweep --checkpoint calibration/demo/checkpoint --targets executorch coreml --recipes fp32 int8 int4 --out sweep/
    python -m runtime_py.sweep --checkpoint half/ --recipes int8 int4 int4-gptq mixed.json --calibration statistics/ \\
        --annotations my.json --videos my_videos/ --out sweep-half/

For each: size, the share of questions answered right, the mean KL divergence of its answers' tokens from the float model, speed and
memory (`runtime_py.bench`, in a process of its own). --out gets the bundles, `sweep.json`, `sweep.md` and `sweep.svg`; what was measured
there already is not measured again. Without --annotations the questions are the demo's own, which only the demo can answer.
A bundle is on the Pareto front when no other is both smaller and closer to the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from export.arguments import ArgumentParser, add_weight_arguments
from export.build import DEMO_CHECKPOINT
from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.errors import AnnotationError, ExportError, command
from export.progress import Progress
from runtime_py.agreement import compare
from runtime_py.annotations import read_annotations
from runtime_py.files import write_text
from runtime_py.gates import Questions
from runtime_py.load import backend_of_bundle, backend_of_checkpoint, load_tokenizer
from runtime_py.plots import scatter
from runtime_py.scoring import wilson

DEFAULT_CLIPS, DEFAULT_QUESTIONS = 40, 8
KL_CLIPS = 10  # of those: each token's distribution over the whole vocabulary is kept for the comparison


@dataclasses.dataclass(frozen=True)
class Row:
    """One bundle's figures. `accuracy` 0 to 1 with its 95 % interval, `kl` nats per answer token, bytes, seconds."""

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
    ttft_s: float
    decode_tok_s: float
    peak_rss_bytes: int


def pareto(rows: Sequence[Row]) -> set[str]:
    """Names of the bundles that no other beats: none is at most as large and at most as far from the model, and better in one."""

    def beats(one: Row, other: Row) -> bool:
        no_worse = one.bundle_bytes <= other.bundle_bytes and one.kl <= other.kl
        return no_worse and (one.bundle_bytes < other.bundle_bytes or one.kl < other.kl)

    return {row.name for row in rows if not any(beats(other, row) for other in rows)}


def table(rows: Sequence[Row], reference: float) -> str:
    """Markdown, the smallest bundle first."""
    front = pareto(rows)
    lines = [
        "| target | recipe | MB | bits | right, 95 % | mean KL | same best id | first token | tokens/s | memory | front |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row.bundle_bytes):
        right = f"{100 * row.accuracy:.1f} % ({100 * row.accuracy_low:.1f} to {100 * row.accuracy_high:.1f})"
        cells = [
            row.target, row.recipe, f"{row.bundle_bytes / 1e6:.1f}", f"{row.bits_per_weight:.2f}", right, f"{row.kl:.5f}",
            f"{100 * row.top1:.2f} %", f"{row.ttft_s:.2f} s", f"{row.decode_tok_s:.1f}", f"{row.peak_rss_bytes / 1e6:.0f} MB",
            "yes" if row.name in front else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"The eager model answers {100 * reference:.1f} % right."])


def measure(name: str, folder: Path, target: str, recipe: str, questions: Questions, expected: list, tokenizer_file: Path | None) -> Row:
    """All figures of one bundle."""
    bundle = open_bundle(folder)
    encode, tokenizer = load_tokenizer(tokenizer_file, folder)
    backend = backend_of_bundle(bundle)
    share = wilson(questions.right(backend, encode, tokenizer.decode), len(questions.items))
    agreement = compare(expected, questions.distributions(backend, encode, KL_CLIPS))
    del backend
    bench = json.loads(_run("runtime_py.bench", "--bundle", str(folder)).splitlines()[-1])
    manifest = bundle.manifest
    return Row(
        name, target, recipe, manifest.bundle_bytes, manifest.bits_per_weight, share.share, share.low, share.high, agreement.kl,
        agreement.top1, bench["ttft_s"], bench["decode_tok_s"], bench["peak_rss_bytes"],
    )  # fmt: skip


def _run(module: str, *arguments: str) -> str:
    """Another command of this project, in a process of its own; its error line becomes ours."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise ExportError(f"{module} {' '.join(arguments)} failed: {(said or done.stderr.splitlines() or ['no message'])[-1]}")
    return done.stdout


def _build(args: argparse.Namespace, target: str, recipe: str, folder: Path) -> None:
    from export.quant import presets

    arguments = ["--target", target, "--recipe", recipe, "--checkpoint", args.checkpoint, "--out", str(folder)]
    if target == "executorch":
        arguments += ["--kernels", args.kernels]
    if args.calibration and presets.parse(recipe, (), ()).calibrated:
        arguments += ["--calibration", str(args.calibration)]
    for option in ("clip", "videomamba", "base"):
        if getattr(args, option):
            arguments += [f"--{option}", getattr(args, option)]
    _run("export.build", *arguments)


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
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
    encode, tokenizer = load_tokenizer(checkpoint.tokenizer_file, checkpoint.name)
    args.out.mkdir(parents=True, exist_ok=True)
    questions = _questions(args)
    state_file = args.out / "sweep.json"
    state = json.loads(state_file.read_text(encoding="utf-8")) if state_file.exists() else {"rows": {}}
    asked = {"checkpoint": checkpoint.fingerprint(), "questions": len(questions.items)}
    if state.get("asked", asked) != asked:
        raise ExportError(f"{state_file} is of another checkpoint or other questions: choose another --out")
    state["asked"] = asked
    combinations = [(target, recipe) for target in args.targets for recipe in args.recipes]
    progress = Progress(1 + 2 * len(combinations))
    progress.begin("the eager model")
    eager = backend_of_checkpoint(checkpoint)
    expected = questions.distributions(eager, encode, KL_CLIPS)
    if "reference" not in state:
        state["reference"] = questions.right(eager, encode, tokenizer.decode) / len(questions.items)
    del eager
    progress.end("the eager model")
    for target, recipe in combinations:
        name = f"{target}-{Path(recipe).stem}" + ("-fused" if target == "executorch" and args.kernels == "fused" else "")
        folder = args.out / name
        progress.begin(f"{name}: building")
        if not folder.exists():
            _build(args, target, recipe, folder)
        progress.end(f"{name}: built")
        progress.begin(f"{name}: measuring")
        if name not in state["rows"]:
            row = measure(name, folder, target, Path(recipe).stem, questions, expected, checkpoint.tokenizer_file)
            state["rows"][name] = dataclasses.asdict(row)
            write_text(state_file, json.dumps(state, indent=2))
        progress.end(f"{name}: measured")
    progress.close()
    rows = [Row(**row) for row in state["rows"].values()]
    text = table(rows, state["reference"])
    front = pareto(rows)
    points = [(row.bundle_bytes / 1e6, row.kl, f"{row.target} {row.recipe}", row.name in front) for row in rows]
    for file_name, content in (("sweep.md", text + "\n"), ("sweep.svg", scatter(points, "bundle, MB", "mean KL from the model, nats"))):
        write_text(args.out / file_name, content)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
