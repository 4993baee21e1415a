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
from export.model.prompt import Encode
from export.progress import Progress
from runtime_py.agreement import answer_distributions, compare
from runtime_py.annotations import Item, by_clip, check_videos, find_video
from runtime_py.backends.base import GraphBackend
from runtime_py.evaluate import answer_clip, read_pixels
from runtime_py.load import backend_of_bundle, backend_of_checkpoint, load_tokenizer
from runtime_py.session import Session
from runtime_py.stages import Pixels, visual_tokens

Decode = Callable[[list[int]], str]


@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions with answers, and the folder of the videos that they are about."""

    items: Sequence[Item]
    videos: Path

    def check_videos(self) -> None:
        """Raise AnnotationError where a video is missing."""
        check_videos(self.items, self.videos)

    def right(self, backend: GraphBackend, encode: Encode, decode: Decode) -> int:
        """How many a model answers right."""
        session = Session(backend, encode, keep_encoders=True)
        return sum(r.right for clip in by_clip(self.items) for r in answer_clip(session, decode, self._pixels(clip[0]), clip))

    def distributions(self, backend: GraphBackend, encode: Encode, clips: int | None = None) -> list[list[tuple[Tensor, list[int]]]]:
        """What a model thinks before each token of the answers, for `agreement.compare`; of the first `clips`, or all."""
        found = []
        for clip in by_clip(self.items)[:clips]:
            visual = visual_tokens(backend, self._pixels(clip[0]))
            found.append(list(answer_distributions(backend, encode, visual, [(item.prompt, item.said) for item in clip])))
        return found

    def _pixels(self, item: Item) -> Pixels:
        return read_pixels(find_video(self.videos, item.video), item)


@dataclasses.dataclass(frozen=True)
class Gate:
    """What is demanded: a share of right answers, a mean KL divergence from the model (nats per answer token)."""

    questions: Questions
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
    questions = gate.questions
    progress.begin(f"the model on {len(questions.items)} questions")
    reference = backend_of_checkpoint(checkpoint, max_context=bundle.manifest.decoder.max_context)
    expected = questions.distributions(reference, encode) if gate.max_kl is not None else []
    reference_right = questions.right(reference, encode, tokenizer.decode) if gate.min_accuracy is not None else 0
    del reference
    gc.collect()  # one set of weights at a time
    progress.end(f"the model on {len(questions.items)} questions")
    progress.begin("the bundle on the same")
    backend = backend_of_bundle(bundle)
    figures: dict[str, float] = {"questions": len(questions.items)}
    if gate.max_kl is not None:
        agreement = compare(expected, questions.distributions(backend, encode))
        figures |= {"kl": agreement.kl, "top1_agreement": agreement.top1, "answer_tokens": agreement.tokens}
    if gate.min_accuracy is not None:
        figures |= {"right": questions.right(backend, encode, tokenizer.decode), "reference_right": reference_right}
    progress.end("the bundle on the same: " + ", ".join(f"{name} {value:g}" for name, value in figures.items()))
    return figures


def check(figures: dict[str, float], gate: Gate) -> None:
    """Raise AccuracyError, one line that says by how much, where a demand is not met."""
    if gate.min_accuracy is not None:
        share = figures["right"] / figures["questions"]
        if share < gate.min_accuracy:
            model = figures["reference_right"] / figures["questions"]
            raise AccuracyError(
                f"the bundle answers {share:.1%} of {len(gate.questions.items)} questions right (the model {model:.1%}), below "
                f"--min-accuracy {gate.min_accuracy:g}: choose a finer recipe"
            )
    if gate.max_kl is not None and not figures["kl"] <= gate.max_kl:
        raise AccuracyError(f"the bundle's mean KL divergence from the model is {figures['kl']:.4f}, above --max-kl {gate.max_kl:g}: "
                            "choose a finer recipe, or calibrate (--recipe int4-gptq)")  # fmt: skip
