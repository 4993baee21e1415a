"""Where the decoder is taught to look: which visual tokens it is shown at first, and what its first two layers attend to.

Among 2,302 image tokens a few lie on the shape that a question names. Left to itself a small decoder finds what is true of the whole
picture at once, and what is true of one of several shapes only after very long; told where to look it takes some hundred steps.
Shapes: K visual and text tokens of a prefix that are shown, Q tokens of the conversations behind it.
"""

from __future__ import annotations

import numpy as np

from calibration.encoders import IGNORE, MOTIONS
from calibration.scenes import COLOURS, Scene, Shape
from export.config import FRAMES, IMAGE_POOL_SIDE

FEW_TOKENS, ON_SHAPES = 12, 0.5  # of a frame's 144 tokens, and how often one on a shape is preferred
FRAMES_APART = 3  # what counts as early, and as late
MOVING = "moving"


def few_places(before: int, visual: int, covered: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places in a prefix, ascending: text, video, and of each frame's image tokens a few, those on a shape first as often as not."""
    tokens = IMAGE_POOL_SIDE**2
    on_shape = (covered > 0) & (rng.random(covered.shape) < ON_SHAPES)
    chosen = np.argsort(rng.random(covered.shape) - on_shape, axis=1)[:, :FEW_TOKENS]
    image = np.sort(chosen, axis=1) + before + np.arange(FRAMES)[:, None] * tokens
    video = before + FRAMES * tokens + np.arange(visual - FRAMES * tokens)
    return np.concatenate([np.arange(before), image.flatten(), video])


class Shown:
    """Which of the kept tokens of a prefix show which shape, and when. `covered` [16, 144]: the colour's number from 1 that covers each
    image token, `kept` [K]: places in the prefix, `before`: where its image tokens begin."""

    def __init__(self, covered: np.ndarray, kept: np.ndarray, before: int):
        place = kept - before
        image = (place >= 0) & (place < covered.size)
        self.frame, token = np.divmod(np.clip(place, 0, covered.size - 1), covered.shape[1])  # [K]
        self.colour = np.where(image, covered[self.frame, token], 0)  # [K]

    def shape(self, shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens on a shape: all, those in the first frames that show it, and those in the last; bool [K] each."""
        here = self.colour == 1 + list(COLOURS).index(shape.colour)
        if not here.any():
            return here, here, here
        frames = self.frame[here]
        return here, here & (self.frame <= frames.min() + FRAMES_APART), here & (self.frame >= frames.max() - FRAMES_APART)


def looks_back(scene: Scene, shown: Shown) -> np.ndarray:
    """An image token on a shape is to look, with the second head, where the shape was at first: bool [2, K, K]. So it can tell that the
    shape moves, and where to."""
    looks = np.zeros((2, len(shown.frame), len(shown.frame)), bool)
    for shape in scene.shapes:
        here, first, _ = shown.shape(shape)
        looks[1] |= here[:, None] & first
    return np.tril(looks)


def looks_at_shapes(scene: Scene, shown: Shown, ids: np.ndarray, words: dict[int, str]) -> np.ndarray:
    """Which kept image tokens each word is to look at: a colour or a kind that the scene has, at its shape. Bool [3, Q, K + Q]: one head
    at all frames, one at the first that show it, one at the last."""
    kept = len(shown.frame)
    looks = np.zeros((3, len(ids), kept + len(ids)), bool)
    for shape in scene.shapes:
        looks[:, _names(shape, ids, words), :kept] = np.stack(shown.shape(shape))[:, None]
    return looks


def looks_of_answers(scene: Scene, shown: Shown, ids: np.ndarray, targets: np.ndarray, words: dict[int, str], user: int) -> np.ndarray:
    """Each token of an answer is to look at the first word of its question that names a shape; where none does and the question is what
    moves, at the last image tokens on that. Bool [1, Q, K + Q]."""
    names = {name for shape in scene.shapes for name in (shape.kind, shape.colour)}
    movers = [shape for shape in scene.shapes if shape.moves]
    kept = len(shown.frame)
    looks = np.zeros((1, len(ids), kept + len(ids)), bool)
    at: np.ndarray | None = None  # what is looked at, [K + Q]
    named = False
    for i, (token, target) in enumerate(zip(ids.tolist(), targets.tolist())):
        if token == user or (i and target < 0 <= targets[i - 1]):  # another question
            at, named = None, False
        elif target < 0 and not named and words.get(token) in names:
            at, named = np.arange(kept + len(ids)) == kept + i, True
        elif target < 0 and at is None and words.get(token) == MOVING and len(movers) == 1:
            at = np.pad(shown.shape(movers[0])[2], (0, len(ids)))
        if target >= 0 and at is not None:
            looks[0, i] = at
    return looks


def motions_of_names(scene: Scene, ids: np.ndarray, words: dict[int, str]) -> np.ndarray:
    """How the shape moves that a token names, as a number of MOTIONS; int64 [Q], IGNORE where it names none of the scene's."""
    motions = np.full(len(ids), IGNORE, np.int64)
    for shape in scene.shapes:
        motions[_names(shape, ids, words)] = MOTIONS.index(shape.motion)
    return motions


def _names(shape: Shape, ids: np.ndarray, words: dict[int, str]) -> np.ndarray:
    """Which tokens name a shape, by its kind or its colour: bool [Q]."""
    return np.array([words.get(int(token)) in (shape.kind, shape.colour) for token in ids])
