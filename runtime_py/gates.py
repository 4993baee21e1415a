"""What a build may demand of its bundle beyond parity: answers that are right, and distributions close to the model's."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import AccuracyError, AnnotationError
from export.progress import Progress
from runtime_py.agreement import answer_distributions, compare
from runtime_py.annotations import Item, find_video
from runtime_py.backends.base import GraphBackend
from runtime_py.evaluate import answer_clip, by_clip, read_pixels
from runtime_py.load import backend_of_bundle, backend_of_checkpoint, load_tokenizer
from runtime_py.session import Session
from runtime_py.stages import visual_tokens


@dataclasses.dataclass(frozen=True)
class Gate:
    """Questions with answers, and what is demanded: a share of right answers, a mean KL divergence (nats per answer token)."""

    items: Sequence[Item]
    videos: Path
    min_accuracy: float | None = None
    max_kl: float | None = None


def measure(checkpoint: Checkpoint, bundle: Bundle, gate: Gate, progress: Progress) -> dict[str, float]:
    """What the bundle and the eager model make of the gate's questions, by name.

    Raises:
        AnnotationError: a video is missing, or the checkpoint has no tokenizer to ask with.
    """
    if checkpoint.tokenizer_file is None:
        raise AnnotationError(f"{checkpoint.name} has no tokenizer.json, so it cannot be asked: leave --min-accuracy and --max-kl out")
    encode, tokenizer = load_tokenizer(checkpoint.tokenizer_file, checkpoint.name)
    clips = by_clip(gate.items)
    for clip in clips:
        find_video(gate.videos, clip[0].video)
    progress.begin(f"the model on {len(gate.items)} questions")
    reference = backend_of_checkpoint(checkpoint, max_context=bundle.manifest.decoder.max_context)
    expected = _distributions(reference, encode, clips, gate) if gate.max_kl is not None else []
    reference_right = _right(reference, encode, tokenizer.decode, clips, gate) if gate.min_accuracy is not None else 0
    del reference
    gc.collect()  # one set of weights at a time
    progress.end(f"the model on {len(gate.items)} questions")
    progress.begin("the bundle on the same")
    backend = backend_of_bundle(bundle)
    figures: dict[str, float] = {"questions": len(gate.items)}
    if gate.max_kl is not None:
        agreement = compare(expected, _distributions(backend, encode, clips, gate))
        figures |= {"kl": agreement.kl, "top1_agreement": agreement.top1, "answer_tokens": agreement.tokens}
    if gate.min_accuracy is not None:
        figures |= {"right": _right(backend, encode, tokenizer.decode, clips, gate), "reference_right": reference_right}
    progress.end("the bundle on the same: " + ", ".join(f"{name} {value:g}" for name, value in figures.items()))
    return figures


def check(figures: dict[str, float], gate: Gate) -> None:
    """Raise AccuracyError, one line that says by how much, where a demand is not met."""
    if gate.min_accuracy is not None:
        share = figures["right"] / figures["questions"]
        if share < gate.min_accuracy:
            model = figures["reference_right"] / figures["questions"]
            raise AccuracyError(
                f"the bundle answers {share:.1%} of {len(gate.items)} questions right (the model {model:.1%}), below --min-accuracy "
                f"{gate.min_accuracy:g}: choose a finer recipe"
            )
    if gate.max_kl is not None and not figures["kl"] <= gate.max_kl:
        raise AccuracyError(f"the bundle's mean KL divergence from the model is {figures['kl']:.4f}, above --max-kl {gate.max_kl:g}: "
                            "choose a finer recipe, or calibrate (--recipe int4-gptq)")  # fmt: skip


def _distributions(
    backend: GraphBackend, encode: Callable[[str], Sequence[int]], clips: Sequence[Sequence[Item]], gate: Gate
) -> list[list[tuple[Tensor, list[int]]]]:
    return [
        [
            (distribution, ids)
            for distribution, ids in answer_distributions(
                backend,
                encode,
                visual_tokens(backend, read_pixels(find_video(gate.videos, clip[0].video), clip[0])),
                [(item.prompt, item.said) for item in clip],
            )
        ]
        for clip in clips
    ]


def _right(
    backend: GraphBackend,
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[list[int]], str],
    clips: Sequence[Sequence[Item]],
    gate: Gate,
) -> int:
    session = Session(backend, encode)
    results = (
        result
        for clip in clips
        for result in answer_clip(session, decode, read_pixels(find_video(gate.videos, clip[0].video), clip[0]), clip)
    )
    return sum(result.right for result in results)
