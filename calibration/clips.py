"""Scenes drawn as frames, and frames encoded as real H.264: the clips of the demo's world.

    python -m calibration.clips --out DIR [--count 20] [--split test] [--seed 0]

writes clips and, as `annotations.json`, questions about them, in the form that `runtime_py.evaluate` and `calibration.collect` read.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from calibration.questions import CHOICE, Question, questions_about
from calibration.scenes import COLOURS, SPLITS, Scene, Track, layout, sample_scene
from export.arguments import ArgumentParser
from export.errors import ExportError, command
from export.progress import Progress

ANNOTATIONS = "annotations.json"
SIDE = 224  # pixels: what both encoders see, so neither resizer has work
FPS = 2  # 16 frames are 8 seconds, and the release's rule takes every one of them
BASES = {"dark": (35, 70), "bright": (165, 215), "striped": (60, 110), "checked": (60, 110)}  # grey levels
CONTRAST = (45, 75)  # between two stripes or two squares of the board
GRAIN = (0.5, 4.0)  # standard deviation of the noise, grey levels


@dataclasses.dataclass(frozen=True)
class Clip:
    """A scene, and where its shapes are; drawn when asked."""

    scene: Scene
    tracks: list[Track]
    _rng: np.random.Generator

    def draw(self, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
        """The frames, uint8 RGB [16, H, W, 3]. `size`: width and height, pixels."""
        return draw(self.scene, self.tracks, copy.deepcopy(self._rng), size)


def plan_clip(split: str, seed: int, number: int) -> Clip:
    """Clip `number` of a split: a function of its arguments alone."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), number])
    scene = sample_scene(rng, split)
    return Clip(scene, layout(scene, rng), rng)


