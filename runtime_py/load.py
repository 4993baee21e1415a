"""From a command's arguments to a backend: a bundle through its target's runtime, or a checkpoint through the eager model."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.arguments import add_weight_arguments
from export.bundle import Bundle, open_bundle
from export.checkpoint import Checkpoint, open_checkpoint
from export.config import MAX_CONTEXT
from export.errors import BackendError, PromptError
from runtime_py.backends.base import GraphBackend

if TYPE_CHECKING:
    from runtime_py.backends.eager import EagerBackend

INTERPRETED = "interpreted"
CORE_ML_UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu-gpu": "CPU_AND_GPU", "cpu-ane": "CPU_AND_NE"}  # option -> coremltools' name
COMPUTE_UNITS = (INTERPRETED, *CORE_ML_UNITS)
MAX_THREADS = 1024  # far beyond any machine that is meant; some thread pools crash on a number that is too large


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """`--bundle DIR | --checkpoint DIR` and how to run it."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle that export.build wrote")
    source.add_argument("--checkpoint", metavar="DIR_OR_HUB_ID", help="a checkpoint, run by the eager model")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda", help="a bundle runs on cpu (default: cpu)")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the eager model (default: fp32)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    add_compute_units_argument(parser)
    parser.add_argument("--verify", action="store_true", help="hash every file of the bundle again")
    add_weight_arguments(parser)


def add_compute_units_argument(parser: argparse.ArgumentParser) -> None:
    """`--compute-units`: what runs a Core ML bundle."""
    text = "of a coreml bundle: interpreted (anywhere), or Core ML's units on macOS (default: all there, interpreted elsewhere)"
    parser.add_argument("--compute-units", choices=COMPUTE_UNITS, help=text)


def open_source(args: argparse.Namespace) -> tuple[GraphBackend, Path | None]:
    """The backend that the arguments name, and its tokenizer file if it has one."""
    load, tokenizer_file = find_source(args)
    return load(), tokenizer_file


def find_source(args: argparse.Namespace) -> tuple[Callable[[], GraphBackend], Path | None]:
    """As `open_source`, but the weights are read only when the first of the two is called."""
    check_threads(args.threads)
    if args.device not in ("cpu", "cuda"):
        raise BackendError(f"--device {args.device}: choose cpu or cuda")
    if args.bundle is not None:
        _check_bundle_arguments(args)
        bundle = open_bundle(args.bundle, verify=args.verify)
        tokenizer_file = bundle.folder / "tokenizer.json" if "tokenizer.json" in bundle.manifest.files else None
        check_compute_units(bundle, args.compute_units)
        return lambda: alone(backend_of_bundle(bundle, args.threads, args.device, args.compute_units)), tokenizer_file
    refuse_compute_units(args)
    checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
    return lambda: backend_of_checkpoint(checkpoint, args.device, args.dtype, args.threads), checkpoint.tokenizer_file


def check_compute_units(bundle: Bundle, units: str | None) -> None:
    """Refuse, before anything is loaded, units that the bundle or the machine does not have."""
    if units is None:
        return
    if bundle.manifest.target != "coreml":
        raise BackendError(f"--compute-units {units}: {bundle.folder} is no coreml bundle; leave it out")
    check_macos(units)


def alone(backend: GraphBackend) -> GraphBackend:
    """A backend that has the process to itself: PyTorch then only copies and chooses, and its threads, which spin for a while after
    each of that, would take the cores from ExecuTorch's (a step of the 0.5B size takes a third longer with them)."""
    import torch

    if backend.name == "executorch":
        torch.set_num_threads(1)
    return backend


def check_macos(units: str) -> None:
    """Refuse Core ML's own units anywhere else."""
    if units != INTERPRETED and sys.platform != "darwin":
        raise BackendError(f"--compute-units {units} needs macOS: leave it out, and the packages are interpreted")


def available_cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> None:
    """Raise BackendError for a number of threads that no machine has."""
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise BackendError(f"--threads {threads}: give 1 to {MAX_THREADS}")


def _check_bundle_arguments(args: argparse.Namespace) -> None:
    """Refuse, rather than ignore, what only a checkpoint can be asked for."""
    if args.dtype != "fp32":
        raise BackendError(f"--dtype {args.dtype}: a bundle's precision was fixed by its recipe; --dtype is for --checkpoint")
    refuse_weight_arguments(args)


def refuse_weight_arguments(args: argparse.Namespace) -> None:
    """Raise BackendError for parts of a checkpoint where there is none."""
    for name in ("clip", "videomamba", "base"):
        if getattr(args, name) is not None:
            raise BackendError(f"--{name} completes a checkpoint, a bundle is complete: leave it out")


def refuse_compute_units(args: argparse.Namespace) -> None:
    """Raise BackendError for Core ML's units where there is no bundle."""
    if args.compute_units is not None:
        raise BackendError("--compute-units is for coreml bundles: leave it out, a checkpoint is run by PyTorch")


def backend_of_bundle(bundle: Bundle, threads: int | None = None, device: str = "cpu", units: str | None = None) -> GraphBackend:
    """The runtime of the bundle's target."""
    if device != "cpu":
        raise BackendError(f"--device {device}: a bundle runs on cpu; the eager model of a checkpoint runs on cuda")
    if bundle.manifest.target == "executorch" and bundle.manifest.decoder.interface == "internal":
        from runtime_py.backends.executorch import ExecutorchBackend

        return ExecutorchBackend(bundle, threads)
    if bundle.manifest.decoder.interface == "coreml_state":
        from runtime_py.backends.coreml import CoremlBackend

        return CoremlBackend(bundle, threads, units if bundle.manifest.target == "coreml" else INTERPRETED)
    raise BackendError(f"{bundle.folder}: this version runs executorch and coreml bundles, not {bundle.manifest.target} ones")


def backend_of_checkpoint(
    checkpoint: Checkpoint, device: str = "cpu", dtype: str = "fp32", threads: int | None = None, max_context: int = MAX_CONTEXT
) -> EagerBackend:
    """The eager model."""
    import torch

    from runtime_py.backends.eager import EagerBackend

    if threads:
        torch.set_num_threads(threads)
    return EagerBackend(checkpoint, device, dtype, min(max_context, checkpoint.config.decoder.max_positions))


def load_tokenizer(path: Path | None, source: object) -> tuple[Callable[[str], Sequence[int]], object]:
    """(encode, the tokenizer) of a tokenizer.json.

    Raises:
        PromptError: there is none, or it cannot be read.
    """
    if path is None:
        raise PromptError(f"{source} has no tokenizer.json, so it cannot be asked in words: dump, parity and bench work without one")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions for everything that is wrong with a file
        raise PromptError(f"{path} cannot be read as a tokenizer ({error}): copy the checkpoint's tokenizer.json anew") from error
    return (lambda text: tokenizer.encode(text, add_special_tokens=False).ids), tokenizer
