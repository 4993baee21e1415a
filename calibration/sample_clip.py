"""The clip that the demos and the documentation ask about, drawn by this program so that its licence is the project's own.

Eight seconds of 320x240 at 24 fps: on a shaded, grainy background a red circle moves from left to right; at half time a blue
square appears and moves down. The drawing is the same everywhere (seeded numpy); its H.264 encoding may differ in its bytes
between versions of the encoder.

    python -m calibration.sample_clip [--out calibration/demo/sample.mp4]
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from export.arguments import ArgumentParser
from export.errors import ExportError, command

DEFAULT_OUT = Path(__file__).parent / "demo" / "sample.mp4"
WIDTH, HEIGHT = 320, 240  # pixels
FPS = 24
SECONDS = 8
SEED = 20250

RED, BLUE = (214, 40, 40), (38, 70, 214)
RADIUS, HALF_SIDE = 26, 24  # pixels
CIRCLE_Y, CIRCLE_FROM_X, CIRCLE_TO_X = 80, 40, 280
SQUARE_X, SQUARE_FROM_Y, SQUARE_TO_Y = 130, 40, 196
SQUARE_APPEARS = 0.5  # of the clip, when the circle has arrived


def draw_frames() -> Iterator[np.ndarray]:
    """The frames in order: uint8 RGB [240, 320, 3] each."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    background = _background(x, y)
    total = FPS * SECONDS
    for number in range(total):
        progress = number / (total - 1)
        image = background
        circle_x = _between(CIRCLE_FROM_X, CIRCLE_TO_X, min(1.0, progress / SQUARE_APPEARS))
        image = _paint(image, RED, RADIUS - np.hypot(x - circle_x, y - CIRCLE_Y))
        if progress >= SQUARE_APPEARS:
            square_y = _between(SQUARE_FROM_Y, SQUARE_TO_Y, (progress - SQUARE_APPEARS) / (1 - SQUARE_APPEARS))
            image = _paint(image, BLUE, HALF_SIDE - np.maximum(np.abs(x - SQUARE_X), np.abs(y - square_y)))
        yield np.rint(image).astype(np.uint8)


def write_clip(path: Path) -> None:
    """Encode the clip as H.264 High, yuv420p, BT.601 limited range, with the index in front (faststart).

    Raises:
        ExportError: it cannot be written; a file that stood there stays as it was.
    """
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
            # One thread: the encoder's choices depend on how many there are.
            options = {"profile": "high", "preset": "slow", "crf": "24", "g": "48", "threads": "1"}
            stream = container.add_stream("libx264", rate=FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            codec = stream.codec_context
            codec.colorspace, codec.color_range = Colorspace.SMPTE170M, ColorRange.MPEG
            codec.color_primaries, codec.color_trc = ColorPrimaries.SMPTE170M, ColorTrc.SMPTE170M
            for image in draw_frames():
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        partial.replace(path)
    except OSError as error:  # PyAV's own among them
        raise ExportError(f"{path} cannot be written ({error.strerror}): choose another file with --out") from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            partial.unlink(missing_ok=True)


def _background(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A slanted shade with a soft vignette and still grain: float [240, 320, 3] within 0..255."""
    shade = 96 + 70 * x / WIDTH + 40 * y / HEIGHT - 30 * np.hypot(x / WIDTH - 0.5, y / HEIGHT - 0.5)
    grain = np.random.default_rng(SEED).normal(0, 5, (HEIGHT, WIDTH, 1))
    return np.clip(shade[..., None] * (0.92, 1.0, 0.88) + grain, 0, 255)


def _paint(image: np.ndarray, colour: tuple[int, int, int], inside: np.ndarray) -> np.ndarray:
    """Lay a shape over an image; `inside` [240, 320] is each pixel's distance to its edge, the last half pixel fades."""
    coverage = np.clip(inside + 0.5, 0, 1)[..., None]
    return image * (1 - coverage) + np.array(colour) * coverage


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


@command
def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.sample_clip", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the file to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    write_clip(options.out)
    print(f"{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
