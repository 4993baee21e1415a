"""Training, stage one: each vision encoder alone, on what a clip shows, with linear readouts that are thrown away afterwards.

The image encoder learns what a single frame shows, the video encoder what happens over 8 frames; every token has to tell the
whole, so the decoder finds it wherever it looks. Both are then frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibration.scenes import BACKGROUNDS, CLIP_FRAMES, COLOURS, DIRECTIONS, MOST_SHAPES, SHAPES, SIZES, STILL, Scene, Track
from export.config import CHUNK_FRAMES, CHUNK_KEY_FRAMES, CHUNKS, KEY_FRAMES
from export.model.clip import ClipVisionEncoder
from export.model.videomamba import VideoMambaEncoder
from export.ops.selective_scan import training_scan

IGNORE = -100  # a target that says nothing: of a shape that is not there
MOTIONS = (STILL, *DIRECTIONS)


@dataclasses.dataclass(frozen=True)
class Readout:
    """Targets with equally many classes each, side by side."""

    count: int
    classes: int


NAMES = len(COLOURS) + len(SHAPES)  # a shape is named by its colour or by its kind
# Of a frame: which kind has this colour, which colour this kind (0: none), the size of each, the background, the number of shapes.
FRAME_READOUTS = (
    Readout(len(COLOURS), 1 + len(SHAPES)), Readout(len(SHAPES), 1 + len(COLOURS)), Readout(NAMES, len(SIZES)),
    Readout(1, len(BACKGROUNDS)), Readout(1, MOST_SHAPES + 1),
)  # fmt: skip
# Of a patch of a frame: which kind covers it and in which colour (0: none), in which size.
PATCH_READOUTS = (Readout(1, 1 + len(SHAPES)), Readout(1, 1 + len(COLOURS)), Readout(1, len(SIZES)))
# In a clip shapes are named by their colours alone: a scan sees a picture line by line, which makes outlines hard to tell.
# Of a patch: which colour covers it (0: none), how that moves, in which order it appeared.
CLIP_PATCH_READOUTS = (Readout(1, 1 + len(COLOURS)), Readout(1, len(MOTIONS)), Readout(1, MOST_SHAPES))
# Of a frame within a clip: the column and the row of a grid in which each shape is.
PLACES = 4
PLACE_READOUTS = (Readout(2 * len(COLOURS), PLACES),)
# Of a clip: how each moves (0: not there), in which order each appears, the number of shapes.
CLIP_READOUTS = (Readout(len(COLOURS), 1 + len(MOTIONS)), Readout(len(COLOURS), MOST_SHAPES), Readout(1, MOST_SHAPES))


def frame_targets(scene: Scene, tracks: Sequence[Track]) -> Tensor:
    """What each frame shows: int64 [16, targets], in the order of FRAME_READOUTS."""
    colours, kinds, sizes = list(COLOURS), list(SHAPES), list(SIZES)
    targets = np.zeros((CLIP_FRAMES, sum(readout.count for readout in FRAME_READOUTS)), np.int64)
    targets[:, NAMES : 2 * NAMES] = IGNORE
    targets[:, 2 * NAMES] = BACKGROUNDS.index(scene.background)
    for shape, track in zip(scene.shapes, tracks):
        colour, kind = colours.index(shape.colour), len(colours) + kinds.index(shape.kind)
        there = targets[track.appears : track.leaves]
        there[:, colour] = 1 + kinds.index(shape.kind)
        there[:, kind] = 1 + colours.index(shape.colour)
        there[:, [NAMES + colour, NAMES + kind]] = sizes.index(shape.size)
        there[:, -1] += 1
    return torch.from_numpy(targets)


def patch_targets(scene: Scene, tracks: Sequence[Track], grid: int) -> Tensor:
    """What covers each patch: int64 [16, grid * grid, 5]: PATCH_READOUTS' targets, and the last two of CLIP_PATCH_READOUTS."""
    targets = np.full((CLIP_FRAMES, grid, grid, 5), IGNORE, np.int64)
    targets[..., :2] = 0
    centres = (np.arange(grid) + 0.5) / grid
    for shape, track in zip(scene.shapes, tracks):
        says = (
            1 + SHAPES.index(shape.kind), 1 + list(COLOURS).index(shape.colour), list(SIZES).index(shape.size),
            MOTIONS.index(shape.motion), shape.order,
        )  # fmt: skip
        dx = np.abs(centres[None] - track.centres[:, :1]) < track.radius * track.stretch  # [16, grid]
        dy = np.abs(centres[None] - track.centres[:, 1:]) < track.radius
        covered = dy[:, :, None] & dx[:, None]  # [16, grid, grid]
        covered[~track.shown] = False
        targets[covered] = says
    return torch.from_numpy(targets.reshape(CLIP_FRAMES, grid * grid, 5))


