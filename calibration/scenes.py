"""Scenes of the demo's world: what a clip shows, as data. One to three coloured shapes on a background; some move, some come and go.

A scene's `key` holds all that can be asked about. Its hash alone decides the split, so no scene of one split has the parameters of
another's; where things stand, how grainy it is and how fast they go is drawn anew for each clip (`layout`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np

COLOURS = {
    "red": (214, 40, 40), "green": (40, 160, 60), "blue": (38, 70, 214), "yellow": (235, 205, 40), "pink": (240, 120, 190),
    "cyan": (50, 200, 210),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "ring", "cross")
SIZES = {"small": 0.09, "big": 0.15}  # radius, of the picture's shorter side
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x to the right, y downwards
STILL = "still"
BACKGROUNDS = ("dark", "bright", "striped", "checked")
MOST_SHAPES = 3
CLIP_FRAMES = 16
# In an ordered scene every shape is there for equally long, and the frames are the same backwards: without their order nothing tells
# which came first. For each number of shapes: the first and the last frame at which the first, the second, .. may appear.
APPEARS = {2: ((0, 2), (5, 7)), 3: ((0, 0), (3, 4), (7, 7))}
STAYS = 9  # frames
SPLITS = {"test": 10, "validation": 5, "train": 85}  # shares, per cent
GAP = 0.03  # between two shapes at any time, of the shorter side
TRAVEL = (0.28, 0.55)  # how far a shape moves, of the shorter side
LAYOUT_TRIES = 400


@dataclasses.dataclass(frozen=True)
class Shape:
    """One shape. `order` counts from 0 in the order of appearance; all are 0 where everything is there from the start."""

    kind: str
    colour: str
    size: str
    motion: str  # a direction, or STILL
    order: int

    @property
    def moves(self) -> bool:
        return self.motion != STILL

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.kind}"


@dataclasses.dataclass(frozen=True)
class Scene:
    """Shapes in order of appearance; colours and kinds are all different, so either names a shape."""

    background: str
    shapes: tuple[Shape, ...]

    @property
    def ordered(self) -> bool:
        return len(self.shapes) > 1 and self.shapes[-1].order > 0

    @property
    def key(self) -> str:
        """All parameters as text: two scenes with the same key differ in nothing that can be asked about."""
        shapes = sorted(f"{shape.order} {shape} {shape.motion}" for shape in self.shapes)
        return f"{self.background}: {', '.join(shapes)}"

    @property
    def split(self) -> str:
        place = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:4], "big") % 100
        for split, share in SPLITS.items():
            if place < share:
                return split
            place -= share
        raise AssertionError("the shares of the splits are 100 per cent")


@dataclasses.dataclass(frozen=True)
class Track:
    """Where a shape is: centres float [frames, 2] (x, y of the square canvas, 0..1), radius, the first frame that shows it and the first
    that no longer does, its stretch in x."""

    centres: np.ndarray
    radius: float
    appears: int
    leaves: int
    stretch: float

    @property
    def shown(self) -> np.ndarray:
        """Whether each frame shows it, bool [frames]."""
        numbers = np.arange(len(self.centres))
        return (numbers >= self.appears) & (numbers < self.leaves)


def sample_scene(rng: np.random.Generator, split: str) -> Scene:
    """A random scene of a split."""
    while True:
        scene = _any_scene(rng)
        if scene.split == split:
            return scene


def _any_scene(rng: np.random.Generator) -> Scene:
    count = int(rng.integers(1, MOST_SHAPES + 1))
    ordered = count > 1 and rng.random() < 0.6
    kinds = rng.permutation(SHAPES)[:count]
    colours = rng.permutation(list(COLOURS))[:count]
    movers = set(rng.permutation(count)[: rng.choice(3, p=(0.15, 0.6, 0.25))].tolist())
    shapes = []
    for i in range(count):
        motion = str(rng.choice(list(DIRECTIONS))) if i in movers else STILL
        shapes.append(Shape(str(kinds[i]), str(colours[i]), str(rng.choice(list(SIZES))), motion, i if ordered else 0))
    return Scene(str(rng.choice(BACKGROUNDS)), tuple(shapes))


def layout(scene: Scene, rng: np.random.Generator) -> list[Track]:
    """Room for every shape of a scene, such that no two touch at any time."""
    while True:
        tracks: list[Track] = []
        for shape in scene.shapes:
            tries = (_track(scene, shape, rng) for _ in range(LAYOUT_TRIES))
            track = next((track for track in tries if all(_apart(track, other) for other in tracks)), None)
            if track is None:
                break
            tracks.append(track)
        else:
            return tracks


def _track(scene: Scene, shape: Shape, rng: np.random.Generator) -> Track:
    radius = SIZES[shape.size] * rng.uniform(0.92, 1.08)
    stretch = rng.uniform(0.85, 1.18)
    appears, leaves = 0, CLIP_FRAMES
    if scene.ordered:
        first, last = APPEARS[len(scene.shapes)][shape.order]
        appears = int(rng.integers(first, last + 1))
        leaves = appears + STAYS
    edge = radius * max(1, stretch) + 0.02
    way = rng.uniform(*TRAVEL) * np.array(DIRECTIONS.get(shape.motion, (0, 0)))  # [2]
    low, high = edge + np.maximum(0, -way), 1 - edge - np.maximum(0, way)
    start = rng.uniform(low, np.maximum(low, high))
    progress = np.clip((np.arange(CLIP_FRAMES) - appears) / (leaves - 1 - appears), 0, 1)  # [16]
    return Track(start + progress[:, None] * way, radius, appears, leaves, stretch)


def _apart(one: Track, other: Track) -> bool:
    distance = np.hypot(*(one.centres - other.centres).T).min()
    return distance > math.sqrt(1.5) * (one.radius * max(1, one.stretch) + other.radius * max(1, other.stretch)) * 0.9 + GAP
