"""The clip that the demos and the documentation ask about: a scene of the demo's world, at a camera's size and rate.

Eight seconds of 320x240 at 24 fps: on a dark background a big red circle moves to the right and is gone after 4.5 seconds; a small
blue square is there below it from the third second on, for as long. The drawing is the same everywhere (seeded numpy); its H.264
encoding may differ in its bytes between versions of the encoder.

    python -m calibration.sample_clip [--out calibration/demo/sample.mp4]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from calibration.clips import draw, write_h264
from calibration.scenes import SIZES, Scene, Shape, Track
from export.arguments import ArgumentParser
from export.errors import command

DEFAULT_OUT = Path(__file__).parent / "demo" / "sample.mp4"
WIDTH, HEIGHT = 320, 240  # pixels
FPS = 24
SECONDS = 8
SEED = 20250
SCENE = Scene("dark", (Shape("circle", "red", "big", "right", 0), Shape("square", "blue", "small", "still", 1)))
SQUARE_APPEARS_S = 3
STAYS_S = 4.5


def draw_frames() -> np.ndarray:
    """The frames in order: uint8 RGB [192, 240, 320, 3]."""
    total = FPS * SECONDS
    tracks = [_track("big", (0.2, 0.3), (0.8, 0.3), 0, total), _track("small", (0.45, 0.75), (0.45, 0.75), SQUARE_APPEARS_S, total)]
    return draw(SCENE, tracks, np.random.default_rng(SEED), (WIDTH, HEIGHT))


def _track(size: str, start: tuple[float, float], end: tuple[float, float], appears_s: int, total: int) -> Track:
    appears, leaves = appears_s * FPS, round((appears_s + STAYS_S) * FPS)
    progress = np.clip((np.arange(total) - appears) / (leaves - 1 - appears), 0, 1)[:, None]
    return Track(np.array(start) + progress * (np.array(end) - start), SIZES[size], appears, leaves, stretch=1.0)


@command
def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.sample_clip", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the file to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    write_h264(draw_frames(), options.out, FPS, preset="slow", crf=24)
    print(f"{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