def place_targets(scene: Scene, tracks: Sequence[Track]) -> Tensor:
    """Where each frame shows each colour: int64 [16, targets], in the order of PLACE_READOUTS."""
    colours = list(COLOURS)
    targets = np.full((CLIP_FRAMES, 2 * len(colours)), IGNORE, np.int64)
    for shape, track in zip(scene.shapes, tracks):
        places = np.clip(track.centres * PLACES, 0, PLACES - 1).astype(np.int64)  # [16, 2]
        colour = colours.index(shape.colour)
        shown = slice(track.appears, track.leaves)
        targets[shown, [colour, len(colours) + colour]] = places[shown]
    return torch.from_numpy(targets)


def clip_targets(scene: Scene) -> Tensor:
    """What happens in a clip: int64 [targets], in the order of CLIP_READOUTS."""
    colours = list(COLOURS)
    targets = np.zeros(2 * len(colours) + 1, np.int64)
    targets[len(colours) : -1] = IGNORE
    for shape in scene.shapes:
        colour = colours.index(shape.colour)
        targets[colour] = 1 + MOTIONS.index(shape.motion)
        targets[len(colours) + colour] = shape.order
    targets[-1] = len(scene.shapes) - 1
    return torch.from_numpy(targets)


class Readouts(nn.Module):
    """One linear for all targets: features [.., C] -> logits of each readout [.., count, classes]."""

    def __init__(self, width: int, readouts: Sequence[Readout]):
        super().__init__()
        self.readouts = readouts
        self.linear = nn.Linear(width, sum(readout.count * readout.classes for readout in readouts))

    def forward(self, features: Tensor) -> list[Tensor]:
        parts = self.linear(features).split([readout.count * readout.classes for readout in self.readouts], dim=-1)
        return [part.unflatten(-1, (readout.count, readout.classes)) for part, readout in zip(parts, self.readouts)]

    def patch_loss(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The same for patches, features [B, P, C] and targets [B, P, targets]; those that a shape covers, which are few, count as much
        as all others together, and the shares are theirs alone."""
        losses, right = [], []
        covered = targets[..., 0] > 0  # [B, P]
        if not covered.any():
            return features.sum() * 0, features.new_full((len(self.readouts),), torch.nan)
        for i, logits in enumerate(self(features)):
            wanted = targets[..., i]
            losses.append(F.cross_entropy(logits[covered][:, 0].float(), wanted[covered]))
            right.append((logits[covered][:, 0].argmax(-1) == wanted[covered]).float().mean())
            if (wanted[~covered] != IGNORE).all():
                losses.append(0.5 * F.cross_entropy(logits[~covered][:, 0].float(), wanted[~covered]))
        return torch.stack(losses).sum(), torch.stack(right).detach()

    def loss(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy, and the share of right answers of each readout; features [B, T, C], targets [B, targets]."""
        losses, right, start = [], [], 0
        for logits, readout in zip(self(features), self.readouts):
            wanted = targets[:, None, start : start + readout.count].expand(logits.shape[:-1])  # [B, T, count]
            start += readout.count
            losses.append(F.cross_entropy(logits.flatten(0, -2).float(), wanted.flatten(), ignore_index=IGNORE))
            said = wanted != IGNORE
            right.append((logits.argmax(-1) == wanted)[said].float().mean())
        return torch.stack(losses).sum(), torch.stack(right).detach()


class OwnPlace(nn.Module):
    """Where a token's own patch lies, which direction and motion are told by. Pictures do not need it to be named, so an encoder that is
    not asked for it forgets it."""

    WEIGHT = 3.0  # of its loss beside the others'

    def __init__(self, width: int, grid: int):
        super().__init__()
        axis = torch.linspace(-1, 1, grid)
        self.grid = grid
        self.register_buffer("places", torch.cartesian_prod(axis, axis), persistent=False)  # [P, 2]: row, column
        self.linear = nn.Linear(width, 2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features of all patches [B, P, C] -> the loss, and the root of the mean squared error in patches."""
        error = F.mse_loss(self.linear(features), self.places.expand(len(features), -1, -1))
        return self.WEIGHT * error, error.detach().sqrt() * (self.grid - 1) / 2


def with_fast_scan(encoder: VideoMambaEncoder) -> VideoMambaEncoder:
    """The encoder with the scan's differentiable form."""
    for layer in encoder.layers:
        layer.mixer.scan = training_scan
    return encoder


def image_features(
    encoder: ClipVisionEncoder, frames: np.ndarray, patches: Tensor, rng: np.random.Generator, tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of uint8 frames [B, 224, 224, 3], all turned over or not, at random: their mean and some tokens, [B, 1 + tokens, C], all
    tokens [B, P, C], and the targets of their patches, turned likewise. `patches` is where the encoder is."""
    pixels = torch.from_numpy(frames).to(patches.device).permute(0, 3, 1, 2).float()
    grid = patches.unflatten(1, (encoder.config.grid, -1))  # [B, grid, grid, targets]
    for axis in (1, 2):
        if rng.random() < 0.5:
            pixels, grid = pixels.flip(axis + 1), grid.flip(axis)
    features = encoder(pixels)  # [B, P, C]
    picked = features[:, torch.from_numpy(rng.permutation(features.shape[1])[:tokens])]
    return torch.cat([features.mean(1, keepdim=True), picked], dim=1), features, grid.flatten(1, 2)


def video_features(
    encoder: VideoMambaEncoder, frames: np.ndarray, rng: np.random.Generator, tokens: int, share: float
) -> tuple[Tensor, Tensor, np.ndarray, Tensor]:
    """Features of uint8 frames [16, 224, 224, 3], key frames chosen at random and of each the same patches, a `share` of all, in their
    order: the mean and some tokens, [1, 1 + tokens, C], all tokens [8, p, C], the frames' numbers, and the patches' [p]."""
    chosen = np.concatenate([np.sort(rng.permutation(CHUNK_FRAMES)[:CHUNK_KEY_FRAMES]) + CHUNK_FRAMES * i for i in range(CHUNKS)])
    device = encoder.class_token.device
    pixels = torch.from_numpy(frames[chosen]).to(device).permute(0, 3, 1, 2).float()
    patches = encoder.config.patches
    kept = torch.from_numpy(np.sort(rng.permutation(patches)[: round(share * patches)]))
    rows = (torch.arange(KEY_FRAMES)[:, None] * patches + 1 + kept).flatten()
    class_first = torch.cat([torch.zeros(1, dtype=torch.int64), rows]).to(device)
    hidden = encoder.embed(pixels[None])[:, class_first]
    encoded = encoder.encode(hidden)[0, 1:]  # [8 p, C]
    picked = encoded[torch.from_numpy(rng.permutation(len(encoded))[:tokens])]
    whole = torch.cat([encoded.mean(0, keepdim=True), picked])[None]
    return whole, encoded.unflatten(0, (KEY_FRAMES, -1)), chosen, kept
