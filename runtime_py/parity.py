"""`python -m runtime_py.parity`: does a bundle compute what the model computes, stage by stage?

    python -m runtime_py.parity --bundle bundles/demo
    python -m runtime_py.parity --bundle bundles/half --checkpoint Mobile-VideoGPT-0.5B --frames frames.npy --ids ids.npy --json parity.json

Without --checkpoint the reference is what the build stored in the bundle. Exit code 1 if a stage is beyond its bound.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.arguments import ArgumentParser, add_weight_arguments
from export.bundle import Bundle, open_bundle
from export.checkpoint import Checkpoint, open_checkpoint
from export.config import MAX_CONTEXT
from export.errors import BundleError, ParityError, PromptError, command
from export.manifest import Manifest, StageParity
from export.model.mobile_videogpt import MobileVideoGPT
from export.progress import Progress
from export.tolerances import COARSENESS, tolerance
from runtime_py.dump import read_frames_array, read_ids_array
from runtime_py.files import check_writable, write_text
from runtime_py.golden import golden
from runtime_py.ladder import climb, equal_ids, failure, table
from runtime_py.load import (
    INTERPRETED,
    add_compute_units_argument,
    backend_of_bundle,
    backend_of_checkpoint,
    check_compute_units,
    check_threads,
    load_tokenizer,
)
from runtime_py.probe import make_probe
from runtime_py.reference import Reference

if TYPE_CHECKING:
    from runtime_py.gates import Gate


def graph_schemes(manifest: Manifest) -> dict[str, str]:
    """The coarsest weight scheme that each graph's artifact really holds; fp32 for a graph without weights."""
    schemes = {}
    for name, graph in manifest.graphs.items():
        held = [share.scheme for share in graph.schemes if share.scheme in COARSENESS]
        schemes[name] = max(held, key=COARSENESS.index, default="fp32")
    return schemes


def climb_bundle(
    bundle: Bundle, reference: Reference, threads: int | None = None, units: str | None = None
) -> dict[str, tuple[StageParity, ...]]:
    """The ladder of a bundle's graphs, by the schemes that they really hold, for everything here that runs them, by its name.

    A Core ML bundle is always interpreted, which a device's rounding cannot excuse, and on macOS Core ML runs it too.
    """
    ladders = {}
    for chosen in _units(bundle, units):
        backend = backend_of_bundle(bundle, threads, units=chosen)
        ladders[backend.name] = climb(backend, reference, arithmetic(bundle.manifest), graph_schemes(bundle.manifest))
        del backend
        gc.collect()  # one set of weights at a time
    return ladders


def arithmetic(manifest: Manifest) -> str:
    """Whose arithmetic the graphs are computed in, for the table of tolerances: a Core ML delegate's is Core ML's."""
    return "coreml" if manifest.decoder.interface == "coreml_state" else manifest.target


def _units(bundle: Bundle, units: str | None) -> list[str | None]:
    if arithmetic(bundle.manifest) != "coreml":
        return [None]
    if bundle.manifest.target != "coreml":
        return [INTERPRETED]
    if sys.platform != "darwin":
        return [INTERPRETED]
    return list(dict.fromkeys([INTERPRETED, units or "all"]))


def report(ladders: dict[str, tuple[StageParity, ...]]) -> str:
    """The ladders as text, under the names of what ran the graphs."""
    return "\n".join(f"{name}\n{table(ladder)}" for name, ladder in ladders.items())


def first_failure(ladders: dict[str, tuple[StageParity, ...]]) -> str | None:
    """One line on the first stage that fails; None where all pass."""
    failures = {name: why for name, ladder in ladders.items() if (why := failure(ladder))}
    named = [why if len(ladders) == 1 else f"{name}: {why}" for name, why in failures.items()]
    return named[0] if named else None


def reference_of(
    checkpoint: Checkpoint,
    frames: np.ndarray | None = None,
    ids: np.ndarray | None = None,
    round_model: Callable[[MobileVideoGPT], None] | None = None,
    max_context: int = MAX_CONTEXT,
    threads: int | None = None,
) -> Reference:
    """The eager model's stages on the given input, or on the probe. `round_model` puts a quantized bundle's weights into the
    eager decoder and table, for the logits that the bundle's graph should give."""
    if frames is None or ids is None:
        encode = load_tokenizer(checkpoint.tokenizer_file, checkpoint.name)[0] if checkpoint.tokenizer_file else None
        probe = make_probe(checkpoint.config.decoder.vocab, encode)
        frames, ids = probe.frames if frames is None else frames, probe.ids if ids is None else ids
    backend = backend_of_checkpoint(checkpoint, threads=threads, max_context=max_context)
    reference = Reference.compute(backend, frames, ids)
    if round_model is not None:
        round_model(backend.model)
        reference = reference.with_rounded(backend)
    del backend
    gc.collect()  # the eager model's weights go before a bundle is loaded beside them
    return reference


