"""`python -m export.build`: turn a Mobile-VideoGPT checkpoint into a verified bundle for phones.

    python -m export.build --target executorch --out bundles/demo
    python -m export.build --target executorch --checkpoint Amshaker/Mobile-VideoGPT-0.5B --recipe int4 --out bundles/half
    python -m export.build --target executorch --checkpoint DIR --quant video_encoder=fp32 --dry-run

Without --checkpoint the demo checkpoint of the repository is built. The build ends with the parity ladder and leaves nothing
behind if a stage is beyond its bound.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from export.arguments import ArgumentParser, add_weight_arguments
from export.config import MAX_CONTEXT
from export.errors import AnnotationError, BackendError, RecipeError, command
from export.quant import presets

if TYPE_CHECKING:
    from export.backends.base import Backend
    from export.checkpoint import Checkpoint
    from export.config import ModelConfig
    from export.manifest import Manifest
    from export.quant.recipe import Recipe
    from export.quant.statistics import CalibrationFolder
    from runtime_py.gates import Gate, Questions

TARGETS = ("executorch", "coreml", "onnx")
DEMO_CHECKPOINT = Path(__file__).resolve().parent.parent / "calibration" / "demo" / "checkpoint"
GATE_CLIPS, GATE_QUESTIONS = 25, 8  # of the demo's own
MIN_CONTEXT = 256  # tokens: room for the question and the answer on top of the visual tokens


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; see design.md for the contract."""
    parser = ArgumentParser(prog="python -m export.build", description=__doc__)
    parser.add_argument("--target", required=True, choices=TARGETS)
    checkpoint_help = "released layout, LoRA fine-tune or hub id (default: the demo)"
    parser.add_argument("--checkpoint", metavar="PATH_OR_HUB_ID", default=str(DEMO_CHECKPOINT), help=checkpoint_help)
    add_weight_arguments(parser)
    recipe_help = f"{', '.join(presets.PRESETS)}, or a .json file (default: {presets.DEFAULT})"
    parser.add_argument("--recipe", default=presets.DEFAULT, metavar="R", help=recipe_help)
    quant_help = "another scheme for one component, e.g. decoder=int8; may be repeated"
    parser.add_argument("--quant", action="append", default=[], metavar="C=S", help=quant_help)
    kernels_help = "stock operators only, or also this project's own, which are faster (default: stock)"
    parser.add_argument("--kernels", choices=("stock", "fused"), default="stock", help=kernels_help)
    parser.add_argument("--delegate", choices=("xnnpack", "coreml"), help="of the executorch target (default: xnnpack)")
    deployment_help = "oldest system that a coreml bundle runs on (default: iOS18)"
    parser.add_argument("--deployment", choices=("iOS18", "iOS26"), help=deployment_help)
    context_help = "tokens that the cache holds (default: %(default)s)"
    parser.add_argument("--max-context", type=int, default=MAX_CONTEXT, metavar="N", help=context_help)
    parser.add_argument("--out", type=Path, metavar="DIR", help="bundle folder to write (default: bundles/CHECKPOINT-TARGET-RECIPE...)")
    calibration_help = "statistics of this checkpoint from calibration.collect, for recipes that read them (int4-gptq)"
    parser.add_argument("--calibration", type=Path, metavar="DIR", help=calibration_help)
    parser.add_argument("--min-accuracy", type=float, metavar="X", help="share of questions, 0 to 1, that the bundle must answer right")
    kl_help = "most that its next-token distributions may differ from the model's: mean KL divergence over answers, nats"
    parser.add_argument("--max-kl", type=float, metavar="X", help=kl_help)
    annotations_help = "the questions of these two, in a form that runtime_py.evaluate reads (default: the demo's, for the demo)"
    parser.add_argument("--annotations", type=Path, metavar="FILE", help=annotations_help)
    parser.add_argument("--videos", type=Path, metavar="DIR", help="the videos that --annotations names")
    dry_run_help = "print what would be built, its size, memory and time; reads headers, of a LoRA fine-tune also what it changes"
    parser.add_argument("--dry-run", action="store_true", help=dry_run_help)
    parser.add_argument("--no-verify", action="store_true", help="do not hold the bundle against the model; every runtime warns")
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    backend = choose_backend(args)

    from export.bundle import pin
    from export.bundle_writer import BundleWriter
    from export.checkpoint import open_checkpoint
    from export.components import COMPONENTS
    from export.plan import plan_build, table

    recipe = presets.parse(args.recipe, args.quant, list(COMPONENTS))
    backend.check(recipe, verify=not args.no_verify)
    check_gate_arguments(args)
    checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
    calibration = choose_calibration(args, recipe, checkpoint)
    asked = choose_questions(args, checkpoint)
    check_context(args.max_context, checkpoint.config)
    form = backend.form(args.max_context, recipe)
    plan = plan_build(checkpoint, recipe, form)
    form_of = ("-coreml" if args.delegate == "coreml" else "") + ("-fused" if args.kernels == "fused" else "")
    form_of += f"-{args.deployment}" if args.deployment not in (None, "iOS18") else ""
    out = args.out or Path("bundles") / f"{Path(checkpoint.name).name}-{args.target}-{recipe.name}{form_of}"
    writer = BundleWriter(out)  # refuses a destination that is not ours to replace, in a dry run too
    print(f"{checkpoint.name} -> {args.target}, recipe {recipe.name}, {args.kernels} kernels", flush=True)
    if args.target == "executorch" and args.delegate != "coreml" and args.kernels == "stock":
        fused = "--kernels fused takes a fifth of the time in the video encoder, and half in the decoder"
        print(f"stock kernels run on every host; {fused}", flush=True)
    print(table(plan), flush=True)
    if args.dry_run:
        return

    from export.pipeline import Request, build
    from export.progress import Progress

    with demanded(args, asked) as gate:
        request = Request(checkpoint, backend, recipe, plan, form, writer, not args.no_verify, calibration, gate)
        # The graphs, the reference, parity, and the model's and the bundle's answers.
        progress = Progress(len(plan.graphs) + (1 if args.no_verify else 2) + (2 if gate else 0))
        try:
            manifest = build(request, progress)
        finally:
            progress.close()
    print(coverage_table(manifest))
    verified = "verified" if manifest.verified else "NOT verified"
    print(f"{out}: {manifest.bundle_bytes / 1e6:.1f} MB, {manifest.bits_per_weight:.2f} bits per weight, {verified}; pin {pin(out)}")


