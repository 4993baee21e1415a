"""The input that a build verifies its bundle with: 16 seeded frames that differ from each other, and a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from export.config import FRAMES, IMAGE_TOKENS_PLACEHOLDER
from export.model.prompt import first_turn, tokenize

QUESTION = "What happens in this video?"
HEIGHT, WIDTH = 240, 320  # pixels


@dataclasses.dataclass(frozen=True)
class Probe:
    """`frames` uint8 RGB [16, H, W, 3], `ids` int64 [n] with the visual placeholder."""

    frames: np.ndarray
    ids: np.ndarray


def make_probe(vocabulary: int, encode: Callable[[str], Sequence[int]] | None = None, seed: int = 0) -> Probe:
    """A noisy gradient with a bright square that moves and changes colour; a real question where there is a tokenizer."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for t in range(FRAMES):
        frame = np.stack([x * 255 / WIDTH, y * 255 / HEIGHT, np.full_like(x, 16 * t)], axis=-1) + rng.normal(0, 12, (HEIGHT, WIDTH, 3))
        top, left, side = 20 + 8 * t, 250 - 14 * t, 40 + 3 * (t % 5)
        frame[top : top + side, left : left + side] = (255 - 12 * t, 40 + 13 * t, 80 * (t % 4))
        frames[t] = np.clip(frame, 0, 255)
    if encode:
        ids = tokenize(first_turn(QUESTION), encode)
    else:  # no text without a tokenizer: any ids will do
        ids = [*rng.integers(0, vocabulary, 6), *[IMAGE_TOKENS_PLACEHOLDER] * FRAMES, *rng.integers(0, vocabulary, 7)]
    return Probe(frames, np.array(ids, dtype=np.int64))