@dataclasses.dataclass(frozen=True)
class Proof:
    """What a build keeps: the reference's arrays, the golden vectors' files, the ladder (empty where nothing was verified), and the gate's
    figures."""

    reference: dict[str, np.ndarray]
    golden: dict[str, bytes]
    ladder: tuple[StageParity, ...] = ()
    accuracy: dict[str, float] = dataclasses.field(default_factory=dict)


def prove(
    checkpoint: Checkpoint,
    bundle: Bundle,
    round_model: Callable[[MobileVideoGPT], None] | None,
    verify: bool,
    progress: Progress,
    gate: Gate | None = None,
) -> Proof:
    """The build's way into the runtime.

    Raises:
        ParityError: a stage is beyond its bound; names the first one and by how much.
        AccuracyError: the gate's demands are not met.
    """
    progress.begin("reference: the eager model on the probe")
    reference = reference_of(checkpoint, round_model=round_model, max_context=bundle.manifest.decoder.max_context)
    progress.end("reference: the eager model on the probe")
    bound = tolerance("last_logits", arithmetic(bundle.manifest), graph_schemes(bundle.manifest))
    if not verify:
        return Proof(reference.to_arrays(), golden(reference, bound, None, checkpoint.tokenizer_file, checkpoint.config.topk))
    progress.begin("parity: the bundle against the reference")
    ladders = climb_bundle(bundle, reference)
    progress.say(report(ladders))
    if why := first_failure(ladders):
        raise ParityError(why)
    progress.end("parity: every stage is within its bound")
    figures = {}
    if gate is not None:
        from runtime_py import gates

        figures = gates.measure(checkpoint, bundle, gate, progress)
        gates.check(figures, gate)
    ladder = next(iter(ladders.values()))
    vectors = golden(reference, bound, equal_ids(ladder), checkpoint.tokenizer_file, checkpoint.config.topk)
    return Proof(reference.to_arrays(), vectors, ladder, figures)


def stored_reference(bundle: Bundle) -> Reference:
    """The reference that the build stored."""
    try:
        return Reference.from_arrays(bundle.reference())
    except KeyError as error:
        raise BundleError(f"{bundle.folder}/reference.npz lacks {error}: build the bundle again, or give --checkpoint") from error


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m runtime_py.parity", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="a bundle that export.build wrote")
    parser.add_argument("--checkpoint", metavar="DIR_OR_HUB_ID", help="compute the reference anew from this checkpoint")
    parser.add_argument("--frames", type=Path, metavar="F.npy", help="uint8 RGB frames [n, H, W, 3], with --checkpoint")
    parser.add_argument("--ids", type=Path, metavar="I.npy", help="int64 prompt ids with the -200 placeholder, with --checkpoint")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    add_compute_units_argument(parser)
    parser.add_argument("--verify", action="store_true", help="hash every file of the bundle again")
    parser.add_argument("--json", type=Path, metavar="F", help="write the ladder as JSON")
    add_weight_arguments(parser)
    args = parser.parse_args(argv)
    if args.checkpoint is None and (args.frames or args.ids):
        raise PromptError("--frames and --ids need --checkpoint: the stored reference belongs to the stored input")
    if args.checkpoint is None and (args.clip or args.videomamba or args.base):
        raise BundleError("--clip, --videomamba and --base complete a checkpoint: give --checkpoint too, or leave them out")
    check_threads(args.threads)
    if args.json:
        check_writable(args.json)
    frames = read_frames_array(args.frames) if args.frames else None
    ids = np.array(read_ids_array(args.ids)) if args.ids else None
    bundle = open_bundle(args.bundle, verify=args.verify)
    check_compute_units(bundle, args.compute_units)
    if args.checkpoint is None:
        reference = stored_reference(bundle)
    else:
        checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
        if checkpoint.config != bundle.manifest.config():
            raise BundleError(f"{bundle.folder} was not built from {checkpoint.name}: their sizes differ")
        if checkpoint.fingerprint() != bundle.manifest.checkpoint_fingerprint:
            print(f"note: {checkpoint.name} holds other weights than the checkpoint that this bundle was built from", file=sys.stderr)
        reference = reference_of(checkpoint, frames, ids, max_context=bundle.manifest.decoder.max_context, threads=args.threads)
    ladders = climb_bundle(bundle, reference, args.threads, args.compute_units)
    print(report(ladders))
    if args.json:
        rungs = [dataclasses.asdict(rung) | {"backend": name} for name, ladder in ladders.items() for rung in ladder]
        write_text(args.json, json.dumps(rungs, indent=1) + "\n")
    if why := first_failure(ladders):
        raise ParityError(f"{bundle.folder}: {why}")


if __name__ == "__main__":
    sys.exit(main())