def choose_backend(args: argparse.Namespace) -> Backend:
    """The target's backend.

    Raises:
        BackendError: the target, or an option, is not part of this version.
    """
    if args.target == "onnx":
        raise BackendError("--target onnx is not part of this version: use --target executorch or coreml")
    if args.deployment is not None and "coreml" not in (args.target, args.delegate):
        raise BackendError("--deployment is for --target coreml and for --delegate coreml: leave it out")
    if args.target == "coreml":
        if args.kernels != "stock" or args.delegate is not None:
            raise BackendError("--kernels fused and --delegate are for --target executorch: leave them out, Core ML brings its own kernels")
        from export.backends.coreml import CoremlBackend

        return CoremlBackend(args.deployment or "iOS18")
    if args.delegate == "coreml":
        if args.kernels != "stock":
            raise BackendError("--kernels fused does not go with --delegate coreml, which brings its own kernels: leave one of them out")
        from export.backends.coreml_delegate import CoremlDelegateBackend

        return CoremlDelegateBackend(args.deployment or "iOS18")
    from export.backends.executorch import ExecutorchBackend

    return ExecutorchBackend(args.kernels)


def check_gate_arguments(args: argparse.Namespace) -> None:
    """Refuse demands that cannot be met or measured, before any work."""
    demands = [option for option, value in (("--min-accuracy", args.min_accuracy), ("--max-kl", args.max_kl)) if value is not None]
    if args.min_accuracy is not None and not 0 <= args.min_accuracy <= 1:
        raise BackendError(f"--min-accuracy {args.min_accuracy:g}: give a share from 0 to 1")
    if args.max_kl is not None and not args.max_kl >= 0:
        raise BackendError(f"--max-kl {args.max_kl:g}: give a number of nats from 0 on")
    if demands and args.no_verify:
        raise BackendError(f"{demands[0]} runs the bundle, which --no-verify leaves out: leave one of them out")
    if (args.annotations is None) != (args.videos is None):
        raise BackendError("--annotations and --videos belong together: give both")
    if args.annotations is not None and not demands:
        raise BackendError("--annotations are the questions of --min-accuracy and --max-kl: give one of those too")
    if demands and args.annotations is None and not is_demo(args.checkpoint):
        raise BackendError(f"{demands[0]} needs questions about videos: give --annotations and --videos (only the demo has its own)")


