"""Where the decoder is taught to look: which visual tokens it is shown at first, and what its first two layers attend to.

Among 2,302 image tokens a few lie on the shape that a question names. Left to itself a small decoder finds what is true of the whole
picture at once, and what is true of one of several shapes only after very long; told where to look it takes some hundred steps.
Shapes: K visual and text tokens of a prefix that are shown, Q tokens of the conversations behind it.
"""

from __future__ import annotations

import numpy as np

from calibration.scenes import COLOURS, Scene
from export.config import FRAMES, IMAGE_POOL_SIDE

FEW_TOKENS, ON_SHAPES = 12, 0.5  # of a frame's 144 tokens, and how often one on a shape is preferred
FRAMES_APART = 3  # what counts as early, and as late


def few_places(before: int, visual: int, covered: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places in a prefix, ascending: text, video, and of each frame's image tokens a few, those on a shape first as often as not."""
    tokens = IMAGE_POOL_SIDE**2
    on_shape = (covered > 0) & (rng.random(covered.shape) < ON_SHAPES)
    chosen = np.argsort(rng.random(covered.shape) - on_shape, axis=1)[:, :FEW_TOKENS]
    image = np.sort(chosen, axis=1) + before + np.arange(FRAMES)[:, None] * tokens
    video = before + FRAMES * tokens + np.arange(visual - FRAMES * tokens)
    return np.concatenate([np.arange(before), image.flatten(), video])


def looks_at_shapes(
    scene: Scene, covered: np.ndarray, ids: np.ndarray, words: dict[int, str], before: int, kept: np.ndarray
) -> np.ndarray:
    """Which kept image tokens each word is to look at: a colour or a kind that the scene has, at its shape. Bool [3, Q, K + Q]: one head
    at all frames, one at the first that show it, one at the last."""
    place = kept - before
    frame, token = np.divmod(np.clip(place, 0, FRAMES * IMAGE_POOL_SIDE**2 - 1), IMAGE_POOL_SIDE**2)
    is_image = (place >= 0) & (place < FRAMES * IMAGE_POOL_SIDE**2)
    looks = np.zeros((3, len(ids), len(kept) + len(ids)), bool)
    for shape in scene.shapes:
        here = is_image & (covered[frame, token] == 1 + list(COLOURS).index(shape.colour))  # [K]
        if not here.any():
            continue
        first, last = frame[here].min() + FRAMES_APART, frame[here].max() - FRAMES_APART
        says = np.array([words.get(int(token)) in (shape.kind, shape.colour) for token in ids])
        looks[:, says, : len(kept)] = np.stack([here, here & (frame <= first), here & (frame >= last)])[:, None]
    return looks


def looks_at_names(scene: Scene, ids: np.ndarray, targets: np.ndarray, words: dict[int, str], user: int, kept: int) -> np.ndarray:
    """Each token of an answer is to look at the first word of its question that names a shape. Bool [1, Q, K + Q]."""
    names = {name for shape in scene.shapes for name in (shape.kind, shape.colour)}
    looks = np.zeros((1, len(ids), kept + len(ids)), bool)
    named = None
    for i, (token, target) in enumerate(zip(ids.tolist(), targets.tolist())):
        if token == user or (i and target < 0 <= targets[i - 1]):  # another question
            named = None
        elif target < 0 and named is None and words.get(token) in names:
            named = i
        if target >= 0 and named is not None:
            looks[0, i, kept + named] = True
    return looks
