"""What a build may demand of its bundle beyond parity: answers that are right, and distributions close to the model's."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import AccuracyError
from export.model.prompt import Encode
from export.progress import Progress
from runtime_py.agreement import answer_distributions, compare
from runtime_py.annotations import Item, by_clip, find_video
from runtime_py.backends.base import GraphBackend
from runtime_py.evaluate import answer_clip, read_pixels
from runtime_py.load import backend_of_bundle, backend_of_checkpoint, load_tokenizer
from runtime_py.session import Session
from runtime_py.stages import Pixels, visual_tokens

KEPT_BYTES = 10**9  # of the model's distributions over the whole vocabulary, until the bundle's are there: 0.6 MB a token at 151,936

Clip = list[tuple[Tensor, list[int]]]  # of each question: log-probabilities [T, V] before the answer's tokens, and these
Decode = Callable[[list[int]], str]


@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions with answers, and the folder of the videos that they are about."""

    items: Sequence[Item]
    videos: Path

    def right(self, backend: GraphBackend, encode: Encode, decode: Decode) -> int:
        """How many a model answers right."""
        session = Session(backend, encode, keep_encoders=True)
        return sum(r.right for clip in by_clip(self.items) for r in answer_clip(session, decode, self._pixels(clip[0]), clip))

    def distributions(self, backend: GraphBackend, encode: Encode) -> Iterator[Clip]:
        """What a model thinks before each token of the answers, clip by clip, for `agreement.compare`."""
        for clip in by_clip(self.items):
            visual = visual_tokens(backend, self._pixels(clip[0]))
            yield list(answer_distributions(backend, encode, visual, [(item.prompt, item.said) for item in clip]))

    def reference(self, backend: GraphBackend, encode: Encode) -> list[Clip]:
        """The same, kept: of as many clips, from the first on, as KEPT_BYTES hold, of one at least."""
        kept: list[Clip] = []
        room = KEPT_BYTES
        for clip in self.distributions(backend, encode):
            kept.append(clip)
            room -= sum(logs.numel() * logs.element_size() for logs, _ in clip)
            if room <= 0:
                break
        return kept

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
        VideoError: a video cannot be read.
    """
    encode, tokenizer = load_tokenizer(checkpoint.tokenizer_file, checkpoint.name)
    questions = gate.questions
    progress.begin(f"the model on {len(questions.items)} questions")
    reference = backend_of_checkpoint(checkpoint, max_context=bundle.manifest.decoder.max_context)
    expected = questions.reference(reference, encode) if gate.max_kl is not None else []
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