def is_demo(checkpoint: str) -> bool:
    """Whether `--checkpoint` names the demo, which has questions of its own."""
    return Path(checkpoint).resolve() == DEMO_CHECKPOINT


def choose_questions(args: argparse.Namespace, checkpoint: Checkpoint) -> Questions | None:
    """Those of `--annotations`, read before any work; None where there are none to ask, or the demo's own.

    Raises:
        AnnotationError: a video is missing, the file is of no known form, or the checkpoint has no tokenizer to ask with.
    """
    if args.min_accuracy is None and args.max_kl is None:
        return None
    if checkpoint.tokenizer_file is None:
        raise AnnotationError(f"{checkpoint.name} has no tokenizer.json, so it cannot be asked: leave --min-accuracy and --max-kl out")
    if args.annotations is None:
        return None
    from runtime_py.annotations import check_videos, read_annotations
    from runtime_py.gates import Questions

    questions = Questions(read_annotations(args.annotations), args.videos)
    check_videos(questions.items, questions.videos)
    return questions


@contextlib.contextmanager
def demanded(args: argparse.Namespace, asked: Questions | None) -> Iterator[Gate | None]:
    """What the build is to demand beyond parity; the demo's own questions are drawn into a folder that goes again."""
    if args.min_accuracy is None and args.max_kl is None:
        yield None
        return
    from runtime_py.annotations import read_annotations
    from runtime_py.gates import Gate, Questions

    with tempfile.TemporaryDirectory() as drawn:
        if asked is None:
            from calibration.clips import ANNOTATIONS, write_clips

            write_clips(Path(drawn), "test", GATE_CLIPS, GATE_QUESTIONS)
            asked = Questions(read_annotations(Path(drawn) / ANNOTATIONS), Path(drawn))
        yield Gate(asked, args.min_accuracy, args.max_kl)


def choose_calibration(args: argparse.Namespace, recipe: Recipe, checkpoint: Checkpoint) -> CalibrationFolder | None:
    """The statistics that the recipe reads.

    Raises:
        RecipeError: they are missing, or the recipe reads none.
        CalibrationError: they are damaged, or another checkpoint's.
    """
    if recipe.calibrated and args.calibration is None:
        raise RecipeError(
            f"recipe {recipe.name} reads calibration statistics: make them with python -m calibration.collect --checkpoint "
            f"{args.checkpoint} --clips DIR --out STATISTICS, and give --calibration STATISTICS"
        )
    if args.calibration is None:
        return None
    if not recipe.calibrated:
        raise RecipeError(f"recipe {recipe.name} reads no calibration statistics: leave --calibration out, or choose int4-gptq")
    from export.quant.statistics import open_calibration

    return open_calibration(args.calibration, checkpoint.fingerprint())


def coverage_table(manifest: Manifest) -> str:
    """What each graph's file holds, read back from it: weights and bytes by scheme, and what the recipe left out and why."""
    lines = [f"{'graph':<16} {'scheme':<6} {'weights':>12} {'bytes':>14}"]
    for name, graph in manifest.graphs.items():
        for share in graph.schemes:
            lines.append(f"{name:<16} {share.scheme:<6} {share.weights:>12,} {share.bytes:>14,}")
            name = ""
        if not graph.schemes:
            lines.append(f"{name:<16} {'-':<6} {'no weights':>12}")
        for reason in sorted(set(graph.excluded.values())):
            layers = [layer for layer, why in graph.excluded.items() if why == reason]
            more = f" and {len(layers) - 2} more" if len(layers) > 2 else ""
            lines.append(f"{'':<16} left out: {', '.join(layers[:2])}{more}: {reason}")
    return "\n".join(lines)


def check_context(max_context: int, config: ModelConfig) -> None:
    """A cache must hold the video and a conversation, and be no longer than the model was made for."""
    least = config.visual_tokens + MIN_CONTEXT
    if max_context < least:
        raise BackendError(f"--max-context {max_context}: a video takes {config.visual_tokens} tokens; give at least {least}")
    if max_context > config.decoder.max_positions:
        raise BackendError(f"--max-context {max_context}: this checkpoint goes up to {config.decoder.max_positions}")


if __name__ == "__main__":
    sys.exit(main())