def draw(scene: Scene, tracks: list[Track], rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """The frames of a scene, as many as its tracks have, uint8 RGB [frames, H, W, 3]: shapes within the centred square, which CLIP's crop
    keeps."""
    width, height = size
    side = min(size)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = (x + 0.5 - (width - side) / 2) / side, (y + 0.5 - (height - side) / 2) / side
    background = _background(scene.background, x, y, rng)
    colours = [np.clip(np.array(COLOURS[shape.colour]) + rng.uniform(-14, 14, 3), 0, 255) for shape in scene.shapes]
    grain = rng.uniform(*GRAIN)
    frames = np.empty((len(tracks[0].centres), height, width, 3), np.uint8)
    for number in range(len(frames)):
        image = background.copy()
        for shape, track, colour in zip(scene.shapes, tracks, colours):
            if track.appears <= number < track.leaves:
                _paint(image, colour, _inside(shape.kind, track, number, x, y) * side)
        image += rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(grain)
        frames[number] = np.clip(image, 0, 255)
    return frames


def _background(kind: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Float [H, W, 3]: a slanted shade, faintly tinted, with stripes or a board where the scene has them."""
    slant = rng.uniform(-25, 25, 2)
    shade = rng.uniform(*BASES[kind]) + slant[0] * (x - 0.5) + slant[1] * (y - 0.5)
    if kind in ("striped", "checked"):
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.13, 0.22)
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle)
        waves = np.sin(2 * np.pi * along / period + rng.uniform(0, 6))
        if kind == "checked":
            waves = waves * np.sin(2 * np.pi * across / period + rng.uniform(0, 6))
        shade = shade + rng.uniform(*CONTRAST) * (waves > 0)
    return (shade[..., None] * rng.uniform(0.93, 1.07, 3)).astype(np.float32)


def _inside(kind: str, track: Track, number: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far inside the shape's edge each point lies, [H, W], negative outside; about exact near the edge."""
    dx, dy = (x - track.centres[number, 0]) / track.stretch, y - track.centres[number, 1]
    r = track.radius
    if kind == "circle":
        return r - np.hypot(dx, dy)
    if kind == "ring":
        return 0.22 * r - np.abs(np.hypot(dx, dy) - 0.78 * r)
    if kind == "square":
        return 0.86 * r - np.maximum(np.abs(dx), np.abs(dy))
    if kind == "cross":
        bar, reach = 0.3 * r, r
        upright = np.minimum(bar - np.abs(dx), reach - np.abs(dy))
        return np.maximum(upright, np.minimum(reach - np.abs(dx), bar - np.abs(dy)))
    slope = np.sqrt(np.float32(3))  # a triangle that stands on its base
    return np.minimum(0.6 * r - dy, (r + dy - slope * np.abs(dx)) / 2)


def _paint(image: np.ndarray, colour: np.ndarray, inside: np.ndarray) -> None:
    """Lay a shape over an image; `inside` is in pixels, and the pixel on the edge is blended."""
    rows, columns = (np.flatnonzero((inside > -0.5).any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    coverage = np.clip(inside[box] + 0.5, 0, 1)[..., None].astype(np.float32)
    image[box] += (colour.astype(np.float32) - image[box]) * coverage


def write_h264(frames: Iterable[np.ndarray], path: Path, fps: int = FPS, preset: str = "veryfast", crf: int = 25) -> None:
    """Encode uint8 RGB frames [H, W, 3] as H.264 High, yuv420p, BT.601 limited range, with the index in front (faststart).

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
            options = {"profile": "high", "preset": preset, "crf": str(crf), "g": "48", "threads": "1"}
            stream = container.add_stream("libx264", rate=fps, options=options)
            stream.pix_fmt = "yuv420p"
            codec = stream.codec_context
            codec.colorspace, codec.color_range = Colorspace.SMPTE170M, ColorRange.MPEG
            codec.color_primaries, codec.color_trc = ColorPrimaries.SMPTE170M, ColorTrc.SMPTE170M
            for i, image in enumerate(frames):
                if i == 0:
                    stream.height, stream.width = image.shape[:2]
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        partial.replace(path)
    except OSError as error:  # PyAV's own among them
        raise ExportError(f"{path} cannot be written ({error.strerror}): choose another place with --out") from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            partial.unlink(missing_ok=True)


def write_clips(
    folder: Path, split: str, count: int, questions: int, seed: int = 0, say: Callable[[str], None] = lambda line: None
) -> None:
    """Clips 0..count-1 of a split as H.264 files, with `annotations.json`: `questions` about each.

    Raises:
        ExportError: the folder cannot be written.
    """
    entries = []
    for number in range(count):
        clip = plan_clip(split, seed, number)
        name = f"{split}-{seed}-{number:04d}.mp4"
        write_h264(clip.draw(), folder / name)
        rng = np.random.default_rng([seed, number])
        for question in questions_about(clip.scene, rng, questions):
            entries.append({"video": name, "task": question.category, **annotation(question)})
        say(name)
    (folder / ANNOTATIONS).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def annotation(question: Question) -> dict:
    """A question as an entry of annotations."""
    if question.form != CHOICE:
        return {"form": question.form, "question": question.text, "answer": question.answer, "reply": question.reply}
    options = list(question.options)
    return {"form": CHOICE, "question": question.stem, "options": options, "answer": question.answer, "reply": question.reply}


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.clips", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--count", type=int, default=20, metavar="N", help="clips (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=8, metavar="N", help="about each clip (default: %(default)s)")
    parser.add_argument("--split", choices=tuple(SPLITS), default="test", help="no scene is in two of them (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if args.count < 1 or args.questions < 1 or args.seed < 0:
        raise ExportError("--count and --questions have to be at least 1, --seed at least 0")
    progress = Progress(args.count)
    write_clips(args.out, args.split, args.count, args.questions, args.seed, progress.step)
    progress.close()
    print(f"{args.out}: {args.count} clips, {ANNOTATIONS}")


if __name__ == "__main__":
    sys.exit(main())
